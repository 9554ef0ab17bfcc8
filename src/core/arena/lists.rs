//! The lists of free nodes: by stream, tier and size; quick lists of small ones; holes; and seams.

use super::bins::Bins;
use super::node::{Backing, NIL, Node, Nodes, State, StreamId};
use super::quick::QuickLists;
use super::seams::Seams;
use crate::core::size::BlockSize;
use crate::core::tier::{PerTier, Tier};

/// Every free node of an arena is in one of these.
#[derive(Debug)]
pub(super) struct FreeLists {
    /// By stream, then by tier.
    bins: Vec<PerTier<Bins>>,
    quick: QuickLists,
    holes: Vec<u32>,
    seams: Seams,
}

impl FreeLists {
    pub(super) fn new() -> Self {
        FreeLists { bins: Vec::new(), quick: QuickLists::new(), holes: Vec::new(), seams: Seams::default() }
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        self.bins.clear();
        self.quick.clear();
        self.holes.clear();
        self.seams.clear();
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
                    self.make_bins(stream + 1);
                }
                self.bins[stream][tier].insert(nodes, id);
                self.seams.note(nodes, id);
            }
            Backing::None => self.holes.push(id),
            Backing::Mixed => debug_assert!(false, "a free node lies in one tier or in none"),
        }
    }

    /// Makes bins for so many streams. New bins come by way of the stack, which the hot path would
    /// have to keep free for them.
    #[cold]
    #[inline(never)]
    fn make_bins(&mut self, streams: usize) {
        self.bins.resize_with(streams, PerTier::default);
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

    /// The free nodes in `tier` of at least `bytes`, of any stream, the longest first to within the
    /// width of a list, and a stream after the other. Those kept whole are not included.
    pub(super) fn longest<'a>(&'a self, nodes: &'a Nodes, tier: Tier, bytes: u64) -> impl Iterator<Item = u32> + 'a {
        self.bins.iter().flat_map(move |bins| bins[tier].longest(nodes, bytes))
    }

    /// Whether a stream has any free node, those kept whole not counted.
    pub(super) fn has_any(&self, stream: StreamId) -> bool {
        self.bins.get(stream.0 as usize).is_some_and(|bins| bins.iter().any(|bins| !bins.is_empty()))
    }

    /// Says whether the arena has backing in more than one tier, so that there may be seams.
    pub(super) fn watch_seams(&mut self, is_mixed: bool) {
        self.seams.watch(is_mixed);
    }

    /// The free nodes behind which a free node of their stream lies in another tier.
    pub(super) fn seams(&mut self, nodes: &mut Nodes) -> &[u32] {
        self.seams.all(nodes)
    }

    /// Whether the seam behind a free node is noted, if there is one. For checks: O(seams).
    pub(super) fn knows_seam(&self, nodes: &Nodes, id: u32) -> bool {
        self.seams.is_known(nodes, id)
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
