//! Where a step begins although nobody says so: where memory comes back to its low mark.
//!
//! ```text
//!  live │    ╱╲  ╱╲      ╱╲  ╱╲      ╱╲  ╱╲
//!       │   ╱  ╲╱  ╲    ╱  ╲╱  ╲    ╱  ╲╱  ╲       near the low mark, after it was far from it:
//!       │__╱        ╲__╱        ╲__╱        ╲__    a step begins
//!       │  ▲ step      ▲ step      ▲ step
//!       └──────────────────────────────────────▶ requests
//! ```
//!
//! The low mark sinks at once. It rises to the least of a window of requests in which memory did
//! not come back to it: something has come to stay. A mark that rose too far, because the window
//! was shorter than a step, sinks again, and the next window is twice as long.

/// The length of the first window, in requests, and of the longest.
const WINDOW: (u32, u32) = (64, 1 << 14);
/// How near to the low mark memory must come, and how far from it before, as parts of the way to
/// the top. Steps may differ much in length.
const NEAR: u64 = 64;
const FAR: u64 = 8;

/// The low mark of live bytes, and the window from which it is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    low: u64,
    /// The most live bytes in the last window.
    top: u64,
    /// Whether memory has been half-way to the top since the last step began.
    is_up: bool,
    window: u32,
    seen: u32,
    least: u64,
    most: u64,
    came_back: bool,
    /// Where the mark has risen to, until it proves to have risen too far.
    risen: Option<u64>,
}

impl Marks {
    /// The marks of work that begins with so many live bytes.
    pub(super) fn new(live: u64) -> Marks {
        Marks {
            low: live,
            top: live,
            is_up: false,
            window: WINDOW.0,
            seen: 0,
            least: live,
            most: live,
            came_back: false,
            risen: None,
        }
    }

    /// A request is made while `live` bytes live. Returns whether a step begins with it.
    #[inline]
    pub(super) fn see(&mut self, live: u64) -> bool {
        self.seen += 1;
        self.most = self.most.max(live);
        self.least = self.least.min(live);
        let span = self.top.max(self.most) - self.low.min(live);
        if live < self.low {
            self.sink(live, span);
        }
        if self.seen >= self.window {
            self.end_window();
        }
        if live > self.low + span / FAR {
            self.is_up = true;
        } else if self.is_up && live <= self.low + span / NEAR {
            (self.is_up, self.came_back) = (false, true);
            return true;
        }
        false
    }

    #[cold]
    fn sink(&mut self, live: u64, span: u64) {
        if self.risen.is_some_and(|risen| risen - live > span / NEAR) {
            self.window = (2 * self.window).min(WINDOW.1);
            self.risen = None;
        }
        self.low = live;
    }

    #[cold]
    fn end_window(&mut self) {
        if !self.came_back && self.least > self.low {
            (self.low, self.risen) = (self.least, Some(self.least));
        }
        self.top = self.most;
        (self.seen, self.least, self.most, self.came_back) = (0, u64::MAX, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of `length` requests that go up to `low + length / 2` and down again, with dips.
    fn steps(marks: &mut Marks, low: u64, length: u64, count: u64) -> Vec<u64> {
        let live = |at: u64| low + 8 * at.min(length - at) + [0, 40, 8, 60][at as usize % 4] * u64::from(at > 8);
        let all = (0..count).flat_map(|step| (0..length).map(move |at| (step, at)));
        all.filter(|(_, at)| marks.see(live(*at))).map(|(_, at)| at).collect()
    }

    #[test]
    fn steps_are_found_after_loading_whatever_their_length() {
        for length in [40, 1000, 6000] {
            let mut marks = Marks::new(0);
            for weight in 0..3000 {
                marks.see(weight * 50);
            }
            steps(&mut marks, 150_000, length, 16_000 / length + 8);
            let found = steps(&mut marks, 150_000, length, 10);
            assert_eq!(found.len(), 10, "of {length} requests: {found:?}");
            assert!(found.iter().all(|at| *at == found[1]), "of {length} requests: {found:?}");
        }
    }

    #[test]
    fn the_mark_follows_a_model_that_goes_and_one_that_comes() {
        let mut marks = Marks::new(0);
        steps(&mut marks, 100_000, 700, 12);
        for low in [5000, 300_000] {
            steps(&mut marks, low, 700, 40);
            assert_eq!(steps(&mut marks, low, 700, 10).len(), 10, "at {low}");
        }
    }
}
