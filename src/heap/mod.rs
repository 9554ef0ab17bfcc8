//! The heap of one device: the core's bookkeeping bound to a driver.
//!
//! ```text
//!   malloc ──▶ arena has a free dedicated block? ──▶ done, no driver call
//!                   │ no
//!                   ▼
//!               supply.rs   the order of supply, growth by granules
//!               stitch.rs   idle granules that are too short apart, side by side
//!               stock.rs    handles mapped nowhere: the reserve, and what was taken back
//!               pinned.rs   shared memory of drivers that can only pin it
//!               migrate.rs  granules change tier under stable addresses
//!               automatic.rs the reserve that finds itself, at safe points
//!               streams.rs  streams by number, events
//!               retired.rs  blocks given back that other streams still use
//!               pools.rs    what graph captures allocate
//!               report.rs   the memory map
//!               record.rs   the history of what happened, where wanted
//! ```
//!
//! A heap is used under its device's lock and takes none itself.

mod automatic;
mod budget;
mod migrate;
mod pinned;
mod pools;
mod record;
mod report;
mod retired;
mod stitch;
mod stock;
mod streams;
mod supply;

use std::collections::HashSet;
use std::sync::Arc;

use crate::core::history::History;
use crate::core::{
    Arena, BlockId, Class, Ledger, Opening, PerTier, Phase, Reserve, Spill, Splits, Stats, Steady, StreamId, Tier,
    Witness, rounded, show_size,
};
use crate::driver::{DeviceInfo, Driver, DriverError, Handle, Rung, Stream};
use crate::error::Error;
use crate::sync::this_thread;

pub use budget::Budget;
pub use migrate::Moved;
pub use pools::{ContextId, ContextKind, PoolId, Serving};
pub use report::{ArenaMap, BlockState, Claim, GranuleMap, MemoryMap, Segment, SegmentBlock};

/// What can be had of a device's memory. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What may still be taken of each tier.
    pub free: PerTier<u64>,
    /// What each tier has in all for this process.
    pub total: PerTier<u64>,
}

/// What a run would have wanted of its device, for the next one. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What the dedicated tier could hold.
    pub capacity: u64,
    /// The reserve. 0 where everything fitted.
    pub reserve: u64,
    /// What lived once the program had loaded.
    pub resident: u64,
    /// Which of that belonged in the shared tier, as far as it still lived at the end.
    pub spill: Spill,
}

/// How a heap is set up. Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeapOptions {
    /// Dedicated memory to use at most; otherwise what is free at the start, less the headroom.
    pub dedicated: Option<u64>,
    /// Dedicated memory of what is free that is left to others; otherwise what the driver says they need.
    pub headroom: Option<u64>,
    /// Shared memory to use at most; otherwise what the host can spare.
    pub shared: Option<u64>,
    /// Size of a granule; otherwise the driver's granularity.
    pub granule: Option<u64>,
    /// Dedicated memory that loading leaves alone; nothing where it is found automatically.
    pub reserve: Reserve,
    /// Whether a reset is a safe point, in programs that use the device from one thread.
    pub safe_point_at_reset: bool,
    /// What an earlier run of the program would have wanted: its reserve is kept, and opened once as much lives.
    pub wanted: Option<Wanted>,
}

impl HeapOptions {
    /// Dedicated memory that is left to others, of what is free, in bytes.
    pub fn headroom(&self, info: &DeviceInfo) -> u64 {
        self.headroom.unwrap_or(info.headroom)
    }

    /// What each tier of a device may hold at most, in bytes, where all devices together may take `budget` of the host's
    /// memory.
    pub fn capacity(&self, info: &DeviceInfo, budget: u64) -> PerTier<u64> {
        let free = info.dedicated_free.saturating_sub(self.headroom(info));
        PerTier::new(self.dedicated.unwrap_or(free).min(info.dedicated_total), budget.min(info.shared_total))
    }

    /// What all devices of a process may take of the host's memory, in bytes, as the first of them finds it.
    pub fn budget(&self, info: &DeviceInfo) -> Budget {
        match self.shared {
            Some(bytes) => Budget::new(bytes),
            None if info.shared_is_the_hosts => Budget::among_processes(info.shared_spare, info.shared_total / 2),
            None => Budget::new(info.shared_spare),
        }
    }
}

/// An arena with its addresses and its backing.
#[derive(Debug)]
struct Bound {
    core: Arena,
    base: u64,
    /// The handle under each granule, up to the last one ever backed.
    handles: Vec<Option<Handle>>,
    /// Of a pinned arena, which has no handles: the arena whose blocks it takes.
    belongs_to: Option<usize>,
}

/// What an arena is for is told by its place: first the two (small, large) for what comes while not frozen,
const RESIDENT: usize = 0;
/// then the two for what comes while frozen,
const SCRATCH: usize = 2;
/// then those of the pools of graph captures, and among them the pinned ones, which belong to another each.
const FIRST_OF_POOLS: usize = 4;

/// The heap of one device.
#[derive(Debug)]
pub struct Heap {
    driver: Arc<dyn Driver>,
    device: usize,
    info: DeviceInfo,
    granule: u64,
    ledger: Ledger,
    /// Every arena's reservation is this long and aligned to it, so the high bits of an address name its arena.
    arena_shift: u32,
    arena_keys: Vec<u64>,
    arenas: Vec<Bound>,
    /// The first arena of those that new blocks go to: [`RESIDENT`], or [`SCRATCH`] while frozen.
    current: usize,
    stock: stock::Stock,
    streams: streams::Streams,
    retired: retired::RetiredBlocks,
    pools: pools::Pools,
    pinned: pinned::PinnedArenas,
    repairs: migrate::Repairs,
    automatic: automatic::Automatic,
    witness: Witness,
    /// What stays and what comes and goes, where nobody tells of steps.
    steady: Steady,
    /// Whether the reserve in force was opened because the program works, and by no action.
    opened_by_work: bool,
    /// The sizes of the blocks that lived when the program had begun to work, for what it would have wanted: at its end they are
    /// gone, more often than not.
    lived: Vec<u64>,
    /// What goes to the shared tier while the program loads, because an earlier run has shown that it belongs there.
    spill: Spill,
    /// What had been allocated and freed in all when idle memory was last looked for.
    at_last_look: Option<(u64, u64)>,
    /// What tells that loading has ended, until somebody else does or it has.
    opening: Option<Opening>,
    /// Dedicated memory that is left to others, of what is free.
    headroom: u64,
    stats: Stats,
    last_refusal: Option<DriverError>,
    history: History,
}

impl Heap {
    /// A heap on `device`. Creates the backing of the reserve, if one is asked for.
    ///
    /// # Errors
    /// The driver's; options that cannot be.
    pub fn new(
        driver: Arc<dyn Driver>,
        device: usize,
        info: DeviceInfo,
        options: &HeapOptions,
        budget: Arc<Budget>,
    ) -> Result<Heap, Error> {
        let granule = options.granule.unwrap_or(info.granularity);
        if !granule.is_power_of_two() || granule < info.granularity {
            return Err(Error::Argument(format!(
                "a granule of {} cannot be: the driver of {} needs a power of two of at least {}",
                show_size(granule),
                info.name,
                show_size(info.granularity)
            )));
        }
        match info.rung {
            Rung::Nothing => log::warn!(
                "device {device}, {}, has no shared tier: what does not fit in its own memory is out of memory. {}",
                info.name,
                info.refused.join("; ")
            ),
            rung => log::info!(
                "device {device}, {}: shared memory by {}. {}",
                info.name,
                rung.name(),
                info.refused.join("; ")
            ),
        }
        let capacity = options.capacity(&info, budget.limit()).map(|bytes| bytes / granule * granule);
        let remembered = options.wanted.filter(|_| options.reserve == Reserve::Auto);
        let wanted = options.reserve.fixed().or(remembered.map(|run| run.reserve)).unwrap_or(0);
        let reserve = wanted.min(capacity[Tier::Dedicated]);
        if wanted > reserve {
            log::warn!(
                "the reserve {} is more than the {} of dedicated memory on device {device}: all of it is kept for scratch",
                show_size(wanted),
                show_size(capacity[Tier::Dedicated])
            );
        }
        let working = if capacity[Tier::Shared] == 0 || !info.rung.migrates() { 0 } else { granule };
        let ledger = Ledger { capacity, reserve, working, ..Ledger::default() };
        // Twice all there is to back, so that holes and growth never want for addresses.
        let length = (2 * (capacity[Tier::Dedicated] + capacity[Tier::Shared])).max(64 * granule).next_power_of_two();
        let headroom = options.headroom(&info);
        let mut heap = Heap {
            stock: stock::Stock::new(driver.clone(), device, granule, budget),
            streams: streams::Streams::new(driver.clone(), device),
            retired: retired::RetiredBlocks::default(),
            pools: pools::Pools::default(),
            pinned: pinned::PinnedArenas::default(),
            repairs: migrate::Repairs::default(),
            driver,
            device,
            info,
            granule,
            ledger,
            arena_shift: length.trailing_zeros(),
            arena_keys: Vec::new(),
            arenas: Vec::new(),
            current: RESIDENT,
            automatic: automatic::Automatic::new(
                options.reserve == Reserve::Auto,
                options.safe_point_at_reset,
                granule,
            ),
            witness: Witness::default(),
            steady: Steady::default(),
            spill: remembered.map_or_else(Spill::default, |run| run.spill),
            opened_by_work: false,
            lived: Vec::new(),
            at_last_look: None,
            opening: (reserve > 0).then(|| Opening::new(reserve, remembered.map(|run| run.resident), 0)),
            headroom,
            stats: Stats::default(),
            last_refusal: None,
            history: History::default(),
        };
        for class in [Class::Small, Class::Large, Class::Small, Class::Large] {
            heap.add_arena(class)?;
        }
        heap.fill_stock();
        heap.note();
        Ok(heap)
    }

    fn add_arena(&mut self, class: Class) -> Result<usize, Error> {
        let length = 1u64 << self.arena_shift;
        let base = self.driver.reserve(self.device, length, length)?;
        self.arena_keys.push(base >> self.arena_shift);
        let core = Arena::new(length, self.granule, class);
        self.arenas.push(Bound { core, base, handles: Vec::new(), belongs_to: None });
        Ok(self.arenas.len() - 1)
    }

    /// Gives out a block: `bytes` for use on `stream`, of a pool if a context serves. Size 0 is the caller's affair.
    ///
    /// O(1) and without a driver call where a free dedicated block fits; otherwise see the order of supply.
    ///
    /// # Errors
    /// Out of memory in both tiers, with the figures; a size beyond reason; the driver's.
    #[inline]
    pub fn malloc(&mut self, bytes: u64, stream: Stream, serving: Option<Serving>) -> Result<u64, Error> {
        let Some(size) = rounded(bytes) else {
            self.stats.out_of_memory += 1;
            return Err(self.out_of_memory(bytes));
        };
        self.witness.see(this_thread());
        let stream = self.stream_number(stream)?;
        let class = Class::of(size) as usize;
        if self.arenas.is_empty() {
            return Err(Error::Refused("giant-kitten was shut down in this process: nothing can be allocated".into()));
        }
        if !self.repairs.is_whole() {
            self.make_whole()?;
        }
        if self.retired.len() > 0 {
            self.reclaim_retired();
        }
        let index = match serving {
            None => self.current + class,
            Some(serving) => self.pool_arena(serving, class, stream).unwrap_or(self.current + class),
        };
        match self.arenas[index].core.take(size, bytes, Tier::Dedicated, stream) {
            Some(id) => Ok(self.give(index, id, size, bytes, Some(Tier::Dedicated))),
            None => self.supply(index, size, bytes, stream),
        }
    }

    /// [`malloc`](Heap::malloc) in the shared tier only; `None` where that has no room.
    ///
    /// # Errors
    /// As for [`malloc`](Heap::malloc), but for out of memory.
    pub fn malloc_shared(&mut self, bytes: u64, stream: Stream) -> Result<Option<u64>, Error> {
        let Some(size) = rounded(bytes).filter(|_| !self.arenas.is_empty()) else { return Ok(None) };
        if !self.repairs.is_whole() {
            self.make_whole()?;
        }
        self.witness.see(this_thread());
        let stream = self.stream_number(stream)?;
        Ok(self.supply_shared(self.current + Class::of(size) as usize, size, bytes, stream))
    }

    /// The number of a stream. O(1) for one that is known.
    #[inline]
    pub(super) fn stream_number(&mut self, stream: Stream) -> Result<StreamId, Error> {
        match self.streams.known(stream) {
            Some(known) => Ok(known),
            None => self.add_stream(stream),
        }
    }

    /// Counts a new block and says its address. `tier` is where it lies, if in one.
    #[inline]
    fn give(&mut self, index: usize, id: BlockId, size: u64, bytes: u64, tier: Option<Tier>) -> u64 {
        let scratch = self.current == SCRATCH;
        let bound = &mut self.arenas[index];
        let marks = bound.core.marks_mut(id);
        marks.scratch = scratch;
        marks.born = self.automatic.interval;
        self.automatic.demand.take(size);
        let allocated = &self.stats.blocks.allocated;
        self.steady.take(allocated.current(), size, || allocated.taken());
        self.stats.allocate(bound.core.class(), size, bytes);
        match tier {
            Some(tier) => self.stats.allocate_part(tier, size, scratch),
            None => {
                let parts = bound.core.residency(id);
                Tier::ALL.into_iter().for_each(|tier| self.stats.allocate_part(tier, parts[tier], scratch));
            }
        }
        bound.base + bound.core.extent(id).0
    }

    /// Takes a block back. `stream` is the one on which it was used last; work on others must have been told by
    /// [`record_stream`](Heap::record_stream).
    ///
    /// # Errors
    /// An address that is not the start of a live block. Nothing has changed then.
    #[inline]
    pub fn free(&mut self, address: u64, stream: Stream) -> Result<(), Error> {
        let (index, id) = self.locate(address)?;
        self.witness.see(this_thread());
        let (owner, marks) = self.arenas[index].core.owner(id);
        let (index, id, stream) = match self.streams.known_at_free(stream, owner) {
            Some(stream) => (index, id, stream),
            None => self.locate_on_new_stream(address, stream)?,
        };
        let core = &mut self.arenas[index].core;
        let (_, size) = core.extent(id);
        self.stats.free(core.class(), size, core.requested(id), marks.shared_use);
        self.automatic.demand.give_back(size);
        match core.tier(id) {
            Some(tier) => self.stats.free_part(tier, size, marks.scratch, marks.shared_use),
            None => {
                let parts = core.residency(id);
                Tier::ALL
                    .into_iter()
                    .for_each(|tier| self.stats.free_part(tier, parts[tier], marks.scratch, marks.shared_use));
            }
        }
        if marks.shared_use {
            self.retire(index, id, address, stream);
        } else {
            core.release(id, stream);
        }
        Ok(())
    }

    /// Numbers a stream that is new, and looks a block up: blocks may be numbered anew when a stream is added.
    #[cold]
    fn locate_on_new_stream(&mut self, address: u64, stream: Stream) -> Result<(usize, BlockId, StreamId), Error> {
        let stream = self.add_stream(stream)?;
        let (index, id) = self.locate(address)?;
        Ok((index, id, stream))
    }

    /// Tells that work on `stream`, besides the block's own, uses the block: once freed, it waits for that work.
    /// `address` may lie inside the block.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn record_stream(&mut self, address: u64, stream: Stream) -> Result<(), Error> {
        self.witness.see(this_thread());
        // First: blocks may be numbered anew when a stream is added.
        let stream = self.stream_number(stream)?;
        let (index, id) = self.locate_inside(address)?;
        let Bound { core, base, .. } = &mut self.arenas[index];
        if core.owner(id).0 != stream {
            core.marks_mut(id).shared_use = true;
            self.retired.add_use(*base + core.extent(id).0, stream);
        }
        Ok(())
    }

    /// Says whether a block belongs to the model. `address` may lie inside the block.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn mark(&mut self, address: u64, model: bool) -> Result<(), Error> {
        let (index, id) = self.locate_inside(address)?;
        self.arenas[index].core.marks_mut(id).model = model;
        Ok(())
    }

    /// Pins a block to a tier, or unpins it: neither the automatic mode nor a placement moves it from there. Nothing moves now.
    /// `address` may lie inside the block.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn pin_to(&mut self, address: u64, tier: Option<Tier>) -> Result<(), Error> {
        let (index, id) = self.locate_inside(address)?;
        self.arenas[index].core.marks_mut(id).pin = tier;
        Ok(())
    }

    /// The tier that a block is pinned to. `address` may lie inside the block.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn pin_of(&self, address: u64) -> Result<Option<Tier>, Error> {
        let (index, id) = self.locate_inside(address)?;
        Ok(self.arenas[index].core.owner(id).1.pin)
    }

    /// How many bytes of a block lie in each tier. `address` may lie inside the block.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn residency(&self, address: u64) -> Result<PerTier<u64>, Error> {
        let (index, id) = self.locate_inside(address)?;
        Ok(self.arenas[index].core.residency(id))
    }

    /// Start and length of the block that holds an address.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn extent(&self, address: u64) -> Result<(u64, u64), Error> {
        let (index, id) = self.locate_inside(address)?;
        let (offset, size) = self.arenas[index].core.extent(id);
        Ok((self.arenas[index].base + offset, size))
    }

    /// Whether an address lies in one of this heap's arenas.
    pub fn owns(&self, address: u64) -> bool {
        self.arena_of(address).is_some()
    }

    /// Free space beside small blocks, and beside large ones, that cannot be given back. O(blocks).
    pub fn splits(&self) -> [Splits; 2] {
        let mut splits = [Splits::default(); 2];
        for core in self.arenas.iter().map(|bound| &bound.core) {
            let (count, bytes) = core.splits();
            let splits = &mut splits[core.class() as usize];
            splits.count += count;
            splits.bytes += bytes;
        }
        splits
    }

    /// What is counted.
    pub fn stats(&self) -> Stats {
        Stats {
            in_use: true,
            granule: self.granule,
            capacity: self.ledger.capacity,
            reserve: self.ledger.reserve,
            persist: self.ledger.persist,
            migrates: self.info.rung.migrates(),
            graph_pools: self.pools.len() as u64,
            retired_blocks: self.retired.len() as u64,
            automatic: self.automatic.on,
            scratch_peak: self.automatic.demand.peak(),
            ..self.stats
        }
    }

    /// What the device was found to be and have when the heap was made.
    pub fn device_info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The counters, to be reset.
    pub fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    /// Limits the dedicated tier to a fraction of the card, and of what it had at the start. What is mapped beyond stays.
    ///
    /// # Errors
    /// The driver's.
    pub fn set_memory_fraction(&mut self, fraction: f64) -> Result<(), Error> {
        let total = self.driver.device_info(self.device)?.dedicated_total;
        let limit = (total as f64 * fraction) as u64 / self.granule * self.granule;
        self.ledger.fraction_limit = Some(limit);
        Ok(())
    }

    /// What can still be had of each tier, and what there is in all: the driver is asked, so that what others have taken
    /// is not promised. Idle memory that is held counts as taken, as in PyTorch's own allocator.
    ///
    /// # Errors
    /// The driver's.
    pub fn memory_info(&mut self) -> Result<MemoryInfo, Error> {
        let free = self.driver.dedicated_free(self.device)?;
        self.ledger.see_free(self.stock.held(Tier::Dedicated), free);
        let driver_has = PerTier::new(free.saturating_sub(self.headroom), self.stock.left(Tier::Shared));
        let mut info = MemoryInfo { total: self.ledger.capacity, ..MemoryInfo::default() };
        for tier in Tier::ALL {
            let not_held = self.ledger.capacity[tier].saturating_sub(self.stock.held(tier));
            info.free[tier] = not_held.min(driver_has[tier]) / self.granule * self.granule;
        }
        Ok(info)
    }

    /// Asks the driver how much dedicated memory others have left. Nothing changes where it does not say.
    pub(super) fn see_free(&mut self) {
        if let Ok(free) = self.driver.dedicated_free(self.device) {
            self.ledger.see_free(self.stock.held(Tier::Dedicated), free);
        }
    }

    /// Which part of its life the device is in.
    pub fn phase(&self) -> Phase {
        self.stats.phase
    }

    /// Whether nothing is released and nothing moves: after an activation.
    pub fn is_frozen(&self) -> bool {
        self.current == SCRATCH
    }

    /// Bytes of a granule.
    pub fn granule(&self) -> u64 {
        self.granule
    }

    #[inline]
    fn arena_of(&self, address: u64) -> Option<usize> {
        let key = address >> self.arena_shift;
        self.arena_keys.iter().position(|known| *known == key).or_else(|| self.pinned_at(address))
    }

    #[inline]
    fn locate(&self, address: u64) -> Result<(usize, BlockId), Error> {
        let index = self.arena_of(address).ok_or(Error::NotAllocated { address })?;
        let bound = &self.arenas[index];
        let id = bound.core.find(address - bound.base).ok_or(Error::NotAllocated { address })?;
        Ok((index, id))
    }

    fn locate_inside(&self, address: u64) -> Result<(usize, BlockId), Error> {
        let index = self.arena_of(address).ok_or(Error::NotAllocated { address })?;
        let bound = &self.arenas[index];
        let id = bound.core.find_inside(address - bound.base).ok_or(Error::NotAllocated { address })?;
        Ok((index, id))
    }

    /// Bytes mapped at arena addresses.
    fn mapped(&self, tier: Tier) -> u64 {
        self.arenas.iter().map(|bound| bound.core.backed()[tier]).sum()
    }

    /// Bytes that may still be mapped at arena addresses.
    fn unmapped(&self, tier: Tier) -> u64 {
        self.ledger.limit(tier).saturating_sub(self.mapped(tier))
    }

    /// Brings the gauges that follow from the driver's memory up to date. Wherever that changes.
    fn note(&mut self) {
        for tier in Tier::ALL {
            let (mapped, reserved) = (self.mapped(tier), self.stock.held(tier));
            self.stats.tiers[tier].mapped.set(mapped);
            self.stats.tiers[tier].reserved.set(reserved);
        }
        self.stats.reserved.set(self.stats.tiers.iter().map(|tier| tier.reserved.current()).sum());
    }

    /// Shared bytes that migrations need as working room. Nothing while nothing is shared: then there is room for as much.
    fn working_room(&self) -> u64 {
        if self.mapped(Tier::Shared) == 0 { 0 } else { self.ledger.working }
    }

    /// Keeps in stock what is promised: the part of the reserve that is not handed out, and the working room. What the driver will
    /// not give is missing then, and said.
    fn fill_stock(&mut self) {
        let limit =
            self.ledger.capacity[Tier::Dedicated] - self.ledger.persist.min(self.ledger.capacity[Tier::Dedicated]);
        let promised = PerTier::new(self.ledger.reserve, self.working_room());
        for (tier, capacity) in [(Tier::Dedicated, limit), (Tier::Shared, self.ledger.capacity[Tier::Shared])] {
            if let Err(why) = self.stock.fill(tier, promised[tier], capacity) {
                log::warn!(
                    "{} of {tier} memory could be set aside on device {}, not {}: {why}",
                    show_size(self.stock.bytes(tier)),
                    self.device,
                    show_size(promised[tier])
                );
            }
        }
    }

    fn out_of_memory(&self, bytes: u64) -> Error {
        let of = |value: &dyn Fn(Tier) -> u64| PerTier::new(value(Tier::Dedicated), value(Tier::Shared));
        Error::OutOfMemory(Box::new(crate::error::OutOfMemory {
            device: self.device,
            requested: bytes,
            limit: of(&|tier| self.ledger.reach(tier).max(self.mapped(tier))),
            mapped: of(&|tier| self.mapped(tier)),
            allocated: of(&|tier| self.stats.tiers[tier].allocated.current()),
            driver: self.last_refusal.clone(),
        }))
    }

    /// Tests the invariants of every arena, and of the heap over them. O(everything).
    ///
    /// # Errors
    /// The first that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        let mut allocated = PerTier::<u64>::default();
        for bound in &self.arenas {
            bound.core.check()?;
            if bound.belongs_to.is_some() && bound.core.backed()[Tier::Dedicated] > 0 {
                return Err("a pinned arena has dedicated granules".into());
            }
            for granule in 0..bound.handles.len() as u32 {
                let (handle, tier) = (bound.handles[granule as usize], bound.core.tier_of_granule(granule));
                if handle.is_some() != tier.is_some() {
                    return Err(format!("granule {granule}: handle {handle:?}, tier {tier:?}"));
                }
            }
            for block in bound.core.blocks().filter(|block| !block.retired) {
                let bytes = bound.core.residency(block.id);
                for tier in Tier::ALL {
                    allocated[tier] += bytes[tier];
                }
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
            let known = self.mapped(tier) + self.stock.bytes(tier) + self.repairs.bytes(tier, self.granule);
            if self.stock.held(tier) != known {
                return Err(format!("{} bytes held in {tier}, {known} accounted for", self.stock.held(tier)));
            }
            if self.stock.held(tier) > self.ledger.capacity[tier] {
                return Err(format!("{} bytes held in {tier}, beyond its capacity", self.stock.held(tier)));
            }
        }
        Ok(())
    }

    /// Gives everything back to the driver. Errors are only logged: at the end of a process the driver may have gone already.
    pub fn close(&mut self) {
        if let Err(why) = self.driver.synchronize(self.device) {
            log::debug!("the device could not be waited for: {why}");
        }
        self.release_retired();
        self.mend();
        for index in 0..self.arenas.len() {
            if self.arenas[index].belongs_to.is_some() {
                self.unpin(index);
                continue;
            }
            let all: Vec<u32> = (0..self.arenas[index].handles.len() as u32).collect();
            self.unmap_granules(index, &all);
            let (base, length) = (self.arenas[index].base, 1u64 << self.arena_shift);
            if let Err(why) = crate::driver::insist(|| self.driver.unreserve(self.device, base, length)) {
                log::debug!("addresses were left behind: {why}");
            }
        }
        self.repairs.close(&*self.driver, self.device, self.granule);
        for tier in Tier::ALL {
            self.stock.trim(tier, 0);
        }
        self.streams.close();
        self.arenas.clear();
        self.arena_keys.clear();
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        if !self.arenas.is_empty() {
            self.close();
        }
    }
}

impl Heap {
    /// Numbers a stream that is new, and forgets those that nothing belongs to first where there are many: streams come and
    /// go, those of threads above all, and each costs memory and time.
    #[cold]
    fn add_stream(&mut self, stream: Stream) -> Result<StreamId, Error> {
        if self.streams.is_crowded() {
            self.forget_streams();
        }
        self.streams.add(stream)
    }

    /// Takes idle backing to the stock, where it serves every stream, and forgets the streams that no block belongs to or has
    /// been used on. Waits for the device; does nothing while that is not to be had.
    fn forget_streams(&mut self) {
        if self.quiesce().is_err() {
            return self.streams.expect_more();
        }
        self.strip();
        let mut used: HashSet<StreamId> = self.pools.streams().chain(self.retired.streams()).collect();
        for index in 0..self.arenas.len() {
            // What is free in a pool stays its streams': a capture finds it by them.
            if !self.pools.owns(self.owner_of(index)) {
                self.arenas[index].core.set_tiers([], Heap::HOME);
            }
            used.extend(self.arenas[index].core.streams());
        }
        self.streams.forget(|id| used.contains(&id));
    }

    /// The number of the first stream; what a safe point leaves free belongs to it.
    const HOME: StreamId = StreamId(0);
}
