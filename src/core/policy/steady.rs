//! What a program keeps and what it asks for besides, found without being told where a step begins.
//!
//! ```text
//!  live │            ▲ peak  ▲       ▲           what lies between low and peak comes and goes: scratch;
//!       │           ╱ ╲     ╱ ╲     ╱ ╲          what lies below low stays: the weights
//!       │      ____╱   ╲___╱   ╲___╱   ╲         (frees at the end of a program are followed by no malloc, and count not)
//!       │  ___╱    ▲ floor ▲ low
//!       └─────────────────────────────▶ time
//! ```
//!
//! The low mark is the least that lived before an allocation since the peak rose last. A program that loads, works and works
//! again has what it keeps as its low mark from the second step on.
//!
//! What the first step leaves behind, such as a cache of keys and values, is no weight: it wants dedicated memory as it comes.
//! So the floor counts, the least that lived since the program works at all, as long as it is not much below the low mark.
//! Otherwise what lies between them is a model that was loaded piece by piece, or the state of an optimizer.

/// The marks of what lives, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    peak: u64,
    low: u64,
    floor: u64,
}

/// A program works once so many bytes have come and gone. Fewer do while it loads: weights are converted piece by piece.
pub const WORKS: u64 = 64 << 20;

/// What grows beside scratch is as much as that scratch at most, twice.
const MOST_GROWTH: u64 = 2;

impl Default for Steady {
    fn default() -> Self {
        Steady { peak: 0, low: u64::MAX, floor: u64::MAX }
    }
}

impl Steady {
    /// A block comes to life where so many bytes lived before, and `gone` says how many have come and gone. O(1), and two comparisons
    /// where no mark is reached.
    #[inline]
    pub fn take(&mut self, before: u64, bytes: u64, gone: impl FnOnce() -> u64) {
        if before < self.low {
            self.sink(before, gone());
        }
        if before + bytes > self.peak {
            self.rise(before + bytes);
        }
    }

    /// The low mark is never below the floor, so that whatever is no lower than the one is no lower than the other.
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

    /// What stays, in bytes.
    pub fn resident(&self) -> u64 {
        let low = self.low.min(self.peak);
        let growth = low.saturating_sub(self.floor);
        if growth <= MOST_GROWTH * (self.peak - low) { low - growth } else { low }
    }

    /// What comes and goes at most, in bytes: the reserve that would hold it.
    pub fn scratch(&self) -> u64 {
        self.peak - self.resident()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights, then steps whose scratch is so large at most and of which the first leaves something behind, then the end: what is
    /// found to stay and to come and go. All in units of 64 MiB.
    fn run(weights: u64, steps: &[u64], kept: u64) -> (u64, u64) {
        let (mut steady, mut live, mut gone) = (Steady::default(), 0, 0);
        let mut take = |live: &mut u64, gone: u64| {
            steady.take(*live * WORKS, WORKS, || gone * WORKS);
            *live += 1;
        };
        (0..weights).for_each(|_| take(&mut live, 0));
        for (number, scratch) in steps.iter().enumerate() {
            for _ in 0..*scratch {
                // One that stays to the end of the step, and one that does not.
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
