//! Addresses, backing and mappings, with the rules of the CUDA driver. The bytes are real: a tier is a sparse file in memory, an
//! address is an address of this process, and a mapping is one of the file at that address. Untouched memory costs nothing.
//!
//! ```text
//!   reservation   ├───────────────────────────────────────────┤   PROT_NONE
//!   mappings           ├ A ┤├ B ┤         ├ A ┤                 MAP_FIXED | MAP_SHARED
//!                        │     │             │
//!   the tier's file  ├─ A ─┼─ B ─┼───────┼─────┤                 holes where nothing was written
//! ```

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use crate::code::{self, Result, error};
use crate::profile::Profile;

/// Where backing lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// The card's own memory.
    Dedicated,
    /// Host memory mapped for the device.
    Shared,
}

#[derive(Debug)]
struct Pool {
    file: OwnedFd,
    capacity: u64,
    used: u64,
    /// What another process has taken.
    taken: u64,
    /// Free ranges of the file, by offset.
    free: BTreeMap<u64, u64>,
    /// The stretch without a hole that was found last: the kernel finds its end page by page.
    filled: Mutex<(u64, u64)>,
}

impl Pool {
    fn new(capacity: u64) -> Result<Pool> {
        // SAFETY: the name is a C string; the call has no other precondition.
        let fd = unsafe { libc::memfd_create(c"kitten-sim".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return error("cuInit", code::UNKNOWN, format!("memfd_create: {}", std::io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new and owned by nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the descriptor is open.
        if unsafe { libc::ftruncate(file.as_raw_fd(), capacity as libc::off_t) } != 0 {
            return error("cuInit", code::UNKNOWN, format!("ftruncate: {}", std::io::Error::last_os_error()));
        }
        Ok(Pool { file, capacity, used: 0, taken: 0, free: BTreeMap::from([(0, capacity)]), filled: Mutex::default() })
    }

    fn take(&mut self, bytes: u64) -> Option<u64> {
        if self.used + self.taken + bytes > self.capacity {
            return None;
        }
        let (&offset, &length) = self.free.iter().find(|(_, length)| **length >= bytes)?;
        self.free.remove(&offset);
        if length > bytes {
            self.free.insert(offset + bytes, length - bytes);
        }
        self.used += bytes;
        Some(offset)
    }

    fn give_back(&mut self, offset: u64, bytes: u64) {
        self.punch(offset, bytes);
        self.used -= bytes;
        let (mut start, mut end) = (offset, offset + bytes);
        if let Some((&before, &length)) = self.free.range(..offset).next_back()
            && before + length == offset
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(length) = self.free.remove(&end) {
            end += length;
        }
        self.free.insert(start, end - start);
    }

    /// Makes a hole, which reads as zeros.
    fn punch(&self, offset: u64, bytes: u64) {
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        if offset < filled.1 && filled.0 < offset + bytes {
            filled.0 = (offset + bytes).min(filled.1);
        }
        drop(filled);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the descriptor is open; a failure leaves old bytes, which real new backing may hold too.
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as libc::off_t, bytes as libc::off_t) };
    }

    /// The stretches of `offset..offset + bytes` that were ever written to, and perhaps some besides.
    fn written(&self, offset: u64, bytes: u64) -> Vec<(u64, u64)> {
        let (mut stretches, mut at, end) = (Vec::new(), offset, offset + bytes);
        while at < end {
            let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
            if !(filled.0..filled.1).contains(&at) {
                // SAFETY: the descriptor is open.
                let data = unsafe { libc::lseek(self.file.as_raw_fd(), at as libc::off_t, libc::SEEK_DATA) };
                if data < 0 || data as u64 >= end {
                    break;
                }
                // SAFETY: as above.
                let hole = unsafe { libc::lseek(self.file.as_raw_fd(), data, libc::SEEK_HOLE) };
                *filled = (data as u64, if hole < 0 { end } else { hole as u64 });
                at = data as u64;
            }
            let stop = filled.1.min(end);
            stretches.push((at, stop - at));
            at = stop;
        }
        stretches
    }
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
    /// Memory that came with its address, and goes with it.
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
                format!("the size {bytes} is no multiple of the granularity {granularity}"),
            );
        }
        Ok(())
    }

    pub(crate) fn reserve(&mut self, device: usize, bytes: u64, align: u64) -> Result<u64> {
        const CALL: &str = "cuMemAddressReserve";
        self.whole(CALL, device, bytes)?;
        let align = align.max(self.granularity[device]);
        if !align.is_power_of_two() {
            return error(CALL, code::INVALID_VALUE, format!("the alignment {align} is no power of two"));
        }
        self.addresses(CALL, device, bytes, align, 0)
    }

    /// Takes addresses of this process, `past` bytes past a multiple of `align`.
    fn addresses(&mut self, call: &'static str, device: usize, bytes: u64, align: u64, past: u64) -> Result<u64> {
        let padded = (bytes + align + past) as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping wherever the kernel likes.
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
            return error(CALL, code::INVALID_VALUE, format!("something is still mapped at {at:#x}"));
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
        match self.pools[device][tier as usize].take(bytes) {
            Some(offset) => Ok(offset),
            None => {
                let (capacity, free) = self.info(device, tier);
                error(call, code::OUT_OF_MEMORY, format!("{bytes} bytes of {tier:?}: {free} of {capacity} are free"))
            }
        }
    }

    /// Pins memory at an address that is at a page but at no granule: nobody may count on more.
    pub(crate) fn pin(&mut self, device: usize, bytes: u64) -> Result<u64> {
        const CALL: &str = "cuMemHostAlloc";
        const PAGE: u64 = 4096;
        if bytes == 0 {
            return error(CALL, code::INVALID_VALUE, "0 bytes cannot be pinned");
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
                // SAFETY: as above; nobody knows of them yet.
                unsafe { libc::munmap(address as *mut libc::c_void, bytes as usize) };
                return error(CALL, code::MAP_FAILED, format!("{address:#x}: {}", std::io::Error::last_os_error()));
            }
            Ok(address)
        });
        let address = mapped.inspect_err(|_| self.pools[device][Tier::Shared as usize].give_back(offset, bytes))?;
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

    /// Gives pinned memory and its addresses back; its bytes.
    pub(crate) fn unpin(&mut self, address: u64) -> Result<u64> {
        let Some(mapping) = self.mappings.get(&address).copied().filter(|mapping| mapping.pinned) else {
            return error(
                "cuMemFreeHost",
                code::INVALID_VALUE,
                format!("{address:#x} is not where pinned memory begins"),
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
            self.pools[backing.device][backing.tier as usize].give_back(backing.offset, backing.bytes);
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
                format!("{address:#x}+{bytes:#x} is pinned memory, and no mapping"),
            );
        }
        Ok(found)
    }

    pub(crate) fn unmap(&mut self, address: u64, bytes: u64) -> Result<()> {
        let found = self.exactly("cuMemUnmap", address, bytes)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range is made of mappings of ours inside a reservation; it becomes reserved addresses again.
        let at = unsafe { libc::mmap(address as *mut _, bytes as usize, libc::PROT_NONE, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return error("cuMemUnmap", code::UNKNOWN, format!("{address:#x}: {}", std::io::Error::last_os_error()));
        }
        for (at, mapping) in found {
            self.mappings.remove(&at);
            if let Some(backing) = self.backings.get_mut(&mapping.handle) {
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

    /// The mapped stretches of a range: address, length, and where in which file.
    fn stretches(&self, call: &'static str, address: u64, bytes: u64) -> Result<Vec<(u64, u64, Backing, u64)>> {
        let mut found = Vec::new();
        let (mut at, end) = (address, address.saturating_add(bytes));
        while at < end {
            let mapping =
                self.mappings.range(..=at).next_back().filter(|(start, m)| at < **start + m.bytes && m.accessible);
            let backed = mapping.and_then(|(start, m)| self.backings.get(&m.handle).map(|b| (*start, m.bytes, *b)));
            let Some((start, length, backing)) = backed else {
                let rule = format!("{at:#x}, of the range {address:#x}+{bytes:#x}, is not mapped with access");
                return error(call, code::ILLEGAL_ADDRESS, rule);
            };
            let stop = end.min(start + length);
            found.push((at, stop - at, backing, backing.offset + at - start));
            at = stop;
        }
        Ok(found)
    }

    /// How many bytes of a range lie in the shared tier.
    pub(crate) fn shared_bytes(&self, address: u64, bytes: u64) -> u64 {
        let stretches = self.stretches("", address, bytes).unwrap_or_default();
        stretches.iter().filter(|(.., backing, _)| backing.tier == Tier::Shared).map(|(_, length, ..)| length).sum()
    }

    /// Whether a range may be read and written.
    pub(crate) fn accessible(&self, call: &'static str, address: u64, bytes: u64) -> Result<()> {
        self.stretches(call, address, bytes).map(drop)
    }

    /// Whether a range may be copied to another.
    pub(crate) fn can_copy(&self, call: &'static str, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.accessible(call, to, bytes)?;
        self.accessible(call, from, bytes)?;
        if from < to + bytes && to < from + bytes {
            return error(call, code::INVALID_VALUE, format!("{from:#x} and {to:#x}, {bytes} bytes each, overlap"));
        }
        Ok(())
    }

    pub(crate) fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()> {
        const CALL: &str = "cuMemcpyDtoD";
        self.can_copy(CALL, to, from, bytes)?;
        self.clear(to, bytes)?;
        for (at, length, backing, offset) in self.stretches(CALL, from, bytes)? {
            for (data, length) in self.pools[backing.device][backing.tier as usize].written(offset, length) {
                let shift = at + (data - offset);
                // SAFETY: both ranges are mapped with access, and do not overlap.
                unsafe {
                    ptr::copy_nonoverlapping(shift as *const u8, (to + (shift - from)) as *mut u8, length as usize);
                }
            }
        }
        Ok(())
    }

    /// Fills a range with a byte. One that is gone by now is left alone: whoever unmapped it was reported then.
    pub(crate) fn fill(&self, address: u64, bytes: u64, value: u8) {
        if value == 0 {
            let _ = self.clear(address, bytes);
        } else if self.accessible("cuMemsetD8Async", address, bytes).is_ok() {
            // SAFETY: the range is mapped with access.
            unsafe { ptr::write_bytes(address as *mut u8, value, bytes as usize) };
        }
    }

    /// Whether an address lies in a reservation.
    pub(crate) fn is_reserved(&self, address: u64) -> bool {
        self.reservations.range(..=address).next_back().is_some_and(|(start, (length, _))| address < start + length)
    }

    /// Copies from host memory, leaving holes where it is zero.
    ///
    /// # Safety
    /// `from` can be read for `bytes`.
    pub(crate) unsafe fn upload(&self, to: u64, from: *const u8, bytes: u64) {
        const PIECE: usize = 1 << 16;
        if self.accessible("cuMemcpyHtoDAsync", to, bytes).is_err() {
            return;
        }
        // SAFETY: the caller's promise.
        let source = unsafe { std::slice::from_raw_parts(from, bytes as usize) };
        for (at, piece) in source.chunks(PIECE).enumerate() {
            let to = to + (at * PIECE) as u64;
            if piece.iter().all(|byte| *byte == 0) {
                let _ = self.clear(to, piece.len() as u64);
            } else {
                // SAFETY: the range is mapped with access, and host memory is none of it.
                unsafe { ptr::copy_nonoverlapping(piece.as_ptr(), to as *mut u8, piece.len()) };
            }
        }
    }

    /// Copies to host memory.
    ///
    /// # Safety
    /// `to` can be written for `bytes`.
    pub(crate) unsafe fn download(&self, to: *mut u8, from: u64, bytes: u64) {
        if self.accessible("cuMemcpyDtoHAsync", from, bytes).is_ok() {
            // SAFETY: the range is mapped with access; the caller's promise.
            unsafe { ptr::copy_nonoverlapping(from as *const u8, to, bytes as usize) };
        }
    }

    /// Makes a range zero, by holes where it can.
    fn clear(&self, address: u64, bytes: u64) -> Result<()> {
        for (at, length, backing, offset) in self.stretches("cuMemsetD8", address, bytes)? {
            let pool = &self.pools[backing.device][backing.tier as usize];
            for (data, length) in pool.written(offset, length) {
                // SAFETY: the stretch is mapped with access.
                unsafe { ptr::write_bytes((at + (data - offset)) as *mut u8, 0, length as usize) };
            }
            if length == backing.bytes {
                pool.punch(offset, length);
            }
        }
        Ok(())
    }

    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.accessible("read", address, bytes.len() as u64)?;
        // SAFETY: the range is mapped with access.
        unsafe { ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.accessible("write", address, bytes.len() as u64)?;
        // SAFETY: the range is mapped with access.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    /// Handles that live, mappings, reservations.
    pub(crate) fn outstanding(&self) -> (usize, usize, usize) {
        (self.backings.len(), self.mappings.len(), self.reservations.len())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for (address, (bytes, _)) in &self.reservations {
            // SAFETY: a reservation of ours, and whatever is mapped inside it; nobody uses the machine any more.
            unsafe { libc::munmap(*address as *mut libc::c_void, *bytes as usize) };
        }
    }
}
