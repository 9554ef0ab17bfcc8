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
use crate::core::{ArenaId, Idle, Tier};

/// Which idle granules to unmap, by arena.
pub(in crate::heap) type Stitches = Vec<(ArenaId, Idle)>;

impl Memory {
    /// Which idle granules to take so that the request can grow by them, the longest runs first: a
    /// run is cut, not used up, and its rest serves others as before. `None` where all of them are
    /// not enough. O(granules of the request, and free nodes of about a granule).
    pub(in crate::heap) fn plan_stitch(&mut self, request: Request) -> Option<Stitches> {
        let growth = self.arenas[request.arena].core.plan_growth(request.size, Tier::Dedicated, request.stream)?;
        let room = self.stitch_room() / self.granule;
        let mut missing = growth.count.saturating_sub(u32::try_from(room).unwrap_or(u32::MAX));
        let is_beside = |run: &Range<u32>| run.end == growth.first || run.start == growth.first + growth.count;
        let whole = u32::try_from(request.size.rounded() / self.granule).unwrap_or(u32::MAX / 2);
        let mut idle = Vec::new();
        for id in self.arenas.ids().filter(|id| self.arenas[*id].purpose().is_general()).collect::<Vec<_>>() {
            // What lies beside the growth is used by it anyway, and is shorter than the request.
            let enough = missing.saturating_add(2 * whole);
            let runs = self.arenas[id].core.longest_idle(Tier::Dedicated, enough).into_iter();
            idle.extend(runs.filter(|run| id != request.arena || !is_beside(&run.granules)).map(|run| (id, run)));
        }
        idle.sort_by_key(|(id, run)| (std::cmp::Reverse(run.granules.len()), *id, run.granules.start));
        let mut taken = Vec::new();
        for (id, run) in idle {
            if missing == 0 {
                break;
            }
            let count = missing.min(run.granules.len() as u32);
            missing -= count;
            taken.push((id, run.last(count)));
        }
        (missing == 0).then_some(taken)
    }

    /// Unmaps what a plan takes, so that the request can grow by it. The device must be idle.
    /// Returns bytes.
    pub(in crate::heap) fn unmap_stitches(&mut self, stitches: Stitches) -> u64 {
        let mut bytes = 0;
        for (id, run) in stitches {
            // A run is unmapped by one call: all of it, or nothing.
            let gone = self.unmap_granules(id, &run.granules.clone().collect::<Vec<_>>());
            bytes += gone.len() as u64 * self.granule;
            if !gone.is_empty() {
                self.arenas[id].core.shrink(run);
            }
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
