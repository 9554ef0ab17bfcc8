//! Who uses a device: the threads that allocate and free on it, as far as an allocator can see
//! them.
//!
//! At a safe point the caller gives its word that nobody launches work. The witness checks that
//! word: a thread that has allocated or freed since the last safe point, or that is inside a piece
//! of work, may still be launching.
//!
//! ```text
//!   safe point          safe point          safe point
//!   thread A ──┬──a──f────────┬──a──a──f───────────┬──▶
//!   thread B   │              │     a              │    B is seen: A's safe point moves nothing
//! ```

/// A thread of this process, by a number that no other living thread has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ThreadId(pub u64);

/// The most threads that are told apart in one interval. Beyond that there are only "many".
const MOST: usize = 64;

/// The threads seen on one device.
#[derive(Debug, Default)]
pub struct Witness {
    /// The thread seen last. The hot path compares with it and does no more.
    last: Option<ThreadId>,
    /// The threads seen since the last safe point.
    since: Vec<ThreadId>,
    /// Whether there were more of them than are told apart.
    many: bool,
    /// The threads inside a piece of work, once for each piece.
    at_work: Vec<ThreadId>,
    /// The first thread ever seen.
    first: Option<ThreadId>,
    /// Whether there was a second.
    several: bool,
}

impl Witness {
    /// Sees a thread allocate or free. O(1) for the thread seen last, O(threads) otherwise.
    #[inline]
    pub fn see(&mut self, thread: ThreadId) {
        if self.last != Some(thread) {
            self.meet(thread);
        }
    }

    #[cold]
    fn meet(&mut self, thread: ThreadId) {
        self.last = Some(thread);
        self.several |= *self.first.get_or_insert(thread) != thread;
        if !self.since.contains(&thread) {
            if self.since.len() < MOST {
                self.since.push(thread);
            } else {
                self.many = true;
            }
        }
    }

    /// Whether a thread other than `own` was seen since the last safe point, or is inside a piece
    /// of work.
    pub fn others(&self, own: ThreadId) -> bool {
        self.many || self.since.iter().chain(&self.at_work).any(|thread| *thread != own)
    }

    /// Whether a thread other than `own` is inside a piece of work.
    pub fn others_at_work(&self, own: ThreadId) -> bool {
        self.at_work.iter().any(|thread| *thread != own)
    }

    /// Whether more than one thread was ever seen.
    pub fn several(&self) -> bool {
        self.several
    }

    /// A safe point of `own`. Threads are seen anew from here on; the caller is, since it goes on
    /// to work.
    pub fn begin_interval(&mut self, own: ThreadId) {
        self.since.clear();
        self.many = false;
        self.last = None;
        self.meet(own);
    }

    /// A thread begins a piece of work, in which it may launch without allocating. Pieces may nest.
    pub fn begin_work(&mut self, thread: ThreadId) {
        self.meet(thread);
        self.at_work.push(thread);
    }

    /// A thread ends the piece of work that it began last. Does nothing if it began none.
    pub fn end_work(&mut self, thread: ThreadId) {
        if let Some(at) = self.at_work.iter().rposition(|known| *known == thread) {
            self.at_work.remove(at);
        }
    }

    /// A thread is at rest: it launches nothing more until it is seen again.
    pub fn rest(&mut self, thread: ThreadId) {
        self.since.retain(|known| *known != thread);
        if self.last == Some(thread) {
            self.last = None;
        }
    }

    /// Takes the word of `own` that all others are at rest, except those inside a piece of work.
    pub fn vouch(&mut self, own: ThreadId) {
        self.since.retain(|known| *known == own);
        self.many = false;
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ThreadId = ThreadId(1);
    const B: ThreadId = ThreadId(2);

    #[test]
    fn one_thread_has_no_others() {
        let mut witness = Witness::default();
        (0..3).for_each(|_| witness.see(A));
        assert!(!witness.others(A) && witness.others(B) && !witness.several());
        assert!(!witness.others_at_work(B), "it was seen, and has declared nothing");
    }

    #[test]
    fn a_second_thread_is_seen_until_the_interval_after() {
        let mut witness = Witness::default();
        witness.see(A);
        witness.see(B);
        witness.see(A);
        assert!(witness.others(A) && witness.several());
        witness.begin_interval(A);
        assert!(!witness.others(A));
        witness.see(B);
        assert!(witness.others(A));
    }

    #[test]
    fn the_caller_of_a_safe_point_goes_on_to_work() {
        let mut witness = Witness::default();
        witness.begin_interval(B);
        assert!(witness.others(A), "B may launch without allocating");
    }

    #[test]
    fn a_piece_of_work_outlasts_safe_points_of_others() {
        let mut witness = Witness::default();
        witness.begin_work(B);
        witness.begin_work(B);
        witness.begin_interval(A);
        witness.begin_interval(A);
        assert!(witness.others(A));
        witness.vouch(A);
        assert!(witness.others(A), "vouching does not end a piece of work");
        assert!(witness.others_at_work(A) && !witness.others_at_work(B));
        witness.end_work(B);
        assert!(witness.others(A));
        witness.end_work(B);
        witness.end_work(B);
        assert!(!witness.others(A));
    }

    #[test]
    fn who_rests_is_seen_again_when_it_comes_back() {
        let mut witness = Witness::default();
        witness.see(A);
        witness.see(B);
        witness.rest(B);
        assert!(!witness.others(A));
        witness.see(B);
        assert!(witness.others(A));
    }

    #[test]
    fn more_threads_than_are_told_apart_are_others() {
        let mut witness = Witness::default();
        (0..1000).for_each(|number| witness.see(ThreadId(number)));
        (0..1000).for_each(|number| witness.rest(ThreadId(number)));
        assert!(witness.others(ThreadId(0)));
        witness.vouch(ThreadId(0));
        assert!(!witness.others(ThreadId(0)));
    }
}
