//! Addresses, backing and mappings, with the rules of the CUDA driver. The bytes are real: those of
//! a tier are memory of the operating system, an address is one of this process, and a mapping maps
//! the bytes there. Untouched memory costs nothing. `os/` has the system's part.
//!
//! ```text
//!   reservation   ├───────────────────────────────────────────┤   on Linux  PROT_NONE
//!   mappings           ├ A ┤├ B ┤         ├ A ┤                           MAP_FIXED | MAP_SHARED
//!                        │     │             │
//!   the tier's bytes ├─ A ─┼─ B ─┼───────┼─────┤                           a file with holes
//! ```

mod bytes;
mod pool;

use std::collections::BTreeMap;

use crate::code::{self, Result, error};
use crate::os;
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

/// What the operating system grants a program of a device's dedicated and of its shared memory, and
/// what the program uses of each, in bytes.
pub type Budgets = [(u64, u64); 2];

#[derive(Clone, Copy, Debug)]
struct Backing {
    device: usize,
    /// Where it lies, which may be slower than where it was asked for.
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
    addresses: os::Addresses,
    reservations: BTreeMap<u64, (u64, usize)>,
    mappings: BTreeMap<u64, Mapping>,
    /// How much backing lies at more than one address.
    at_several: usize,
    /// The budgets of a device's tiers, where the operating system keeps any.
    granted: Vec<Option<[u64; 2]>>,
    /// Whether dedicated backing that does not fit the card is created in the host's memory.
    overcommits: bool,
    /// How much of it was, in bytes.
    spilled: u64,
    /// Whether copies and zeros change bytes.
    keeps_contents: bool,
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
            addresses: os::Addresses::default(),
            reservations: BTreeMap::new(),
            mappings: BTreeMap::new(),
            at_several: 0,
            granted: vec![None; profiles.len()],
            overcommits: false,
            spilled: 0,
            keeps_contents: true,
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

    pub(crate) fn grant(&mut self, device: usize, budgets: Option<[u64; 2]>) {
        self.granted[device] = budgets;
    }

    pub(crate) fn granted(&self, device: usize) -> Option<Budgets> {
        let [dedicated, shared] = self.granted[device]?;
        let [of_dedicated, of_shared] = &self.pools[device];
        Some([(dedicated, of_dedicated.used), (shared, of_shared.used)])
    }

    pub(crate) fn overcommit(&mut self) {
        self.overcommits = true;
    }

    pub(crate) fn ignore_contents(&mut self) {
        self.keeps_contents = false;
    }

    pub(crate) fn spilled(&self) -> u64 {
        self.spilled
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
        self.reserve_past(CALL, device, bytes, align, 0)
    }

    /// Takes addresses of this process, `past` bytes past a multiple of `align`.
    fn reserve_past(&mut self, call: &'static str, device: usize, bytes: u64, align: u64, past: u64) -> Result<u64> {
        let start = match self.addresses.reserve(bytes, align, past) {
            Ok(start) => start,
            Err(why) => return error(call, code::OUT_OF_MEMORY, format!("no {bytes} bytes of addresses: {why}")),
        };
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
        self.addresses.release(address, bytes);
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
        let (tier, offset) = match self.take(CALL, device, tier, bytes) {
            Err(_) if tier == Tier::Dedicated && self.overcommits => {
                let offset = self.take(CALL, device, Tier::Shared, bytes)?;
                self.spilled += bytes;
                (Tier::Shared, offset)
            }
            taken => (tier, taken?),
        };
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
        let mapped = self.map_past(CALL, device, offset, bytes);
        let address = mapped.inspect_err(|_| self.pools[device][Tier::Shared as usize].free(offset, bytes))?;
        let handle = self.next_handle;
        self.next_handle += 1;
        let backing = Backing { device, tier: Tier::Shared, offset, bytes, mappings: 1, released: true };
        self.backings.insert(handle, backing);
        self.mappings.insert(address, Mapping { bytes, handle, accessible: true, pinned: true });
        Ok(address)
    }

    /// Maps shared memory at new addresses, just past a granule, and allows access.
    fn map_past(&mut self, call: &'static str, device: usize, offset: u64, bytes: u64) -> Result<u64> {
        let address = self.reserve_past(call, device, bytes, self.granularity[device], os::PIN_ALIGNMENT)?;
        let of = &self.pools[device][Tier::Shared as usize].bytes;
        let mapped = self.addresses.map(of, offset, address, bytes);
        if let Err(why) = mapped.and_then(|()| self.addresses.open(&[(address, bytes)])) {
            let _ = self.addresses.unmap(&[(address, bytes)]);
            self.reservations.remove(&address);
            self.addresses.release(address, bytes);
            return error(call, code::MAP_FAILED, format!("{address:#x}: {why}"));
        }
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
        if let Err(why) = self.addresses.unmap(&[(address, mapping.bytes)]) {
            return error("cuMemFreeHost", code::UNKNOWN, format!("{address:#x}: {why}"));
        }
        self.addresses.release(address, mapping.bytes);
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
        let of = &self.pools[backing.device][backing.tier as usize].bytes;
        if let Err(why) = self.addresses.map(of, backing.offset, address, bytes) {
            return error(CALL, code::MAP_FAILED, format!("{address:#x}: {why}"));
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
        if let Err(why) = self.addresses.unmap(&ranges(&found)) {
            return error("cuMemUnmap", code::UNKNOWN, format!("{address:#x}: {why}"));
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
        if let Err(why) = self.addresses.open(&ranges(&found)) {
            return error(CALL, code::UNKNOWN, format!("{address:#x}: {why}"));
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

/// Where mappings lie, and their lengths.
fn ranges(found: &[(u64, Mapping)]) -> Vec<(u64, u64)> {
    found.iter().map(|(at, mapping)| (*at, mapping.bytes)).collect()
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Nobody uses the machine any more. What the system refuses, it takes back at the exit.
        for (at, mapping) in std::mem::take(&mut self.mappings) {
            let _ = self.addresses.unmap(&[(at, mapping.bytes)]);
        }
        for (address, (bytes, _)) in std::mem::take(&mut self.reservations) {
            self.addresses.release(address, bytes);
        }
    }
}
