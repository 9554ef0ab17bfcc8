//! Linux: the bytes of a tier are a sparse file in memory, and a mapping maps a range of it at a
//! fixed address.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// The smallest page.
pub(crate) const PIN_ALIGNMENT: u64 = 4096;

/// Addresses that are reserved and not in use.
const RESERVED: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// The bytes of a tier: a sparse file.
#[derive(Debug)]
pub(crate) struct Bytes {
    file: OwnedFd,
    /// The last stretch found without a hole. It is cached because the kernel finds its end page by
    /// page.
    filled: Mutex<(u64, u64)>,
}

impl Bytes {
    pub(crate) fn new(capacity: u64) -> Result<Bytes> {
        // SAFETY: the name is a C string; the call has no other precondition.
        let fd = unsafe { libc::memfd_create(c"kitten-sim".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: the descriptor is new and owned by nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the descriptor is open.
        done(unsafe { libc::ftruncate(file.as_raw_fd(), capacity as libc::off_t) })?;
        Ok(Bytes { file, filled: Mutex::default() })
    }

    /// Makes a range ready to be mapped. A file needs nothing for it.
    pub(crate) fn create(&mut self, _offset: u64, _bytes: u64) -> Result<()> {
        Ok(())
    }

    /// Frees the memory of a range that `create` made.
    pub(crate) fn destroy(&mut self, offset: u64, bytes: u64) {
        self.punch(offset, bytes);
    }

    /// Makes a hole, which reads as zeros.
    pub(crate) fn punch(&self, offset: u64, bytes: u64) {
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        if offset < filled.1 && filled.0 < offset + bytes {
            filled.0 = (offset + bytes).min(filled.1);
        }
        drop(filled);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the descriptor is open. A failure leaves old bytes, which real new backing may
        // hold too.
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset as libc::off_t, bytes as libc::off_t) };
    }

    /// The stretches of `offset..offset + bytes` that were ever written to, and perhaps a few more.
    pub(crate) fn written(&self, offset: u64, bytes: u64) -> Vec<(u64, u64)> {
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

/// The reserved addresses. The kernel keeps the books.
#[derive(Debug, Default)]
pub(crate) struct Addresses {}

impl Addresses {
    /// Reserves addresses, `past` bytes past a multiple of `align`.
    pub(crate) fn reserve(&mut self, bytes: u64, align: u64, past: u64) -> Result<u64> {
        let padded = bytes + align + past;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = mapped(unsafe { libc::mmap(ptr::null_mut(), padded as usize, libc::PROT_NONE, RESERVED, -1, 0) })?;
        let start = at.next_multiple_of(align) + past;
        for (from, to) in [(at, start), (start + bytes, at + padded)] {
            if from < to {
                self.release(from, to - from);
            }
        }
        Ok(start)
    }

    /// Returns reserved addresses in which nothing is mapped.
    pub(crate) fn release(&mut self, address: u64, bytes: u64) {
        // SAFETY: the range is reserved by us and not in use.
        unsafe { libc::munmap(address as *mut libc::c_void, bytes as usize) };
    }

    /// Maps a range of a tier's bytes at reserved addresses, without access.
    pub(crate) fn map(&mut self, of: &Bytes, offset: u64, address: u64, bytes: u64) -> Result<()> {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let (file, offset) = (of.file.as_raw_fd(), offset as libc::off_t);
        // SAFETY: the range is reserved by us, and nothing is mapped in it.
        mapped(unsafe { libc::mmap(address as *mut _, bytes as usize, libc::PROT_NONE, flags, file, offset) })?;
        Ok(())
    }

    /// Unmaps neighbouring mappings. Their addresses stay reserved.
    pub(crate) fn unmap(&mut self, mappings: &[(u64, u64)]) -> Result<()> {
        let (address, bytes) = whole(mappings);
        let flags = RESERVED | libc::MAP_FIXED;
        // SAFETY: the range is made of mappings of ours.
        mapped(unsafe { libc::mmap(address as *mut _, bytes, libc::PROT_NONE, flags, -1, 0) })?;
        Ok(())
    }

    /// Allows neighbouring mappings to be read and written.
    pub(crate) fn open(&mut self, mappings: &[(u64, u64)]) -> Result<()> {
        let (address, bytes) = whole(mappings);
        // SAFETY: the range is made of mappings of ours.
        done(unsafe { libc::mprotect(address as *mut _, bytes, libc::PROT_READ | libc::PROT_WRITE) })
    }
}

/// The range of neighbouring mappings: its address and its length.
fn whole(mappings: &[(u64, u64)]) -> (u64, usize) {
    (mappings.first().map_or(0, |(at, _)| *at), mappings.iter().map(|(_, bytes)| *bytes as usize).sum())
}

fn done(answer: libc::c_int) -> Result<()> {
    if answer == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn mapped(answer: *mut libc::c_void) -> Result<u64> {
    if answer == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(answer as u64) }
}

/// Copies bytes.
///
/// # Safety
/// `from` can be read and `to` written for `bytes`, and the two do not overlap.
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { ptr::copy_nonoverlapping(from, to, bytes) };
}

/// Writes zeros.
///
/// # Safety
/// `at` can be written for `bytes`.
pub(crate) unsafe fn clear(at: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise.
    unsafe { ptr::write_bytes(at, 0, bytes) };
}

/// The system's number of the calling thread.
pub(crate) fn this_thread() -> u32 {
    // SAFETY: the call has no precondition.
    unsafe { libc::gettid() }.unsigned_abs()
}
