//! The state machine of a device: which part of its life it is in, and what changes that.
//!
//! ```text
//!              from   Loading      Active       Disabled     Freed
//!   step
//!   Activate          Active       Active       Active       Active
//!   Rebalance         Active       Active       (refused)    (refused)
//!   Open              Active       (refused)    (refused)    (refused)
//!   Disable           Disabled     Disabled     Disabled     Disabled
//!   FreeVram          Freed        Freed        Freed        Freed
//!   BeginLoading      Loading      Loading      Loading      Loading
//!   Drain             (refused)    Loading *    (refused)    (refused)
//!
//!   * only where no action froze the device
//! ```
//!
//! The steps `Activate`, `Disable`, `FreeVram` and `BeginLoading` are actions of the user. The
//! others happen by themselves: `Rebalance` at a safe point, `Open` when a program is seen to work
//! although nobody activated, `Drain` when nothing lives any more.

/// Which part of its life a device is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Nothing is activated yet: blocks take dedicated memory first come, first served, less the
    /// reserve.
    #[default]
    Loading = 0,
    /// Activated: placed and frozen, and the reserve is handed out first.
    Active = 1,
    /// Placed without a reserve, and thawed.
    Disabled = 2,
    /// Everything was moved to the shared tier.
    Freed = 3,
}

impl Phase {
    /// All phases, in the order of their numbers.
    pub const ALL: [Phase; 4] = [Phase::Loading, Phase::Active, Phase::Disabled, Phase::Freed];

    /// The phase's name, as users meet it everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Loading => "loading",
            Phase::Active => "active",
            Phase::Disabled => "disabled",
            Phase::Freed => "freed",
        }
    }
}

/// What changes the phase of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The user activates, with a reserve that is found automatically or one that is given.
    Activate {
        /// Whether the reserve is found automatically.
        automatic: bool,
    },
    /// The automatic mode has placed everything anew.
    Rebalance,
    /// The reserve opens by itself, because the program works.
    Open,
    /// The user disables.
    Disable,
    /// The user moves everything to the shared tier.
    FreeVram,
    /// The user begins to load.
    BeginLoading,
    /// Nothing lives any more on a device that no action froze.
    Drain,
}

/// The state of a device: its phase, and who has brought it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    phase: Phase,
    automatic: bool,
    opened_by_work: bool,
}

impl State {
    /// A device that loads.
    pub fn new(automatic: bool) -> State {
        State { phase: Phase::Loading, automatic, opened_by_work: false }
    }

    /// The phase.
    pub fn phase(self) -> Phase {
        self.phase
    }

    /// Whether the automatic mode is on: the reserve is found from what the work asks for.
    pub fn is_automatic(self) -> bool {
        self.automatic
    }

    /// Whether the device is frozen: new blocks are scratch.
    #[inline]
    pub fn is_frozen(self) -> bool {
        self.phase == Phase::Active
    }

    /// Whether an action froze the device, rather than the automatic mode or a reserve that opened
    /// by itself. Idle memory stays where it is then.
    pub fn is_frozen_by_action(self) -> bool {
        self.is_frozen() && !self.automatic && !self.opened_by_work
    }

    /// Whether the reserve opened by itself.
    pub fn is_opened_by_work(self) -> bool {
        self.opened_by_work
    }

    /// The state after a step; `None` where the table refuses it.
    pub fn after(self, step: Step) -> Option<State> {
        let is_allowed = match step {
            Step::Activate { .. } | Step::Disable | Step::FreeVram | Step::BeginLoading => true,
            Step::Rebalance => matches!(self.phase, Phase::Loading | Phase::Active),
            Step::Open => self.phase == Phase::Loading,
            Step::Drain => self.is_frozen() && !self.is_frozen_by_action(),
        };
        let phase = match step {
            Step::Activate { .. } | Step::Rebalance | Step::Open => Phase::Active,
            Step::Disable => Phase::Disabled,
            Step::FreeVram => Phase::Freed,
            Step::BeginLoading | Step::Drain => Phase::Loading,
        };
        let automatic = match step {
            Step::Activate { automatic } => automatic,
            Step::Disable | Step::FreeVram => false,
            Step::Rebalance | Step::Open | Step::BeginLoading | Step::Drain => self.automatic,
        };
        is_allowed.then_some(State { phase, automatic, opened_by_work: step == Step::Open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table at the top of this file is the machine, cell by cell.
    #[test]
    fn the_table_is_the_machine() {
        let rows = include_str!("phase.rs").lines().skip_while(|line| !line.contains("from   Loading")).skip(2).take(7);
        for row in rows {
            let mut cells = row.trim_start_matches("//!").split_whitespace().filter(|cell| *cell != "*");
            let name = cells.next().unwrap();
            let steps = match name {
                "Activate" => vec![Step::Activate { automatic: true }, Step::Activate { automatic: false }],
                "Rebalance" => vec![Step::Rebalance],
                "Open" => vec![Step::Open],
                "Disable" => vec![Step::Disable],
                "FreeVram" => vec![Step::FreeVram],
                "BeginLoading" => vec![Step::BeginLoading],
                "Drain" => vec![Step::Drain],
                other => panic!("{other} is no step"),
            };
            for (phase, cell) in Phase::ALL.into_iter().zip(cells) {
                for step in &steps {
                    let state = State { phase, automatic: true, opened_by_work: false };
                    let reached = state.after(*step).map(|state| state.phase);
                    let named = Phase::ALL.into_iter().find(|known| format!("{known:?}") == cell);
                    assert!(named.is_some() || cell == "(refused)", "{cell}");
                    assert_eq!(reached, named, "{step:?} from {phase:?}");
                }
            }
        }
    }

    #[test]
    fn who_froze_the_device_is_known() {
        let loading = State::new(false);
        let by_action = loading.after(Step::Activate { automatic: false }).unwrap();
        assert!(by_action.is_frozen_by_action() && by_action.after(Step::Drain).is_none());
        let by_work = loading.after(Step::Open).unwrap();
        assert!(by_work.is_frozen() && !by_work.is_frozen_by_action());
        assert!(!by_work.after(Step::Drain).unwrap().is_opened_by_work());
        let automatic = loading.after(Step::Activate { automatic: true }).unwrap();
        assert!(!automatic.is_frozen_by_action() && automatic.after(Step::BeginLoading).unwrap().is_automatic());
        assert!(!automatic.after(Step::Disable).unwrap().is_automatic());
    }
}
