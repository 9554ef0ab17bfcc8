//! Migration: granules change tier, and no address changes.
//!
//! They go in batches. While one is copied, the one before is put in its place and the one behind
//! is prepared, so that the calls of the driver hide behind the copies:
//!
//! ```text
//!   copies   │ batch 1 ════════════│ batch 2 ════════════│ batch 3 ════════════│
//!   calls    │ prepare 2 │         │ exchange 1, prepare 3 │ exchange 2, …
//! ```
//!
//! Handles are swapped, not created and released: the backing that a demotion leaves serves the
//! next promotion. One granule of working room in the shared tier is enough to begin with, so
//! migration works with both tiers full.

use std::collections::{BTreeMap, VecDeque};

use super::backing::{Batch, Exchanged};
use super::{HOME, Memory};
use crate::core::{ArenaId, GranuleId, Tier, show_size};
use crate::driver::{DriverError, Handle};
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

impl Queues {
    /// Where the driver refuses memory for promotions, another program has taken it: these and
    /// those that are left stay, and that is no error.
    ///
    /// # Errors
    /// Any other refusal.
    fn refuse(&mut self, refused: Refused, granule: u64) -> Result<(), Error> {
        let Refused { is_promotion, granules, why } = refused;
        if !(is_promotion && why.is_out_of_memory()) {
            return Err(why.into());
        }
        log::warn!("{} stay in the shared tier: {why}", show_size((granules + self.promote.len()) as u64 * granule));
        self.promote.clear();
        Ok(())
    }
}

/// Granules whose move the driver has refused.
struct Refused {
    is_promotion: bool,
    granules: usize,
    why: DriverError,
}

/// What has moved so far.
#[derive(Default)]
struct Done {
    moved: Moved,
    changes: BTreeMap<ArenaId, Vec<(u32, Option<Tier>)>>,
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
        let mut done = Done::default();
        let mut result = Ok(());
        let mut copying: Option<Batch> = None;
        loop {
            let mut next = None;
            if result.is_ok() {
                match self.prepare(&mut queues, copying.is_some()) {
                    Ok(prepared) => next = prepared,
                    Err(why) => result = Err(why),
                }
            }
            let before = copying.take();
            if before.is_none() && next.is_none() {
                break;
            }
            let copied = if before.is_some() { self.backing.finish_copies() } else { Ok(()) };
            if let Err(why) = copied {
                before.into_iter().chain(next).for_each(|batch| self.backing.give_up(batch));
                result = result.and(Err(why.into()));
                continue;
            }
            if let Some(batch) = next {
                let (is_promotion, granules) = (batch.is_promotion(), batch.len());
                match self.backing.begin_copies(batch) {
                    Ok(batch) => copying = Some(batch),
                    Err(why) => {
                        let refused = Refused { is_promotion, granules, why };
                        result = result.and(queues.refuse(refused, self.granule));
                    }
                }
            }
            if let Some(batch) = before {
                result = result.and(self.exchange(batch, &mut queues, &mut done));
            }
        }
        for (arena, changes) in done.changes {
            self.arenas[arena].core.set_tiers(changes, HOME);
        }
        (done.moved, result)
    }

    /// Prepares the next batch; `Ok(None)` where nothing is left, or what is copied has to make
    /// room first.
    ///
    /// # Errors
    /// A tier without a granule left; the driver's.
    fn prepare(&mut self, queues: &mut Queues, is_copying: bool) -> Result<Option<Batch>, Error> {
        while let Some(is_promotion) = self.next_is_promotion(queues) {
            let has_demotions = !queues.demote.is_empty();
            let queue = if is_promotion { &mut queues.promote } else { &mut queues.demote };
            let Some((_, to)) = queue.front().copied() else { return Ok(None) };
            if !self.can_take(to) && (is_copying || (is_promotion && !has_demotions)) {
                if !is_copying {
                    // Blocks that a plan expects to pass still take the room.
                    log::debug!("{} granules stay where they are: the {to} tier is full", queue.len());
                }
                return Ok(None);
            }
            let (granules, why) = match self.gather(queue, to) {
                Ok(batch) => {
                    let granules = batch.len();
                    match self.backing.prepare(batch) {
                        Ok(batch) => return Ok(Some(batch)),
                        Err(why) => (granules, why),
                    }
                }
                Err(Error::Driver(_)) if is_copying => return Ok(None),
                Err(Error::Driver(why)) => (0, *why),
                Err(why) => return Err(why),
            };
            queues.refuse(Refused { is_promotion, granules, why }, self.granule)?;
        }
        Ok(None)
    }

    /// Takes new handles for the first moves of a queue to a tier, for a batch at most.
    ///
    /// # Errors
    /// A tier without a granule left; the driver's. Nothing was taken then.
    fn gather(&mut self, queue: &mut VecDeque<Move>, to: Tier) -> Result<Batch, Error> {
        let capacity = self.ledger.most(to);
        let mut batch: Option<Batch> = None;
        while let Some((id, _)) = queue.front().copied().filter(|(_, tier)| *tier == to)
            && batch.as_ref().is_none_or(|batch| batch.len() < self.backing.batch())
        {
            let taken = self.backed(id).and_then(|(old, from)| match self.backing.take(to, 0, capacity)? {
                Some(new) => Ok((old, from, new)),
                None => Err(Error::refused(format!(
                    "the {to} tier has no granule left to move into: free something there first"
                ))),
            });
            let (old, from, new) = match (taken, &batch) {
                (Ok(taken), _) => taken,
                (Err(_), Some(_)) => break,
                (Err(why), None) => return Err(why),
            };
            queue.pop_front();
            let address = self.arenas.address_of(id, self.granule);
            batch.get_or_insert_with(|| Batch::new(from, to)).add(id, address, old, new);
        }
        batch.ok_or_else(|| Error::refused("nothing is left to move"))
    }

    /// The handle and the tier of a granule.
    ///
    /// # Errors
    /// One without backing.
    fn backed(&self, id: GranuleId) -> Result<(Handle, Tier), Error> {
        let bound = &self.arenas[id.arena];
        bound.handle(id.granule).zip(bound.core.tier_of_granule(id.granule)).ok_or_else(|| {
            Error::refused(format!("granule {} of arena {} has no backing to move", id.granule, id.arena.0))
        })
    }

    /// Puts what was copied in its place.
    ///
    /// # Errors
    /// The driver's. What has moved is noted.
    fn exchange(&mut self, batch: Batch, queues: &mut Queues, done: &mut Done) -> Result<(), Error> {
        let (to, is_promotion, granules) = (batch.to, batch.is_promotion(), batch.len());
        let Exchanged { moved, failed } = self.backing.exchange(batch);
        let bytes = moved.len() as u64 * self.granule;
        *(if is_promotion { &mut done.moved.promoted } else { &mut done.moved.demoted }) += bytes;
        let left = granules - moved.len();
        for (id, new) in moved {
            self.arenas[id.arena].handles[id.granule as usize] = Some(new);
            done.changes.entry(id.arena).or_default().push((id.granule, Some(to)));
        }
        match failed {
            None => Ok(()),
            // One that has moved, and cannot be accessed.
            Some(why) if left == 0 => Err(why.into()),
            Some(why) => queues.refuse(Refused { is_promotion, granules: left, why }, self.granule),
        }
    }

    /// Whether the next move is a promotion: not as long as the tier of the next demotion can take
    /// a granule more. `None` where no move is left.
    fn next_is_promotion(&self, queues: &Queues) -> Option<bool> {
        match (queues.demote.front(), queues.promote.is_empty()) {
            (None, true) => None,
            (None, false) => Some(true),
            (Some((_, to)), is_last) => Some(!is_last && !self.can_take(*to)),
        }
    }

    /// Whether a tier can take one more granule.
    fn can_take(&self, tier: Tier) -> bool {
        let can_hold = self.backing.held(tier) + self.granule <= self.ledger.most(tier);
        self.backing.in_stock(tier) > 0 || (can_hold && self.backing.left(tier) >= self.granule)
    }
}
