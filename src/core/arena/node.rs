//! Nodes: the stretches that an arena is divided into, linked in address order.

use std::ops::{Index, IndexMut};

use crate::core::tier::Tier;

/// No node.
pub(super) const NIL: u32 = u32::MAX;

/// A stream, by the number that the heap gave it. Reuse on one stream is in order; reuse across
/// streams is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u16);

/// A block of an arena, by the number of its node. It is valid until the block is freed, and until
/// [`Arena::set_tiers`](super::Arena::set_tiers) numbers all blocks anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub(super) u32);

/// What a node is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Free, merged with its neighbours, and in the list for its size.
    Free,
    /// Free, and kept whole in a quick list for the next request of its size.
    Kept,
    /// Allocated.
    Used,
    /// Freed by its owner, while work on another stream may still touch it.
    Retired,
}

/// What lies under a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backing {
    /// Nothing: the node is a hole.
    None,
    /// Granules of one tier.
    In(Tier),
    /// Granules of more than one tier. Only blocks in use lie so.
    Mixed,
}

/// What the heap remembers of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The block belongs to the model: it is placed before everything else.
    pub model: bool,
    /// The block was allocated while frozen and no action has placed it since: it is scratch, as
    /// far as anyone knows.
    pub scratch: bool,
    /// The block is used on streams other than its own.
    pub used_elsewhere: bool,
    /// To whom weights in the block were lent, a bit for each.
    pub lent: u32,
    /// The tier that a program has pinned the block to.
    pub pin: Option<Tier>,
    /// The interval between safe points in which the block was allocated.
    pub born: u32,
    /// Its number in the sequence of requests that is learned; 0 where it has none.
    pub request: u32,
}

/// One stretch of an arena. The size indexes thread their lists through `bin_prev` and `bin_next`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) bin_prev: u32,
    pub(super) bin_next: u32,
    pub(super) prev: u32,
    pub(super) next: u32,
    pub(super) requested: u64,
    pub(super) state: State,
    pub(super) backing: Backing,
    pub(super) stream: StreamId,
    /// Whether the node is among the noted [`seams`](super::seams); it stays so for as long as it
    /// is, also while its number is free.
    pub(super) seamed: bool,
    pub(super) marks: Marks,
}

impl Node {
    /// Whether no block lies here, in use or retired.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.state, State::Free | State::Kept)
    }

    /// Whether an offset lies in it. No offset does once the node was merged away.
    #[inline]
    pub(super) fn holds(&self, offset: u64) -> bool {
        self.offset <= offset && offset - self.offset < self.size
    }

    /// Whether the node is free and has backing.
    pub(super) fn is_backed_and_free(&self) -> bool {
        self.is_free() && self.backing != Backing::None
    }

    /// Whether `other`, which lies next to this node, may be merged with it.
    #[inline]
    pub(super) fn merges_with(&self, other: &Node) -> bool {
        let free = self.state == State::Free && other.state == State::Free;
        free && self.backing == other.backing && (self.stream == other.stream || self.backing == Backing::None)
    }
}

/// All nodes of an arena, by number. They tile it from its first byte to its last.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
    /// Numbers of nodes that were merged away, for reuse.
    vacant: Vec<u32>,
}

impl Index<u32> for Nodes {
    type Output = Node;
    #[inline]
    fn index(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }
}

impl IndexMut<u32> for Nodes {
    #[inline]
    fn index_mut(&mut self, id: u32) -> &mut Node {
        &mut self.nodes[id as usize]
    }
}

impl Nodes {
    /// A node by a number that may be outdated.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    /// How many nodes tile the arena.
    pub(super) fn count(&self) -> usize {
        self.nodes.len() - self.vacant.len()
    }

    /// Removes every node.
    pub(super) fn clear(&mut self) {
        self.nodes.clear();
        self.vacant.clear();
    }

    /// Creates a free node that is linked to nothing yet. O(1).
    #[inline]
    pub(super) fn create(&mut self, offset: u64, size: u64, backing: Backing, stream: StreamId) -> u32 {
        if let Some(id) = self.vacant.pop() {
            // Field by field: a node built elsewhere first would stall on its copy.
            let node = &mut self.nodes[id as usize];
            (node.offset, node.size) = (offset, size);
            (node.prev, node.next) = (NIL, NIL);
            (node.state, node.backing, node.stream) = (State::Free, backing, stream);
            node.marks = Marks::default();
            return id;
        }
        self.nodes.push(Node {
            offset,
            size,
            bin_prev: NIL,
            bin_next: NIL,
            prev: NIL,
            next: NIL,
            requested: 0,
            state: State::Free,
            backing,
            stream,
            seamed: false,
            marks: Marks::default(),
        });
        (self.nodes.len() - 1) as u32
    }

    /// Links a new node behind `left`; with `left` = [`NIL`] it is the first. O(1).
    #[inline]
    pub(super) fn link_after(&mut self, left: u32, id: u32) {
        if left == NIL {
            return;
        }
        let right = self[left].next;
        self[id].prev = left;
        self[id].next = right;
        self[left].next = id;
        if right != NIL {
            self[right].prev = id;
        }
    }

    /// Cuts a free node that is in no list behind its first `bytes`. Returns the second part, which
    /// is in no list either. O(1).
    #[inline]
    pub(super) fn split(&mut self, id: u32, bytes: u64) -> u32 {
        let Node { offset, size, backing, stream, .. } = self[id];
        let rest = self.create(offset + bytes, size - bytes, backing, stream);
        self.link_after(id, rest);
        self[id].size = bytes;
        rest
    }

    /// Merges a node with the one behind it. The first keeps its number. O(1).
    #[inline]
    pub(super) fn absorb_next(&mut self, id: u32) {
        let gone = self[id].next;
        let Node { size, next, .. } = self[gone];
        self[gone].size = 0;
        self[id].size += size;
        self[id].next = next;
        if next != NIL {
            self[next].prev = id;
        }
        // A vacant node has no neighbour, and so no seam.
        self[gone].next = NIL;
        self.vacant.push(gone);
    }

    /// The nodes in address order. The first keeps the number 0 for ever, since splitting and
    /// merging keep the left number.
    pub(super) fn walk(&self) -> impl Iterator<Item = u32> + '_ {
        let mut id = 0;
        std::iter::from_fn(move || {
            let here = (id != NIL).then_some(id)?;
            id = self[here].next;
            Some(here)
        })
    }

    /// The stretches of backed free space between blocks and holes, whatever their tiers and
    /// streams, as pairs of offsets. O(nodes) for all.
    pub(super) fn free_stretches(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut walk = self.walk().peekable();
        std::iter::from_fn(move || {
            let first = walk.find(|id| self[*id].is_backed_and_free())?;
            let Node { offset, size, .. } = self[first];
            let mut end = offset + size;
            while let Some(next) = walk.next_if(|id| self[*id].is_backed_and_free()) {
                end += self[next].size;
            }
            Some((offset, end))
        })
    }
}
