//! Stitching: idle dedicated granules, each run of them too short for a request, are mapped anew side by side.
//!
//! ```text
//!   before   │ used │ idle │ used │  idle  │ used │ (none) ──────────▶      the request is longer than either
//!   after    │ used │(none)│ used │ (none) │ used │    idle    │ (none) ─▶  it fits
//! ```
//!
//! No block moves and no byte is copied; what it takes is a wait for the device and the calls for each granule, which is an order of
//! magnitude less than one use of as many shared ones. So it comes before anything shared is given out, and only then: as long as the
//! dedicated tier has room, what is fragmented may stay so.

use std::ops::Range;

use super::supply::Request;
use super::{FIRST_OF_POOLS, Heap};
use crate::core::Tier;

impl Heap {
    /// A block on dedicated granules that were idle elsewhere; `None` where they are not enough, while a graph is captured, or where the
    /// driver fails. O(1) where less is idle than is asked for; otherwise O(nodes + granules) and what the calls take.
    pub(super) fn stitch(&mut self, request: Request) -> Option<u64> {
        let room = self.room();
        let unused = self.mapped(Tier::Dedicated).saturating_sub(self.stats.tiers[Tier::Dedicated].allocated.current());
        let is_captured = request.index >= FIRST_OF_POOLS || self.streams.is_capturing(request.stream);
        if room + unused < request.size || is_captured {
            return None;
        }
        self.plan_stitch(request, room)?;
        self.quiesce().ok()?;
        // All work is done: what is free is free for every stream, and may be long enough as it lies.
        self.arenas[request.index].core.set_tiers([], request.stream);
        if let Some(address) = self.take(request, request.index, Tier::Dedicated) {
            return Some(address);
        }
        for (index, run) in self.plan_stitch(request, room)? {
            let gone = self.unmap_granules(index, &run.collect::<Vec<_>>());
            self.stats.stitched_bytes += gone.len() as u64 * self.granule;
            self.arenas[index].core.set_tiers(gone.into_iter().map(|granule| (granule, None)), request.stream);
        }
        self.note();
        self.grow(request, Tier::Dedicated)
    }

    /// Dedicated bytes that may still be mapped anew.
    fn room(&self) -> u64 {
        match self.last_refusal {
            None => self.unmapped(Tier::Dedicated),
            // Somebody else has taken what the ledger promises.
            Some(_) => self.stock.bytes(Tier::Dedicated).saturating_sub(self.kept(Tier::Dedicated)),
        }
    }

    /// Which idle granules to take so that the request can grow by them, the longest runs first: they are cut, not used up, and serve
    /// others as before. `None` where all of them are not enough.
    fn plan_stitch(&self, request: Request, room: u64) -> Option<Vec<(usize, Range<u32>)>> {
        let growth = self.arenas[request.index].core.plan_growth(request.size, Tier::Dedicated, request.stream)?;
        let beside = |run: &Range<u32>| run.end == growth.first || run.start == growth.first + growth.count;
        let mut idle = Vec::new();
        for (index, bound) in self.arenas.iter().enumerate().take(FIRST_OF_POOLS) {
            let runs = bound.core.idle_runs(Tier::Dedicated).into_iter();
            idle.extend(runs.filter(|run| index != request.index || !beside(run)).map(|run| (index, run)));
        }
        idle.sort_by_key(|(index, run)| (std::cmp::Reverse(run.len()), *index, run.start));
        let mut missing = growth.count.saturating_sub(u32::try_from(room / self.granule).unwrap_or(u32::MAX));
        let mut taken = Vec::new();
        for (index, run) in idle {
            if missing == 0 {
                break;
            }
            let count = missing.min(run.len() as u32);
            missing -= count;
            taken.push((index, run.end - count..run.end));
        }
        (missing == 0).then_some(taken)
    }
}
