//! Growth: granules get backing, for requests that nothing free can serve.

use super::{Change, Memory, Request};
use crate::core::{Growth, Tier};

impl Memory {
    /// Backs granules of `tier` so that the request can be taken from its arena. Returns whether
    /// that was done: not beyond what the ledger and the driver allow.
    pub(in crate::heap) fn grow(&mut self, request: Request, tier: Tier) -> bool {
        if tier == Tier::Shared && self.is_pinned() {
            return self.pin_for(request);
        }
        let growth = self.arenas[request.arena].core.plan_growth(request.size, tier, request.stream);
        growth.is_some_and(|growth| self.back(request, growth, tier))
    }

    /// Backs shared granules next to free space of any tier, so that the request can be taken
    /// across both. Nothing lies next to pinned memory: there it is as [`grow`](Memory::grow).
    pub(in crate::heap) fn grow_across(&mut self, request: Request) -> bool {
        if self.is_pinned() {
            return self.grow(request, Tier::Shared);
        }
        let growth = self.arenas[request.arena].core.plan_growth_across(request.size, request.stream);
        growth.is_some_and(|growth| self.back(request, growth, Tier::Shared))
    }

    /// Backs what is left of the dedicated tier, where a hole begins that is long enough for the
    /// request together with new shared granules behind. Returns whether both tiers have enough.
    pub(in crate::heap) fn grow_head(&mut self, request: Request) -> bool {
        if self.is_pinned() {
            return false;
        }
        let Some(growth) = self.arenas[request.arena].core.plan_growth_across(request.size, request.stream) else {
            return false;
        };
        // Not more of the dedicated tier than others have left, or backing it would be refused.
        self.see_free();
        let left = |tier: Tier| self.ledger.reach(tier).saturating_sub(self.mapped(tier)) / self.granule;
        if left(Tier::Dedicated) + left(Tier::Shared) < u64::from(growth.count) {
            return false;
        }
        let head = growth.first(u32::try_from(left(Tier::Dedicated)).unwrap_or(u32::MAX));
        head.count == 0 || self.back(request, head, Tier::Dedicated)
    }

    /// Backs granules; whether the ledger and the driver allow it.
    pub(in crate::heap) fn back(&mut self, request: Request, growth: Growth, tier: Tier) -> bool {
        self.heed_grants();
        let bytes = u64::from(growth.count) * self.granule;
        if self.mapped(tier) + bytes > self.ledger.limit(tier) {
            return false;
        }
        let keep = self.kept(tier);
        let mut handles = Vec::with_capacity(growth.count as usize);
        while handles.len() < growth.count as usize {
            match self.backing.take(tier, keep, self.ledger.most(tier)) {
                Ok(Some(handle)) => handles.push(handle),
                refused => {
                    self.last_refusal = refused.err();
                    if tier == Tier::Dedicated && self.last_refusal.is_some() {
                        // Someone else has what the ledger promises.
                        self.see_free();
                    }
                    handles.drain(..).for_each(|handle| self.backing.put(tier, handle));
                    return false;
                }
            }
        }
        let address = self.arenas[request.arena].base() + u64::from(growth.first) * self.granule;
        if let Err(why) = self.backing.map_run(address, &handles, tier) {
            self.last_refusal = Some(why);
            return false;
        }
        let bound = &mut self.arenas[request.arena];
        bound.core.grow(growth, tier, request.stream);
        let first = growth.first as usize;
        if bound.handles.len() < first + handles.len() {
            bound.handles.resize(first + handles.len(), None);
        }
        for (slot, handle) in bound.handles[first..].iter_mut().zip(handles) {
            *slot = Some(handle);
        }
        self.changes.push(Change::Mapped { address, bytes });
        if tier == Tier::Shared {
            // From the first shared granule on, migrations need their working room.
            self.fill_stock();
        }
        true
    }
}
