//! Idle granules: backed, and touched by no block.

use std::ops::Range;

use super::Arena;
use super::node::{Backing, StreamId};
use crate::core::tier::Tier;

/// Granules in a free node; see [`Arena::longest_idle`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    node: u32,
    /// The granules.
    pub granules: Range<u32>,
}

impl Idle {
    /// Its last `count` granules alone.
    pub fn last(self, count: u32) -> Idle {
        let Range { start, end } = self.granules;
        Idle { granules: start.max(end.saturating_sub(count))..end, ..self }
    }
}

impl Arena {
    /// The backed granules that no used or retired block touches, in order. O(nodes).
    pub fn idle_granules(&self) -> Vec<u32> {
        self.nodes.free_stretches().flat_map(|(start, end)| self.granules.within(start, end)).collect()
    }

    /// The idle granules in `tier`, as runs of neighbours. O(nodes + granules).
    pub fn idle_runs(&self, tier: Tier) -> Vec<Range<u32>> {
        let mut idle = self.idle_granules();
        idle.retain(|granule| self.granules.tier(*granule) == Some(tier));
        idle.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[0] + run.len() as u32).collect()
    }

    /// Granules of `tier` that lie in one free node each, the longest runs first, until there are
    /// `enough`. Those between two streams' nodes are left out. They are valid until the arena
    /// changes otherwise than by [`shrink`](Arena::shrink). O(free nodes of a granule or more), and
    /// only as many as are enough.
    pub fn longest_idle(&mut self, tier: Tier, enough: u32) -> Vec<Idle> {
        self.merge_kept();
        let mut found = Vec::new();
        let mut missing = enough;
        for id in self.lists.longest(&self.nodes, tier, self.granules.size()) {
            if missing == 0 {
                break;
            }
            let granules = self.wholly_in(id);
            if !granules.is_empty() {
                missing = missing.saturating_sub(granules.len() as u32);
                found.push(Idle { node: id, granules });
            }
        }
        found
    }

    /// Reports that idle granules have no backing any more. O(1) and O(holes).
    pub fn shrink(&mut self, idle: Idle) {
        let size = self.granules.size();
        let (from, to) = (u64::from(idle.granules.start) * size, u64::from(idle.granules.end) * size);
        idle.granules.clone().for_each(|granule| self.granules.set(granule, None));
        let mut hole = idle.node;
        self.lists.remove(&mut self.nodes, hole);
        let (offset, end) = (self.nodes[hole].offset, self.nodes[hole].offset + self.nodes[hole].size);
        if from > offset {
            hole = self.nodes.split(idle.node, from - offset);
            self.lists.add(&mut self.nodes, idle.node);
        }
        if to < end {
            let rest = self.nodes.split(hole, to - from);
            self.lists.add(&mut self.nodes, rest);
        }
        self.nodes[hole].backing = Backing::None;
        self.nodes[hole].stream = StreamId(0);
        self.lists.merge_and_add(&mut self.nodes, hole);
    }

    /// Whether free space belongs to streams other than `stream`. O(streams).
    pub fn is_free_for_others(&self, stream: StreamId) -> bool {
        self.lists.streams().any(|other| other != stream && self.lists.has_any(other))
    }

    /// The number of free nodes that share a granule with a block, or with another stream's free
    /// space, and their bytes on such granules, which cannot be unmapped. What is kept whole counts
    /// too. O(free nodes of a granule or more).
    pub fn splits(&self) -> (u64, u64) {
        let size = self.granules.size();
        let backed: u64 = self.granules.backed().iter().sum();
        let nodes = self.nodes.count() as u64 - self.live - self.lists.holes().len() as u64;
        let (mut count, mut bytes) = (nodes, backed - self.live_bytes);
        for id in Tier::ALL.into_iter().flat_map(|tier| self.lists.longest(&self.nodes, tier, size)) {
            let idle = self.wholly_in(id).len() as u64 * size;
            count -= u64::from(idle == self.nodes[id].size);
            bytes -= idle;
        }
        (count, bytes)
    }

    /// Whether there may be idle granules. O(free nodes of a granule or more).
    pub fn may_be_idle(&self) -> bool {
        let size = self.granules.size();
        // Granules may also lie across what is kept whole, or across two streams' free space.
        self.lists.any_kept()
            || self.lists.streams().filter(|stream| self.lists.has_any(*stream)).count() > 1
            || Tier::ALL
                .into_iter()
                .any(|tier| self.lists.longest(&self.nodes, tier, size).any(|id| !self.wholly_in(id).is_empty()))
    }

    /// The granules that lie wholly in a node.
    fn wholly_in(&self, id: u32) -> Range<u32> {
        let node = &self.nodes[id];
        self.granules.within(node.offset, node.offset + node.size)
    }
}
