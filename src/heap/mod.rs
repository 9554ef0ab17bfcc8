//! The heap of one device: the bookkeeping of [`core`](crate::core) bound to a driver.
//!
//! ```text
//!   malloc ──▶ arena has a free dedicated block? ──▶ done, no driver call
//!                   │ no
//!                   ▼
//!   supply.rs      the order of supply: where else a block comes from
//!   actions.rs     everything that moves live memory, and the state after it
//!   reclaim.rs     everything that returns idle memory to the driver
//!   work.rs        waiting: for the device, for streams, for a quiet moment
//!   placing.rs     what wants to lie where
//!   passes.rs      passes of work, whose weights are lent from the ring
//!   automatic.rs   the reserve that is found from the work
//!   given.rs       a reserve that is given, and the ring beside it
//!   lending.rs     what that work lends, weighed against reading in place
//!   laying.rs      large blocks where the layout that was learned has them
//!   farewell.rs    what a run would have wanted, at its end
//!   snapshot.rs    the memory map, segments and claims, for people and their tools
//!   recording.rs   the history of what happened, where wanted
//!
//!   parts, each with its own data and invariants:
//!   memory/        what lies where: arenas over backing
//!   streams.rs     streams by number, events
//!   retired.rs     freed blocks that other streams still use
//!   ahead/         copies of weights ahead of their use
//!   events.rs      events for reuse
//!   pools.rs       what graph captures and programs' own pools allocate
//! ```
//!
//! The heap owns the parts and composes them; a part that needs another is handed it. A heap is
//! used under its device's lock and takes none itself.

mod actions;
mod ahead;
mod automatic;
mod events;
mod farewell;
mod given;
mod laying;
mod lending;
mod memory;
mod passes;
mod placing;
mod pools;
mod reclaim;
mod recording;
mod retired;
mod snapshot;
mod streams;
mod supply;
mod work;

use std::sync::Arc;

use self::ahead::Ahead;
use self::automatic::Automatic;
use self::given::Given;
use self::memory::{Memory, Place};
use self::pools::Pools;
use self::retired::{Retired, RetiredBlock};
use self::streams::Streams;
use crate::core::history::History;
use crate::core::layout::{Layout, Learned};
use crate::core::policy::{Hindsight, Opening, Spill, Wanted};
use crate::core::{
    BlockSize, Kept, Marks, PerTier, PoolId, Reserve, Splits, State, Stats, StreamId, Tier, Witness, show_size,
};
use crate::driver::{DeviceInfo, Driver, Stream};
use crate::error::Error;
use crate::sync::this_thread;

pub use self::ahead::{Asked, CopyAhead, Returned};
pub use self::memory::{Budget, Limits, MemoryInfo, Moved};
pub use self::pools::{ContextId, ContextKind, Serving};
pub use self::snapshot::{ArenaMap, BlockState, Claim, GranuleMap, MemoryMap, Segment, SegmentBlock};

/// How a heap is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeapOptions {
    /// What may be used of the device and its host.
    pub limits: Limits,
    /// Dedicated memory that loading leaves alone; nothing where it is found automatically. Bytes.
    pub reserve: Reserve,
    /// Whether a reset is a safe point, in programs that use the device from one thread.
    pub safe_point_at_reset: bool,
    /// What an earlier run of the program would have wanted: its reserve is kept, and opened once
    /// as much lives.
    pub wanted: Option<Wanted>,
    /// Whether weights of the shared tier are copied ahead of their use.
    pub copy_ahead: CopyAhead,
    /// How large blocks are laid out.
    pub layout: Layout,
}

/// The heap of one device.
#[derive(Debug)]
pub struct Heap {
    memory: Memory,
    streams: Streams,
    retired: Retired,
    ahead: Ahead,
    pools: Pools,
    /// The threads that are seen at work.
    witness: Witness,
    /// The phase of the device, and who has brought it there.
    state: State,
    automatic: Automatic,
    /// The ring beside a reserve that was given.
    given: Given,
    layout: Learned,
    /// What this run would have wanted, where nobody reports steps.
    hindsight: Hindsight,
    /// When the reserve opens by itself; `None` once it is open, or where there is none.
    opening: Option<Opening>,
    /// Which blocks go to the shared tier while the program loads, because an earlier run has shown
    /// that they belong there.
    spill: Spill,
    /// What had been allocated and freed in all when idle memory was last looked for.
    at_last_look: Option<(u64, u64)>,
    stats: Stats,
    history: History,
}

impl Heap {
    /// A heap on `device`. Creates the backing of the reserve, if one is asked for.
    ///
    /// # Errors
    /// Invalid options; the driver's.
    pub fn new(
        driver: Arc<dyn Driver>,
        device: usize,
        info: DeviceInfo,
        options: &HeapOptions,
        budget: Arc<Budget>,
    ) -> Result<Heap, Error> {
        let memory = Memory::new(driver.clone(), device, info, &options.limits, budget)?;
        memory.log_rung();
        let remembered = options.wanted.filter(|_| options.reserve == Reserve::Auto);
        let wanted = options.reserve.fixed().or(remembered.map(|run| run.reserve)).unwrap_or(0);
        let capacity = memory.ledger().capacity[Tier::Dedicated];
        let reserve = wanted.min(capacity);
        if wanted > reserve {
            log::warn!(
                "the reserve {} is more than the {} of dedicated memory on device {device}: all of it is kept for scratch",
                show_size(wanted),
                show_size(capacity)
            );
        }
        let mut heap = Heap {
            streams: Streams::new(driver.clone(), device),
            retired: Retired::default(),
            ahead: Ahead::new(driver, device, options.copy_ahead),
            pools: Pools::default(),
            witness: Witness::default(),
            state: State::new(options.reserve == Reserve::Auto),
            automatic: Automatic::new(options.safe_point_at_reset, memory.granule()),
            given: Given::default(),
            layout: Learned::new(options.layout),
            hindsight: Hindsight::default(),
            opening: (reserve > 0).then(|| Opening::new(reserve, remembered.map(|run| run.resident), 0)),
            spill: remembered.map_or_else(Spill::default, |run| run.spill),
            at_last_look: None,
            stats: Stats::default(),
            history: History::default(),
            memory,
        };
        heap.memory.set_aside(reserve);
        heap.note();
        Ok(heap)
    }

    /// Allocates a block of `bytes` for use on `stream`, from the pool of the context that serves
    /// it, if one does. The caller handles size 0.
    ///
    /// O(1) and without a driver call where a free dedicated block fits; otherwise see the order of
    /// supply in `supply.rs`.
    ///
    /// # Errors
    /// Out of memory in both tiers, with the figures; a size beyond reason; the driver's.
    #[inline]
    pub fn malloc(&mut self, bytes: u64, stream: Stream, serving: Option<Serving>) -> Result<u64, Error> {
        let Some(size) = BlockSize::of(bytes) else { return Err(self.too_large(bytes)) };
        self.witness.see(this_thread());
        let stream = self.stream_number(stream)?;
        if self.memory.arenas.is_empty() {
            return Err(shut_down());
        }
        if !self.memory.backing.is_whole() {
            self.memory.backing.make_whole()?;
        }
        if self.retired.len() > 0 {
            self.reclaim_retired();
        }
        let general = self.memory.arenas.general(self.state.is_frozen(), size.class());
        let arena = match serving {
            None => general,
            Some(serving) => self.pools.arena_for(serving, size.class(), stream, &self.streams).unwrap_or(general),
        };
        let is_watched = self.layout.is_awake() && arena == general;
        let laid = if is_watched { self.take_laid(arena, size, stream) } else { None };
        match laid.or_else(|| self.memory.arenas[arena].core.take(size, Tier::Dedicated, stream)) {
            Some(block) => Ok(self.count_new((arena, block), size, Some(Tier::Dedicated))),
            None => self.supply(arena, size, stream),
        }
    }

    /// [`malloc`](Heap::malloc) in the shared tier only; `None` where that has no room.
    ///
    /// # Errors
    /// As for [`malloc`](Heap::malloc), except out of memory.
    pub fn malloc_shared(&mut self, bytes: u64, stream: Stream) -> Result<Option<u64>, Error> {
        let Some(size) = BlockSize::of(bytes).filter(|_| !self.memory.arenas.is_empty()) else { return Ok(None) };
        if !self.memory.backing.is_whole() {
            self.memory.backing.make_whole()?;
        }
        self.witness.see(this_thread());
        let stream = self.stream_number(stream)?;
        let arena = self.memory.arenas.general(self.state.is_frozen(), size.class());
        Ok(self.supply_shared(arena, size, stream))
    }

    #[cold]
    fn too_large(&mut self, bytes: u64) -> Error {
        self.stats.out_of_memory += 1;
        self.out_of_memory(bytes)
    }

    /// Counts a new block and returns its address. `tier` is where it lies, if in one.
    #[inline]
    fn count_new(&mut self, place: Place, size: BlockSize, tier: Option<Tier>) -> u64 {
        let (arena, block) = place;
        let scratch = self.state.is_frozen();
        let bound = &mut self.memory.arenas[arena];
        let marks = bound.core.marks_mut(block);
        marks.scratch = scratch;
        marks.born = self.automatic.learner.interval();
        if self.layout.is_awake() {
            marks.request = self.layout.take_number();
        }
        self.automatic.learner.allocate(size.rounded());
        let allocated = &self.stats.blocks.allocated;
        self.hindsight.allocate(allocated.current(), size.rounded(), || allocated.taken());
        self.stats.allocate(bound.core.class(), size);
        match tier {
            Some(tier) => self.stats.allocate_part(tier, size.rounded(), scratch),
            None => {
                let parts = bound.core.residency(block);
                Tier::ALL.into_iter().for_each(|tier| self.stats.allocate_part(tier, parts[tier], scratch));
            }
        }
        bound.base() + bound.core.extent(block).0
    }

    /// Frees a block. `stream` is the one on which it was used last; work on others must have been
    /// reported by [`record_stream`](Heap::record_stream).
    ///
    /// # Errors
    /// An address that is not the start of a live block. Nothing has changed then.
    #[inline]
    pub fn free(&mut self, address: u64, stream: Stream) -> Result<(), Error> {
        let place = self.memory.arenas.locate(address)?;
        self.witness.see(this_thread());
        let (owner, marks) = self.memory.arenas[place.0].core.owner(place.1);
        let ((arena, block), stream) = match self.streams.known_at_free(stream, owner) {
            Some(stream) => (place, stream),
            None => self.locate_on_new_stream(address, stream)?,
        };
        let core = &mut self.memory.arenas[arena].core;
        let size = core.size(block);
        self.stats.free(core.class(), size, marks.used_elsewhere);
        self.automatic.learner.free(size.rounded(), marks.born);
        match core.tier(block) {
            Some(tier) => self.stats.free_part(tier, size.rounded(), marks.scratch, marks.used_elsewhere),
            None => {
                let parts = core.residency(block);
                let free = |tier| self.stats.free_part(tier, parts[tier], marks.scratch, marks.used_elsewhere);
                Tier::ALL.into_iter().for_each(free);
            }
        }
        if marks.request != 0 && !marks.used_elsewhere {
            self.layout.freed(marks.request);
        }
        if marks.used_elsewhere {
            self.retire((arena, block), address, stream);
        } else {
            core.release(block, stream);
        }
        Ok(())
    }

    /// Numbers a new stream, and locates a block after that: adding a stream may number blocks
    /// anew.
    #[cold]
    fn locate_on_new_stream(&mut self, address: u64, stream: Stream) -> Result<(Place, StreamId), Error> {
        let stream = self.add_stream(stream)?;
        Ok((self.memory.arenas.locate(address)?, stream))
    }

    /// Retires a block that was used on other streams: it is reused on `stream` once their work is
    /// done.
    fn retire(&mut self, place: Place, address: u64, stream: StreamId) {
        let uses = self.retired.take_uses(address, stream);
        self.ahead.forget(address, address + self.memory.arenas[place.0].core.size(place.1).rounded());
        let core = &mut self.memory.arenas[place.0].core;
        let bytes = core.residency(place.1);
        if uses.is_empty() {
            // Freed on the one other stream that used it: what reuses it there comes after.
            self.stats.release(core.class(), bytes, core.requested(place.1));
            core.release(place.1, stream);
            return;
        }
        core.retire(place.1);
        self.retired.push(RetiredBlock { place, stream, bytes }, uses);
        if !self.is_capturing() {
            self.retired.mark(&mut self.streams);
        }
    }

    /// Reports that work on `stream`, besides the block's own, uses the block that holds `address`:
    /// once freed, it waits for that work. Weights in it are not copied ahead for passes on other
    /// streams until they are lent there again.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn record_stream(&mut self, address: u64, stream: Stream) -> Result<(), Error> {
        self.witness.see(this_thread());
        // First: adding a stream may number blocks anew.
        let stream = self.stream_number(stream)?;
        let (arena, block) = self.memory.arenas.locate_inside(address)?;
        let bound = &mut self.memory.arenas[arena];
        if bound.core.owner(block).0 != stream {
            let marks = bound.core.marks_mut(block);
            marks.used_elsewhere = true;
            // Copies made ahead wait for their pass's stream alone, and this work may write.
            marks.lent &= self.ahead.bits_on(stream);
            self.retired.add_use(bound.base() + bound.core.extent(block).0, stream);
        }
        Ok(())
    }

    fn marks(&mut self, address: u64) -> Result<&mut Marks, Error> {
        let (arena, block) = self.memory.arenas.locate_inside(address)?;
        Ok(self.memory.arenas[arena].core.marks_mut(block))
    }

    /// Says whether the block that holds `address` belongs to the model.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn mark(&mut self, address: u64, model: bool) -> Result<(), Error> {
        self.marks(address)?.model = model;
        Ok(())
    }

    /// Pins the block that holds `address` to a tier, or unpins it: neither the automatic mode nor
    /// a placement moves it from there. Nothing moves now.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn pin_to(&mut self, address: u64, tier: Option<Tier>) -> Result<(), Error> {
        self.marks(address)?.pin = tier;
        self.automatic.forget_standstills();
        Ok(())
    }

    /// The tier that the block that holds `address` is pinned to.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn pin_of(&self, address: u64) -> Result<Option<Tier>, Error> {
        let (arena, block) = self.memory.arenas.locate_inside(address)?;
        Ok(self.memory.arenas[arena].core.owner(block).1.pin)
    }

    /// How many bytes of the block that holds `address` lie in each tier.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn residency(&self, address: u64) -> Result<PerTier<u64>, Error> {
        let (arena, block) = self.memory.arenas.locate_inside(address)?;
        Ok(self.memory.arenas[arena].core.residency(block))
    }

    /// Start and length of the block that holds `address`.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn extent(&self, address: u64) -> Result<(u64, u64), Error> {
        let (arena, block) = self.memory.arenas.locate_inside(address)?;
        let bound = &self.memory.arenas[arena];
        let (offset, size) = bound.core.extent(block);
        Ok((bound.base() + offset, size))
    }

    /// Whether an address lies in one of this heap's arenas.
    pub fn owns(&self, address: u64) -> bool {
        self.memory.arenas.of(address).is_some()
    }

    /// Begins a context, which allocates from a pool and holds it. `is_kept` says whether a
    /// `MemPool` keeps the pool too; `stream` is the one that the context is for, where it is
    /// known.
    ///
    /// # Errors
    /// The driver's, where addresses for a new pool are refused; a heap that was closed.
    pub fn begin_pool(
        &mut self,
        serving: Serving,
        kind: ContextKind,
        is_kept: bool,
        stream: Option<Stream>,
    ) -> Result<(), Error> {
        if self.memory.arenas.is_empty() {
            return Err(shut_down());
        }
        let stream = stream.map(|stream| self.stream_number(stream)).transpose()?;
        self.pools.begin(&mut self.memory, serving, kind, is_kept, stream)
    }

    /// Ends the context that began last to allocate from a pool, and returns it. The pool is held
    /// as before.
    ///
    /// # Errors
    /// A pool without an open context.
    pub fn end_pool(&mut self, id: PoolId) -> Result<ContextId, Error> {
        self.pools.end(&mut self.memory, id)
    }

    /// Releases one hold on a pool. After the last, the pool is gone once its contexts have ended.
    ///
    /// # Errors
    /// A pool that is unknown, or that everyone has released already.
    pub fn release_pool(&mut self, id: PoolId) -> Result<(), Error> {
        self.pools.release(&mut self.memory, id)
    }

    /// Reports that a `MemPool` keeps a pool, if this device knows it.
    pub fn keep_pool(&mut self, id: PoolId) {
        self.pools.set_kept(&mut self.memory, id, true);
    }

    /// Reports that no `MemPool` keeps a pool any more: what is idle in the pool is returned to the
    /// driver, unless someone else holds it.
    ///
    /// # Errors
    /// While a graph is captured; the driver's. The pool is gone all the same, and a later reset
    /// returns its memory.
    pub fn drop_pool(&mut self, id: PoolId) -> Result<(), Error> {
        if self.pools.set_kept(&mut self.memory, id, false) {
            self.quiesce()?;
            self.give_back();
        }
        Ok(())
    }

    /// How many hold a pool, a `MemPool` that keeps it not counted; 0 where it is unknown.
    pub fn pool_holds(&self, id: PoolId) -> u32 {
        self.pools.holds(id)
    }

    /// The statistics.
    pub fn stats(&self) -> Stats {
        let Kept { reserve, persist } = self.memory.ledger().kept;
        let copies = self.ahead.counts();
        Stats {
            in_use: true,
            granule: self.memory.granule(),
            capacity: self.memory.ledger().capacity,
            granted: self.memory.granted(),
            phase: self.state.phase(),
            reserve,
            persist,
            migrates: self.memory.info().rung.migrates(),
            graph_pools: self.pools.len() as u64,
            retired_blocks: self.retired.len() as u64,
            automatic: self.state.is_automatic(),
            scratch_peak: self.automatic.learner.peak(),
            staging: self.memory.staged(),
            kept_slots: self.ahead.held() as u64,
            lends: copies.lent,
            lent_bytes: copies.lent_bytes,
            copied_ahead_bytes: copies.copied_bytes,
            missed_lends: copies.missed,
            dropped_copies: copies.dropped,
            written_back: copies.written_back,
            ..self.stats
        }
    }

    /// The statistics, to be reset.
    pub fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    /// The free stretches that cannot be unmapped, next to small blocks and next to large ones.
    /// O(free ranges of a granule or more).
    pub fn splits(&self) -> [Splits; 2] {
        self.memory.arenas.splits()
    }

    /// The number of the device.
    pub fn device(&self) -> usize {
        self.memory.device()
    }

    /// What the device was found to be when the heap was made.
    pub fn device_info(&self) -> &DeviceInfo {
        self.memory.info()
    }

    /// Limits the dedicated tier to a fraction of the card. What is mapped beyond that stays.
    ///
    /// # Errors
    /// The driver's.
    pub fn set_memory_fraction(&mut self, fraction: f64) -> Result<(), Error> {
        self.memory.limit_to_fraction(fraction)
    }

    /// What can still be had of each tier, and what there is in all. The driver is asked, so that
    /// what others have taken is not promised. Idle memory that is held counts as taken, as in
    /// PyTorch's own allocator.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory_info(&mut self) -> Result<MemoryInfo, Error> {
        let info = self.memory.ask_free();
        self.note();
        info
    }

    /// Looks at what the operating system grants of the device's memory, for people who watch it.
    pub fn see_grants(&mut self) {
        self.memory.heed_grants();
        self.note();
    }

    /// Bytes of each tier that are held from the driver.
    pub fn held(&self) -> PerTier<u64> {
        PerTier::from_fn(|tier| self.memory.backing.held(tier))
    }

    /// Brings the gauges and the history up to date with the driver's memory. To be called after
    /// every change to mappings or stock.
    fn note(&mut self) {
        for change in self.memory.take_changes() {
            self.record_change(change);
        }
        for tier in Tier::ALL {
            self.stats.tiers[tier].mapped.set(self.memory.mapped(tier));
            self.stats.tiers[tier].reserved.set(self.memory.backing.held(tier));
        }
        self.stats.reserved.set(self.stats.tiers.iter().map(|tier| tier.reserved.current()).sum());
    }

    /// Counts the bytes of live blocks in each tier anew, after granules have changed tier.
    fn recount(&mut self) {
        let (live, scratch) = self.memory.arenas.count_live();
        for tier in Tier::ALL {
            self.stats.tiers[tier].allocated.set(live[tier]);
            self.stats.tiers[tier].active.set(live[tier]);
        }
        self.stats.reserve_used.set(scratch[Tier::Dedicated]);
    }

    fn out_of_memory(&self, bytes: u64) -> Error {
        let allocated = PerTier::from_fn(|tier| self.stats.tiers[tier].allocated.current());
        self.memory.out_of_memory(bytes, allocated)
    }

    /// Tests the invariants of the heap and of its parts. O(everything).
    ///
    /// # Errors
    /// The first that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        self.memory.check()?;
        self.ahead.check()?;
        let mut allocated = PerTier::<u64>::default();
        for (_, bound) in self.memory.arenas.iter() {
            for block in bound.core.blocks().filter(|block| !block.retired) {
                let bytes = bound.core.residency(block.id);
                Tier::ALL.into_iter().for_each(|tier| allocated[tier] += bytes[tier]);
            }
        }
        for tier in Tier::ALL {
            let counted = self.stats.tiers[tier].allocated.current();
            if counted != allocated[tier] {
                return Err(format!(
                    "{counted} bytes allocated in {tier} by the counters, {} by the blocks",
                    allocated[tier]
                ));
            }
        }
        Ok(())
    }

    /// Returns everything to the driver. Errors are only logged: at the end of a process the driver
    /// may be gone already.
    pub fn close(&mut self) {
        if let Err(why) = self.memory.synchronize() {
            log::debug!("the device could not be waited for: {why}");
        }
        self.release_retired();
        self.ahead.close();
        self.memory.close();
        self.streams.close();
        self.memory.take_changes();
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        if !self.memory.arenas.is_empty() {
            self.close();
        }
    }
}

#[cold]
fn shut_down() -> Error {
    Error::refused("giant-kitten was shut down in this process: nothing can be allocated")
}
