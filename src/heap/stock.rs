//! The stock: physical backing that is held from the driver, one handle a granule, and mapped nowhere; and the account of all that is held.

use std::sync::Arc;

use super::budget::Budget;
use crate::core::{PerTier, Tier};
use crate::driver::{self, Driver, Handle};

/// The handles of one device that are mapped nowhere, and the count of all that the driver was asked for.
#[derive(Debug)]
pub(super) struct Stock {
    driver: Arc<dyn Driver>,
    device: usize,
    granule: u64,
    handles: PerTier<Vec<Handle>>,
    held: PerTier<u64>,
    /// Where the host's memory is promised once to all that take of it.
    budget: Arc<Budget>,
}

impl Stock {
    pub(super) fn new(driver: Arc<dyn Driver>, device: usize, granule: u64, budget: Arc<Budget>) -> Self {
        Stock { driver, device, granule, handles: PerTier::default(), held: PerTier::default(), budget }
    }

    /// Bytes of a tier that the budget has left; no limit where none is kept.
    pub(super) fn left(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Dedicated => u64::MAX,
            Tier::Shared => self.budget.left(),
        }
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
            self.budget.give(bytes);
        }
    }

    /// Bytes held from the driver in a tier: here, mapped, pinned, or lost to a failure that is yet to be mended.
    pub(super) fn held(&self, tier: Tier) -> u64 {
        self.held[tier]
    }

    /// Bytes in stock.
    pub(super) fn bytes(&self, tier: Tier) -> u64 {
        self.handles[tier].len() as u64 * self.granule
    }

    /// A handle from the stock as long as more than `keep` bytes are in it, or else a new one as long as no more than `capacity`
    /// bytes are held.
    ///
    /// # Errors
    /// The driver's; `Ok(None)` where the capacity is reached.
    pub(super) fn take(&mut self, tier: Tier, keep: u64, capacity: u64) -> driver::Result<Option<Handle>> {
        if self.bytes(tier) > keep
            && let Some(handle) = self.handles[tier].pop()
        {
            return Ok(Some(handle));
        }
        if self.held[tier] + self.granule > capacity {
            return Ok(None);
        }
        let (device, granule) = (self.device, self.granule);
        self.obtain(tier, granule, |driver| driver.create(device, tier, granule))
    }

    /// Pins memory for the shared tier, which counts as held there; `Ok(None)` where more than `capacity` bytes would be.
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

    /// Gives pinned memory back to the driver.
    ///
    /// # Errors
    /// The driver's; it is held yet.
    pub(super) fn unpin(&mut self, address: u64, bytes: u64) -> driver::Result<()> {
        driver::insist(|| self.driver.unpin(self.device, address))?;
        self.held[Tier::Shared] -= bytes;
        self.repay(Tier::Shared, bytes);
        Ok(())
    }

    /// Puts a handle in that is mapped nowhere.
    pub(super) fn put(&mut self, tier: Tier, handle: Handle) {
        self.handles[tier].push(handle);
    }

    /// Creates handles until `bytes` are in stock, as long as no more than `capacity` bytes are held.
    ///
    /// # Errors
    /// The driver's; what was created stays.
    pub(super) fn fill(&mut self, tier: Tier, bytes: u64, capacity: u64) -> driver::Result<()> {
        while self.bytes(tier) < bytes && self.held[tier] + self.granule <= capacity {
            let (device, granule) = (self.device, self.granule);
            match self.obtain(tier, granule, |driver| driver.create(device, tier, granule))? {
                Some(handle) => self.handles[tier].push(handle),
                None => break,
            }
        }
        Ok(())
    }

    /// Gives handles back to the driver until no more than `bytes` are in stock. One that the driver will not take stays.
    pub(super) fn trim(&mut self, tier: Tier, bytes: u64) {
        let mut refused = Vec::new();
        while self.bytes(tier) + refused.len() as u64 * self.granule > bytes
            && let Some(handle) = self.handles[tier].pop()
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
        self.handles[tier].append(&mut refused);
    }
}
