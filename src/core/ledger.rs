//! The ledger: how much of each tier there is, how much is taken, and how much is kept back.
//!
//! ```text
//!  dedicated  │◀──────────────── capacity ────────────────▶│
//!             │ mapped │    may still be mapped  │ reserve │  while loading
//!             │ mapped │      may still be mapped│ persist │  while active (open reserve)
//! ```

use super::activation::Kept;
use super::size::show_size;
use super::tier::{PerTier, Tier};

/// What an operating system grants a process of a tier, by its own account. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The budget: what the process can use before the system takes memory away from it.
    pub budget: u64,
    /// What the process uses, whoever in it has allocated that.
    pub usage: u64,
}

impl Grant {
    /// The grant by the system's figures; `None` where the budget is 0: that is what a card says of
    /// a kind of memory that it does not have, as where all of it is the host's.
    pub fn of(budget: u64, usage: u64) -> Option<Grant> {
        (budget > 0).then_some(Grant { budget, usage })
    }

    /// The bytes that may be held where `held` are, so that the process stays within its budget
    /// and leaves `headroom` of it.
    pub fn allows(self, held: u64, headroom: u64) -> u64 {
        self.budget.saturating_sub(self.usage.saturating_sub(held)).saturating_sub(headroom)
    }
}

/// Capacities and commitments of one device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// The most that may be backed in each tier.
    pub capacity: PerTier<u64>,
    /// The most that the operating system allows to be held in each tier, as it was last asked.
    pub granted: PerTier<u64>,
    /// Dedicated bytes that resident blocks may not use.
    pub kept: Kept,
    /// Whether scratch may use the reserve, as it may after an activation.
    pub reserve_open: bool,
    /// Shared bytes that migrations need as working room. Nothing else may take them.
    pub working: u64,
    /// A further limit on mapped dedicated bytes, set by PyTorch's memory fraction.
    pub fraction_limit: Option<u64>,
    /// Dedicated bytes of the capacity that other libraries and processes held when last seen.
    pub taken: u64,
    /// Dedicated bytes for weights that are copied ahead of their use. No block may have them.
    pub staging: u64,
}

impl Default for Ledger {
    /// Nothing, and no limit by the system.
    fn default() -> Self {
        Ledger {
            capacity: PerTier::default(),
            granted: PerTier::from_fn(|_| u64::MAX),
            kept: Kept::default(),
            reserve_open: false,
            working: 0,
            fraction_limit: None,
            taken: 0,
            staging: 0,
        }
    }
}

impl Ledger {
    /// The most bytes that may be held of `tier`: its capacity, within what the system grants.
    pub fn most(&self, tier: Tier) -> u64 {
        self.capacity[tier].min(self.granted[tier])
    }

    /// The most dedicated bytes that can be obtained, with what others have taken.
    pub fn obtainable(&self) -> u64 {
        self.most(Tier::Dedicated).min(self.capacity[Tier::Dedicated].saturating_sub(self.taken))
    }

    /// The most bytes that may be mapped in `tier` as things stand.
    pub fn limit(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Dedicated => {
                let kept = self.kept.persist + self.staging + if self.reserve_open { 0 } else { self.kept.reserve };
                self.most(tier).saturating_sub(kept).min(self.fraction_limit.unwrap_or(u64::MAX))
            }
            Tier::Shared => self.most(tier).saturating_sub(self.working),
        }
    }

    /// The most bytes that can be obtained in `tier`: the limit, less what others have taken. Plans
    /// go by this. An allocation tries up to the limit, since the driver knows best.
    pub fn reach(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Dedicated => self.limit(tier).min(self.obtainable()),
            Tier::Shared => self.limit(tier),
        }
    }

    /// Notes how many dedicated bytes are held here, and how many more the driver reports as free.
    pub fn see_free(&mut self, held: u64, free: u64) {
        self.taken = self.capacity[Tier::Dedicated].saturating_sub(held.saturating_add(free));
    }

    /// Dedicated bytes that resident blocks may use once activated with this reserve and persist.
    ///
    /// # Errors
    /// Where the two together exceed the capacity.
    pub fn resident_budget(&self, kept: Kept) -> Result<u64, String> {
        let capacity = self.capacity[Tier::Dedicated];
        let sum = kept.sum().filter(|sum| *sum <= capacity);
        sum.map(|kept| self.obtainable().saturating_sub(kept).saturating_sub(self.staging)).ok_or_else(|| {
            format!(
                "reserve {} and persist {} are more than the {} of dedicated memory there is; choose smaller ones",
                show_size(kept.reserve),
                show_size(kept.persist),
                show_size(capacity)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(reserve: u64, persist: u64) -> Kept {
        Kept { reserve, persist }
    }

    fn ledger() -> Ledger {
        Ledger {
            capacity: PerTier::new(1000, 500),
            kept: kept(300, 0),
            reserve_open: false,
            working: 2,
            ..Ledger::default()
        }
    }

    #[test]
    fn loading_may_not_use_the_reserve() {
        assert_eq!(ledger().limit(Tier::Dedicated), 700);
        assert_eq!(ledger().limit(Tier::Shared), 498);
    }

    #[test]
    fn once_active_the_reserve_is_open_and_persist_withheld() {
        let active = Ledger { reserve_open: true, kept: kept(300, 100), ..ledger() };
        assert_eq!(active.limit(Tier::Dedicated), 900);
    }

    #[test]
    fn what_others_have_taken_is_not_promised() {
        let mut ledger = ledger();
        ledger.see_free(200, 900);
        assert_eq!((ledger.taken, ledger.reach(Tier::Dedicated)), (0, 700), "the headroom may be eaten");
        ledger.see_free(200, 300);
        assert_eq!((ledger.taken, ledger.limit(Tier::Dedicated), ledger.reach(Tier::Dedicated)), (500, 700, 500));
        assert_eq!(ledger.resident_budget(kept(300, 100)), Ok(100));
        assert_eq!(ledger.resident_budget(kept(600, 100)), Ok(0));
    }

    #[test]
    fn what_the_system_does_not_grant_is_not_promised() {
        let of_others = Grant { budget: 900, usage: 500 };
        assert_eq!(of_others.allows(200, 100), 500, "300 are used elsewhere in the process");
        assert_eq!(of_others.allows(600, 100), 800, "the system has taken some of it away");
        assert_eq!(Grant { budget: 100, usage: 500 }.allows(200, 100), 0);
        let ledger = Ledger { granted: PerTier::new(800, 100), ..ledger() };
        assert_eq!((ledger.limit(Tier::Dedicated), ledger.limit(Tier::Shared)), (500, 98));
        assert_eq!(ledger.resident_budget(kept(300, 100)), Ok(400));
        assert_eq!(ledger.resident_budget(kept(900, 0)), Ok(0), "the card has it, and may be granted again");
    }

    #[test]
    fn promises_beyond_the_card_are_refused_in_words() {
        assert_eq!(ledger().resident_budget(kept(300, 100)), Ok(600));
        assert_eq!(ledger().resident_budget(kept(1000, 0)), Ok(0));
        assert!(ledger().resident_budget(kept(900, 101)).unwrap_err().contains("choose smaller"));
        assert!(ledger().resident_budget(kept(u64::MAX, 1)).is_err());
    }
}
