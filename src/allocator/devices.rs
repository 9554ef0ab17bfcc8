//! The devices of a process: a heap for each, made when the device is first used.

use std::sync::Arc;

use once_cell::sync::OnceCell;

use super::contexts::Contexts;
use super::remembered::Place;
use super::{Found, Options};
use crate::core::history::Recording;
use crate::core::policy::Wanted;
use crate::core::{PerTier, ThreadId, Tier};
use crate::driver::{DeviceInfo, Driver};
use crate::error::Error;
use crate::heap::{Budget, Heap, HeapOptions, MemoryInfo};
use crate::sync::{Mutex, MutexGuard};

/// One device.
#[derive(Default)]
pub(super) struct Device {
    heap: OnceCell<Mutex<Heap>>,
    /// Held while the heap is made.
    before: Mutex<Before>,
    pub(super) contexts: Contexts,
}

/// What is said of a device before its first use.
#[derive(Default)]
struct Before {
    /// The fraction of the card that the dedicated tier may hold at most.
    fraction: Option<f64>,
    /// The threads inside a piece of work, once for each piece.
    at_work: Vec<ThreadId>,
}

/// All devices, over one driver.
pub(super) struct Devices {
    driver: Arc<dyn Driver>,
    options: Options,
    devices: Box<[Device]>,
    /// The host's memory, as the first device that was used or looked at found it.
    budget: OnceCell<Arc<Budget>>,
}

impl Devices {
    /// The devices of a driver. None is touched yet.
    ///
    /// # Errors
    /// The driver's, where it cannot count its devices.
    pub(super) fn new(options: Options, driver: Arc<dyn Driver>) -> Result<Devices, Error> {
        let count = driver.device_count()?;
        let devices = (0..count).map(|_| Device::default()).collect();
        Ok(Devices { driver, options, devices, budget: OnceCell::new() })
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn count(&self) -> usize {
        self.devices.len()
    }

    /// A device.
    ///
    /// # Errors
    /// One that does not exist.
    #[inline]
    pub(super) fn get(&self, device: usize) -> Result<&Device, Error> {
        self.devices.get(device).ok_or_else(|| {
            Error::argument(format!("there is no device {device}: this machine has {}", self.devices.len()))
        })
    }

    /// The heaps that were made.
    pub(super) fn heaps(&self) -> impl Iterator<Item = &Mutex<Heap>> {
        self.devices.iter().filter_map(|device| device.heap.get())
    }

    /// The heap of a device, which is made if this is the first use. `recording` says what it
    /// records from its start.
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    #[inline]
    pub(super) fn heap(&self, device: usize, recording: &Mutex<Recording>) -> Result<MutexGuard<'_, Heap>, Error> {
        match self.get(device)?.heap.get() {
            Some(heap) => Ok(heap.lock()),
            None => self.first_use(device, recording),
        }
    }

    #[cold]
    fn first_use(&self, device: usize, recording: &Mutex<Recording>) -> Result<MutexGuard<'_, Heap>, Error> {
        let of = self.get(device)?;
        let mut before = of.before.lock();
        if of.heap.get().is_none() {
            let info = self.driver.device_info(device)?;
            let budget = self.budget(&info).clone();
            let options = HeapOptions {
                limits: self.options.limits.clone(),
                reserve: self.options.activation.reserve,
                safe_point_at_reset: self.options.safe_point_at_reset,
                copy_ahead: self.options.copy_ahead,
                layout: self.options.layout,
                wanted: self.earlier_run(&info, budget.limit()),
            };
            let mut heap = Heap::new(self.driver.clone(), device, info, &options, budget)?;
            // Held until the heap can be found, or a change of what is recorded would miss it.
            let recording = recording.lock();
            heap.record(*recording);
            if let Some(fraction) = before.fraction {
                heap.set_memory_fraction(fraction)?;
            }
            before.at_work.drain(..).for_each(|thread| heap.begin_work(thread));
            // Nobody else can have set it: the lock is held.
            let _ = of.heap.set(Mutex::new(heap));
        }
        match of.heap.get() {
            Some(heap) => Ok(heap.lock()),
            None => Err(Error::refused(format!("the heap of device {device} could not be kept"))),
        }
    }

    /// The heap of a device that is in use; `None` where it is not: a question begins nothing.
    ///
    /// # Errors
    /// A device that does not exist.
    #[inline]
    pub(super) fn in_use(&self, device: usize) -> Result<Option<MutexGuard<'_, Heap>>, Error> {
        Ok(self.get(device)?.heap.get().map(Mutex::lock))
    }

    /// Calls with the heap that owns an address.
    ///
    /// # Errors
    /// An address that no heap owns; those of the call.
    pub(super) fn with_owner<T>(
        &self,
        address: u64,
        call: impl FnOnce(&mut Heap) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for heap in self.heaps() {
            let mut heap = heap.lock();
            if heap.owns(address) {
                return call(&mut heap);
            }
        }
        Err(Error::NotAllocated { address })
    }

    /// Calls with every heap that was made.
    ///
    /// # Errors
    /// The first heap's that fails; the others were called nevertheless.
    pub(super) fn for_each(&self, mut call: impl FnMut(&mut Heap) -> Result<(), Error>) -> Result<(), Error> {
        let mut first = Ok(());
        for heap in self.heaps() {
            let done = call(&mut heap.lock());
            first = first.and(done);
        }
        first
    }

    /// A thread begins a piece of work on a device, which need not be in use yet.
    ///
    /// # Errors
    /// A device that does not exist.
    pub(super) fn begin_work(&self, device: usize, thread: ThreadId) -> Result<(), Error> {
        let of = self.get(device)?;
        if of.heap.get().is_none() {
            let mut before = of.before.lock();
            if of.heap.get().is_none() {
                before.at_work.push(thread);
                return Ok(());
            }
        }
        self.in_use(device)?.iter_mut().for_each(|heap| heap.begin_work(thread));
        Ok(())
    }

    /// A thread ends the piece of work that it began last on a device.
    ///
    /// # Errors
    /// A device that does not exist.
    pub(super) fn end_work(&self, device: usize, thread: ThreadId) -> Result<(), Error> {
        let of = self.get(device)?;
        if of.heap.get().is_none() {
            let mut before = of.before.lock();
            if of.heap.get().is_none() {
                if let Some(at) = before.at_work.iter().rposition(|known| *known == thread) {
                    before.at_work.remove(at);
                }
                return Ok(());
            }
        }
        self.in_use(device)?.iter_mut().for_each(|heap| heap.end_work(thread));
        Ok(())
    }

    /// Limits a device to a fraction of the card, which need not be in use yet.
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub(super) fn set_memory_fraction(&self, device: usize, fraction: f64) -> Result<(), Error> {
        self.get(device)?.before.lock().fraction = Some(fraction);
        self.in_use(device)?.map_or(Ok(()), |mut heap| heap.set_memory_fraction(fraction))
    }

    /// What a device is found to be; see [`Allocator::look_at`](super::Allocator::look_at).
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub(super) fn look_at(&self, device: usize) -> Result<Found, Error> {
        self.get(device)?;
        let info = self.driver.device_info(device)?;
        let budget = self.budget(&info);
        let granted = self.driver.granted(device).map(|granted| granted.map(|granted| granted.of).unwrap_or_default());
        let mut capacity = self.options.limits.capacity(&info, budget.limit());
        if let Ok(granted) = granted {
            let held = self.in_use(device)?.map_or_else(PerTier::default, |heap| heap.held());
            let headroom = self.options.limits.headroom(&info);
            capacity = PerTier::from_fn(|tier| match granted[tier] {
                Some(grant) => grant.allows(held[tier], headroom).min(capacity[tier]),
                None => capacity[tier],
            });
        }
        let granted = granted.map(|granted| granted.map(Option::unwrap_or_default));
        let (used, others) = (budget.used(), budget.others());
        Ok(Found { capacity, budget: budget.limit(), used, others, granted, info })
    }

    /// What can be had of a device's memory now. One that is not in use is looked at.
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub(super) fn memory_info(&self, device: usize) -> Result<MemoryInfo, Error> {
        if let Some(mut heap) = self.in_use(device)? {
            return heap.memory_info();
        }
        let found = self.look_at(device)?;
        let left = self.budget(&found.info).left();
        let free = PerTier::from_fn(|tier| match tier {
            Tier::Dedicated => found.capacity[tier],
            Tier::Shared => left.min(found.capacity[tier]),
        });
        Ok(MemoryInfo { free, total: found.capacity })
    }

    fn budget(&self, info: &DeviceInfo) -> &Arc<Budget> {
        self.budget.get_or_init(|| Arc::new(self.options.limits.budget(info)))
    }

    /// What an earlier run of this program would have wanted of a device, if that is to be
    /// remembered and is known.
    fn earlier_run(&self, info: &DeviceInfo, budget: u64) -> Option<Wanted> {
        if self.options.remembered.is_some() || !self.options.remember {
            return self.options.remembered;
        }
        let place = Place::of_this_program(&info.name);
        if place.is_none() {
            log::warn!(
                "reserve:remembered remembers nothing here: what runs is not a file, and has no name to be known by"
            );
        }
        place?.read(self.options.limits.capacity(info, budget)[Tier::Dedicated])
    }
}
