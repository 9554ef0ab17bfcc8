//! Growth: which granules to back for a request that nothing free can serve.

use super::Arena;
use super::node::{Backing, NIL, Node, StreamId};
use crate::core::size::BlockSize;
use crate::core::tier::Tier;

/// Backing that an allocation needs before it can be made; see [`Arena::plan_growth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    pub(super) hole: u32,
    /// The first granule to back.
    pub first: u32,
    /// How many granules to back.
    pub count: u32,
}

impl Growth {
    /// The first `count` granules of it alone.
    pub fn first(self, count: u32) -> Growth {
        Growth { count: count.min(self.count), ..self }
    }
}

impl Arena {
    /// Plans which granules to back in `tier` so that a block of `size` can be taken on `stream`:
    /// as few as possible, using free space of that tier beside a hole, and of equals the lowest.
    /// `None` where no hole is long enough. O(holes).
    pub fn plan_growth(&self, size: BlockSize, tier: Tier, stream: StreamId) -> Option<Growth> {
        self.plan(size.rounded(), stream, |backing| backing == Backing::In(tier))
    }

    /// The same for [`take_across`](Arena::take_across), which uses free space of any tier.
    /// O(holes).
    pub fn plan_growth_across(&self, size: BlockSize, stream: StreamId) -> Option<Growth> {
        self.plan(size.rounded(), stream, |backing| backing != Backing::None)
    }

    fn plan(&self, bytes: u64, stream: StreamId, wanted: impl Fn(Backing) -> bool) -> Option<Growth> {
        let granule = self.granules.size();
        let usable = |mut id: u32, onward: fn(&Node) -> u32| {
            let mut bytes = 0;
            while id != NIL && self.is_free_for(id, stream) && wanted(self.nodes[id].backing) {
                let node = &self.nodes[id];
                bytes += node.size;
                id = onward(node);
            }
            bytes
        };
        let before = |hole: &Node| usable(hole.prev, |node| node.prev);
        let behind = |hole: &Node| usable(hole.next, |node| node.next);
        let mut best: Option<(Growth, u64)> = None;
        for &hole in self.lists.holes() {
            let node = &self.nodes[hole];
            let missing = bytes.saturating_sub(before(node));
            let needed = missing.next_multiple_of(granule).max(granule);
            let backed = if needed <= node.size {
                needed
            } else if missing <= node.size + behind(node) {
                node.size
            } else {
                continue;
            };
            let count = (backed / granule) as u32;
            let growth = Growth { hole, first: (node.offset / granule) as u32, count };
            if best.is_none_or(|(b, offset)| (count, node.offset) < (b.count, offset)) {
                best = Some((growth, node.offset));
            }
        }
        best.map(|(growth, _)| growth)
    }

    /// Reports that the granules of `growth` are backed in `tier` now. They are free for `stream`.
    pub fn grow(&mut self, growth: Growth, tier: Tier, stream: StreamId) {
        self.merge_kept();
        (growth.first..growth.first + growth.count).for_each(|granule| self.granules.set(granule, Some(tier)));
        self.lists.watch_seams(self.granules.is_mixed());
        let bytes = u64::from(growth.count) * self.granules.size();
        self.lists.remove(&mut self.nodes, growth.hole);
        let mut hole = growth.hole;
        let before = u64::from(growth.first) * self.granules.size() - self.nodes[hole].offset;
        if before > 0 {
            let behind = self.nodes.split(hole, before);
            self.lists.add(&mut self.nodes, hole);
            hole = behind;
        }
        if self.nodes[hole].size > bytes {
            let rest = self.nodes.split(hole, bytes);
            self.lists.add(&mut self.nodes, rest);
        }
        let node = &mut self.nodes[hole];
        node.backing = Backing::In(tier);
        node.stream = stream;
        self.lists.merge_and_add(&mut self.nodes, hole);
    }
}
