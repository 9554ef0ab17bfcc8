//! Other allocators to compare giant-kitten's hot path with. They allocate offsets in one range,
//! and know no threads, tiers or streams.

use std::collections::{BTreeMap, BTreeSet};

/// An allocator of offsets.
pub trait Peer {
    /// Its name in results.
    fn name(&self) -> &'static str;
    /// Allocates a block of at least `bytes`. Returns a token for [`free`](Peer::free); `None` if
    /// there is no room.
    fn malloc(&mut self, bytes: u64) -> Option<u64>;
    /// Why the last block was refused.
    fn why(&self) -> String {
        "its range is used up".into()
    }
    /// Frees a block; `bytes` is the size that was requested.
    fn free(&mut self, token: u64, bytes: u64);
}

/// The range that peers get: 1 TiB.
pub const ROOM: u64 = 1 << 40;

const ALIGNMENT: u64 = 512;

/// The plainest good allocator: best fit on two trees, one by size and one by address, with
/// immediate coalescing. It gets a block's size when the block is freed, so it needs no table of
/// blocks in use.
#[derive(Debug)]
pub struct BestFit {
    by_size: BTreeSet<(u64, u64)>,
    by_offset: BTreeMap<u64, u64>,
}

impl BestFit {
    /// One free range of `bytes`.
    pub fn new(bytes: u64) -> Self {
        BestFit { by_size: BTreeSet::from([(bytes, 0)]), by_offset: BTreeMap::from([(0, bytes)]) }
    }

    fn add(&mut self, offset: u64, bytes: u64) {
        self.by_size.insert((bytes, offset));
        self.by_offset.insert(offset, bytes);
    }

    fn remove(&mut self, offset: u64, bytes: u64) {
        self.by_size.remove(&(bytes, offset));
        self.by_offset.remove(&offset);
    }
}

impl Peer for BestFit {
    fn name(&self) -> &'static str {
        "btreemap-best-fit"
    }

    fn malloc(&mut self, bytes: u64) -> Option<u64> {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let (length, offset) = self.by_size.range((bytes, 0)..).next().copied()?;
        self.remove(offset, length);
        if length > bytes {
            self.add(offset + bytes, length - bytes);
        }
        Some(offset)
    }

    fn free(&mut self, token: u64, bytes: u64) {
        let (mut offset, mut bytes) = (token, bytes.next_multiple_of(ALIGNMENT));
        if let Some((&before, &length)) = self.by_offset.range(..offset).next_back()
            && before + length == offset
        {
            self.remove(before, length);
            offset = before;
            bytes += length;
        }
        if let Some(&length) = self.by_offset.get(&(offset + bytes)) {
            self.remove(offset + bytes, length);
            bytes += length;
        }
        self.add(offset, bytes);
    }
}

/// The crate `offset-allocator`, in units of 512 bytes.
pub struct OffsetAllocator {
    inner: offset_allocator::Allocator<u32>,
    blocks: Vec<Option<offset_allocator::Allocation<u32>>>,
    vacant: Vec<u32>,
}

impl OffsetAllocator {
    /// One free range of `bytes`.
    pub fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / ALIGNMENT).unwrap_or(u32::MAX);
        let inner = offset_allocator::Allocator::with_max_allocs(units, 1 << 20);
        OffsetAllocator { inner, blocks: Vec::new(), vacant: Vec::new() }
    }
}

impl Peer for OffsetAllocator {
    fn name(&self) -> &'static str {
        "offset-allocator"
    }

    fn malloc(&mut self, bytes: u64) -> Option<u64> {
        let units = u32::try_from(bytes.div_ceil(ALIGNMENT)).ok()?;
        let block = self.inner.allocate(units)?;
        Some(match self.vacant.pop() {
            Some(slot) => {
                self.blocks[slot as usize] = Some(block);
                u64::from(slot)
            }
            None => {
                self.blocks.push(Some(block));
                self.blocks.len() as u64 - 1
            }
        })
    }

    fn free(&mut self, token: u64, _bytes: u64) {
        let block = self.blocks[token as usize].take().expect("a live block");
        self.inner.free(block);
        self.vacant.push(token as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_do_not_fit_are_refused() {
        let peers: [&mut dyn Peer; 2] = [&mut BestFit::new(1 << 20), &mut OffsetAllocator::new(1 << 20)];
        for peer in peers {
            let half = peer.malloc(1 << 19).expect("room for a half");
            assert_eq!(peer.malloc((1 << 19) + 1), None, "{}", peer.name());
            assert!(peer.malloc(1 << 18).is_some());
            peer.free(half, 1 << 19);
            assert!(peer.malloc(1 << 19).is_some(), "{}", peer.name());
            assert_eq!(peer.malloc(1 << 44), None, "{}", peer.name());
        }
    }
}
