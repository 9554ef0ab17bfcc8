//! The allocator of a process: one heap for each device, each behind a lock.
//!
//! ```text
//!   devices     a heap for each device, created at its first use; settings made before that
//!   contexts    which pool serves an allocation
//!   options     the one table from which the parser and the reference page are made
//!   remembered  what a run would have wanted, kept for the next one
//! ```
//!
//! A call names a device, or the device is found by the address that the call is about. The table
//! of [`core::phase`](crate::core::Phase) says which action may follow which.

mod contexts;
mod devices;
mod options;
mod remembered;
#[cfg(all(test, giant_kitten_shuttle))]
mod threads;

use std::collections::HashMap;
use std::sync::Arc;

use self::contexts::Filter;
use self::devices::Devices;
use self::remembered::Place;
use crate::core::history::{Event, Recording, Who};
use crate::core::placement::Order;
use crate::core::policy::Wanted;
use crate::core::{Activation, PerTier, PoolId, Reserve, Splits, Stats, ThreadId, Tier};
use crate::driver::{DeviceInfo, Driver, Stream};
use crate::error::Error;
use crate::heap::{Claim, ContextId, ContextKind, Heap, MemoryInfo, MemoryMap, Moved, Segment, Serving};
use crate::sync::{AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering, this_thread};

pub(crate) use self::remembered::forget;

pub use self::options::{OPTIONS, OptionRow, Options, reference};

/// A device as it is found before it is initialized for use. Bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The driver's report.
    pub info: DeviceInfo,
    /// The most that each tier may hold.
    pub capacity: PerTier<u64>,
    /// The host memory that all devices of this process may take together.
    pub budget: u64,
    /// The host memory that they have taken.
    pub used: u64,
    /// What other processes of this user claim of the host's memory.
    pub others: u64,
}

/// The allocator of a process.
pub struct Allocator {
    devices: Devices,
    /// The recording that is in force on each device.
    recording: Mutex<Recording>,
    /// 1 while anything is recorded or a caller of a live block is known; 0 otherwise.
    observed: AtomicU32,
    /// The number of pool contexts ever begun.
    contexts_begun: AtomicUsize,
    /// The pools that `MemPool`s keep on whatever device they are used, once for each `MemPool`.
    kept: Mutex<Vec<PoolId>>,
}

impl std::fmt::Debug for Allocator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allocator")
            .field("options", self.options())
            .field("devices", &self.devices.count())
            .finish_non_exhaustive()
    }
}

impl Allocator {
    /// An allocator over a driver. Touches no memory yet.
    ///
    /// # Errors
    /// The driver's, where it cannot count the devices.
    pub fn new(options: Options, driver: Arc<dyn Driver>) -> Result<Allocator, Error> {
        Ok(Allocator {
            devices: Devices::new(options, driver)?,
            recording: Mutex::new(Recording::default()),
            observed: AtomicU32::new(0),
            contexts_begun: AtomicUsize::new(0),
            kept: Mutex::default(),
        })
    }

    /// The options that it was created with.
    pub fn options(&self) -> &Options {
        self.devices.options()
    }

    /// The number of devices.
    pub fn device_count(&self) -> usize {
        self.devices.count()
    }

    #[inline]
    fn heap(&self, device: usize) -> Result<MutexGuard<'_, Heap>, Error> {
        self.devices.heap(device, &self.recording)
    }

    /// Ends the program, as far as the allocator is concerned. Remembers what the run would have
    /// wanted, if the options ask for that. Otherwise returns one line for each device whose work
    /// overflowed for lack of a reserve. Failures to remember are returned as lines, too.
    pub fn farewell(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for heap in self.devices.heaps() {
            let heap = heap.lock();
            let (wanted, name) = (heap.wanted(), heap.device_info().name.clone());
            if !self.options().remember {
                lines.extend(heap.advice());
                continue;
            }
            let has_worked = heap.has_worked();
            drop(heap);
            if wanted.reserve == 0 && !has_worked {
                // A run that ended early says nothing about the next one.
                continue;
            }
            let written =
                Place::of_this_program(&name).map(|place| place.write((wanted.reserve > 0).then_some(wanted)));
            if let Some(Err(why)) = written {
                lines.push(format!("the reserve of this run could not be remembered: {why}"));
            }
        }
        lines
    }

    /// What the run so far would have wanted of a device from its start; `None` where the device is
    /// not in use.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn wanted(&self, device: usize) -> Result<Option<Wanted>, Error> {
        Ok(self.devices.in_use(device)?.map(|heap| heap.wanted()))
    }

    /// Looks at a device and at the memory that each tier of it would have, without initializing it
    /// for use. The driver creates a context for that time, and nothing else is taken.
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub fn look_at(&self, device: usize) -> Result<Found, Error> {
        self.devices.look_at(device)
    }

    /// The memory of a device that can be obtained now. A device that is not in use is looked at,
    /// as by [`look_at`](Allocator::look_at).
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub fn memory_info(&self, device: usize) -> Result<MemoryInfo, Error> {
        self.devices.memory_info(device)
    }

    /// Initializes a device for use as its first allocation would: creates a context and the
    /// backing of the reserve.
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub fn open(&self, device: usize) -> Result<(), Error> {
        self.heap(device).map(drop)
    }

    /// Allocates `bytes` on `device` for use on `stream`. Returns the address; 0 for 0 bytes. O(1)
    /// if a free block fits.
    ///
    /// # Errors
    /// A device that does not exist; out of memory in both tiers, with the figures; the driver's.
    #[inline]
    pub fn malloc(&self, bytes: usize, device: usize, stream: Stream) -> Result<u64, Error> {
        let contexts = &self.devices.get(device)?.contexts;
        let serving = if contexts.any() { contexts.serving(stream) } else { None };
        let mut heap = self.heap(device)?;
        if bytes == 0 {
            heap.stats_mut().zero_mallocs += 1;
            return Ok(0);
        }
        heap.malloc(bytes as u64, stream, serving)
    }

    /// [`malloc`](Allocator::malloc) in the shared tier, as long as that has room. While a pool
    /// context is open, this is a plain `malloc`.
    ///
    /// # Errors
    /// As for [`malloc`](Allocator::malloc).
    pub fn malloc_shared(&self, bytes: usize, device: usize, stream: Stream) -> Result<u64, Error> {
        if bytes > 0
            && !self.devices.get(device)?.contexts.any()
            && let Some(address) = self.heap(device)?.malloc_shared(bytes as u64, stream)?
        {
            return Ok(address);
        }
        self.malloc(bytes, device, stream)
    }

    /// Frees a block; does nothing for address 0. `stream` is the stream that used it last. The
    /// block is looked for on `device` first, and then on the others. O(1) on the first.
    ///
    /// # Errors
    /// An address that is not the start of a live block. Nothing has changed then.
    #[inline]
    pub fn free(&self, address: u64, device: usize, stream: Stream) -> Result<(), Error> {
        if address == 0 {
            return Ok(());
        }
        if let Ok(Some(mut heap)) = self.devices.in_use(device) {
            match heap.free(address, stream) {
                Err(Error::NotAllocated { .. }) if !heap.owns(address) => {}
                result => return result,
            }
        }
        self.devices.with_owner(address, |heap| heap.free(address, stream))
    }

    /// Reports that `stream`, too, uses the block that holds `address`.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn record_stream(&self, address: u64, stream: Stream) -> Result<(), Error> {
        self.devices.with_owner(address, |heap| heap.record_stream(address, stream))
    }

    /// Sets whether the block that holds `address` belongs to the model.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn mark(&self, address: u64, model: bool) -> Result<(), Error> {
        self.devices.with_owner(address, |heap| heap.mark(address, model))
    }

    /// Pins the block that holds `address` to a tier, so that no placement moves it from there, or
    /// unpins it.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn pin_to(&self, address: u64, tier: Option<Tier>) -> Result<(), Error> {
        self.devices.with_owner(address, |heap| heap.pin_to(address, tier))
    }

    /// The tier that the block that holds `address` is pinned to.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn pin_of(&self, address: u64) -> Result<Option<Tier>, Error> {
        self.devices.with_owner(address, |heap| heap.pin_of(address))
    }

    /// The bytes in each tier of the block that holds `address`.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn residency(&self, address: u64) -> Result<PerTier<u64>, Error> {
        self.devices.with_owner(address, |heap| heap.residency(address))
    }

    /// The start and the length in bytes of the block that holds `address`.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn extent(&self, address: u64) -> Result<(u64, u64), Error> {
        self.devices.with_owner(address, |heap| heap.extent(address))
    }

    /// Moves the block that holds `address` to a tier, with the small blocks that share its
    /// granules.
    ///
    /// # Errors
    /// An address in no live block; a tier without room; while a graph is captured; the driver's.
    pub fn move_block(&self, address: u64, tier: Tier) -> Result<Moved, Error> {
        self.devices.with_owner(address, |heap| heap.move_block(address, tier))
    }

    /// Returns a device to loading, with reserve and persist kept from allocations until the next
    /// action.
    ///
    /// # Errors
    /// See [`Heap::begin_loading`].
    pub fn begin_loading(&self, device: usize, reserve: Reserve, persist: u64) -> Result<(), Error> {
        self.heap(device)?.begin_loading(reserve, persist)
    }

    /// The live blocks of a device in the order in which an action would let them claim dedicated
    /// memory.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn claims(&self, device: usize, order: Order) -> Result<Vec<Claim>, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Vec::new, |heap| heap.claims(order)))
    }

    /// Places everything on a device anew and freezes it. The caller makes sure that no work is
    /// launched during the call.
    ///
    /// # Errors
    /// See [`Heap::activate`].
    pub fn activate(&self, device: usize, activation: &Activation) -> Result<Moved, Error> {
        self.heap(device)?.activate(activation)
    }

    /// Places everything on a device anew, without reserve and persist, and thaws it.
    ///
    /// # Errors
    /// See [`Heap::disable`].
    pub fn disable(&self, device: usize, order: Order) -> Result<Moved, Error> {
        self.heap(device)?.disable(order)
    }

    /// A safe point of a device: no work is launched until this returns. `kind` names the work that
    /// comes next.
    ///
    /// # Errors
    /// See [`Heap::safe_point`].
    pub fn safe_point(&self, device: usize, kind: &str) -> Result<Moved, Error> {
        self.devices.in_use(device)?.map_or_else(|| Ok(Moved::default()), |mut heap| heap.safe_point(kind))
    }

    /// Reports to the automatic mode that work reads `bytes` of the block that holds `address`.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn touch(&self, address: u64, bytes: u64) -> Result<(), Error> {
        self.devices.with_owner(address, |heap| heap.touch(address, bytes))
    }

    /// Moves everything on a device to the shared tier and returns its dedicated memory to the
    /// driver.
    ///
    /// # Errors
    /// See [`Heap::free_vram`].
    pub fn free_vram(&self, device: usize) -> Result<Moved, Error> {
        self.heap(device)?.free_vram()
    }

    /// Begins a piece of work of the calling thread on a device. No other thread's safe point moves
    /// anything before it ends.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn begin_work(&self, device: usize) -> Result<(), Error> {
        self.begin_work_of(device, this_thread())
    }

    /// Ends the piece of work that the calling thread began last on a device.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn end_work(&self, device: usize) -> Result<(), Error> {
        self.end_work_of(device, this_thread())
    }

    /// [`begin_work`](Allocator::begin_work) for any thread. A device that is not in use yet stays
    /// so.
    ///
    /// # Errors
    /// A device that does not exist.
    #[doc(hidden)]
    pub fn begin_work_of(&self, device: usize, thread: ThreadId) -> Result<(), Error> {
        self.devices.begin_work(device, thread)
    }

    /// [`end_work`](Allocator::end_work) for any thread.
    ///
    /// # Errors
    /// A device that does not exist.
    #[doc(hidden)]
    pub fn end_work_of(&self, device: usize, thread: ThreadId) -> Result<(), Error> {
        self.devices.end_work(device, thread)
    }

    /// Reports that the calling thread launches nothing on a device until it allocates, frees or
    /// begins a piece of work there again.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn rest(&self, device: usize) -> Result<(), Error> {
        self.devices.in_use(device)?.iter_mut().for_each(|heap| heap.rest());
        Ok(())
    }

    /// Takes the caller's word that no other thread launches work on a device, except threads
    /// inside a piece of work.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn vouch(&self, device: usize) -> Result<(), Error> {
        self.devices.in_use(device)?.iter_mut().for_each(|heap| heap.vouch());
        Ok(())
    }

    /// PyTorch's `empty_cache`, on every device in use. It may be called at any time, next to any
    /// work, and moves no live block. Does nothing on a frozen device.
    ///
    /// # Errors
    /// The first device's that fails. The other devices are reset all the same.
    pub fn reset(&self) -> Result<(), Error> {
        self.devices.for_each(Heap::reset)
    }

    /// Returns idle memory of a device to the driver, next to whatever work runs. Does nothing
    /// where the device is not in use, is frozen by an action, or a graph is captured.
    ///
    /// # Errors
    /// The driver's.
    pub fn give_back(&self, device: usize) -> Result<(), Error> {
        match self.devices.in_use(device) {
            Ok(Some(mut heap)) => heap.give_back_now(),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Looks once for idle memory, for a caller that looks now and then. Memory of a device on
    /// which nothing was allocated or freed since the last look goes back to the driver. Nothing
    /// happens on a device that is frozen or seen at work.
    pub fn look_for_idle(&self) {
        for heap in self.devices.heaps() {
            if let Err(why) = heap.lock().give_back_if_idle() {
                log::debug!("idle memory stays cached: {why}");
            }
        }
    }

    /// The statistics of a device; all zeros where it is not in use.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn stats(&self, device: usize) -> Result<Stats, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Stats::default, |heap| heap.stats()))
    }

    /// Free space of a device that cannot be returned to the driver, next to small blocks and next
    /// to large ones. O(blocks).
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn splits(&self, device: usize) -> Result<[Splits; 2], Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Default::default, |heap| heap.splits()))
    }

    /// Resets the peaks of a device to the current values.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn reset_peaks(&self, device: usize) -> Result<(), Error> {
        self.devices.in_use(device)?.iter_mut().for_each(|heap| heap.stats_mut().reset_peaks());
        Ok(())
    }

    /// Resets the totals and counters of a device.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn reset_totals(&self, device: usize) -> Result<(), Error> {
        self.devices.in_use(device)?.iter_mut().for_each(|heap| heap.stats_mut().reset_totals());
        Ok(())
    }

    /// The device as the driver reported it at its first use; `None` where it is not in use.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn device_info(&self, device: usize) -> Result<Option<DeviceInfo>, Error> {
        Ok(self.devices.in_use(device)?.map(|heap| heap.device_info().clone()))
    }

    /// How the reserve in force on a device was found, human-readable.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn reserve_reason(&self, device: usize) -> Result<String, Error> {
        let unused = || "the device is not in use yet".into();
        Ok(self.devices.in_use(device)?.map_or_else(unused, |heap| heap.reserve_reason()))
    }

    /// The memory map of a device. O(blocks + granules).
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn map(&self, device: usize) -> Result<MemoryMap, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(MemoryMap::default, |heap| heap.map()))
    }

    /// All segments of a device, with their blocks. O(blocks + granules).
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn segments(&self, device: usize) -> Result<Vec<Segment>, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Vec::new, |heap| heap.segments()))
    }

    /// All segments of a device, with the callers that allocated the live blocks, by address.
    /// O(blocks + granules).
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn snapshot(&self, device: usize) -> Result<(Vec<Segment>, HashMap<u64, Who>), Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Default::default, |heap| (heap.segments(), heap.askers())))
    }

    /// Limits the dedicated tier of a device to a fraction of the card, from its first use on.
    ///
    /// # Errors
    /// A fraction outside 0 to 1; a device that does not exist; the driver's.
    pub fn set_memory_fraction(&self, device: usize, fraction: f64) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Error::Argument(format!("the memory fraction {fraction} is not between 0 and 1")));
        }
        self.devices.set_memory_fraction(device, fraction)
    }

    /// Begins a context in which every allocation whose stream `filter` accepts comes from a pool,
    /// as in a graph capture.
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub fn begin_pool(
        &self,
        device: usize,
        pool: PoolId,
        filter: impl Fn(Stream) -> bool + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.begin_context(device, pool, ContextKind::Unknown, Box::new(filter), None)
    }

    /// [`begin_pool`](Allocator::begin_pool) for a caller that knows the purpose of the context.
    ///
    /// # Errors
    /// As for [`begin_pool`](Allocator::begin_pool).
    pub fn begin_pool_of_kind(
        &self,
        device: usize,
        pool: PoolId,
        kind: ContextKind,
        filter: impl Fn(Stream) -> bool + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.begin_context(device, pool, kind, Box::new(filter), None)
    }

    /// The same for the capture of one stream, until
    /// [`end_stream_pool`](Allocator::end_stream_pool).
    ///
    /// # Errors
    /// As for [`begin_pool`](Allocator::begin_pool).
    pub fn begin_stream_pool(&self, device: usize, stream: Stream, pool: PoolId) -> Result<(), Error> {
        let filter: Filter = Box::new(move |other| other == stream);
        self.begin_context(device, pool, ContextKind::Unknown, filter, Some(stream))
    }

    fn begin_context(
        &self,
        device: usize,
        pool: PoolId,
        kind: ContextKind,
        filter: Filter,
        stream: Option<Stream>,
    ) -> Result<(), Error> {
        let context = ContextId(self.contexts_begun.fetch_add(1, Ordering::Relaxed) as u64);
        let serving = Serving { context, pool };
        let is_kept = self.kept.lock().contains(&pool);
        self.heap(device)?.begin_pool(serving, kind, is_kept, stream)?;
        self.devices.get(device)?.contexts.push(serving, filter, stream);
        Ok(())
    }

    /// Ends the context that was begun last with a pool.
    ///
    /// # Errors
    /// A pool that no open context allocates from.
    pub fn end_pool(&self, device: usize, pool: PoolId) -> Result<(), Error> {
        let ended = self.heap(device)?.end_pool(pool)?;
        self.devices.get(device)?.contexts.remove(ended);
        Ok(())
    }

    /// Ends the context that was begun last with a stream.
    ///
    /// # Errors
    /// A stream without such a context.
    pub fn end_stream_pool(&self, device: usize, stream: Stream) -> Result<(), Error> {
        match self.devices.get(device)?.contexts.of_stream(stream) {
            Some(serving) => self.end_pool(device, serving.pool),
            None => Err(Error::Argument(format!("no pool context is open on stream {:#x}", stream.0))),
        }
    }

    /// Releases one hold on a pool, such as that of a graph that began to allocate from it. A
    /// context of the pool that is still open goes on to serve, and the pool is gone when it ends.
    ///
    /// # Errors
    /// A pool that is unknown, or has no holds left.
    pub fn release_pool(&self, device: usize, pool: PoolId) -> Result<(), Error> {
        self.heap(device)?.release_pool(pool)
    }

    /// A `MemPool` keeps a pool on all devices, from its first use there.
    pub fn keep_pool(&self, pool: PoolId) {
        self.kept.lock().push(pool);
        self.devices.heaps().for_each(|heap| heap.lock().keep_pool(pool));
    }

    /// A `MemPool` that kept a pool is gone. After the last one, idle memory of the pool is
    /// returned to the driver.
    ///
    /// # Errors
    /// The first device's that fails. The pool is gone all the same.
    pub fn drop_pool(&self, pool: PoolId) -> Result<(), Error> {
        let mut kept = self.kept.lock();
        if let Some(at) = kept.iter().position(|known| *known == pool) {
            kept.swap_remove(at);
        }
        let is_kept = kept.contains(&pool);
        drop(kept);
        if is_kept {
            return Ok(());
        }
        self.devices.for_each(|heap| match heap.drop_pool(pool) {
            // A capture is under way: the next reset returns the memory.
            Err(Error::Refused(_)) => Ok(()),
            done => done,
        })
    }

    /// The number of holds on a pool over all devices. Each `MemPool` that keeps it holds it, and
    /// so does each caller that began to allocate from it and has not released it.
    pub fn pool_holds(&self, pool: PoolId) -> u32 {
        let kept = self.kept.lock().iter().filter(|known| **known == pool).count() as u32;
        let heaps = self.devices.heaps();
        kept + heaps.map(|heap| heap.lock().pool_holds(pool)).sum::<u32>()
    }

    /// Records the events of each device in another way from now on. Recorded events stay, up to
    /// the new limit, so a limit of 0 forgets all of them. The caller that allocated a live block
    /// is known as long as the block lives.
    pub fn record(&self, recording: Recording) {
        let mut current = self.recording.lock();
        *current = recording;
        self.devices.heaps().for_each(|heap| heap.lock().record(recording));
        self.look_whether_observed(*current);
    }

    /// Whether events are recorded or a caller of a live block is known. If so, allocations are
    /// followed by [`record_malloc`](Allocator::record_malloc), and blocks are freed by
    /// [`recorded_free`](Allocator::recorded_free).
    #[inline]
    pub fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Relaxed) != 0
    }

    /// Updates `observed`. The caller makes sure that `recording` does not change during the call.
    fn look_whether_observed(&self, recording: Recording) {
        let observed = recording.most > 0 || self.devices.heaps().any(|heap| !heap.lock().is_unobserved());
        self.observed.store(u32::from(observed), Ordering::Release);
    }

    /// The recorded events of a device, the oldest first.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn history(&self, device: usize) -> Result<Vec<Event>, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Vec::new, |heap| heap.history()))
    }

    /// Records the result of a request of `bytes` by the caller `who`.
    pub fn record_malloc(
        &self,
        result: &Result<u64, Error>,
        bytes: usize,
        device: usize,
        stream: Stream,
        who: Option<Who>,
    ) {
        if bytes > 0
            && let Ok(Some(mut heap)) = self.devices.in_use(device)
        {
            heap.record_malloc(result, bytes as u64, stream, who);
        }
    }

    /// [`free`](Allocator::free), recorded before the block can be allocated again.
    ///
    /// # Errors
    /// As for [`free`](Allocator::free).
    pub fn recorded_free(&self, address: u64, stream: Stream, who: Option<Who>) -> Result<(), Error> {
        let last = self.devices.with_owner(address, |heap| {
            heap.recorded_free(address, stream, who)?;
            Ok(heap.is_unobserved())
        })?;
        if last {
            let recording = self.recording.lock();
            self.look_whether_observed(*recording);
        }
        Ok(())
    }

    /// Tests the invariants of every heap, for tests. O(everything).
    ///
    /// # Errors
    /// The first invariant that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        self.devices.heaps().try_for_each(|heap| heap.lock().check())
    }

    /// Returns all memory of all devices to the driver, including that of live blocks. Nothing can
    /// be allocated afterwards.
    pub fn shutdown(&self) {
        self.devices.heaps().for_each(|heap| heap.lock().close());
    }
}
