//! The lists of free nodes: by stream, tier and size; quick lists of small ones; and holes.

use super::bins::Bins;
use super::node::{Backing, NIL, Node, Nodes, State, StreamId};
use super::quick::QuickLists;
use crate::core::size::BlockSize;
use crate::core::tier::{PerTier, Tier};

/// Every free node of an arena is in one of these.
#[derive(Debug)]
pub(super) struct FreeLists {
    /// By stream, then by tier.
    bins: Vec<PerTier<Bins>>,
    quick: QuickLists,
    holes: Vec<u32>,
}

impl FreeLists {
    pub(super) fn new() -> Self {
        FreeLists { bins: Vec::new(), quick: QuickLists::new(), holes: Vec::new() }
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        self.bins.clear();
        self.quick.clear();
        self.holes.clear();
    }

    /// The nodes without backing.
    pub(super) fn holes(&self) -> &[u32] {
        &self.holes
    }

    /// The streams that free nodes may belong to.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> + use<> {
        (0..self.bins.len() as u16).map(StreamId)
    }

    /// Adds a free node. O(1).
    #[inline]
    pub(super) fn add(&mut self, nodes: &mut Nodes, id: u32) {
        let Node { backing, stream, .. } = nodes[id];
        match backing {
            Backing::In(tier) => {
                let stream = stream.0 as usize;
                if stream >= self.bins.len() {
                    self.bins.resize_with(stream + 1, PerTier::default);
                }
                self.bins[stream][tier].insert(nodes, id);
            }
            Backing::None => self.holes.push(id),
            Backing::Mixed => debug_assert!(false, "a free node lies in one tier or in none"),
        }
    }

    /// Removes a free node. O(1); O(holes) for a hole.
    #[inline]
    pub(super) fn remove(&mut self, nodes: &mut Nodes, id: u32) {
        let Node { backing, stream, .. } = nodes[id];
        match backing {
            Backing::In(tier) => self.bins[stream.0 as usize][tier].remove(nodes, id),
            Backing::None => self.holes.retain(|hole| *hole != id),
            Backing::Mixed => debug_assert!(false, "a free node lies in one tier or in none"),
        }
    }

    /// Finds a node of at least `bytes` in `tier` for `stream`, which stays in its list. O(1).
    #[inline]
    pub(super) fn find(&self, nodes: &Nodes, bytes: u64, tier: Tier, stream: StreamId) -> Option<u32> {
        self.bins.get(stream.0 as usize)?[tier].find(nodes, bytes)
    }

    /// The free nodes of a stream in any tier, those kept whole not included, in no particular
    /// order.
    pub(super) fn of<'a>(&'a self, nodes: &'a Nodes, stream: StreamId) -> impl Iterator<Item = u32> + 'a {
        let bins = self.bins.get(stream.0 as usize).into_iter().flat_map(PerTier::iter);
        bins.flat_map(|bins| bins.iter(nodes))
    }

    /// Takes a node out that was kept whole and is of just this size, in `tier` and for `stream`.
    /// O(1).
    #[inline]
    pub(super) fn take_kept(&mut self, nodes: &Nodes, size: BlockSize, tier: Tier, stream: StreamId) -> Option<u32> {
        let id = self.quick.newest(size.rounded())?;
        let node = &nodes[id];
        if node.stream != stream || node.backing != Backing::In(tier) {
            return None;
        }
        self.quick.pop(nodes, size.rounded());
        Some(id)
    }

    /// Keeps a small free node whole for the next request of its size. Returns whether there was
    /// room for it. O(1).
    #[inline]
    pub(super) fn keep(&mut self, nodes: &mut Nodes, id: u32) -> bool {
        let is_kept = self.quick.push(nodes, id);
        if is_kept {
            nodes[id].state = State::Kept;
        }
        is_kept
    }

    /// Whether any node is kept whole.
    #[inline]
    pub(super) fn any_kept(&self) -> bool {
        !self.quick.is_empty()
    }

    /// Takes any node out that was kept whole. It is an ordinary free node from then on, in no
    /// list.
    pub(super) fn drain_kept(&mut self, nodes: &mut Nodes) -> Option<u32> {
        let id = self.quick.drain(nodes)?;
        nodes[id].state = State::Free;
        Some(id)
    }

    /// Merges a free node that is in no list with its free neighbours of one kind, and adds it.
    /// O(1).
    #[inline]
    pub(super) fn merge_and_add(&mut self, nodes: &mut Nodes, mut id: u32) {
        let Node { prev, next, .. } = nodes[id];
        if next != NIL && nodes[id].merges_with(&nodes[next]) {
            self.remove(nodes, next);
            nodes.absorb_next(id);
        }
        if prev != NIL && nodes[id].merges_with(&nodes[prev]) {
            self.remove(nodes, prev);
            nodes.absorb_next(prev);
            id = prev;
        }
        self.add(nodes, id);
    }

    /// Whether a free node is in the list where it belongs. For checks: O(length of its list).
    pub(super) fn contains(&self, nodes: &Nodes, id: u32) -> bool {
        let node = &nodes[id];
        match node.backing {
            _ if node.state == State::Kept => self.quick.contains(nodes, id),
            Backing::In(tier) => self.bins[node.stream.0 as usize][tier].contains(nodes, id),
            Backing::None | Backing::Mixed => self.holes.contains(&id),
        }
    }

    /// How many nodes are in the lists, those kept whole not counted; and how many are kept whole.
    /// For checks: O(nodes).
    pub(super) fn counts(&self, nodes: &Nodes) -> (usize, usize) {
        let in_bins: usize = self.bins.iter().flat_map(PerTier::iter).map(|bins| bins.count(nodes)).sum();
        (self.holes.len() + in_bins, self.quick.count())
    }
}
