//! The allocator of a process: one heap for each device, each behind a lock.
//!
//! ```text
//!   mod         allocate and free, and the settings of one block
//!   actions     the actions that move live memory, and reports about running work
//!   passes      passes of work, whose weights are lent from the ring of copies
//!   reclaim     the return of idle memory to the driver
//!   pools       pools of graph captures and of programs
//!   watch       queries, none of which initializes a device for use
//!   recording   the history of events
//!
//!   devices     a heap for each device, created at its first use; settings made before that
//!   contexts    which pool serves an allocation
//!   options     the one table from which the parser and the reference page are made
//!   remembered  what a run would have wanted, kept for the next one
//! ```
//!
//! A call names a device, or the device is found by the address that the call is about. The table
//! of [`core::phase`](crate::core::Phase) says which action may follow which.

mod actions;
mod contexts;
mod devices;
mod options;
mod passes;
mod pools;
mod reclaim;
mod recording;
mod remembered;
#[cfg(all(test, giant_kitten_shuttle))]
mod threads;
mod watch;

use std::sync::Arc;

use self::devices::Devices;
use self::pools::Pools;
use self::recording::Recorded;
use self::remembered::Place;
use crate::core::{Grant, PerTier, Tier};
use crate::driver::{DeviceInfo, Driver, Stream};
use crate::error::Error;
use crate::heap::Heap;
use crate::sync::MutexGuard;

pub(crate) use self::remembered::forget;

pub use self::options::{OPTIONS, OptionRow, Options, reference};
pub use self::watch::Look;

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
    /// What the operating system grants this process of each tier, nothing where it keeps no
    /// account; or why it does not tell.
    pub granted: Result<PerTier<Grant>, String>,
}

/// The allocator of a process.
pub struct Allocator {
    devices: Devices,
    recorded: Recorded,
    pools: Pools,
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
            recorded: Recorded::default(),
            pools: Pools::default(),
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
        self.devices.heap(device, &self.recorded.recording)
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

    /// Limits the dedicated tier of a device to a fraction of the card, from its first use on.
    ///
    /// # Errors
    /// A fraction outside 0 to 1; a device that does not exist; the driver's.
    pub fn set_memory_fraction(&self, device: usize, fraction: f64) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Error::argument(format!("the memory fraction {fraction} is not between 0 and 1")));
        }
        self.devices.set_memory_fraction(device, fraction)
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
