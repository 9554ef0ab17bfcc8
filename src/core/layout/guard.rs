//! When a plan is dropped: for the rest of a step once it has missed too often, and altogether once
//! it has done so in several steps, or has done harm.

/// So many misses are always allowed in a step,
const MISSES: u32 = 8;
/// and one for each so many requests.
const FOR_EACH: u32 = 50;
/// A plan that was dropped in so many steps in a row is given up.
const STRIKES: u32 = 3;

/// How a plan does in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    tried: u32,
    missed: u32,
}

impl Tally {
    /// Counts a request.
    #[inline]
    pub(super) fn try_one(&mut self) {
        self.tried += 1;
    }

    /// Counts a miss: whether the plan should be dropped for the rest of the step.
    #[cold]
    pub(super) fn miss(&mut self) -> bool {
        self.missed += 1;
        self.missed > MISSES + self.tried / FOR_EACH
    }
}

/// How a plan has done over steps, and when its sequence may have another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    strikes: u32,
    /// How often the sequence has to be seen before the next plan.
    plan_at: u32,
}

impl Guard {
    /// The guard of a sequence that has to be seen `plan_at` times before it is planned.
    pub(super) fn new(plan_at: u32) -> Guard {
        Guard { strikes: 0, plan_at }
    }

    /// Whether a sequence that was seen so often may be planned.
    pub(super) fn may_plan(&self, seen: u32) -> bool {
        seen >= self.plan_at
    }

    /// A plan was made after the sequence was seen so often. The next waits for as many again.
    pub(super) fn planned(&mut self, seen: u32) {
        (self.strikes, self.plan_at) = (0, seen.saturating_add((seen / 2).max(1)));
    }

    /// A step has ended, in which the plan was dropped or not. Returns whether to give it up.
    pub(super) fn judge(&mut self, was_dropped: bool, seen: u32) -> bool {
        self.strikes = if was_dropped { self.strikes + 1 } else { 0 };
        let gives_up = self.strikes >= STRIKES;
        if gives_up {
            self.wait(seen);
        }
        gives_up
    }

    /// The plan has done harm: the next waits for a long time.
    pub(super) fn wait(&mut self, seen: u32) {
        (self.strikes, self.plan_at) = (0, seen.saturating_mul(4).saturating_add(8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_dropped_after_eight_misses_and_two_in_a_hundred() {
        let mut tally = Tally::default();
        assert!((0..8).all(|_| !tally.miss()));
        assert!(tally.miss());
        let mut tally = Tally::default();
        (0..1000).for_each(|_| tally.try_one());
        assert!((0..28).all(|_| !tally.miss()));
        assert!(tally.miss());
    }

    #[test]
    fn a_plan_that_keeps_failing_is_given_up_and_tried_less_and_less() {
        let mut guard = Guard::new(2);
        assert!(!guard.may_plan(1) && guard.may_plan(2));
        guard.planned(2);
        assert!(!guard.judge(true, 3) && !guard.judge(false, 4) && !guard.judge(true, 5) && !guard.judge(true, 6));
        assert!(guard.judge(true, 7));
        assert!(!guard.may_plan(35) && guard.may_plan(36));
    }
}
