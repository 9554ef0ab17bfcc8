//! The state machine: the devices of a process and what may be done with each.
//!
//! ```text
//!              activate                     activate
//!   Loading ────────────▶ Active (frozen) ◀──────────── Disabled, Freed
//!      │                     │      ▲
//!      │ disable, free_vram  │      └── activate again: placed anew
//!      └──────────────▶ Disabled, Freed ◀── disable, free_vram
//! ```
//!
//! Every action may follow every other, on live blocks; contents and addresses stay. `begin_loading` leads back to Loading from anywhere.

mod options;

use std::sync::Arc;

use once_cell::sync::OnceCell;

use crate::core::history::Event;
use crate::core::placement::{Order, SortBy};
use crate::core::{PerTier, Reserve, Splits, Stats, Tier};
use crate::driver::{DeviceInfo, Driver, Stream};
use crate::error::Error;
use crate::heap::{Claim, Heap, HeapOptions, MemoryMap, Moved, PoolId, Segment};
use crate::sync::{AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering};

pub use options::{OPTIONS, OptionRow, Options, reference};

/// What an activation is to do. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activation {
    /// Dedicated memory that resident blocks leave to scratch.
    pub reserve: Reserve,
    /// Dedicated memory withheld altogether.
    pub persist: u64,
    /// What blocks are sorted by.
    pub sort_by: SortBy,
    /// Large blocks first.
    pub sort_reversed: bool,
    /// Model blocks not before the others.
    pub ignore_model: bool,
}

impl Activation {
    /// In which order blocks claim dedicated memory.
    pub fn order(&self) -> Order {
        Order { sort_by: self.sort_by, sort_reversed: self.sort_reversed, ignore_model: self.ignore_model }
    }
}

impl From<&Options> for Activation {
    fn from(options: &Options) -> Self {
        Activation {
            reserve: options.reserve,
            persist: options.persist,
            sort_by: options.sort_by,
            sort_reversed: options.sort_reversed,
            ignore_model: options.ignore_model,
        }
    }
}

/// Asked of each allocation while captures run: whether its stream belongs to one.
type Filter = Box<dyn Fn(Stream) -> bool + Send + Sync>;

/// A capture under way.
#[derive(Clone)]
struct Capture {
    pool: PoolId,
    filter: Arc<Filter>,
    /// Where it is of one stream, that.
    stream: Option<Stream>,
}

#[derive(Default)]
struct Device {
    heap: OnceCell<Mutex<Heap>>,
    /// Held while the heap is made.
    making: Mutex<()>,
    /// How many captures are under way; malloc looks here first, without a lock.
    capture_count: AtomicU32,
    captures: Mutex<Vec<Capture>>,
}

/// The allocator of a process: one heap for each device, made when the device is first used.
pub struct Kitten {
    driver: Arc<dyn Driver>,
    options: Options,
    devices: Box<[Device]>,
    /// How many events are recorded of each device; 0 for none.
    recording: AtomicUsize,
}

impl std::fmt::Debug for Kitten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kitten")
            .field("options", &self.options)
            .field("devices", &self.devices.len())
            .finish_non_exhaustive()
    }
}

impl Kitten {
    /// An allocator over a driver. No memory is touched yet.
    ///
    /// # Errors
    /// The driver's, where it cannot count its devices.
    pub fn new(options: Options, driver: Arc<dyn Driver>) -> Result<Kitten, Error> {
        let count = driver.device_count()?;
        let devices = (0..count).map(|_| Device::default()).collect();
        Ok(Kitten { driver, options, devices, recording: AtomicUsize::new(0) })
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// How many devices there are.
    pub fn device_count(&self) -> usize {
        self.devices.len()
    }

    #[inline]
    fn device(&self, device: usize) -> Result<&Device, Error> {
        self.devices.get(device).ok_or_else(|| {
            Error::Argument(format!("there is no device {device}: this machine has {}", self.devices.len()))
        })
    }

    #[inline]
    fn heap(&self, device: usize) -> Result<MutexGuard<'_, Heap>, Error> {
        let device_of = self.device(device)?;
        match device_of.heap.get() {
            Some(heap) => Ok(heap.lock()),
            None => self.first_use(device, device_of),
        }
    }

    #[cold]
    fn first_use<'a>(&'a self, device: usize, of: &'a Device) -> Result<MutexGuard<'a, Heap>, Error> {
        let options = HeapOptions {
            dedicated: self.options.dedicated,
            headroom: self.options.headroom,
            shared: self.options.shared,
            granule: self.options.granule,
            reserve: self.options.reserve,
        };
        let _making = of.making.lock();
        if of.heap.get().is_none() {
            let mut heap = Heap::new(self.driver.clone(), device, &options)?;
            heap.record(self.recording.load(Ordering::Acquire));
            // Nobody else can have set it: the lock is held.
            let _ = of.heap.set(Mutex::new(heap));
        }
        match of.heap.get() {
            Some(heap) => Ok(heap.lock()),
            None => Err(Error::Refused(format!("the heap of device {device} could not be kept"))),
        }
    }

    /// Gives out `bytes` on `device` for use on `stream`. Size 0 is address 0.
    ///
    /// # Errors
    /// A device that does not exist; out of memory in both tiers, with the figures; the driver's.
    #[inline]
    pub fn malloc(&self, bytes: usize, device: usize, stream: Stream) -> Result<u64, Error> {
        let pool = match self.device(device)?.capture_count.load(Ordering::Acquire) {
            0 => None,
            _ => self.pool_for(device, stream)?,
        };
        let mut heap = self.heap(device)?;
        if bytes == 0 {
            heap.stats_mut().zero_mallocs += 1;
            return Ok(0);
        }
        heap.malloc(bytes as u64, stream, pool)
    }

    /// [`malloc`](Kitten::malloc), in the shared tier as long as that has room; captures keep to their pools.
    ///
    /// # Errors
    /// As for [`malloc`](Kitten::malloc).
    pub fn malloc_shared(&self, bytes: usize, device: usize, stream: Stream) -> Result<u64, Error> {
        if bytes > 0
            && self.device(device)?.capture_count.load(Ordering::Acquire) == 0
            && let Some(address) = self.heap(device)?.malloc_shared(bytes as u64, stream)?
        {
            return Ok(address);
        }
        self.malloc(bytes, device, stream)
    }

    /// Which capture's pool an allocation belongs to. The filters are foreign code: no lock is held while they run.
    #[cold]
    fn pool_for(&self, device: usize, stream: Stream) -> Result<Option<PoolId>, Error> {
        let captures = self.device(device)?.captures.lock().clone();
        Ok(captures.into_iter().find(|capture| (capture.filter)(stream)).map(|capture| capture.pool))
    }

    /// Takes a block back; address 0 is nothing. `stream` is where it was used last. The device named is looked at first; a block of
    /// another device is found all the same.
    ///
    /// # Errors
    /// An address that is not the start of a live block; nothing has changed then.
    #[inline]
    pub fn free(&self, address: u64, device: usize, stream: Stream) -> Result<(), Error> {
        if address == 0 {
            return Ok(());
        }
        if let Some(heap) = self.devices.get(device).and_then(|device| device.heap.get()) {
            let mut heap = heap.lock();
            match heap.free(address, stream) {
                Err(Error::NotAllocated { .. }) if !heap.owns(address) => {}
                result => return result,
            }
        }
        self.with_owner(address, |heap| heap.free(address, stream))
    }

    /// Calls with the heap that owns an address.
    fn with_owner<T>(&self, address: u64, call: impl FnOnce(&mut Heap) -> Result<T, Error>) -> Result<T, Error> {
        for heap in self.devices.iter().filter_map(|device| device.heap.get()) {
            let mut heap = heap.lock();
            if heap.owns(address) {
                return call(&mut heap);
            }
        }
        Err(Error::NotAllocated { address })
    }

    /// Tells that `stream`, besides the block's own, uses the block that holds `address`.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn record_stream(&self, address: u64, stream: Stream) -> Result<(), Error> {
        self.with_owner(address, |heap| heap.record_stream(address, stream))
    }

    /// Says whether the block that holds `address` belongs to the model.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn mark(&self, address: u64, model: bool) -> Result<(), Error> {
        self.with_owner(address, |heap| heap.mark(address, model))
    }

    /// How many bytes of the block that holds `address` lie in each tier.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn residency(&self, address: u64) -> Result<PerTier<u64>, Error> {
        self.with_owner(address, |heap| heap.residency(address))
    }

    /// Start and length of the block that holds `address`.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn extent(&self, address: u64) -> Result<(u64, u64), Error> {
        self.with_owner(address, |heap| heap.extent(address))
    }

    /// Moves the block that holds `address` to a tier, with the small blocks that share its granules.
    ///
    /// # Errors
    /// An address in no live block; a tier without room; while a graph is captured; the driver's.
    pub fn move_block(&self, address: u64, tier: Tier) -> Result<Moved, Error> {
        self.with_owner(address, |heap| heap.move_block(address, tier))
    }

    /// Goes back to loading on a device, with reserve and persist kept from what is allocated until the next action.
    ///
    /// # Errors
    /// See [`Heap::begin_loading`].
    pub fn begin_loading(&self, device: usize, reserve: Reserve, persist: u64) -> Result<(), Error> {
        self.heap(device)?.begin_loading(reserve, persist)
    }

    /// The live blocks of a device in the order in which an action would let them claim dedicated memory.
    ///
    /// # Errors
    /// As for [`stats`](Kitten::stats).
    pub fn claims(&self, device: usize, order: Order) -> Result<Vec<Claim>, Error> {
        Ok(self.heap(device)?.claims(order))
    }

    /// Places everything on a device anew and freezes it. The caller sees to it that nobody launches work meanwhile.
    ///
    /// # Errors
    /// See [`Heap::activate`].
    pub fn activate(&self, device: usize, activation: &Activation) -> Result<Moved, Error> {
        self.heap(device)?.activate(activation.reserve, activation.persist, activation.order())
    }

    /// Places everything on a device anew, without reserve and persist, and thaws it.
    ///
    /// # Errors
    /// See [`Heap::disable`].
    pub fn disable(&self, device: usize, order: Order) -> Result<Moved, Error> {
        self.heap(device)?.disable(order)
    }

    /// A safe point of a device: nobody launches work until this returns, and `kind` names the work that comes next.
    ///
    /// # Errors
    /// See [`Heap::safe_point`].
    pub fn safe_point(&self, device: usize, kind: &str) -> Result<Moved, Error> {
        self.heap(device)?.safe_point(kind)
    }

    /// Tells the automatic mode that work reads `bytes` of the block that holds `address`.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn touch(&self, address: u64, bytes: u64) -> Result<(), Error> {
        self.with_owner(address, |heap| heap.touch(address, bytes))
    }

    /// Moves everything on a device to the shared tier and gives its dedicated memory back to the driver.
    ///
    /// # Errors
    /// See [`Heap::free_vram`].
    pub fn free_vram(&self, device: usize) -> Result<Moved, Error> {
        self.heap(device)?.free_vram()
    }

    /// PyTorch's `empty_cache`, on every device in use. Does nothing where frozen.
    ///
    /// # Errors
    /// The first device's that fails; the others were done all the same.
    pub fn reset(&self) -> Result<(), Error> {
        let mut first = Ok(());
        for heap in self.devices.iter().filter_map(|device| device.heap.get()) {
            let result = heap.lock().reset();
            first = first.and(result);
        }
        first
    }

    /// What is counted on a device.
    ///
    /// # Errors
    /// A device that does not exist; the driver's, at its first use.
    pub fn stats(&self, device: usize) -> Result<Stats, Error> {
        Ok(self.heap(device)?.stats())
    }

    /// Free space of a device beside small blocks, and beside large ones, that cannot be given back. O(blocks).
    ///
    /// # Errors
    /// As for [`stats`](Kitten::stats).
    pub fn splits(&self, device: usize) -> Result<[Splits; 2], Error> {
        Ok(self.heap(device)?.splits())
    }

    /// Forgets the peaks of a device.
    ///
    /// # Errors
    /// As for [`stats`](Kitten::stats).
    pub fn reset_peaks(&self, device: usize) -> Result<(), Error> {
        self.heap(device)?.stats_mut().reset_peaks();
        Ok(())
    }

    /// Begins anew to count on a device what only ever grows.
    ///
    /// # Errors
    /// As for [`stats`](Kitten::stats).
    pub fn reset_totals(&self, device: usize) -> Result<(), Error> {
        self.heap(device)?.stats_mut().reset_totals();
        Ok(())
    }

    /// What a device was found to be and have when it was first used.
    ///
    /// # Errors
    /// As for [`stats`](Kitten::stats).
    pub fn device_info(&self, device: usize) -> Result<DeviceInfo, Error> {
        Ok(self.heap(device)?.device_info().clone())
    }

    /// How the reserve in force on a device was found, for people.
    ///
    /// # Errors
    /// As for [`stats`](Kitten::stats).
    pub fn reserve_reason(&self, device: usize) -> Result<String, Error> {
        Ok(self.heap(device)?.reserve_reason())
    }

    /// The memory map of a device.
    ///
    /// # Errors
    /// As for [`stats`](Kitten::stats).
    pub fn map(&self, device: usize) -> Result<MemoryMap, Error> {
        Ok(self.heap(device)?.map())
    }

    /// Every segment of a device, with its blocks.
    ///
    /// # Errors
    /// As for [`stats`](Kitten::stats).
    pub fn segments(&self, device: usize) -> Result<Vec<Segment>, Error> {
        Ok(self.heap(device)?.segments())
    }

    /// Limits what a device's dedicated tier may hold to a fraction of the card.
    ///
    /// # Errors
    /// A fraction outside 0 to 1; as for [`stats`](Kitten::stats).
    pub fn set_memory_fraction(&self, device: usize, fraction: f64) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Error::Argument(format!("the memory fraction {fraction} is not between 0 and 1")));
        }
        self.heap(device)?.set_memory_fraction(fraction)
    }

    /// A graph capture begins to allocate from a pool: every allocation whose stream `filter` accepts.
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub fn begin_pool(
        &self,
        device: usize,
        pool: PoolId,
        filter: impl Fn(Stream) -> bool + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.begin_capture(device, Capture { pool, filter: Arc::new(Box::new(filter)), stream: None })
    }

    /// The same for the capture of one stream, ended by [`end_stream_pool`](Kitten::end_stream_pool).
    ///
    /// # Errors
    /// As for [`begin_pool`](Kitten::begin_pool).
    pub fn begin_stream_pool(&self, device: usize, stream: Stream, pool: PoolId) -> Result<(), Error> {
        let filter: Filter = Box::new(move |other| other == stream);
        self.begin_capture(device, Capture { pool, filter: Arc::new(filter), stream: Some(stream) })
    }

    fn begin_capture(&self, device: usize, capture: Capture) -> Result<(), Error> {
        self.heap(device)?.begin_pool(capture.pool)?;
        let device = self.device(device)?;
        device.captures.lock().push(capture);
        device.capture_count.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The capture is over.
    ///
    /// # Errors
    /// A pool with no capture under way.
    pub fn end_pool(&self, device: usize, pool: PoolId) -> Result<(), Error> {
        self.heap(device)?.end_pool(pool)?;
        let device = self.device(device)?;
        let mut captures = device.captures.lock();
        if let Some(at) = captures.iter().rposition(|capture| capture.pool == pool) {
            let capture = captures.remove(at);
            drop(captures);
            device.capture_count.fetch_sub(1, Ordering::Release);
            // Its filter is foreign code to the end: no lock is held.
            drop(capture);
        }
        Ok(())
    }

    /// The capture of a stream is over.
    ///
    /// # Errors
    /// A stream that is not captured.
    pub fn end_stream_pool(&self, device: usize, stream: Stream) -> Result<(), Error> {
        let captures = self.device(device)?.captures.lock().clone();
        match captures.iter().rfind(|capture| capture.stream == Some(stream)) {
            Some(capture) => self.end_pool(device, capture.pool),
            None => Err(Error::Argument(format!("no capture of stream {:#x} is under way", stream.0))),
        }
    }

    /// A graph that used the pool is gone.
    ///
    /// # Errors
    /// A pool that is not known.
    pub fn release_pool(&self, device: usize, pool: PoolId) -> Result<(), Error> {
        self.heap(device)?.release_pool(pool)
    }

    /// How many hold a pool.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn pool_holds(&self, device: usize, pool: PoolId) -> Result<u32, Error> {
        Ok(self.heap(device)?.pool_holds(pool))
    }

    /// Begins to record anew what happens, the last `most` events of each device; 0 ends it.
    pub fn record(&self, most: usize) {
        self.recording.store(most, Ordering::Release);
        self.devices.iter().filter_map(|device| device.heap.get()).for_each(|heap| heap.lock().record(most));
    }

    /// Whether what happens is recorded: then who gives out blocks tells of it by [`record_malloc`](Kitten::record_malloc), and
    /// takes them back by [`recorded_free`](Kitten::recorded_free).
    #[inline]
    pub fn is_recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed) != 0
    }

    /// What was recorded of a device, the oldest first.
    ///
    /// # Errors
    /// As for [`stats`](Kitten::stats).
    pub fn history(&self, device: usize) -> Result<Vec<Event>, Error> {
        Ok(self.heap(device)?.history())
    }

    /// Records what came of a request of `bytes`. `stack` is who asked, by a number of the caller's.
    pub fn record_malloc(&self, result: &Result<u64, Error>, bytes: usize, device: usize, stream: Stream, stack: u64) {
        if bytes > 0
            && let Ok(mut heap) = self.heap(device)
        {
            heap.record_malloc(result, bytes as u64, stream, stack);
        }
    }

    /// [`free`](Kitten::free), recorded before anybody else can have the block.
    ///
    /// # Errors
    /// As for [`free`](Kitten::free).
    pub fn recorded_free(&self, address: u64, stream: Stream, stack: u64) -> Result<(), Error> {
        self.with_owner(address, |heap| heap.recorded_free(address, stream, stack))
    }

    /// Tests the invariants of every heap. For tests: O(everything).
    ///
    /// # Errors
    /// The first that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        self.devices.iter().filter_map(|device| device.heap.get()).try_for_each(|heap| heap.lock().check())
    }

    /// Gives all memory of all devices back to the driver, live blocks and all. Nothing can be allocated afterwards.
    pub fn shutdown(&self) {
        self.devices.iter().filter_map(|device| device.heap.get()).for_each(|heap| heap.lock().close());
    }
}
