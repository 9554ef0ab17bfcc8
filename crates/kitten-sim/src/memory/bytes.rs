//! The bytes behind addresses: read, written, copied, filled.

use std::ptr;

use super::{Backing, Memory, Tier};
use crate::code::{self, Result, error};
use crate::os;
use crate::races::Access;

impl Memory {
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

    /// The ranges, and the places behind them where backing lies at more than one address: work
    /// that uses it by one address meets there with work that uses it by another.
    pub(crate) fn with_places(&self, accesses: &[Access]) -> Vec<Access> {
        let mut all = accesses.to_vec();
        if self.at_several == 0 {
            return all;
        }
        for access in accesses {
            let stretches = self.stretches("", access.address, access.bytes).unwrap_or_default();
            let several = stretches.into_iter().filter(|(.., backing, _)| backing.mappings > 1);
            all.extend(several.map(|(_, bytes, backing, offset)| {
                let address = Access::place(backing.device, backing.tier as u64, offset);
                Access { address, bytes, write: access.write }
            }));
        }
        all
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
        if !self.keeps_contents {
            return Ok(());
        }
        self.clear(to, bytes)?;
        for (at, length, backing, offset) in self.stretches(CALL, from, bytes)? {
            for (data, length) in self.pools[backing.device][backing.tier as usize].bytes.written(offset, length) {
                let shift = at + (data - offset);
                // SAFETY: both ranges are mapped with access, and do not overlap.
                unsafe { os::copy(shift as *const u8, (to + (shift - from)) as *mut u8, length as usize) };
            }
        }
        Ok(())
    }

    /// Fills a range with a byte. A range that is no longer mapped is left alone, because unmapping
    /// it was reported as a fault.
    pub(crate) fn fill(&self, address: u64, bytes: u64, value: u8) {
        if value == 0 {
            let _ = self.clear(address, bytes);
        } else if self.accessible("cuMemsetD8Async", address, bytes).is_ok() {
            // SAFETY: the range is mapped with access.
            unsafe { ptr::write_bytes(address as *mut u8, value, bytes as usize) };
        }
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
        if !self.keeps_contents {
            return Ok(());
        }
        for (at, length, backing, offset) in self.stretches("cuMemsetD8", address, bytes)? {
            let pool = &self.pools[backing.device][backing.tier as usize].bytes;
            for (data, length) in pool.written(offset, length) {
                // SAFETY: the stretch is mapped with access.
                unsafe { os::clear((at + (data - offset)) as *mut u8, length as usize) };
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

    /// The place of the first byte that is not the expected one.
    pub(crate) fn difference(&self, address: u64, expected: &[u8]) -> Result<Option<usize>> {
        self.accessible("read", address, expected.len() as u64)?;
        // SAFETY: the range is mapped with access.
        let found = unsafe { std::slice::from_raw_parts(address as *const u8, expected.len()) };
        if found == expected {
            return Ok(None);
        }
        Ok(found.iter().zip(expected).position(|(found, expected)| found != expected))
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.accessible("write", address, bytes.len() as u64)?;
        // SAFETY: the range is mapped with access.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }
}
