//! Blocks at a given place: for a layout that is known beforehand.

use super::growth::Growth;
use super::node::{Backing, BlockId, NIL, State, StreamId};
use super::{Arena, Node};
use crate::core::size::{ALIGNMENT, BlockSize};
use crate::core::tier::Tier;

/// A node to look at first: where the place was found last time. It may be outdated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Near(u32);

impl Default for Near {
    fn default() -> Self {
        Near(NIL)
    }
}

impl Arena {
    /// Takes the block that begins at `offset`, if all of it is free in `tier` for `stream`. `near`
    /// is looked at first, and says where to look next time. O(1) where it is right; otherwise
    /// O(slots down to the block before).
    #[inline]
    pub fn take_at(
        &mut self,
        offset: u64,
        size: BlockSize,
        tier: Tier,
        stream: StreamId,
        near: &mut Near,
    ) -> Option<BlockId> {
        let end = offset + size.rounded();
        let id = self.node_at(offset, near)?;
        let Node { offset: begin, size: bytes, .. } = self.nodes[id];
        if !self.is_for(id, tier, stream) || begin + bytes < end {
            return None;
        }
        self.lists.remove(&mut self.nodes, id);
        if begin == offset {
            return Some(self.carve(id, size));
        }
        let block = self.nodes.split(id, offset - begin);
        self.lists.add(&mut self.nodes, id);
        Some(self.carve(block, size))
    }

    /// The first backing that [`take_at`](Arena::take_at) lacks; `None` where it lacks none, and
    /// where it would fail all the same. O(nodes under the block).
    pub fn plan_growth_at(
        &mut self,
        offset: u64,
        size: BlockSize,
        tier: Tier,
        stream: StreamId,
        near: &mut Near,
    ) -> Option<Growth> {
        let (mut id, granule) = (self.node_at(offset, near)?, self.granules.size());
        let end = offset + size.rounded();
        let mut missing = None;
        while id != NIL && self.nodes[id].offset < end {
            let node = &self.nodes[id];
            if node.backing == Backing::None {
                let first = node.offset.max(offset / granule * granule);
                let bytes = (node.offset + node.size).min(end.next_multiple_of(granule)) - first;
                let (first, count) = ((first / granule) as u32, (bytes / granule) as u32);
                missing = missing.or(Some(Growth { hole: id, first, count }));
            } else if !self.is_for(id, tier, stream) {
                return None;
            }
            id = node.next;
        }
        missing
    }

    #[inline]
    fn is_for(&self, id: u32, tier: Tier, stream: StreamId) -> bool {
        let node = &self.nodes[id];
        node.state == State::Free && node.backing == Backing::In(tier) && node.stream == stream
    }

    /// The node that holds an offset where a block may begin.
    #[inline]
    fn node_at(&mut self, offset: u64, near: &mut Near) -> Option<u32> {
        debug_assert!(offset.is_multiple_of(ALIGNMENT));
        self.merge_kept();
        if !self.nodes.get(near.0).is_some_and(|node| node.holds(offset)) {
            near.0 = self.search_at(offset)?;
        }
        Some(near.0)
    }

    fn search_at(&self, offset: u64) -> Option<u32> {
        if offset >= self.length {
            return None;
        }
        let before = self.starts.up_to(offset).find(|id| self.nodes[*id].offset <= offset);
        let mut id = before.unwrap_or(0);
        while !self.nodes[id].holds(offset) {
            id = self.nodes[id].next;
        }
        Some(id)
    }
}
