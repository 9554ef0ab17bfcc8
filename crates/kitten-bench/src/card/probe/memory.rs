//! Memory to measure.

use anyhow::{Context, Result};
use giant_kitten::Tier;
use giant_kitten::driver::{Driver, Handle};

use crate::card::Range;

/// A range of addresses with backing, all of it released at the end.
pub(super) struct Backed<'a> {
    driver: &'a dyn Driver,
    device: usize,
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) granule: u64,
    pub(super) handles: Vec<Handle>,
}

impl<'a> Backed<'a> {
    /// Granules of the given tiers, one after the other.
    pub(super) fn new(
        driver: &'a dyn Driver,
        device: usize,
        granule: u64,
        tiers: &[(Tier, u64)],
    ) -> Result<Backed<'a>> {
        let bytes = tiers.iter().map(|(_, bytes)| bytes).sum();
        let address = driver.reserve(device, bytes, granule)?;
        let mut range = Backed { driver, device, address, bytes, granule, handles: Vec::new() };
        for tier in tiers.iter().flat_map(|(tier, bytes)| std::iter::repeat_n(*tier, (bytes / granule) as usize)) {
            let handle =
                driver.create(device, tier, granule).with_context(|| format!("{tier} memory for the probe"))?;
            let at = address + range.handles.len() as u64 * granule;
            if let Err(why) = driver.map(device, at, granule, handle) {
                let _ = driver.release(device, handle);
                return Err(why.into());
            }
            range.handles.push(handle);
        }
        driver.set_access(device, address, bytes)?;
        Ok(range)
    }

    /// The whole range.
    pub(super) fn whole(&self) -> Range {
        (self.address, self.bytes)
    }
}

impl Drop for Backed<'_> {
    fn drop(&mut self) {
        let mapped = self.handles.len() as u64 * self.granule;
        let _ = self.driver.synchronize(self.device);
        if mapped > 0 {
            let _ = self.driver.unmap(self.device, self.address, mapped);
        }
        for handle in &self.handles {
            let _ = self.driver.release(self.device, *handle);
        }
        let _ = self.driver.unreserve(self.device, self.address, self.bytes);
    }
}
