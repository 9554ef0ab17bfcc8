//! Migration: granules change tier, and no address changes.
//!
//! ```text
//!            address of the granule          working address
//!   before   ├─▶ old backing                 ├─▶ (nothing)
//!   1        ├─▶ old backing                 ├─▶ new backing      map, set access
//!   2        ├─▶ old backing  ═══ copy ═══▶  ├─▶ new backing
//!   3        ├─▶ (nothing)                   ├─▶ (nothing)        unmap both
//!   4        ├─▶ new backing                 ├─▶ (nothing)    map, set access; old: to the stock
//! ```
//!
//! Handles are swapped, not created and released: the backing that a demotion leaves serves the
//! next promotion. One granule of working room in the shared tier is enough to begin with, so
//! migration works with both tiers full.

use std::collections::{BTreeMap, VecDeque};

use super::backing::{Halted, Rehousing};
use super::{HOME, Memory};
use crate::core::{ArenaId, GranuleId, Tier, show_size};
use crate::error::Error;

/// What moved. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// To a faster tier.
    pub promoted: u64,
    /// To a slower tier.
    pub demoted: u64,
    /// What should have moved and stays where it is, because the driver's shared memory is pinned.
    pub stayed: u64,
}

/// A granule, and the tier it goes to.
pub(in crate::heap) type Move = (GranuleId, Tier);

/// The moves that are still to be made, those to slower and those to faster tiers.
struct Queues {
    demote: VecDeque<Move>,
    promote: VecDeque<Move>,
}

impl Memory {
    /// Moves granules in the order given, a demotion's backing serving the next promotion. The
    /// device must be idle, and each granule must be backed. Free space belongs to the first stream
    /// afterwards.
    ///
    /// Returns what moved, and the error that ended it if not everything did. What has moved stays
    /// moved, and everything stays usable.
    pub(in crate::heap) fn migrate(&mut self, moves: Vec<Move>) -> (Moved, Result<(), Error>) {
        let is_promotion = |(id, to): &Move| self.arenas.tier_of(*id).is_some_and(|from| to.is_faster_than(from));
        let (promote, demote): (VecDeque<Move>, VecDeque<Move>) = moves.into_iter().partition(is_promotion);
        let mut queues = Queues { demote, promote };
        let mut changes: BTreeMap<ArenaId, Vec<(u32, Option<Tier>)>> = BTreeMap::new();
        let mut moved = Moved::default();
        let mut result = Ok(());
        while let Some((next, is_promotion)) = self.next_move(&mut queues) {
            let (id, to) = next;
            if is_promotion && queues.demote.is_empty() && !self.can_take(to) {
                // Blocks that a plan expects to pass still take the room: the rest waits for them.
                log::debug!("{} granules stay where they are: the {to} tier is full", queues.promote.len() + 1);
                break;
            }
            match self.rehouse(id, to) {
                Ok(()) => {}
                Err(Halted { moved: Some(_), why }) => result = Err(why),
                Err(Halted { moved: None, why: Error::Driver(why) }) if is_promotion && why.is_out_of_memory() => {
                    // Another program has taken the memory: the promotions that are left stay.
                    let bytes = (queues.promote.len() as u64 + 1) * self.granule;
                    log::warn!("{} stay in the shared tier: {why}", show_size(bytes));
                    queues.promote.clear();
                    continue;
                }
                Err(Halted { moved: None, why }) => {
                    result = Err(why);
                    break;
                }
            }
            changes.entry(id.arena).or_default().push((id.granule, Some(to)));
            *(if is_promotion { &mut moved.promoted } else { &mut moved.demoted }) += self.granule;
            if result.is_err() {
                break;
            }
        }
        for (arena, changes) in changes {
            self.arenas[arena].core.set_tiers(changes, HOME);
        }
        (moved, result)
    }

    /// The next move, and whether it is a promotion: a demotion as long as its tier can take a
    /// granule more.
    fn next_move(&self, queues: &mut Queues) -> Option<(Move, bool)> {
        let demotes = match queues.demote.front() {
            Some((_, to)) => self.can_take(*to) || queues.promote.is_empty(),
            None => false,
        };
        if demotes {
            return queues.demote.pop_front().map(|next| (next, false));
        }
        queues.promote.pop_front().map(|next| (next, true))
    }

    /// Whether a tier can take one more granule.
    fn can_take(&self, tier: Tier) -> bool {
        let can_hold = self.backing.held(tier) + self.granule <= self.ledger.most(tier);
        self.backing.in_stock(tier) > 0 || (can_hold && self.backing.left(tier) >= self.granule)
    }

    /// Gives one granule backing in another tier, with its contents.
    fn rehouse(&mut self, id: GranuleId, to: Tier) -> Result<(), Halted> {
        let bound = &self.arenas[id.arena];
        let (Some(old), Some(from)) = (bound.handle(id.granule), bound.core.tier_of_granule(id.granule)) else {
            return Err(Error::Refused(format!(
                "granule {} of arena {} has no backing to move",
                id.granule, id.arena.0
            ))
            .into());
        };
        let address = self.arenas.address_of(id, self.granule);
        let capacity = self.ledger.most(to);
        let rehoused = self.backing.rehouse(Rehousing { address, old, from, to, capacity });
        if let Ok(new) | Err(Halted { moved: Some(new), .. }) = rehoused {
            self.arenas[id.arena].handles[id.granule as usize] = Some(new);
        }
        rehoused.map(drop)
    }
}
