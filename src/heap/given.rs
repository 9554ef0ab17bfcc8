//! A reserve of a given size, with a ring of copies beside it.
//!
//! ```text
//!   dedicated  │  residents  │ ring │    reserve, to the byte    │ persist │
//! ```
//!
//! The reserve is what the user says. The ring comes out of what residents get: at an activation,
//! if the order of some work is known by then, and otherwise at the first safe point after it is.
//! Everything is placed as the activation has placed it, and stays so until something changes that
//! the ring depends on. Where everything fits beside the reserve there is none.

use super::Heap;
use super::lending;
use super::memory::Moved;
use super::placing::Pins;
use crate::core::ahead::Knowledge;
use crate::core::placement::Order;
use crate::core::{Kept, PerTier, Step, Tier};
use crate::error::Error;

/// What was decided about the ring beside a given reserve.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The order of the last activation.
    pub(super) order: Order,
    /// What was known, and the bytes in the shared tier and in the ring, when a safe point looked
    /// last.
    seen: Option<(Knowledge, u64, u64)>,
}

impl Given {
    /// An activation with an order.
    pub(super) fn new(order: Order) -> Given {
        Given { order, seen: None }
    }
}

impl Heap {
    /// Bytes that residents may have beside a reserve and persist, before any ring.
    ///
    /// # Errors
    /// Where the two are more than there is.
    pub(super) fn budget_beside(&self, kept: Kept) -> Result<u64, Error> {
        let beside_ring = self.memory.ledger().resident_budget(kept).map_err(Error::argument)?;
        Ok(beside_ring + self.memory.staged())
    }

    /// The ring that goes beside a given reserve: of all known work, the longest that some of it
    /// wants. 0 where everything fits without, or where it would take more than half. Bytes.
    pub(super) fn ring_beside(&self, kept: Kept) -> u64 {
        let budget = self.budget_beside(kept).unwrap_or(0);
        let lives = PerTier::from_fn(|tier| self.stats.tiers[tier].allocated.current());
        let fits = match self.memory.is_pinned() {
            // What exists stays where it is.
            true => lives[Tier::Shared] == 0,
            false => lives.iter().sum::<u64>() <= budget,
        };
        let ring = lending::longest_ring(&self.memory, &self.ahead);
        if fits || ring > budget / 2 { 0 } else { ring }
    }

    /// Makes the ring, if that leaves the reserve whole.
    pub(super) fn make_ring_beside(&mut self, ring: u64, kept: Kept) {
        let taken = self.memory.mapped(Tier::Dedicated).saturating_add(kept.sum().unwrap_or(u64::MAX));
        let has_room = taken.saturating_add(ring) <= self.memory.ledger().most(Tier::Dedicated);
        self.make_ring(if has_room { ring } else { 0 });
    }

    /// At a safe point: places everything anew beside the ring that is wanted now, if that is
    /// another one. O(1) where nothing has changed.
    ///
    /// # Errors
    /// The driver's. What has moved stays moved.
    pub(super) fn adjust_ring(&mut self) -> Result<Moved, Error> {
        if !self.state.is_frozen() {
            return Ok(Moved::default());
        }
        let now = self.seen_of_ring();
        if self.given.seen.replace(now) == Some(now) {
            return Ok(Moved::default());
        }
        let kept = self.memory.ledger().kept;
        let (ring, staged) = (self.ring_beside(kept), self.memory.staged());
        if ring == staged || (ring > 0 && ring < staged) {
            return Ok(Moved::default());
        }
        if self.abstains() {
            self.given.seen = None;
            return Ok(Moved::default());
        }
        let placed = self.place_beside(self.given.order, kept, ring);
        let Some(moved) = self.rebalanced(placed)? else { return Ok(Moved::default()) };
        self.enter(Step::Rebalance, kept);
        self.make_ring_beside(ring, kept);
        // Another look would find what this one has made.
        self.given.seen = Some(self.seen_of_ring());
        Ok(moved)
    }

    fn seen_of_ring(&self) -> (Knowledge, u64, u64) {
        let shared = self.stats.tiers[Tier::Shared].allocated.current();
        (self.ahead.knowledge(self.automatic.learner.kind()), shared, self.memory.staged())
    }

    /// Places everything beside a reserve, persist and a ring, or without the ring where the shared
    /// tier does not hold what it displaces.
    ///
    /// # Errors
    /// As for [`activate`](Heap::activate).
    pub(super) fn place_beside(&mut self, order: Order, kept: Kept, ring: u64) -> Result<Moved, Error> {
        let budget = self.budget_beside(kept)?;
        match self.place(order, budget - ring, Pins::Kept) {
            Err(Error::Refused(why)) if ring > 0 => {
                log::debug!("device {}: no ring beside the reserve: {why}", self.memory.device());
                self.place(order, budget, Pins::Kept)
            }
            placed => placed,
        }
    }
}
