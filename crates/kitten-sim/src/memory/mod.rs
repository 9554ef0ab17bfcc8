//! Addresses, backing and mappings, with the rules of the CUDA driver. The bytes are real: a tier
//! is a sparse file in memory, an address is one of this process, and a mapping maps the file
//! there. Untouched memory costs nothing.
//!
//! ```text
//!   reservation   ├───────────────────────────────────────────┤   PROT_NONE
//!   mappings           ├ A ┤├ B ┤         ├ A ┤                 MAP_FIXED | MAP_SHARED
//!                        │     │             │
//!   the tier's file  ├─ A ─┼─ B ─┼───────┼─────┤                 holes where nothing was written
//! ```

mod bytes;
mod pool;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::code::{self, Result, error};
use crate::profile::Profile;
use pool::Pool;

/// Where backing lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// The card's own memory.
    Dedicated,
    /// Host memory mapped for the device.
    Shared,
}

#[derive(Clone, Copy, Debug)]
struct Backing {
    device: usize,
    tier: Tier,
    offset: u64,
    bytes: u64,
    mappings: u32,
    released: bool,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    bytes: u64,
    handle: u64,
    accessible: bool,
    /// Whether the memory came with its address, and is freed with it.
    pinned: bool,
}

/// All memory of the machine.
#[derive(Debug)]
pub(crate) struct Memory {
    granularity: Vec<u64>,
    /// Whether backing can be created in a device's shared tier.
    migrates: Vec<bool>,
    pools: Vec<[Pool; 2]>,
    backings: BTreeMap<u64, Backing>,
    next_handle: u64,
    reservations: BTreeMap<u64, (u64, usize)>,
    mappings: BTreeMap<u64, Mapping>,
    /// How much backing lies at more than one address.
    at_several: usize,
}

impl Memory {
    pub(crate) fn new(profiles: &[Profile]) -> Result<Memory> {
        let whole = |bytes: u64, granularity: u64| bytes / granularity * granularity;
        let pools = profiles
            .iter()
            .map(|p| {
                Ok([
                    Pool::new(whole(p.dedicated_bytes, p.granularity))?,
                    Pool::new(whole(p.shared_bytes, p.granularity))?,
                ])
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Memory {
            granularity: profiles.iter().map(|p| p.granularity).collect(),
            migrates: profiles.iter().map(|p| p.migrates).collect(),
            pools,
            backings: BTreeMap::new(),
            next_handle: 1,
            reservations: BTreeMap::new(),
            mappings: BTreeMap::new(),
            at_several: 0,
        })
    }

    /// Capacity and free bytes of a tier.
    pub(crate) fn info(&self, device: usize, tier: Tier) -> (u64, u64) {
        let pool = &self.pools[device][tier as usize];
        (pool.capacity, (pool.capacity - pool.used).saturating_sub(pool.taken))
    }

    pub(crate) fn set_taken(&mut self, device: usize, bytes: u64) {
        self.pools[device][0].taken = bytes;
    }

    fn whole(&self, call: &'static str, device: usize, bytes: u64) -> Result<()> {
        let granularity = self.granularity[device];
        if bytes == 0 || !bytes.is_multiple_of(granularity) {
            return error(
                call,
                code::INVALID_VALUE,
                format!("the size {bytes} is not a multiple of the granularity {granularity}"),
            );
        }
        Ok(())
    }

    pub(crate) fn reserve(&mut self, device: usize, bytes: u64, align: u64) -> Result<u64> {
        const CALL: &str = "cuMemAddressReserve";
        self.whole(CALL, device, bytes)?;
        let align = align.max(self.granularity[device]);
        if !align.is_power_of_two() {
            return error(CALL, code::INVALID_VALUE, format!("the alignment {align} is not a power of two"));
        }
        self.addresses(CALL, device, bytes, align, 0)
    }

    /// Takes addresses of this process, `past` bytes past a multiple of `align`.
    fn addresses(&mut self, call: &'static str, device: usize, bytes: u64, align: u64, past: u64) -> Result<u64> {
        let padded = (bytes + align + past) as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe { libc::mmap(ptr::null_mut(), padded, libc::PROT_NONE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return error(
                call,
                code::OUT_OF_MEMORY,
                format!("no {bytes} bytes of addresses: {}", std::io::Error::last_os_error()),
            );
        }
        let start = (at as u64).next_multiple_of(align) + past;
        let (before, after) = (start - at as u64, at as u64 + padded as u64 - start - bytes);
        for (at, bytes) in [(at as u64, before), (start + bytes, after)] {
            if bytes > 0 {
                // SAFETY: the trimmed ends of the mapping just made.
                unsafe { libc::munmap(at as *mut libc::c_void, bytes as usize) };
            }
        }
        self.reservations.insert(start, (bytes, device));
        Ok(start)
    }

    pub(crate) fn unreserve(&mut self, address: u64, bytes: u64) -> Result<()> {
        const CALL: &str = "cuMemAddressFree";
        if self.reservations.get(&address).is_none_or(|(length, _)| *length != bytes) {
            return error(CALL, code::INVALID_VALUE, format!("{address:#x}+{bytes:#x} is not a whole reservation"));
        }
        if let Some((at, _)) = self.mappings.range(address..address + bytes).next() {
            return error(CALL, code::INVALID_VALUE, format!("memory is still mapped at {at:#x}"));
        }
        self.reservations.remove(&address);
        // SAFETY: the range is a reservation of ours with nothing mapped in it.
        unsafe { libc::munmap(address as *mut libc::c_void, bytes as usize) };
        Ok(())
    }

    pub(crate) fn create(&mut self, device: usize, tier: Tier, bytes: u64) -> Result<u64> {
        const CALL: &str = "cuMemCreate";
        self.whole(CALL, device, bytes)?;
        if tier == Tier::Shared && !self.migrates[device] {
            return error(
                CALL,
                code::INVALID_VALUE,
                "this device's shared memory is pinned: no backing is created there",
            );
        }
        let offset = self.take(CALL, device, tier, bytes)?;
        let handle = self.next_handle;
        self.next_handle += 1;
        self.backings.insert(handle, Backing { device, tier, offset, bytes, mappings: 0, released: false });
        Ok(handle)
    }

    fn take(&mut self, call: &'static str, device: usize, tier: Tier, bytes: u64) -> Result<u64> {
        match self.pools[device][tier as usize].allocate(bytes) {
            Some(offset) => Ok(offset),
            None => {
                let (capacity, free) = self.info(device, tier);
                error(call, code::OUT_OF_MEMORY, format!("{bytes} bytes of {tier:?}: {free} of {capacity} are free"))
            }
        }
    }

    /// Pins memory at an address that is at a page but not at a granule, because no caller may rely
    /// on more.
    pub(crate) fn pin(&mut self, device: usize, bytes: u64) -> Result<u64> {
        const CALL: &str = "cuMemHostAlloc";
        const PAGE: u64 = 4096;
        if bytes == 0 {
            return error(CALL, code::INVALID_VALUE, "the length is 0");
        }
        let bytes = bytes.next_multiple_of(PAGE);
        let offset = self.take(CALL, device, Tier::Shared, bytes)?;
        let mapped = self.addresses(CALL, device, bytes, self.granularity[device], PAGE).and_then(|address| {
            let file = self.pools[device][Tier::Shared as usize].file.as_raw_fd();
            let (flags, access) = (libc::MAP_SHARED | libc::MAP_FIXED, libc::PROT_READ | libc::PROT_WRITE);
            // SAFETY: the addresses were taken just now.
            let at =
                unsafe { libc::mmap(address as *mut _, bytes as usize, access, flags, file, offset as libc::off_t) };
            if at == libc::MAP_FAILED {
                self.reservations.remove(&address);
                // SAFETY: as above; they are not in use.
                unsafe { libc::munmap(address as *mut libc::c_void, bytes as usize) };
                return error(CALL, code::MAP_FAILED, format!("{address:#x}: {}", std::io::Error::last_os_error()));
            }
            Ok(address)
        });
        let address = mapped.inspect_err(|_| self.pools[device][Tier::Shared as usize].free(offset, bytes))?;
        let handle = self.next_handle;
        self.next_handle += 1;
        let backing = Backing { device, tier: Tier::Shared, offset, bytes, mappings: 1, released: true };
        self.backings.insert(handle, backing);
        self.mappings.insert(address, Mapping { bytes, handle, accessible: true, pinned: true });
        Ok(address)
    }

    pub(crate) fn is_pinned(&self, address: u64) -> bool {
        self.mappings.get(&address).is_some_and(|mapping| mapping.pinned)
    }

    /// Frees pinned memory and its addresses. Returns its bytes.
    pub(crate) fn unpin(&mut self, address: u64) -> Result<u64> {
        let Some(mapping) = self.mappings.get(&address).copied().filter(|mapping| mapping.pinned) else {
            return error(
                "cuMemFreeHost",
                code::INVALID_VALUE,
                format!("{address:#x} is not the start of pinned memory"),
            );
        };
        // SAFETY: the range is one that `pin` mapped.
        unsafe { libc::munmap(address as *mut libc::c_void, mapping.bytes as usize) };
        self.mappings.remove(&address);
        self.reservations.remove(&address);
        if let Some(backing) = self.backings.get_mut(&mapping.handle) {
            backing.mappings -= 1;
        }
        self.drop_if_unused(mapping.handle);
        Ok(mapping.bytes)
    }

    pub(crate) fn release(&mut self, handle: u64) -> Result<()> {
        match self.backings.get_mut(&handle) {
            Some(backing) if !backing.released => backing.released = true,
            _ => {
                return error(
                    "cuMemRelease",
                    code::INVALID_VALUE,
                    format!("handle {handle} is unknown or released already"),
                );
            }
        }
        self.drop_if_unused(handle);
        Ok(())
    }

    fn drop_if_unused(&mut self, handle: u64) {
        let Some(backing) = self.backings.get(&handle).copied() else { return };
        if backing.released && backing.mappings == 0 {
            self.pools[backing.device][backing.tier as usize].free(backing.offset, backing.bytes);
            self.backings.remove(&handle);
        }
    }

    pub(crate) fn map(&mut self, device: usize, address: u64, bytes: u64, handle: u64) -> Result<()> {
        const CALL: &str = "cuMemMap";
        let Some(backing) = self.backings.get(&handle).copied().filter(|b| !b.released) else {
            return error(CALL, code::INVALID_VALUE, format!("handle {handle} is unknown or released"));
        };
        if bytes != backing.bytes {
            return error(
                CALL,
                code::INVALID_VALUE,
                format!("only whole backing is mapped: {bytes} of {} bytes", backing.bytes),
            );
        }
        if !address.is_multiple_of(self.granularity[device]) {
            return error(CALL, code::INVALID_VALUE, format!("{address:#x} is not at a granule"));
        }
        let reserved = self.reservations.range(..=address).next_back();
        if reserved.is_none_or(|(start, (length, _))| address + bytes > start + length) {
            return error(CALL, code::INVALID_VALUE, format!("{address:#x}+{bytes:#x} is not inside one reservation"));
        }
        let overlap = self.mappings.range(..address + bytes).next_back();
        if let Some((at, mapping)) = overlap
            && at + mapping.bytes > address
        {
            return error(
                CALL,
                code::INVALID_VALUE,
                format!("{address:#x}+{bytes:#x} overlaps the mapping at {at:#x}"),
            );
        }
        let file = self.pools[backing.device][backing.tier as usize].file.as_raw_fd();
        // SAFETY: the range is inside a reservation of ours, and nothing is mapped in it.
        let at = unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
            libc::mmap(address as *mut _, bytes as usize, libc::PROT_NONE, flags, file, backing.offset as libc::off_t)
        };
        if at == libc::MAP_FAILED {
            return error(CALL, code::MAP_FAILED, format!("{address:#x}: {}", std::io::Error::last_os_error()));
        }
        self.mappings.insert(address, Mapping { bytes, handle, accessible: false, pinned: false });
        if let Some(backing) = self.backings.get_mut(&handle) {
            backing.mappings += 1;
            self.at_several += usize::from(backing.mappings == 2);
        }
        Ok(())
    }

    /// The mappings that together are exactly `address..address + bytes`.
    fn exactly(&self, call: &'static str, address: u64, bytes: u64) -> Result<Vec<(u64, Mapping)>> {
        let found: Vec<_> =
            self.mappings.range(address..address + bytes).map(|(at, mapping)| (*at, *mapping)).collect();
        let end = found.iter().try_fold(address, |end, (at, m)| (*at == end).then_some(end + m.bytes));
        if end != Some(address + bytes) || bytes == 0 {
            return error(call, code::INVALID_VALUE, format!("{address:#x}+{bytes:#x} is not made of whole mappings"));
        }
        if found.iter().any(|(_, mapping)| mapping.pinned) {
            return error(
                call,
                code::INVALID_VALUE,
                format!("{address:#x}+{bytes:#x} is pinned memory, not a mapping"),
            );
        }
        Ok(found)
    }

    pub(crate) fn unmap(&mut self, address: u64, bytes: u64) -> Result<()> {
        let found = self.exactly("cuMemUnmap", address, bytes)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range is made of mappings of ours inside a reservation; it becomes reserved
        // addresses again.
        let at = unsafe { libc::mmap(address as *mut _, bytes as usize, libc::PROT_NONE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return error("cuMemUnmap", code::UNKNOWN, format!("{address:#x}: {}", std::io::Error::last_os_error()));
        }
        for (at, mapping) in found {
            self.mappings.remove(&at);
            if let Some(backing) = self.backings.get_mut(&mapping.handle) {
                self.at_several -= usize::from(backing.mappings == 2);
                backing.mappings -= 1;
            }
            self.drop_if_unused(mapping.handle);
        }
        Ok(())
    }

    pub(crate) fn set_access(&mut self, address: u64, bytes: u64) -> Result<()> {
        const CALL: &str = "cuMemSetAccess";
        let found = self.exactly(CALL, address, bytes)?;
        // SAFETY: the range is made of mappings of ours.
        if unsafe { libc::mprotect(address as *mut _, bytes as usize, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return error(CALL, code::UNKNOWN, format!("{address:#x}: {}", std::io::Error::last_os_error()));
        }
        for (at, _) in found {
            if let Some(mapping) = self.mappings.get_mut(&at) {
                mapping.accessible = true;
            }
        }
        Ok(())
    }

    /// Whether an address lies in a reservation.
    pub(crate) fn is_reserved(&self, address: u64) -> bool {
        self.reservations.range(..=address).next_back().is_some_and(|(start, (length, _))| address < start + length)
    }

    /// The device whose backing is mapped at an address.
    pub(crate) fn device_of(&self, address: u64) -> Option<usize> {
        let (start, mapping) = self.mappings.range(..=address).next_back()?;
        let backing = self.backings.get(&mapping.handle)?;
        (address < start + mapping.bytes).then_some(backing.device)
    }

    /// Handles that live, mappings, reservations.
    pub(crate) fn outstanding(&self) -> (usize, usize, usize) {
        (self.backings.len(), self.mappings.len(), self.reservations.len())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for (address, (bytes, _)) in &self.reservations {
            // SAFETY: a reservation of ours, and whatever is mapped inside it; nobody uses the
            // machine any more.
            unsafe { libc::munmap(*address as *mut libc::c_void, *bytes as usize) };
        }
    }
}
