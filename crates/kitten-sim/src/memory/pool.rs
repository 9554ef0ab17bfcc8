//! The memory of one tier: a sparse file, and which of its ranges are free.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use crate::code::{self, Result, error};

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) file: OwnedFd,
    pub(super) capacity: u64,
    pub(super) used: u64,
    /// How much other processes have taken.
    pub(super) taken: u64,
    /// Free ranges of the file, by offset.
    free: BTreeMap<u64, u64>,
    /// The last stretch found without a hole. It is cached because the kernel finds its end page by
    /// page.
    filled: Mutex<(u64, u64)>,
}

impl Pool {
    pub(super) fn new(capacity: u64) -> Result<Pool> {
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

    /// Allocates a range; `None` if there is no room.
    pub(super) fn allocate(&mut self, bytes: u64) -> Option<u64> {
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

    /// Frees a range, which reads as zeros afterwards.
    pub(super) fn free(&mut self, offset: u64, bytes: u64) {
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
    pub(super) fn punch(&self, offset: u64, bytes: u64) {
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
    pub(super) fn written(&self, offset: u64, bytes: u64) -> Vec<(u64, u64)> {
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
