//! The order of supply: where a block comes from when its arena has no free dedicated one at hand.
//!
//! 1. blocks given back earlier whose work on other streams is done by now;
//! 2. new dedicated granules: while active the reserve first, then whatever else of the tier is left;
//! 3. other free dedicated blocks: of the sister arena, then of other streams, which are waited for by the GPU;
//! 4. idle dedicated granules that are enough together, stitched side by side ([`stitch`](super::stitch));
//! 5. a free shared block, as in 3;
//! 6. free neighbours of both tiers, enough together; then with new shared granules beside them;
//! 7. before giving up: the device is waited for, so that what is free is free for every stream, and all this is tried
//!    again, the last of it with the backing of everything idle;
//! 8. what is left of the dedicated tier and new shared granules, together.
//!
//! So never a free shared block before the reserve, nothing shared while enough of what is dedicated lies idle, and never out of memory
//! while anything is idle, or both tiers together have room.
//!
//! Where shared memory is pinned ([`pinned`](super::pinned)) a block lies in one tier: 6 is a new pinned arena, and 8 is left out.

use super::{Bound, FIRST_OF_POOLS, Heap};
use crate::core::history::Action;
use crate::core::{BlockId, Growth, Opening, Phase, StreamId, Tier, WORKS};
use crate::driver::{DriverError, Handle};
use crate::error::Error;

/// A request on its way through the order of supply.
#[derive(Clone, Copy)]
pub(super) struct Request {
    pub(super) index: usize,
    pub(super) size: u64,
    pub(super) bytes: u64,
    pub(super) stream: StreamId,
}

impl Heap {
    /// A block that no free dedicated one of its own arena and stream could be.
    #[cold]
    pub(super) fn supply(&mut self, index: usize, size: u64, bytes: u64, stream: StreamId) -> Result<u64, Error> {
        let index = self.open_if_due(index);
        self.note_what_lives();
        let request = Request { index, size, bytes, stream };
        self.last_refusal = None;
        self.mend();
        if index < FIRST_OF_POOLS
            && self.spill.takes(size)
            && let Some(address) = self.supply_shared(index, size, bytes, stream)
        {
            return Ok(address);
        }
        if self.reclaim_retired()
            && let Some(address) = self.take(request, index, Tier::Dedicated)
        {
            return Ok(address);
        }
        if let Some(address) = self.grow(request, Tier::Dedicated) {
            return Ok(address);
        }
        let found = self
            .take_elsewhere(request, Tier::Dedicated)
            .or_else(|| self.stitch(request))
            .or_else(|| self.take_elsewhere(request, Tier::Shared))
            .or_else(|| self.take_across(request))
            .or_else(|| self.grow_across(request));
        if let Some(address) = found {
            return Ok(address);
        }
        let waited = self.quiesce().is_ok();
        let found = if waited { self.supply_after_waiting(request) } else { None };
        if let Some(address) = found.or_else(|| self.grow_split(request)) {
            self.stats.retries += u64::from(waited);
            return Ok(address);
        }
        if index < FIRST_OF_POOLS && self.opening.is_some_and(|opening| opening.resident.is_some()) {
            // What an earlier run has wanted is no reason to refuse what this one needs.
            let index = self.open(index);
            return self.supply(index, size, bytes, stream);
        }
        self.stats.out_of_memory += 1;
        self.see_free();
        Err(self.out_of_memory(bytes))
    }

    /// Opens the reserve where loading has ended and nobody has said so: nothing moves, and what comes now is scratch. The arena
    /// for the request, which is another one then.
    fn open_if_due(&mut self, index: usize) -> usize {
        let allocated = &self.stats.blocks.allocated;
        let is_due = |opening: &Opening| opening.is_due(allocated.current(), allocated.taken());
        if index >= FIRST_OF_POOLS || !self.opening.as_ref().is_some_and(is_due) {
            return index;
        }
        self.open(index)
    }

    /// Opens the reserve; the arena for a request that was for `index`.
    fn open(&mut self, index: usize) -> usize {
        let class = index - self.current;
        self.begin(Phase::Active, self.ledger.reserve, self.ledger.persist);
        self.opened_by_work = true;
        self.current + class
    }

    /// Notes the sizes of what lives once the program works, and anew each time that there is a tenth more. O(blocks) then.
    fn note_what_lives(&mut self) {
        let allocated = &self.stats.blocks.allocated;
        let noted: u64 = self.lived.iter().sum();
        if allocated.taken() >= WORKS && allocated.current() > noted + noted / 10 {
            self.lived = self.sizes();
        }
    }

    /// A block that was not to be had before the device was waited for: of what is free now for every stream, or on the
    /// backing of everything idle.
    fn supply_after_waiting(&mut self, request: Request) -> Option<u64> {
        let own = request.index;
        let sister = (own < FIRST_OF_POOLS).then_some(own ^ 2);
        for index in [own].into_iter().chain(sister) {
            for place in 0..self.arenas.len() {
                if self.owner_of(place) == index {
                    self.arenas[place].core.set_tiers([], request.stream);
                }
            }
        }
        if let Some(address) = self.take_elsewhere(request, Tier::Dedicated) {
            return Some(address);
        }
        self.strip();
        self.grow(request, Tier::Dedicated)
            .or_else(|| self.take_elsewhere(request, Tier::Shared))
            .or_else(|| self.take_across(request))
            .or_else(|| self.grow_across(request))
    }

    /// A block in the shared tier because the caller wants it there.
    pub(super) fn supply_shared(&mut self, index: usize, size: u64, bytes: u64, stream: StreamId) -> Option<u64> {
        let request = Request { index, size, bytes, stream };
        self.take_elsewhere(request, Tier::Shared).or_else(|| self.grow(request, Tier::Shared))
    }

    /// A free block of `tier` in arena `index`, of the request's own stream.
    pub(super) fn take(&mut self, request: Request, index: usize, tier: Tier) -> Option<u64> {
        for place in 0..self.arenas.len() {
            if self.may_lie_in(place, index, tier)
                && let Some(id) = self.arenas[place].core.take(request.size, request.bytes, tier, request.stream)
            {
                return Some(self.give_from(place, id, request));
            }
        }
        None
    }

    /// A free block of `tier` wherever the request may look.
    fn take_elsewhere(&mut self, request: Request, tier: Tier) -> Option<u64> {
        let own = request.index;
        if own >= FIRST_OF_POOLS {
            // A capture keeps to its pool.
            return self.take(request, own, tier);
        }
        let sister = own ^ 2;
        let found = self.take(request, own, tier).or_else(|| self.take(request, sister, tier));
        if found.is_some() || self.is_capturing() || self.streams.is_capturing(request.stream) {
            return found;
        }
        [own, sister].into_iter().find_map(|index| self.take_from_others(request, index, tier))
    }

    /// A free block of `tier` in arena `index`, of another stream, which is ordered before the request's.
    fn take_from_others(&mut self, request: Request, index: usize, tier: Tier) -> Option<u64> {
        for place in 0..self.arenas.len() {
            if !self.may_lie_in(place, index, tier) {
                continue;
            }
            let streams = &mut self.streams;
            let taken =
                self.arenas[place].core.take_from_others(request.size, request.bytes, tier, request.stream, |other| {
                    streams.order(other, request.stream)
                });
            if let Some((id, _)) = taken {
                return Some(self.give_from(place, id, request));
            }
        }
        None
    }

    /// A block out of what is free in both tiers side by side, where neither is long enough alone.
    fn take_across(&mut self, request: Request) -> Option<u64> {
        let own = request.index;
        let sister = (own < FIRST_OF_POOLS).then_some(own ^ 2);
        [own].into_iter().chain(sister).find_map(|index| {
            let id = self.arenas[index].core.take_across(request.size, request.bytes, request.stream)?;
            Some(self.give_from(index, id, request))
        })
    }

    fn give_from(&mut self, index: usize, id: BlockId, request: Request) -> u64 {
        let core = &self.arenas[index].core;
        let shared = core.residency(id)[Tier::Shared];
        if shared > 0 {
            self.stats.fell_to_shared += 1;
            self.stats.fell_to_shared_bytes += shared;
        }
        self.give(index, id, request.size, request.bytes, core.tier(id))
    }

    /// A block on newly backed granules, as far as the ledger and the driver allow.
    pub(super) fn grow(&mut self, request: Request, tier: Tier) -> Option<u64> {
        if tier == Tier::Shared && self.is_pinned() {
            self.pin_for(request)?;
            return self.take(request, request.index, tier);
        }
        let growth = self.arenas[request.index].core.plan_growth(request.size, tier, request.stream)?;
        self.back(request, growth, tier)?;
        self.take(request, request.index, tier)
    }

    /// A block on newly backed shared granules and what is free beside them, in either tier; nothing lies beside pinned memory.
    fn grow_across(&mut self, request: Request) -> Option<u64> {
        if self.is_pinned() {
            return self.grow(request, Tier::Shared);
        }
        let growth = self.arenas[request.index].core.plan_growth_across(request.size, request.stream)?;
        self.back(request, growth, Tier::Shared)?;
        self.take_across(request)
    }

    /// A block on what is left of the dedicated tier and new shared granules behind it.
    fn grow_split(&mut self, request: Request) -> Option<u64> {
        if self.is_pinned() {
            return None;
        }
        let growth = self.arenas[request.index].core.plan_growth_across(request.size, request.stream)?;
        // Not more of the dedicated tier than others have left, or backing it would be refused.
        self.see_free();
        let left = |tier: Tier| self.ledger.reach(tier).saturating_sub(self.mapped(tier)) / self.granule;
        if left(Tier::Dedicated) + left(Tier::Shared) < u64::from(growth.count) {
            return None;
        }
        let dedicated = growth.first(u32::try_from(left(Tier::Dedicated)).unwrap_or(u32::MAX));
        if dedicated.count > 0 {
            self.back(request, dedicated, Tier::Dedicated)?;
        }
        // What is backed now lies free beside the hole, and is used with what grows there.
        self.take_across(request).or_else(|| self.grow_across(request))
    }

    /// Bytes that the stock keeps from requests.
    pub(super) fn kept(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Dedicated if self.ledger.reserve_open => 0,
            Tier::Dedicated => self.ledger.reserve,
            Tier::Shared => self.ledger.working,
        }
    }

    /// Backs what a request grows by; `None` where the ledger or the driver does not allow it.
    fn back(&mut self, request: Request, growth: Growth, tier: Tier) -> Option<()> {
        let bytes = u64::from(growth.count) * self.granule;
        if self.mapped(tier) + bytes > self.ledger.limit(tier) {
            return None;
        }
        let keep = self.kept(tier);
        let mut handles = Vec::with_capacity(growth.count as usize);
        while handles.len() < growth.count as usize {
            match self.stock.take(tier, keep, self.ledger.capacity[tier]) {
                Ok(Some(handle)) => handles.push(handle),
                refused => {
                    self.last_refusal = refused.err();
                    self.see_refusal(tier);
                    handles.drain(..).for_each(|handle| self.stock.put(tier, handle));
                    // What was created until then is held now.
                    self.note();
                    return None;
                }
            }
        }
        let address = self.arenas[request.index].base + u64::from(growth.first) * self.granule;
        if let Err(why) = self.map_run(address, &handles, tier) {
            self.last_refusal = Some(why);
            self.note();
            return None;
        }
        let Bound { core, handles: under, .. } = &mut self.arenas[request.index];
        core.grow(growth, tier, request.stream);
        let first = growth.first as usize;
        if under.len() < first + handles.len() {
            under.resize(first + handles.len(), None);
        }
        for (slot, handle) in under[first..].iter_mut().zip(handles) {
            *slot = Some(handle);
        }
        self.happened(Action::SegmentMap, address, bytes, 0, None);
        if tier == Tier::Shared {
            // From the first shared granule on, migrations need their working room.
            self.fill_stock();
        }
        self.note();
        Some(())
    }

    /// A dedicated handle was refused: somebody else has what the ledger promises.
    fn see_refusal(&mut self, tier: Tier) {
        if tier == Tier::Dedicated && self.last_refusal.is_some() {
            self.see_free();
        }
    }

    /// Maps handles one behind the other at `address`, readable and writable. On an error they are back in stock.
    fn map_run(&mut self, address: u64, handles: &[Handle], tier: Tier) -> Result<(), DriverError> {
        let mut mapped = 0;
        let result = handles
            .iter()
            .enumerate()
            .try_for_each(|(i, handle)| {
                self.driver.map(self.device, address + i as u64 * self.granule, self.granule, *handle)?;
                mapped = i + 1;
                Ok(())
            })
            .and_then(|()| self.driver.set_access(self.device, address, handles.len() as u64 * self.granule));
        if result.is_err() {
            let (stuck, loose) = handles.split_at(mapped);
            loose.iter().for_each(|handle| self.stock.put(tier, *handle));
            self.undo_map(address, stuck, tier);
        }
        result
    }
}
