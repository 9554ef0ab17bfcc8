//! The memory of one tier: its bytes, and which ranges of them are free.

use std::collections::BTreeMap;

use crate::code::{self, Result, error};
use crate::os::Bytes;

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) bytes: Bytes,
    pub(super) capacity: u64,
    pub(super) used: u64,
    /// How much other processes have taken.
    pub(super) taken: u64,
    /// Free ranges of the bytes, by offset.
    free: BTreeMap<u64, u64>,
}

impl Pool {
    pub(super) fn new(capacity: u64) -> Result<Pool> {
        match Bytes::new(capacity) {
            Ok(bytes) => Ok(Pool { bytes, capacity, used: 0, taken: 0, free: BTreeMap::from([(0, capacity)]) }),
            Err(why) => error("cuInit", code::UNKNOWN, format!("no memory for a simulated tier: {why}")),
        }
    }

    /// Allocates a range; `None` if there is no room.
    pub(super) fn allocate(&mut self, bytes: u64) -> Option<u64> {
        if self.used + self.taken + bytes > self.capacity {
            return None;
        }
        let (&offset, &length) = self.free.iter().find(|(_, length)| **length >= bytes)?;
        self.bytes.create(offset, bytes).ok()?;
        self.free.remove(&offset);
        if length > bytes {
            self.free.insert(offset + bytes, length - bytes);
        }
        self.used += bytes;
        Some(offset)
    }

    /// Frees a range, which reads as zeros afterwards.
    pub(super) fn free(&mut self, offset: u64, bytes: u64) {
        self.bytes.destroy(offset, bytes);
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
}
