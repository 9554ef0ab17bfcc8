//! What the operating system grants this process of the device's memory, where it keeps an account
//! of that, as Windows does. A driver there creates more than fits the card, and the system then
//! moves memory to the host and back, unasked. So no more is created than is granted, and what lies
//! idle beyond that is returned.
//!
//! ```text
//!   budget  │◀──────────────────── granted to the process ───────────────────▶│
//!           │ used by others in the process │    may be held here    │ headroom │
//! ```

use std::time::{Duration, Instant};

use super::Memory;
use crate::core::{Grant, PerTier, Tier, show_size};
use crate::driver::Granted;

/// How long a system that did not tell is left alone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The system's account, as it was last asked.
#[derive(Debug, Default)]
pub(super) struct Account {
    state: State,
    /// The last answer.
    granted: PerTier<Option<Grant>>,
    /// What was held then.
    held: PerTier<u64>,
    /// Whether it was said that the system does not tell.
    has_complained: bool,
    /// Whether it was said that more dedicated memory is held than is granted.
    has_warned: bool,
}

/// When the system is asked.
#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// At the next occasion.
    #[default]
    Due,
    /// Not before that moment.
    Until(Instant),
    /// Never again: it keeps no account.
    Closed,
}

impl Account {
    fn is_due(&self) -> bool {
        match self.state {
            State::Due => true,
            State::Until(moment) => Instant::now() >= moment,
            State::Closed => false,
        }
    }
}

impl Memory {
    /// Asks the system what it grants, unless its last answer still holds, and releases stock
    /// beyond that. Returns whether it has said just now that more dedicated memory is held than
    /// that. Without effect where the system keeps no account.
    pub(in crate::heap) fn heed_grants(&mut self) -> bool {
        if !self.account.is_due() {
            return false;
        }
        match self.driver.granted(self.device) {
            Ok(Some(granted)) => {
                self.keep_account(granted);
                return self.is_beyond_grants();
            }
            Ok(None) => self.account.state = State::Closed,
            Err(why) => self.complain(&why),
        }
        false
    }

    /// Notes that the system did not tell. Its last answer, if any, stays in force.
    fn complain(&mut self, why: &str) {
        self.account.state = State::Until(Instant::now() + PATIENCE);
        if !self.account.has_complained {
            log::warn!(
                "device {}: the system does not tell what it grants of the card's memory, and may move some of it to \
                 the host unasked: the option \"dedicated\" limits what is used ({why})",
                self.device
            );
        }
        self.account.has_complained = true;
    }

    fn keep_account(&mut self, Granted { of, lasts }: Granted) {
        self.account.state = State::Until(Instant::now() + lasts);
        self.account.granted = of;
        self.account.held = PerTier::from_fn(|tier| self.backing.held(tier));
        self.keep_to_account();
        self.release_beyond_grants();
        self.warn_of_excess();
    }

    /// Sets what may be held, by the system's last answer and by what is left to others now.
    pub(super) fn keep_to_account(&mut self) {
        let headroom = self.headroom.withheld();
        for tier in Tier::ALL {
            let allowed = self.account.granted[tier].map(|grant| grant.allows(self.account.held[tier], headroom));
            self.ledger.granted[tier] = allowed.map_or(u64::MAX, |bytes| bytes / self.granule * self.granule);
        }
    }

    /// Releases stock as far as more is held than is granted; not the room that migrations need.
    pub(in crate::heap) fn release_beyond_grants(&mut self) {
        for (tier, least) in [(Tier::Dedicated, 0), (Tier::Shared, self.working_room())] {
            let excess = self.backing.held(tier).saturating_sub(self.ledger.granted[tier]);
            if excess > 0 {
                self.backing.trim(tier, self.backing.in_stock(tier).saturating_sub(excess).max(least));
            }
        }
    }

    /// Whether more dedicated memory is held than the system was last seen to grant.
    pub(in crate::heap) fn is_beyond_grants(&self) -> bool {
        self.backing.held(Tier::Dedicated) > self.ledger.granted[Tier::Dedicated]
    }

    /// What the system was last seen to grant; nothing where it keeps no account.
    pub(in crate::heap) fn granted(&self) -> PerTier<Grant> {
        self.account.granted.map(Option::unwrap_or_default)
    }

    fn warn_of_excess(&mut self) {
        let is_beyond = self.is_beyond_grants();
        if is_beyond && !self.account.has_warned {
            let (held, granted) = (self.backing.held(Tier::Dedicated), self.ledger.granted[Tier::Dedicated]);
            log::warn!(
                "device {}: {} of dedicated memory are held, and the system grants {} by now: it may move the rest to \
                 the host, which slows everything down, until a safe point or an action places blocks anew",
                self.device,
                show_size(held),
                show_size(granted)
            );
        }
        self.account.has_warned = is_beyond;
    }
}
