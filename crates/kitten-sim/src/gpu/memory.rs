//! Calls about addresses and backing.

use super::Gpu;
use crate::code::Result;
use crate::memory::Tier;
use crate::profile::Profile;
use crate::races::Access;

impl Gpu {
    /// Capacity and free bytes of a tier.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn memory_info(&self, device: usize, tier: Tier) -> Result<(u64, u64)> {
        Ok(self.device_call("cuMemGetInfo", device, |_| 0.0)?.memory.info(device, tier))
    }

    /// Reserves addresses: real ones of this process.
    ///
    /// # Errors
    /// An invalid length or alignment; no addresses left.
    pub fn reserve(&self, device: usize, bytes: u64, align: u64) -> Result<u64> {
        self.device_call("cuMemAddressReserve", device, |p| p.seconds.reserve)?.memory.reserve(device, bytes, align)
    }

    /// Frees a whole reservation, in which nothing is mapped.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn unreserve(&self, address: u64, bytes: u64) -> Result<()> {
        self.enter("cuMemAddressFree", 0.0)?.memory.unreserve(address, bytes)
    }

    /// Creates backing, which reads as zeros.
    ///
    /// # Errors
    /// A length that is not a multiple of the granularity; out of memory.
    pub fn create(&self, device: usize, tier: Tier, bytes: u64) -> Result<u64> {
        let cost = |p: &Profile| match tier {
            Tier::Dedicated => p.seconds.create_dedicated,
            Tier::Shared => p.seconds.create_shared,
        };
        self.device_call("cuMemCreate", device, cost)?.memory.create(device, tier, bytes)
    }

    /// Pins host memory, in whole pages, at an address that the device reads and writes as well.
    /// The memory reads as zeros.
    ///
    /// # Errors
    /// No bytes; out of memory.
    pub fn pin(&self, device: usize, bytes: u64) -> Result<u64> {
        let cost = |p: &Profile| p.seconds.create_shared * bytes.div_ceil(p.granularity) as f64;
        self.device_call("cuMemHostAlloc", device, cost)?.memory.pin(device, bytes)
    }

    /// Frees pinned memory. It is a fault if work that touches it is not sure to be done.
    ///
    /// # Errors
    /// An address that [`pin`](Gpu::pin) did not return.
    pub fn unpin(&self, address: u64) -> Result<()> {
        let mut state = self.enter("cuMemFreeHost", 0.0)?;
        let bytes = state.memory.unpin(address)?;
        state.streams.host_use("cuMemFreeHost", Access::write(address, bytes));
        Ok(())
    }

    /// Whether memory pinned for a device begins at an address.
    pub fn is_pinned(&self, address: u64) -> bool {
        self.state().memory.is_pinned(address)
    }

    /// Releases backing. It is freed with its last mapping.
    ///
    /// # Errors
    /// A handle that is unknown or released.
    pub fn release(&self, device: usize, handle: u64) -> Result<()> {
        self.device_call("cuMemRelease", device, |p| p.seconds.release)?.memory.release(handle)
    }

    /// Maps a whole handle. The memory is unreadable until access is set.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn map(&self, device: usize, address: u64, bytes: u64, handle: u64) -> Result<()> {
        self.device_call("cuMemMap", device, |p| p.seconds.map)?.memory.map(device, address, bytes, handle)
    }

    /// Unmaps whole mappings. It is a fault if work that touches them is not sure to be done.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn unmap(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        let mut state = self.device_call("cuMemUnmap", device, |p| p.seconds.unmap)?;
        state.memory.unmap(address, bytes)?;
        state.streams.host_use("cuMemUnmap", Access::write(address, bytes));
        Ok(())
    }

    /// Makes a mapped range readable and writable.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn set_access(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        self.device_call("cuMemSetAccess", device, |p| p.seconds.set_access)?.memory.set_access(address, bytes)
    }

    /// Whether an address lies in a reservation, and so is a device's and not the host's.
    pub fn is_device_address(&self, address: u64) -> bool {
        self.state().memory.is_reserved(address)
    }

    /// The device whose memory, dedicated or shared, is mapped at an address.
    pub fn device_of_address(&self, address: u64) -> Option<usize> {
        self.state().memory.device_of(address)
    }
}
