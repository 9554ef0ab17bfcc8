//! What a program keeps and what it asks for besides, found without being told where a step begins.
//!
//! ```text
//!  live │            ▲ peak  ▲       ▲           what lies between low and peak comes and goes: scratch;
//!       │           ╱ ╲     ╱ ╲     ╱ ╲          what lies below low stays: the weights
//!       │      ____╱   ╲___╱   ╲___╱   ╲         (frees at the end of a program are followed by no malloc, and count not)
//!       │  ___╱            ▲ low
//!       └─────────────────────────────▶ time
//! ```
//!
//! The low mark is the least that lived before an allocation since the peak rose last. A program that loads, works and works
//! again has its weights as its low mark from the second step on.

/// The high and the low mark of what lives, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steady {
    peak: u64,
    low: u64,
}

impl Default for Steady {
    fn default() -> Self {
        Steady { peak: 0, low: u64::MAX }
    }
}

impl Steady {
    /// A block comes to life where so many bytes lived before. O(1).
    #[inline]
    pub fn take(&mut self, before: u64, bytes: u64) {
        if before < self.low {
            self.low = before;
        }
        if before + bytes > self.peak {
            self.peak = before + bytes;
            self.low = self.peak;
        }
    }

    /// What stays, in bytes.
    pub fn resident(&self) -> u64 {
        self.low.min(self.peak)
    }

    /// What comes and goes at most, in bytes: the reserve that would hold it.
    pub fn scratch(&self) -> u64 {
        self.peak - self.resident()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights, then steps whose scratch is so large at most, then the end.
    fn run(weights: u64, steps: &[u64]) -> Steady {
        let (mut steady, mut live) = (Steady::default(), 0);
        for _ in 0..weights {
            steady.take(live, 1);
            live += 1;
        }
        for scratch in steps {
            let before = live;
            (0..*scratch).for_each(|_| {
                steady.take(live, 1);
                live += 1;
            });
            live = before;
        }
        steady
    }

    #[test]
    fn weights_and_scratch_are_told_apart_from_the_second_step_on() {
        assert_eq!(
            (run(100, &[30]).resident(), run(100, &[30]).scratch()),
            (130, 0),
            "it may be a model that loads yet"
        );
        for steps in [&[30, 30][..], &[30, 10], &[10, 30, 20], &[30; 50]] {
            let steady = run(100, steps);
            assert_eq!((steady.resident(), steady.scratch()), (100, 30), "{steps:?}");
        }
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!((Steady::default().resident(), Steady::default().scratch()), (0, 0));
    }
}
