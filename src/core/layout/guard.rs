//! When a plan is dropped: for the rest of a step once it has missed too often, and altogether once
//! it has done so in several steps, or has done harm.

/// So many misses are always allowed in a step,
const MISSES: u32 = 8;
/// and one for each so many requests.
const FOR_EACH: u32 = 50;
/// A step in which the plan fails counts so much, and one in which it does not takes one away.
const FAILURE: u32 = 2;
/// A plan that has come to so much is given up.
const TOO_MANY: u32 = 6;
/// A plan that has served so many steps was a good one.
const LONG: u32 = 8;
/// The next plan waits for two to the power of so many steps at most.
const MOST_WAIT: u32 = 10;

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

    /// Whether anything was missed.
    pub(super) fn has_missed(&self) -> bool {
        self.missed > 0
    }

    /// Counts a miss: whether the plan should be dropped for the rest of the step.
    #[cold]
    pub(super) fn miss(&mut self) -> bool {
        self.missed += 1;
        self.missed > MISSES + self.tried / FOR_EACH
    }
}

/// How the plans of a sequence have done, and when it may have another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    failures: u32,
    /// Steps in which a plan has not failed, since one was made.
    successes: u32,
    /// How many plans were made since one has served for long.
    plans: u32,
    /// How often the sequence has to be seen before the next plan.
    plan_at: u32,
}

impl Guard {
    /// The guard of a sequence that has to be seen `plan_at` times before it is planned.
    pub(super) fn new(plan_at: u32) -> Guard {
        Guard { failures: 0, successes: 0, plans: 0, plan_at }
    }

    /// Whether a sequence that was seen so often may be planned.
    pub(super) fn may_plan(&self, seen: u32) -> bool {
        seen >= self.plan_at
    }

    /// A plan is made after the sequence was seen so often. Each waits for twice as many steps as
    /// the one before, unless that has served for long.
    pub(super) fn planned(&mut self, seen: u32) {
        self.plans = if self.successes >= LONG { 0 } else { self.plans };
        self.plan_at = seen.saturating_add(1 << self.plans.min(MOST_WAIT));
        self.plans += 1;
        (self.failures, self.successes) = (0, 0);
    }

    /// A step has ended, in which the plan has failed or not. Returns whether to give it up.
    pub(super) fn judge(&mut self, failed: bool, seen: u32) -> bool {
        self.failures = if failed { self.failures + FAILURE } else { self.failures.saturating_sub(1) };
        self.successes += u32::from(!failed);
        let gives_up = self.failures >= TOO_MANY;
        if gives_up {
            self.wait(seen);
        }
        gives_up
    }

    /// The plan has done harm: the next waits for a long time.
    pub(super) fn wait(&mut self, seen: u32) {
        self.plan_at = seen.saturating_mul(2).saturating_add(LONG);
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
        assert!(!guard.may_plan(2) && guard.may_plan(3));
        guard.planned(3);
        assert!(!guard.may_plan(4) && guard.may_plan(5));
        assert!(!guard.judge(true, 6) && !guard.judge(false, 7) && !guard.judge(true, 8) && !guard.judge(false, 9));
        assert!(!guard.judge(true, 10) && !guard.judge(false, 11));
        assert!(guard.judge(true, 12) || guard.judge(true, 13));
        assert!(!guard.may_plan(30) && guard.may_plan(34));
    }

    #[test]
    fn a_plan_that_has_served_for_long_is_replaced_at_once() {
        let mut guard = Guard::new(2);
        (2..8).for_each(|seen| guard.planned(seen));
        assert!(!guard.may_plan(20));
        assert!((0..LONG).all(|seen| !guard.judge(false, 40 + seen)));
        guard.planned(50);
        assert!(guard.may_plan(51));
    }
}
