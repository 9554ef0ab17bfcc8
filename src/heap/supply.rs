//! The order of supply: where a block comes from when its arena has no free dedicated one at hand.
//!
//! 1. blocks freed earlier whose work on other streams is done by now;
//! 2. new dedicated granules: while active the reserve first, then whatever else of the tier is
//!    left;
//! 3. other free dedicated blocks: of the sister arena, then of other streams, which the GPU waits
//!    for;
//! 4. idle dedicated granules that are enough together, stitched side by side;
//! 5. the headroom, as far as it is free: 2 and 4 again;
//! 6. a free shared block, as in 3;
//! 7. free neighbours of both tiers, enough together; then with new shared granules next to them;
//! 8. before giving up: the device is waited for, so that free space is free for every stream, and
//!    all this is tried again, the last of it with the backing of everything idle;
//! 9. what is left of the dedicated tier and new shared granules, together.
//!
//! So a free shared block is never used before the reserve, nothing is shared while enough
//! dedicated memory lies idle, and a request is never out of memory while anything is idle, or both
//! tiers together have room.
//!
//! Where shared memory is pinned a block lies in one tier: step 7 is a new pinned arena, and step 9
//! is left out.

use super::Heap;
use super::memory::{Memory, Place, Request};
use super::pools::Pools;
use super::streams::Streams;
use crate::core::policy::Opening;
use crate::core::{ArenaId, BlockSize, Step, StreamId, Tier};
use crate::error::Error;

impl Heap {
    /// Allocates a block that no free dedicated one of its own arena and stream could serve.
    #[cold]
    pub(super) fn supply(&mut self, arena: ArenaId, size: BlockSize, stream: StreamId) -> Result<u64, Error> {
        let request = Request { arena: self.open_if_due(arena), size, stream };
        self.note_sizes_if_due();
        self.keep_to_grants();
        self.memory.forget_refusal();
        self.memory.backing.mend();
        self.mind_layout(request);
        let found = self.find(request);
        self.note();
        if let Some(place) = found {
            return Ok(self.count_supplied(place, request));
        }
        if self.opens_by_itself(request.arena) && self.opening.is_some_and(|opening| opening.resident.is_some()) {
            // What an earlier run has wanted is no reason to refuse what this one needs.
            let arena = self.open(request.arena);
            return self.supply(arena, size, stream);
        }
        self.stats.out_of_memory += 1;
        self.memory.see_free();
        Err(self.out_of_memory(size.requested()))
    }

    /// A block in the shared tier because the caller wants it there.
    pub(super) fn supply_shared(&mut self, arena: ArenaId, size: BlockSize, stream: StreamId) -> Option<u64> {
        let request = Request { arena, size, stream };
        let found = self.search(request).shared();
        self.note();
        Some(self.count_supplied(found?, request))
    }

    /// The order of supply.
    fn find(&mut self, request: Request) -> Option<Place> {
        let is_general = self.memory.arenas[request.arena].purpose().is_general();
        if is_general
            && self.spill.takes(request.size.rounded())
            && let Some(place) = self.search(request).shared()
        {
            return Some(place);
        }
        if self.reclaim_retired()
            && let Some(place) = self.search(request).own(Tier::Dedicated)
        {
            return Some(place);
        }
        let mut search = self.search(request);
        let found = search.grown(Tier::Dedicated).or_else(|| search.elsewhere(Tier::Dedicated));
        let found = found.or_else(|| self.stitch(request)).or_else(|| self.on_headroom(request)).or_else(|| {
            let mut search = self.search(request);
            let found = search.elsewhere(Tier::Shared).or_else(|| search.across());
            found.or_else(|| search.grown_across())
        });
        if found.is_some() {
            return found;
        }
        let waited = self.quiesce().is_ok();
        let found = if waited { self.find_after_waiting(request) } else { None };
        let found = found.or_else(|| self.search(request).grown_split());
        self.stats.retries += u64::from(waited && found.is_some());
        found
    }

    /// A block that was not available before the device was waited for: of what is free now for
    /// every stream, or on the backing of everything idle.
    fn find_after_waiting(&mut self, request: Request) -> Option<Place> {
        for arena in self.memory.arenas.with_sister(request.arena) {
            self.memory.arenas.free_for(arena, request.stream);
        }
        if let Some(place) = self.search(request).elsewhere(Tier::Dedicated) {
            return Some(place);
        }
        self.strip();
        self.find_on_stock(request).or_else(|| {
            // Between two passes the ring is as good as idle.
            let is_ring = self.memory.staged() > 0 && !self.ahead.is_in_use();
            is_ring.then(|| self.drop_ring())?;
            self.find_on_stock(request)
        })
    }

    fn find_on_stock(&mut self, request: Request) -> Option<Place> {
        let mut search = self.search(request);
        let found = search.grown(Tier::Dedicated).or_else(|| search.elsewhere(Tier::Shared));
        found.or_else(|| search.across()).or_else(|| search.grown_across())
    }

    /// A block on dedicated granules that were idle elsewhere; `None` where they are not enough,
    /// while a graph is captured, or where the driver fails. O(1) where less is idle than is
    /// requested; otherwise as [`plan_stitch`](Memory::plan_stitch), and what the calls take.
    fn stitch(&mut self, request: Request) -> Option<Place> {
        let used = self.stats.tiers[Tier::Dedicated].allocated.current();
        let unused = self.memory.mapped(Tier::Dedicated).saturating_sub(used);
        let is_general = self.memory.arenas[request.arena].purpose().is_general();
        if self.memory.stitch_room() + unused < request.size.rounded()
            || !is_general
            || self.streams.is_capturing(request.stream)
        {
            return None;
        }
        self.memory.plan_stitch(request)?;
        self.quiesce().ok()?;
        // All work is done: free space is free for every stream, and may be long enough as it lies.
        if self.memory.arenas[request.arena].core.is_free_for_others(request.stream) {
            self.memory.arenas.free_for(request.arena, request.stream);
        }
        if let Some(place) = self.memory.take(request, request.arena, Tier::Dedicated) {
            return Some(place);
        }
        let stitches = self.memory.plan_stitch(request)?;
        self.stats.stitched_bytes += self.memory.unmap_stitches(stitches);
        self.note();
        self.search(request).grown(Tier::Dedicated)
    }

    /// A block on dedicated memory that was left to others until now.
    fn on_headroom(&mut self, request: Request) -> Option<Place> {
        if !self.memory.give_up_headroom(request.size.rounded()) {
            return None;
        }
        self.search(request).grown(Tier::Dedicated).or_else(|| self.stitch(request))
    }

    fn search(&mut self, request: Request) -> Search<'_> {
        Search { memory: &mut self.memory, streams: &mut self.streams, pools: &mut self.pools, request }
    }

    /// Counts a block that the order of supply has found, and returns its address.
    fn count_supplied(&mut self, place: Place, request: Request) -> u64 {
        let core = &self.memory.arenas[place.0].core;
        let (tier, shared) = (core.tier(place.1), core.residency(place.1)[Tier::Shared]);
        if shared > 0 {
            self.stats.fell_to_shared += 1;
            self.stats.fell_to_shared_bytes += shared;
        }
        self.count_new(place, request.size, tier)
    }

    /// Whether a request for an arena may open the reserve by itself: not one of a pool.
    fn opens_by_itself(&self, arena: ArenaId) -> bool {
        self.memory.arenas[arena].purpose().is_general()
    }

    /// Opens the reserve where loading has ended and nobody has said so: nothing moves, and new
    /// blocks are scratch. Returns the arena for the request, which is another one then.
    fn open_if_due(&mut self, arena: ArenaId) -> ArenaId {
        let allocated = &self.stats.blocks.allocated;
        let is_due = |opening: &Opening| opening.is_due(allocated.current(), allocated.taken());
        let opens = self.opens_by_itself(arena) && self.opening.as_ref().is_some_and(is_due);
        if opens { self.open(arena) } else { arena }
    }

    /// Opens the reserve; returns the arena for a request that was for `arena`.
    fn open(&mut self, arena: ArenaId) -> ArenaId {
        let class = self.memory.arenas[arena].core.class();
        self.enter(Step::Open, self.memory.ledger().kept);
        self.memory.arenas.general(self.state.is_frozen(), class)
    }

    /// Notes the sizes of the live blocks once the program works, and again each time that a tenth
    /// more lives. O(blocks) then.
    fn note_sizes_if_due(&mut self) {
        let allocated = &self.stats.blocks.allocated;
        if self.hindsight.wants_sizes(allocated.current(), allocated.taken()) {
            self.hindsight.note_sizes(self.memory.arenas.sizes());
        }
    }
}

/// A look for a block, wherever the request may look. Nothing here waits for the device.
struct Search<'a> {
    memory: &'a mut Memory,
    streams: &'a mut Streams,
    pools: &'a mut Pools,
    request: Request,
}

impl Search<'_> {
    /// A free block of `tier` where the request's block belongs, of its own stream.
    fn own(&mut self, tier: Tier) -> Option<Place> {
        self.memory.take(self.request, self.request.arena, tier)
    }

    /// A block on newly backed granules of `tier`.
    fn grown(&mut self, tier: Tier) -> Option<Place> {
        if self.memory.grow(self.request, tier) { self.own(tier) } else { None }
    }

    /// A free block of `tier` wherever the request may look. A pool's request keeps to its pool.
    fn elsewhere(&mut self, tier: Tier) -> Option<Place> {
        let Request { arena: own, stream, .. } = self.request;
        let Some(sister) = self.memory.arenas.sister(own) else { return self.own(tier) };
        let found = self.own(tier).or_else(|| self.memory.take(self.request, sister, tier));
        if found.is_some() || self.pools.is_capturing(self.streams) || self.streams.is_capturing(stream) {
            return found;
        }
        [own, sister].into_iter().find_map(|arena| {
            self.memory.take_from_others(self.request, arena, tier, |other| self.streams.order(other, stream))
        })
    }

    /// A block in the shared tier alone, free or on new granules.
    fn shared(&mut self) -> Option<Place> {
        self.elsewhere(Tier::Shared).or_else(|| self.grown(Tier::Shared))
    }

    /// A block out of free neighbours in both tiers, where neither is long enough alone.
    fn across(&mut self) -> Option<Place> {
        let Request { arena, size, stream } = self.request;
        let mut arenas = self.memory.arenas.with_sister(arena);
        arenas.find_map(|arena| Some((arena, self.memory.arenas[arena].core.take_across(size, stream)?)))
    }

    /// A block on newly backed shared granules and free space of either tier next to them.
    fn grown_across(&mut self) -> Option<Place> {
        if !self.memory.grow_across(self.request) {
            return None;
        }
        if self.memory.is_pinned() { self.own(Tier::Shared) } else { self.across() }
    }

    /// A block on what is left of the dedicated tier and new shared granules behind it.
    fn grown_split(&mut self) -> Option<Place> {
        if !self.memory.grow_head(self.request) {
            return None;
        }
        // What is backed now lies free next to the hole, and is used with what grows there.
        self.across().or_else(|| self.grown_across())
    }
}
