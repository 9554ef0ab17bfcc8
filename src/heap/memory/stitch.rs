//! Stitching: idle dedicated granules, each run of them too short for a request, are mapped anew
//! side by side.
//!
//! ```text
//!   before   │ used │ idle │ used │  idle  │ used │ (none) ──────────▶   too short for the request
//!   after    │ used │(none)│ used │ (none) │ used │    idle    │ (none) ─▶   long enough
//! ```
//!
//! No block moves and no byte is copied. It takes a wait for the device and the calls for each
//! granule, which is an order of magnitude less than one use of as many shared granules. So it
//! comes before anything shared is allocated, and only then: as long as the dedicated tier has
//! room, its fragments may stay where they are.

use std::ops::Range;

use super::{Memory, Request};
use crate::core::{ArenaId, Tier};

/// Which idle granules to unmap, by arena.
pub(in crate::heap) type Stitches = Vec<(ArenaId, Range<u32>)>;

impl Memory {
    /// Which idle granules to take so that the request can grow by them, the longest runs first: a
    /// run is cut, not used up, and its rest serves others as before. `None` where all of them are
    /// not enough. O(nodes + granules).
    pub(in crate::heap) fn plan_stitch(&self, request: Request) -> Option<Stitches> {
        let growth = self.arenas[request.arena].core.plan_growth(request.size, Tier::Dedicated, request.stream)?;
        let is_beside = |run: &Range<u32>| run.end == growth.first || run.start == growth.first + growth.count;
        let mut idle = Vec::new();
        for (id, bound) in self.arenas.iter().filter(|(_, bound)| bound.purpose().is_general()) {
            let runs = bound.core.idle_runs(Tier::Dedicated).into_iter();
            idle.extend(runs.filter(|run| id != request.arena || !is_beside(run)).map(|run| (id, run)));
        }
        idle.sort_by_key(|(id, run)| (std::cmp::Reverse(run.len()), *id, run.start));
        let room = self.stitch_room() / self.granule;
        let mut missing = growth.count.saturating_sub(u32::try_from(room).unwrap_or(u32::MAX));
        let mut taken = Vec::new();
        for (id, run) in idle {
            if missing == 0 {
                break;
            }
            let count = missing.min(run.len() as u32);
            missing -= count;
            taken.push((id, run.end - count..run.end));
        }
        (missing == 0).then_some(taken)
    }

    /// Unmaps what a plan takes, so that the request can grow by it. The device must be idle.
    /// Returns bytes.
    pub(in crate::heap) fn unmap_stitches(&mut self, request: Request, stitches: Stitches) -> u64 {
        let mut bytes = 0;
        for (id, run) in stitches {
            let gone = self.unmap_granules(id, &run.collect::<Vec<_>>());
            bytes += gone.len() as u64 * self.granule;
            let changes = gone.into_iter().map(|granule| (granule, None));
            self.arenas[id].core.set_tiers(changes, request.stream);
        }
        bytes
    }

    /// Dedicated bytes that may still be mapped anew.
    pub(in crate::heap) fn stitch_room(&self) -> u64 {
        match self.last_refusal {
            None => self.unmapped(Tier::Dedicated),
            // Someone else has taken what the ledger promises.
            Some(_) => self.backing.in_stock(Tier::Dedicated).saturating_sub(self.kept(Tier::Dedicated)),
        }
    }
}
