//! Windows: each range of a tier's bytes is a section of its own, reserved addresses are
//! placeholders, and a mapping replaces a placeholder of its size with a view (Windows 10 1803).

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io::{Error, ErrorKind, Result};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::ptr;

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, MEM_PRESERVE_PLACEHOLDER, MEM_RELEASE, MEM_REPLACE_PLACEHOLDER, MEM_RESERVE,
    MEM_RESERVE_PLACEHOLDER, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile3, PAGE_NOACCESS, PAGE_PROTECTION_FLAGS,
    PAGE_READWRITE, UnmapViewOfFile2, VIRTUAL_FREE_TYPE, VirtualAlloc2, VirtualFree, VirtualProtect,
};
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetCurrentThreadId};

/// Views start at multiples of this.
pub(crate) const PIN_ALIGNMENT: u64 = 1 << 16;

/// Joins placeholders: `MEM_COALESCE_PLACEHOLDERS`, which windows-sys does not have.
const MEM_COALESCE_PLACEHOLDERS: VIRTUAL_FREE_TYPE = 1;

const PAGE: usize = 4096;

/// The bytes of a tier: a section for each range in use, by its offset.
#[derive(Debug)]
pub(crate) struct Bytes(BTreeMap<u64, OwnedHandle>);

impl Bytes {
    pub(crate) fn new(_capacity: u64) -> Result<Bytes> {
        Ok(Bytes(BTreeMap::new()))
    }

    /// Makes a range ready to be mapped.
    pub(crate) fn create(&mut self, offset: u64, bytes: u64) -> Result<()> {
        let (high, low) = ((bytes >> 32) as u32, bytes as u32);
        // SAFETY: a new section of the paging file, without a name.
        let section =
            unsafe { CreateFileMappingW(INVALID_HANDLE_VALUE, ptr::null(), PAGE_READWRITE, high, low, ptr::null()) };
        if section.is_null() {
            return Err(Error::last_os_error());
        }
        // SAFETY: the handle is new and owned by nobody else.
        self.0.insert(offset, unsafe { OwnedHandle::from_raw_handle(section) });
        Ok(())
    }

    /// Frees the memory of a range that `create` made.
    pub(crate) fn destroy(&mut self, offset: u64, _bytes: u64) {
        self.0.remove(&offset);
    }

    /// Makes a hole, which a section cannot have: [`clear`] has written the zeros.
    pub(crate) fn punch(&self, _offset: u64, _bytes: u64) {}

    /// The stretches that may have been written to. A section tells nothing, so it is all.
    pub(crate) fn written(&self, offset: u64, bytes: u64) -> Vec<(u64, u64)> {
        vec![(offset, bytes)]
    }
}

/// The reserved addresses: the placeholders in which nothing is mapped, with their lengths.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    placeholders: BTreeMap<u64, u64>,
}

impl Addresses {
    /// Reserves addresses, `past` bytes past a multiple of `align`.
    pub(crate) fn reserve(&mut self, bytes: u64, align: u64, past: u64) -> Result<u64> {
        let padded = bytes + align + past;
        let kind = MEM_RESERVE | MEM_RESERVE_PLACEHOLDER;
        // SAFETY: a new placeholder at an address that the system chooses.
        let at = unsafe {
            VirtualAlloc2(ptr::null_mut(), ptr::null(), padded as usize, kind, PAGE_NOACCESS, ptr::null_mut(), 0)
        } as u64;
        if at == 0 {
            return Err(Error::last_os_error());
        }
        self.placeholders.insert(at, padded);
        let start = at.next_multiple_of(align) + past;
        self.cut(start, bytes)?;
        for (from, to) in [(at, start), (start + bytes, at + padded)] {
            self.release(from, to - from);
        }
        Ok(start)
    }

    /// Returns reserved addresses in which nothing is mapped.
    pub(crate) fn release(&mut self, address: u64, bytes: u64) {
        let pieces: Vec<u64> = self.placeholders.range(address..address + bytes).map(|(at, _)| *at).collect();
        for at in pieces {
            self.placeholders.remove(&at);
            // A failure leaves addresses reserved, of which there are plenty.
            let _ = free(at, 0, MEM_RELEASE);
        }
    }

    /// Makes a range of reserved addresses a placeholder of its own.
    fn cut(&mut self, address: u64, bytes: u64) -> Result<()> {
        let (&start, &first) = self.placeholders.range(..=address).next_back().ok_or(ErrorKind::NotFound)?;
        let mut length = first;
        while start + length < address + bytes {
            length += self.placeholders.remove(&(start + length)).ok_or(ErrorKind::NotFound)?;
        }
        if length != first {
            free(start, length, MEM_RELEASE | MEM_COALESCE_PLACEHOLDERS)?;
        }
        if (start, length) != (address, bytes) {
            free(address, bytes, MEM_RELEASE | MEM_PRESERVE_PLACEHOLDER)?;
        }
        self.placeholders.remove(&start);
        for (from, to) in [(start, address), (address, address + bytes), (address + bytes, start + length)] {
            if from < to {
                self.placeholders.insert(from, to - from);
            }
        }
        Ok(())
    }

    /// Maps a range of a tier's bytes, which `create` made, at reserved addresses, without access.
    pub(crate) fn map(&mut self, of: &Bytes, offset: u64, address: u64, bytes: u64) -> Result<()> {
        let section = of.0.get(&offset).ok_or(ErrorKind::NotFound)?.as_raw_handle();
        self.cut(address, bytes)?;
        // SAFETY: the placeholder has the length of the view, and the section at least that.
        let view = unsafe {
            MapViewOfFile3(
                section,
                GetCurrentProcess(),
                address as *const c_void,
                0,
                bytes as usize,
                MEM_REPLACE_PLACEHOLDER,
                PAGE_READWRITE,
                ptr::null_mut(),
                0,
            )
        };
        if view.Value.is_null() {
            return Err(Error::last_os_error());
        }
        self.placeholders.remove(&address);
        protect(address, bytes, PAGE_NOACCESS)
    }

    /// Unmaps neighbouring mappings. Their addresses stay reserved.
    pub(crate) fn unmap(&mut self, mappings: &[(u64, u64)]) -> Result<()> {
        for (at, bytes) in mappings {
            let view = MEMORY_MAPPED_VIEW_ADDRESS { Value: *at as *mut c_void };
            // SAFETY: the view is a mapping of ours.
            done(unsafe { UnmapViewOfFile2(GetCurrentProcess(), view, MEM_PRESERVE_PLACEHOLDER) })?;
            self.placeholders.insert(*at, *bytes);
        }
        Ok(())
    }

    /// Allows neighbouring mappings to be read and written.
    pub(crate) fn open(&mut self, mappings: &[(u64, u64)]) -> Result<()> {
        mappings.iter().try_for_each(|(at, bytes)| protect(*at, *bytes, PAGE_READWRITE))
    }
}

/// Releases, divides or joins placeholders.
fn free(address: u64, bytes: u64, kind: VIRTUAL_FREE_TYPE) -> Result<()> {
    // SAFETY: the range is made of placeholders of ours.
    done(unsafe { VirtualFree(address as *mut c_void, bytes as usize, kind) })
}

fn protect(address: u64, bytes: u64, protection: PAGE_PROTECTION_FLAGS) -> Result<()> {
    let mut before = 0;
    // SAFETY: the range is a mapping of ours.
    done(unsafe { VirtualProtect(address as *const c_void, bytes as usize, protection, &mut before) })
}

fn done(answer: i32) -> Result<()> {
    if answer == 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Copies bytes. Pages that are the same already are not written, since a section cannot have holes
/// and each written page costs memory.
///
/// # Safety
/// `from` can be read and `to` written for `bytes`, and the two do not overlap.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    let (from, to) = unsafe { (std::slice::from_raw_parts(from, bytes), std::slice::from_raw_parts_mut(to, bytes)) };
    for (from, to) in from.chunks(PAGE).zip(to.chunks_mut(PAGE)) {
        // Without a branch per byte, and without wine's memcmp, which has one.
        if from.iter().zip(to.iter()).fold(0, |found, (from, to)| found | (from ^ to)) != 0 {
            to.copy_from_slice(from);
        }
    }
}

/// Writes zeros, where there are none.
///
/// # Safety
/// `at` can be read and written for `bytes`.
pub(crate) unsafe fn clear(at: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    let all = unsafe { std::slice::from_raw_parts_mut(at, bytes) };
    let is_written = |page: &&mut [u8]| page.iter().fold(0, |found, byte| found | byte) != 0;
    all.chunks_mut(PAGE).filter(is_written).for_each(|page| page.fill(0));
}

/// The system's number of the calling thread.
pub(crate) fn this_thread() -> u32 {
    // SAFETY: the call has no precondition.
    unsafe { GetCurrentThreadId() }
}
