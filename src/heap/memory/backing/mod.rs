//! The backing of a device: every handle that is held from the driver, and every call that maps,
//! unmaps or repairs one.
//!
//! ```text
//!   held  =  in stock  +  mapped at arena addresses  +  stuck
//!            (no address)  (the arenas know where)      (mapped somewhere else by a failed call)
//! ```
//!
//! A driver call that fails undoes what it was part of. Where not even that succeeds, the backing
//! is kept here as stuck or detached, and repaired at the next opportunity: no backing is lost, and
//! no byte.

mod rehouse;

use std::sync::Arc;

use self::rehouse::Working;
use super::budget::Budget;
use crate::core::{PerTier, Tier, show_size};
use crate::driver::{self, Driver, DriverError, Handle};
use crate::error::Error;

pub(super) use self::rehouse::{Batch, Exchanged};

/// The handles of one device.
#[derive(Debug)]
pub(in crate::heap) struct Backing {
    driver: Arc<dyn Driver>,
    device: usize,
    granule: u64,
    /// The stock: handles that are mapped nowhere.
    stock: PerTier<Vec<Handle>>,
    held: PerTier<u64>,
    /// Where the host's memory is promised once to all devices and processes.
    budget: Arc<Budget>,
    /// Backing that is mapped where it should not be.
    stuck: Vec<Stuck>,
    /// Granules whose backing is mapped nowhere, or is mapped and cannot be accessed.
    detached: Vec<Detached>,
    /// Where new backing is mapped while it is filled.
    working: Option<Working>,
    /// All ranges ever reserved for that, and those of memory that was mapped twice: their first
    /// addresses and lengths.
    reserved: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct Stuck {
    address: u64,
    /// The length of the range. Handles may be mapped in it twice.
    bytes: u64,
    handles: Vec<Handle>,
    tier: Tier,
    /// Whether a copy may still write there, because waiting for it failed.
    is_written: bool,
}

/// A granule whose backing could not be attached to its address, and why.
#[derive(Debug)]
struct Detached {
    address: u64,
    handle: Handle,
    how: Unattached,
    why: DriverError,
}

/// How such a granule is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unattached {
    /// Mapped nowhere.
    Unmapped,
    /// Mapped, without access.
    Inaccessible,
}

impl Backing {
    pub(super) fn new(driver: Arc<dyn Driver>, device: usize, granule: u64, budget: Arc<Budget>) -> Self {
        Backing {
            driver,
            device,
            granule,
            stock: PerTier::default(),
            held: PerTier::default(),
            budget,
            stuck: Vec::new(),
            detached: Vec::new(),
            working: None,
            reserved: Vec::new(),
        }
    }

    /// Bytes that are held from the driver in a tier.
    pub(in crate::heap) fn held(&self, tier: Tier) -> u64 {
        self.held[tier]
    }

    /// Bytes in stock.
    pub(in crate::heap) fn in_stock(&self, tier: Tier) -> u64 {
        self.stock[tier].len() as u64 * self.granule
    }

    /// Bytes of a tier that the budget has left; no limit where none is kept.
    pub(super) fn left(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Dedicated => u64::MAX,
            Tier::Shared => self.budget.left(),
        }
    }

    /// Bytes that are mapped where they should not be.
    pub(super) fn stuck(&self, tier: Tier) -> u64 {
        let stuck = self.stuck.iter().filter(|stuck| stuck.tier == tier);
        stuck.map(|stuck| stuck.handles.len() as u64 * self.granule).sum()
    }

    /// Bytes of the host's memory that other processes of this user hold. O(processes).
    pub(super) fn elsewhere(&self) -> u64 {
        self.budget.others()
    }

    /// Asks the driver for something of `bytes` in a tier; `Ok(None)` where the budget has no more.
    fn obtain<T>(
        &mut self,
        tier: Tier,
        bytes: u64,
        ask: impl FnOnce(&dyn Driver) -> driver::Result<T>,
    ) -> driver::Result<Option<T>> {
        if tier == Tier::Shared && !self.budget.take(bytes) {
            return Ok(None);
        }
        match ask(&*self.driver) {
            Ok(made) => {
                self.held[tier] += bytes;
                Ok(Some(made))
            }
            Err(why) => {
                self.repay(tier, bytes);
                Err(why)
            }
        }
    }

    fn repay(&self, tier: Tier, bytes: u64) {
        if tier == Tier::Shared {
            self.budget.give_back(bytes);
        }
    }

    /// Takes a handle from the stock as long as more than `keep` bytes are in it, or else creates
    /// one as long as no more than `capacity` bytes are held.
    ///
    /// # Errors
    /// The driver's; `Ok(None)` where the capacity is reached.
    pub(super) fn take(&mut self, tier: Tier, keep: u64, capacity: u64) -> driver::Result<Option<Handle>> {
        if self.in_stock(tier) > keep
            && let Some(handle) = self.stock[tier].pop()
        {
            return Ok(Some(handle));
        }
        if self.held[tier] + self.granule > capacity { Ok(None) } else { self.create(tier) }
    }

    fn create(&mut self, tier: Tier) -> driver::Result<Option<Handle>> {
        let (device, granule) = (self.device, self.granule);
        self.obtain(tier, granule, |driver| driver.create(device, tier, granule))
    }

    /// Puts a handle into the stock that is mapped nowhere.
    pub(super) fn put(&mut self, tier: Tier, handle: Handle) {
        self.stock[tier].push(handle);
    }

    /// Creates handles until `bytes` are in stock, as long as no more than `capacity` bytes are
    /// held.
    ///
    /// # Errors
    /// The driver's; the handles that were created stay.
    pub(super) fn fill(&mut self, tier: Tier, bytes: u64, capacity: u64) -> driver::Result<()> {
        while self.in_stock(tier) < bytes && self.held[tier] + self.granule <= capacity {
            match self.create(tier)? {
                Some(handle) => self.put(tier, handle),
                None => break,
            }
        }
        Ok(())
    }

    /// Releases handles to the driver until no more than `bytes` are in stock. One that the driver
    /// refuses stays.
    pub(in crate::heap) fn trim(&mut self, tier: Tier, bytes: u64) {
        let mut refused = Vec::new();
        while self.in_stock(tier) + refused.len() as u64 * self.granule > bytes
            && let Some(handle) = self.stock[tier].pop()
        {
            match driver::insist(|| self.driver.release(self.device, handle)) {
                Ok(()) => {
                    self.held[tier] -= self.granule;
                    self.repay(tier, self.granule);
                }
                Err(why) => {
                    log::debug!("backing stays in stock: {why}");
                    refused.push(handle);
                }
            }
        }
        self.stock[tier].append(&mut refused);
    }

    /// Pins memory for the shared tier, which counts as held there; `Ok(None)` where more than
    /// `capacity` bytes would be.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn pin(&mut self, bytes: u64, capacity: u64) -> driver::Result<Option<u64>> {
        if self.held[Tier::Shared] + bytes > capacity {
            return Ok(None);
        }
        let device = self.device;
        self.obtain(Tier::Shared, bytes, |driver| driver.pin(device, bytes))
    }

    /// Frees pinned memory.
    ///
    /// # Errors
    /// The driver's; the memory is still held.
    pub(super) fn unpin(&mut self, address: u64, bytes: u64) -> driver::Result<()> {
        driver::insist(|| self.driver.unpin(self.device, address))?;
        self.held[Tier::Shared] -= bytes;
        self.repay(Tier::Shared, bytes);
        Ok(())
    }

    /// Maps handles one behind the other at `address`, readable and writable.
    ///
    /// # Errors
    /// The driver's; the handles are in stock again, or stuck.
    pub(super) fn map_run(&mut self, address: u64, handles: &[Handle], tier: Tier) -> driver::Result<()> {
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
            loose.iter().for_each(|handle| self.put(tier, *handle));
            self.undo_map(address, mapped as u64 * self.granule, stuck.to_vec(), tier);
        }
        result
    }

    /// Maps handles of the dedicated tier one behind the other at `address`, and all of them once
    /// more behind that, readable and writable.
    ///
    /// # Errors
    /// The driver's; the handles are in stock again, or stuck.
    pub(super) fn map_twice(&mut self, address: u64, handles: &[Handle]) -> driver::Result<()> {
        let mut mapped = 0;
        let twice = handles.iter().chain(handles).try_for_each(|handle| {
            self.driver.map(self.device, address + mapped, self.granule, *handle)?;
            mapped += self.granule;
            Ok(())
        });
        let result = twice.and_then(|()| self.driver.set_access(self.device, address, mapped));
        if result.is_err() {
            if mapped == 0 {
                handles.iter().for_each(|handle| self.put(Tier::Dedicated, *handle));
            }
            self.undo_map(address, mapped, if mapped == 0 { Vec::new() } else { handles.to_vec() }, Tier::Dedicated);
        }
        result
    }

    /// Undoes [`map_twice`](Backing::map_twice): the handles are in stock again, or stuck. No work
    /// may touch the range any more. Returns whether the addresses are free.
    pub(super) fn unmap_twice(&mut self, address: u64, handles: Vec<Handle>) -> bool {
        self.undo_map(address, 2 * handles.len() as u64 * self.granule, handles, Tier::Dedicated)
    }

    /// Unmaps a run of granules. Their handles are the caller's.
    ///
    /// # Errors
    /// The driver's; the granules are mapped as before.
    pub(super) fn unmap_run(&mut self, address: u64, bytes: u64) -> driver::Result<()> {
        driver::insist(|| self.driver.unmap(self.device, address, bytes))?;
        self.detached.retain(|detached| !(address..address + bytes).contains(&detached.address));
        Ok(())
    }

    /// Undoes the mapping of a run of handles, which return to the stock. Where that fails they are
    /// stuck until later. Returns whether the addresses are free.
    fn undo_map(&mut self, address: u64, bytes: u64, handles: Vec<Handle>, tier: Tier) -> bool {
        if handles.is_empty() {
            return true;
        }
        let unmapped = driver::insist(|| self.driver.unmap(self.device, address, bytes));
        match &unmapped {
            Ok(()) => handles.into_iter().for_each(|handle| self.put(tier, handle)),
            Err(why) => {
                log::debug!("{} at {address:#x} could not be unmapped yet: {why}", show_size(bytes));
                self.stuck.push(Stuck { address, bytes, handles, tier, is_written: false });
            }
        }
        unmapped.is_ok()
    }

    /// Maps a handle at an address, accessible; or says how that was left.
    fn attach(&self, address: u64, handle: Handle) -> Result<(), (Unattached, DriverError)> {
        let unmapped = |why| (Unattached::Unmapped, why);
        driver::insist(|| self.driver.map(self.device, address, self.granule, handle)).map_err(unmapped)?;
        self.open(address)
    }

    /// Makes a granule accessible that is mapped; or says how that was left.
    fn open(&self, address: u64) -> Result<(), (Unattached, DriverError)> {
        self.make_accessible(address).map_err(|why| {
            match driver::insist(|| self.driver.unmap(self.device, address, self.granule)) {
                Ok(()) => (Unattached::Unmapped, why),
                Err(_) => (Unattached::Inaccessible, why),
            }
        })
    }

    /// Reserves `bytes` of addresses, which are returned when everything is.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn addresses(&mut self, bytes: u64) -> driver::Result<u64> {
        let address = self.driver.reserve(self.device, bytes, self.granule)?;
        self.reserved.push((address, bytes));
        Ok(address)
    }

    fn make_accessible(&self, address: u64) -> driver::Result<()> {
        driver::insist(|| self.driver.set_access(self.device, address, self.granule))
    }

    /// Whether every granule is mapped as the arenas say.
    #[inline]
    pub(in crate::heap) fn is_whole(&self) -> bool {
        self.detached.is_empty()
    }

    /// Tries again what failed calls have left undone.
    pub(in crate::heap) fn mend(&mut self) {
        for stuck in std::mem::take(&mut self.stuck) {
            if stuck.is_written && self.finish_copies().is_err() {
                self.stuck.push(stuck);
                continue;
            }
            self.undo_map(stuck.address, stuck.bytes, stuck.handles, stuck.tier);
        }
        for Detached { address, handle, how, .. } in std::mem::take(&mut self.detached) {
            let attached = match how {
                Unattached::Unmapped => self.attach(address, handle),
                Unattached::Inaccessible => self.make_accessible(address).map_err(|why| (how, why)),
            };
            if let Err((how, why)) = attached {
                log::error!("the granule at {address:#x} has lost its mapping and cannot get it back yet: {why}");
                self.detached.push(Detached { address, handle, how, why });
            }
        }
    }

    /// [`mend`](Backing::mend), for a caller that needs every granule mapped as the arenas say.
    ///
    /// # Errors
    /// The driver's, while a granule cannot get its mapping back: free space on it must not be
    /// allocated, and the blocks on it cannot be used.
    #[cold]
    pub(in crate::heap) fn make_whole(&mut self) -> Result<(), Error> {
        self.mend();
        match self.detached.first() {
            None => Ok(()),
            Some(detached) => Err(detached.why.clone().into()),
        }
    }

    /// Releases everything that is not mapped at arena addresses. Errors are only logged: at the
    /// end of a process the driver may be gone already.
    pub(super) fn close(&mut self) {
        for (address, bytes) in self.reserved.drain(..) {
            if let Err(why) = driver::insist(|| self.driver.unreserve(self.device, address, bytes)) {
                log::debug!("addresses were left behind: {why}");
            }
        }
        self.working = None;
        Tier::ALL.into_iter().for_each(|tier| self.trim(tier, 0));
    }
}
