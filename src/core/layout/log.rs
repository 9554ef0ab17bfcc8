//! The requests of the step under way, and how long their blocks live.
//!
//! Its clock counts requests: a block that is freed before the ninth request leaves its place to
//! the ninth, whatever else is freed in between.

/// How many requests of a step are kept. A longer step is not learned.
pub(super) const MOST: usize = 1 << 14;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The size of its block, in units of 512 bytes.
    pub(super) units: u32,
    /// How many requests were made before it was freed; [`LIVES`] as long as it lives.
    pub(super) freed: u32,
}

/// The block is not freed yet.
pub(super) const LIVES: u32 = u32::MAX;

/// The requests of one step.
#[derive(Debug, Default)]
pub(super) struct Log {
    requests: Vec<Request>,
    /// The number of the first, in a count over all steps.
    first: u32,
    overflowed: bool,
    live: u64,
    most_live: u64,
}

impl Log {
    /// Makes room, so that nothing has to be allocated later.
    pub(super) fn make_room(&mut self) {
        self.requests.reserve_exact(MOST - self.requests.len());
        self.first = self.first.max(1);
    }

    /// Adds a request. Returns its number, which is 0 where there was no room.
    #[inline]
    pub(super) fn add(&mut self, units: u32) -> u32 {
        if self.requests.len() == MOST {
            self.overflowed = true;
            return 0;
        }
        self.requests.push(Request { units, freed: LIVES });
        self.live += u64::from(units);
        self.most_live = self.most_live.max(self.live);
        self.first.wrapping_add(self.requests.len() as u32 - 1).max(1)
    }

    /// Notes that the block of a request was freed.
    #[inline]
    pub(super) fn free(&mut self, number: u32) {
        let now = self.requests.len() as u32;
        if let Some(request) = self.requests.get_mut(number.wrapping_sub(self.first) as usize)
            && request.freed == LIVES
        {
            request.freed = now;
            self.live -= u64::from(request.units);
        }
    }

    /// Begins a new step.
    pub(super) fn restart(&mut self) {
        self.first = self.first.wrapping_add(self.requests.len() as u32).max(1);
        self.requests.clear();
        (self.overflowed, self.live, self.most_live) = (false, 0, 0);
    }

    /// The step has begun before anybody watched: it is not learned.
    pub(super) fn spoil(&mut self) {
        self.overflowed = true;
    }

    /// The requests of the step; `None` where there were too many.
    pub(super) fn requests(&self) -> Option<&[Request]> {
        (!self.overflowed).then_some(&self.requests)
    }

    /// The most units of the step's blocks that were live at once.
    pub(super) fn most_live(&self) -> u64 {
        self.most_live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_earlier_steps_change_nothing() {
        let mut log = Log::default();
        log.make_room();
        let old = log.add(3);
        log.restart();
        let new = log.add(5);
        log.free(old);
        log.free(new);
        log.free(new);
        assert_eq!(log.requests(), Some(&[Request { units: 5, freed: 1 }][..]));
        assert_eq!((log.live, log.most_live()), (0, 5));
    }

    #[test]
    fn a_step_that_is_too_long_is_not_learned() {
        let mut log = Log::default();
        log.make_room();
        assert!((0..MOST).all(|_| log.add(1) != 0));
        assert_eq!((log.add(1), log.requests()), (0, None));
        log.restart();
        assert_eq!(log.requests(), Some(&[][..]));
    }
}
