//! Idle granules: backed, and touched by no block. Their backing returns to the stock.

use super::{Change, HOME, Memory};
use crate::core::{ArenaId, PerTier, Tier};

impl Memory {
    /// Unmaps all idle granules except those of pools. Their backing goes to the stock, where it
    /// serves every stream. The device must be idle.
    pub(in crate::heap) fn strip(&mut self) {
        for id in self.arenas.ids() {
            if self.arenas.is_pools(id) {
                continue;
            }
            if self.arenas[id].belongs_to().is_some() {
                self.unpin_idle(id);
                continue;
            }
            if !self.arenas[id].core.may_be_idle() {
                continue;
            }
            let idle = self.arenas[id].core.idle_granules();
            let gone = self.unmap_granules(id, &idle);
            if !gone.is_empty() {
                self.arenas[id].core.set_tiers(gone.into_iter().map(|granule| (granule, None)), HOME);
            }
        }
    }

    /// Unmaps granules, whose handles go to the stock. Returns those for which it worked; the
    /// caller reports them to the arena.
    pub(super) fn unmap_granules(&mut self, id: ArenaId, granules: &[u32]) -> Vec<u32> {
        let mut gone = Vec::new();
        let bound = &mut self.arenas[id];
        let backed: Vec<u32> = granules.iter().copied().filter(|granule| bound.handle(*granule).is_some()).collect();
        for run in backed.chunk_by(|a, b| a + 1 == *b) {
            let (address, bytes) = (bound.base() + u64::from(run[0]) * self.granule, run.len() as u64 * self.granule);
            if let Err(why) = self.backing.unmap_run(address, bytes) {
                log::debug!("idle backing stays where it is: {why}");
                continue;
            }
            for granule in run {
                let tier = bound.core.tier_of_granule(*granule);
                if let (Some(handle), Some(tier)) = (bound.handles[*granule as usize].take(), tier) {
                    self.backing.put(tier, handle);
                }
            }
            gone.extend_from_slice(run);
            self.changes.push(Change::Unmapped { address, bytes });
        }
        gone
    }

    /// Bytes mapped in a tier that remain so when everything idle is stripped: granules that live
    /// blocks touch, and all of pools.
    pub(in crate::heap) fn mapped_for_blocks(&self, tier: Tier) -> u64 {
        let used = self.arenas.iter().map(|(id, bound)| {
            let idle = if self.arenas.is_pools(id) { Vec::new() } else { bound.core.idle_runs(tier) };
            bound.core.backed()[tier] - idle.into_iter().map(|run| run.len() as u64 * self.granule).sum::<u64>()
        });
        used.sum()
    }

    /// How many granules [`strip`](Memory::strip) would unmap.
    pub(in crate::heap) fn idle_granules(&self) -> usize {
        let arenas = self.arenas.iter().filter(|(id, _)| !self.arenas.is_pools(*id));
        arenas.map(|(_, bound)| bound.core.idle_granules().len()).sum()
    }

    /// Releases stock to the driver until each tier has no more than `keep` in it.
    pub(in crate::heap) fn trim(&mut self, keep: PerTier<u64>) {
        Tier::ALL.into_iter().for_each(|tier| self.backing.trim(tier, keep[tier]));
    }
}
