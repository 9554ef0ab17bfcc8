//! What a program keeps and what it needs on top of that, found although no step is reported.
//!
//! ```text
//!  live │            ▲ peak  ▲       ▲        memory between low and peak comes and goes: scratch;
//!       │           ╱ ╲     ╱ ╲     ╱ ╲       memory below low stays: the weights
//!       │      ____╱   ╲___╱   ╲___╱   ╲      (no malloc follows the frees at the end of a
//!       │  ___╱    ▲ floor ▲ low               program, so they do not count)
//!       └─────────────────────────────▶ time
//! ```
//!
//! The low mark is the fewest bytes that were live before an allocation since the last rise of the
//! peak. For a program that loads and then works in steps, it is what the program keeps, from the
//! second step on.
//!
//! Memory that the first step leaves behind, such as a cache of keys and values, is not a weight:
//! it needs dedicated memory as it grows. The floor is the fewest bytes that were live since the
//! program began to work. It counts instead of the low mark as long as it is not much lower. If it
//! is, the memory between the two is a model that was loaded piece by piece, or the state of an
//! optimizer.

/// The marks of live memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    peak: u64,
    low: u64,
    floor: u64,
}

/// A program works once this many bytes have been freed. Loading frees fewer, while weights are
/// converted piece by piece.
pub const WORKS: u64 = 64 << 20;

/// Memory that grows along with scratch is at most this many times as large as that scratch.
const MOST_GROWTH: u64 = 2;

impl Default for Steady {
    fn default() -> Self {
        Steady { peak: 0, low: u64::MAX, floor: u64::MAX }
    }
}

impl Steady {
    /// A block of `bytes` is allocated where `before` bytes are live. `gone` returns how many were
    /// freed so far. O(1), with two comparisons where no mark is reached.
    #[inline]
    pub fn allocate(&mut self, before: u64, bytes: u64, gone: impl FnOnce() -> u64) {
        if before < self.low {
            self.sink(before, gone());
        }
        if before + bytes > self.peak {
            self.rise(before + bytes);
        }
    }

    /// The low mark is never below the floor, so a level that does not reach one does not reach the
    /// other.
    #[cold]
    fn sink(&mut self, before: u64, gone: u64) {
        self.low = before;
        if gone >= WORKS {
            self.floor = self.floor.min(before);
        }
    }

    #[cold]
    fn rise(&mut self, peak: u64) {
        (self.peak, self.low) = (peak, peak);
    }

    /// Bytes that stay.
    pub fn resident(&self) -> u64 {
        let low = self.low.min(self.peak);
        let growth = low.saturating_sub(self.floor);
        if growth <= MOST_GROWTH * (self.peak - low) { low - growth } else { low }
    }

    /// The most bytes that come and go: the reserve that would hold them.
    pub fn scratch(&self) -> u64 {
        self.peak - self.resident()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Allocates weights, then runs steps with these peaks of scratch, the first of which leaves
    /// `kept` behind, then ends. Returns the bytes that are found to stay, and those to come and
    /// go. All in units of 64 MiB.
    fn run(weights: u64, steps: &[u64], kept: u64) -> (u64, u64) {
        let (mut steady, mut live, mut gone) = (Steady::default(), 0, 0);
        let mut take = |live: &mut u64, gone: u64| {
            steady.allocate(*live * WORKS, WORKS, || gone * WORKS);
            *live += 1;
        };
        (0..weights).for_each(|_| take(&mut live, 0));
        for (number, scratch) in steps.iter().enumerate() {
            for _ in 0..*scratch {
                // One block that stays to the end of the step, and one that does not.
                take(&mut live, gone);
                take(&mut live, gone);
                (live, gone) = (live - 1, gone + 1);
            }
            let stays = if number == 0 { kept } else { 0 };
            (live, gone) = (live - scratch + stays, gone + scratch - stays);
        }
        (steady.resident() / WORKS, steady.scratch() / WORKS)
    }

    #[test]
    fn weights_and_scratch_are_told_apart_from_the_second_step_on() {
        for steps in [&[30, 30][..], &[30, 10], &[10, 30, 20], &[30; 50]] {
            let most = steps.iter().max().unwrap() + 1;
            let (resident, scratch) = run(100, steps, 0);
            assert!(resident.abs_diff(100) <= 1 && scratch.abs_diff(most) <= 1, "{steps:?}: {resident}, {scratch}");
        }
    }

    #[test]
    fn what_grows_with_the_first_step_is_scratch_and_what_outgrows_it_is_not() {
        let (resident, scratch) = run(100, &[30, 2, 2, 2], 20);
        assert!(resident.abs_diff(100) <= 1 && scratch.abs_diff(31) <= 1, "a cache: {resident}, {scratch}");
        let (resident, scratch) = run(100, &[90, 5, 5, 5], 88);
        assert!(resident.abs_diff(188) <= 1 && scratch.abs_diff(6) <= 1, "an optimizer's state: {resident}, {scratch}");
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!((Steady::default().resident(), Steady::default().scratch()), (0, 0));
    }
}
