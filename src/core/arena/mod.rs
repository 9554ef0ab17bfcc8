//! One arena: a range of addresses, divided into granules for the driver and into blocks for the
//! caller.
//!
//! ```text
//!  granules  │ dedicated │ dedicated │  shared   │  shared   │  (none)   │ (none) …
//!  nodes     │ used │free │  used            │ used │ free  │ hole ────────────────▶
//!              #0 ⇄  #4  ⇄  #1               ⇄  #2  ⇄  #5   ⇄  #3
//! ```
//!
//! The nodes tile the arena from its first byte to its last, linked in address order. A node is in
//! use, retired (freed, while work on another stream may still touch it), or free. A free node is
//! either a hole, which has no backing, or lies entirely in one tier and belongs to one stream.
//! Free neighbours of one kind are always merged, except small ones that a quick list keeps whole
//! until something needs them. A used block may lie in more than one tier: where no more of it
//! could be dedicated, or once a placement has moved some of its granules.
//!
//! The parts, each with its own data: [`node`] the nodes and their links, [`granules`] the tier of
//! each granule, [`lists`] the free nodes ([`bins`] by size, [`quick`] those kept whole, [`seams`]
//! those side by side in different tiers), [`starts`] the table from an offset to its block.
//! [`growth`] plans new backing, [`idle`] finds backing that nothing uses, [`place_at`] takes
//! blocks where a layout wants them, [`check`] tests the invariants.

mod bins;
mod check;
mod granules;
mod growth;
mod idle;
mod lists;
mod node;
mod place_at;
mod quick;
mod seams;
mod starts;

use std::ops::Range;

use self::granules::Granules;
use self::lists::FreeLists;
use self::node::{Backing, NIL, Node, Nodes, State};
use self::starts::Starts;
use super::size::{ALIGNMENT, BlockSize, Class, SMALL_LIMIT};
use super::tier::{PerTier, Tier};

pub use self::growth::Growth;
pub use self::idle::Idle;
pub use self::node::{BlockId, Marks, StreamId};
pub use self::place_at::Near;

/// A block as callers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number in this arena.
    pub id: BlockId,
    /// Where it begins, in bytes from the arena's start.
    pub offset: u64,
    /// Its length: the request, rounded up.
    pub size: u64,
    /// The bytes that were requested.
    pub requested: u64,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Whether it was freed and still waits for work on other streams.
    pub retired: bool,
    /// What the heap remembers of it.
    pub marks: Marks,
}

/// The bookkeeping of one arena. All offsets and sizes are in bytes; nothing here is an address.
#[derive(Debug)]
pub struct Arena {
    length: u64,
    class: Class,
    nodes: Nodes,
    lists: FreeLists,
    granules: Granules,
    starts: Starts,
    /// How many blocks are used or retired.
    live: u64,
    /// Their bytes.
    live_bytes: u64,
}

impl Arena {
    /// An arena of `length` bytes without any backing. `length` is a multiple of `granule`, which
    /// is a power of two.
    pub fn new(length: u64, granule: u64, class: Class) -> Self {
        debug_assert!(
            granule.is_power_of_two() && granule >= ALIGNMENT && length.is_multiple_of(granule) && length > 0
        );
        let shortest = match class {
            Class::Small => ALIGNMENT,
            Class::Large => SMALL_LIMIT,
        };
        let mut arena = Arena {
            length,
            class,
            nodes: Nodes::default(),
            lists: FreeLists::new(),
            granules: Granules::new(granule),
            starts: Starts::new(shortest),
            live: 0,
            live_bytes: 0,
        };
        let all = arena.nodes.create(0, length, Backing::None, StreamId(0));
        arena.lists.add(&mut arena.nodes, all);
        arena
    }

    /// The arena's length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Which blocks it is for.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Bytes backed in each tier.
    pub fn backed(&self) -> PerTier<u64> {
        self.granules.backed()
    }

    /// How many blocks are used or retired.
    pub fn live_blocks(&self) -> u64 {
        self.live
    }

    /// The tier of a granule; `None` where it has no backing.
    pub fn tier_of_granule(&self, granule: u32) -> Option<Tier> {
        self.granules.tier(granule)
    }

    /// The tier of each granule, up to the last one that may have backing.
    pub fn tiers(&self) -> impl Iterator<Item = Option<Tier>> + '_ {
        (0..self.granules.count()).map(|granule| self.granules.tier(granule))
    }

    /// Takes a block out of free space in `tier` for `stream`: one of just this size that was kept
    /// whole, or else, of the nearest sizes, the lowest. O(1), once the quick lists are empty.
    #[inline]
    pub fn take(&mut self, size: BlockSize, tier: Tier, stream: StreamId) -> Option<BlockId> {
        if let Some(id) = self.lists.take_kept(&self.nodes, size, tier, stream) {
            return Some(self.put_to_use(id, size));
        }
        let found = self.take_listed(size, tier, stream);
        if found.is_none() && self.merge_kept() {
            return self.take_listed(size, tier, stream);
        }
        found
    }

    #[inline]
    fn take_listed(&mut self, size: BlockSize, tier: Tier, stream: StreamId) -> Option<BlockId> {
        let id = self.lists.find(&self.nodes, size.rounded(), tier, stream)?;
        self.lists.remove(&mut self.nodes, id);
        Some(self.carve(id, size))
    }

    /// Takes a block out of free space in `tier` of any other stream, and returns that stream. The
    /// caller must order the two streams before anything uses the block, which belongs to `stream`
    /// now; `willing` says whether that can be done. O(streams).
    pub fn take_from_others(
        &mut self,
        size: BlockSize,
        tier: Tier,
        stream: StreamId,
        mut willing: impl FnMut(StreamId) -> bool,
    ) -> Option<(BlockId, StreamId)> {
        self.merge_kept();
        for other in self.lists.streams().filter(|other| *other != stream) {
            let Some(id) = self.lists.find(&self.nodes, size.rounded(), tier, other) else { continue };
            if !willing(other) {
                continue;
            }
            self.lists.remove(&mut self.nodes, id);
            let block = self.carve(id, size);
            self.nodes[id].stream = stream;
            return Some((block, other));
        }
        None
    }

    /// Takes a block out of free neighbours for `stream` that are long enough only together,
    /// because they lie in different tiers: best fit, the lowest of equals, and as much of it
    /// dedicated as possible. Where there are none, out of one that is long enough alone.
    /// O(neighbours in different tiers).
    pub fn take_across(&mut self, size: BlockSize, stream: StreamId) -> Option<BlockId> {
        self.merge_kept();
        let bytes = size.rounded();
        let Some((first, length)) = self.shortest_run(bytes, stream) else {
            return Tier::ALL.into_iter().find_map(|tier| self.take_listed(size, tier, stream));
        };
        let offset = self.nodes[first].offset;
        let behind = length - bytes;
        let dedicated = |from: u64| self.granules.residency(from, bytes)[Tier::Dedicated];
        let start = if dedicated(offset + behind) > dedicated(offset) { offset + behind } else { offset };
        self.lists.remove(&mut self.nodes, first);
        while self.nodes[first].size < length {
            let next = self.nodes[first].next;
            self.lists.remove(&mut self.nodes, next);
            self.nodes.absorb_next(first);
        }
        let block = if start > offset { self.nodes.split(first, start - offset) } else { first };
        let rest = (start + bytes < offset + length).then(|| self.nodes.split(block, bytes));
        let node = &mut self.nodes[block];
        (node.state, node.stream) = (State::Used, stream);
        node.backing = self.granules.under(start, bytes);
        // Only now that the block is in use: its leftovers must not be merged with it.
        rest.into_iter().chain((block != first).then_some(first)).for_each(|left| self.release_mixed(left));
        Some(self.carve(block, size))
    }

    /// The shortest run of free neighbours of one stream in different tiers that holds `bytes`, and
    /// the lowest of equals: its first node and its length. No node is kept whole.
    fn shortest_run(&mut self, bytes: u64, stream: StreamId) -> Option<(u32, u64)> {
        let seams = self.lists.seams(&mut self.nodes).to_vec();
        let begins_run = |id: &u32| {
            let before = self.nodes[*id].prev;
            self.nodes[*id].stream == stream && (before == NIL || !self.is_free_for(before, stream))
        };
        let runs = seams.into_iter().filter(begins_run).map(|first| (first, self.run_from(first, stream)));
        let long_enough = runs.filter(|(_, length)| *length >= bytes);
        long_enough.min_by_key(|(first, length)| (*length, self.nodes[*first].offset))
    }

    /// Bytes of the free neighbours of one stream from a node on.
    fn run_from(&self, mut id: u32, stream: StreamId) -> u64 {
        let mut length = 0;
        while id != NIL && self.is_free_for(id, stream) {
            length += self.nodes[id].size;
            id = self.nodes[id].next;
        }
        length
    }

    fn is_free_for(&self, id: u32, stream: StreamId) -> bool {
        let node = &self.nodes[id];
        node.is_backed_and_free() && node.stream == stream
    }

    /// The used block that begins at `offset`. O(1).
    #[inline]
    pub fn find(&self, offset: u64) -> Option<BlockId> {
        let id = self.starts.get(offset)?;
        (self.nodes[id].offset == offset).then_some(BlockId(id))
    }

    /// The used block that holds `offset`, at its start or inside. O(slots that the block spans).
    pub fn find_inside(&self, offset: u64) -> Option<BlockId> {
        let id = self.starts.up_to(offset).find(|id| self.nodes[*id].offset <= offset)?;
        let node = &self.nodes[id];
        (offset < node.offset + node.size).then_some(BlockId(id))
    }

    /// A block as callers see it.
    pub fn block(&self, id: BlockId) -> Block {
        let node = &self.nodes[id.0];
        Block {
            id,
            offset: node.offset,
            size: node.size,
            requested: node.requested,
            stream: node.stream,
            retired: node.state == State::Retired,
            marks: node.marks,
        }
    }

    /// Offset and length of a block, without the rest.
    #[inline]
    pub fn extent(&self, id: BlockId) -> (u64, u64) {
        let node = &self.nodes[id.0];
        (node.offset, node.size)
    }

    /// The size of a block, without the rest.
    #[inline]
    pub fn size(&self, id: BlockId) -> BlockSize {
        let node = &self.nodes[id.0];
        BlockSize::of_block(node.size, node.requested)
    }

    /// The bytes that were requested, without the rest.
    #[inline]
    pub fn requested(&self, id: BlockId) -> u64 {
        self.nodes[id.0].requested
    }

    /// The stream and marks of a block, without the rest.
    #[inline]
    pub fn owner(&self, id: BlockId) -> (StreamId, Marks) {
        let node = &self.nodes[id.0];
        (node.stream, node.marks)
    }

    /// What the heap remembers of a block, to be changed.
    #[inline]
    pub fn marks_mut(&mut self, id: BlockId) -> &mut Marks {
        &mut self.nodes[id.0].marks
    }

    /// The tier of a block that lies in one; `None` where it lies in more.
    #[inline]
    pub fn tier(&self, id: BlockId) -> Option<Tier> {
        match self.nodes[id.0].backing {
            Backing::In(tier) => Some(tier),
            Backing::None | Backing::Mixed => None,
        }
    }

    /// How many bytes of a block lie in each tier. O(granules of the block).
    pub fn residency(&self, id: BlockId) -> PerTier<u64> {
        let node = &self.nodes[id.0];
        self.granules.residency(node.offset, node.size)
    }

    /// The granules that a block touches.
    pub fn granules_of(&self, id: BlockId) -> Range<u32> {
        let node = &self.nodes[id.0];
        self.granules.touched(node.offset, node.size)
    }

    /// The granules that a block touches, each with the block's bytes on it.
    pub fn shares_of(&self, id: BlockId) -> impl Iterator<Item = (u32, u64)> + use<> {
        let (offset, size) = self.extent(id);
        let granule_size = self.granules.size();
        self.granules_of(id).map(move |granule| {
            let start = u64::from(granule) * granule_size;
            (granule, (offset + size).min(start + granule_size) - offset.max(start))
        })
    }

    /// Frees a used or retired block for reuse on `stream`, merged with its neighbours. O(1);
    /// O(granules of the block) where it lies in more than one tier.
    #[inline]
    pub fn release(&mut self, id: BlockId, stream: StreamId) {
        let node = &mut self.nodes[id.0];
        if node.state == State::Used {
            self.starts.clear(node.offset);
        }
        node.state = State::Free;
        node.stream = stream;
        node.marks = Marks::default();
        self.live -= 1;
        self.live_bytes -= node.size;
        match node.backing {
            Backing::Mixed => self.release_mixed(id.0),
            _ if self.class == Class::Small => self.keep(id.0),
            _ => self.lists.merge_and_add(&mut self.nodes, id.0),
        }
    }

    /// Keeps a small free node whole for the next request of its size.
    #[inline]
    fn keep(&mut self, id: u32) {
        if !self.lists.keep(&mut self.nodes, id) {
            // This one first: a free node that is in no list must not meet others that are merged.
            self.lists.merge_and_add(&mut self.nodes, id);
            self.merge_kept();
        }
    }

    /// Merges the nodes that the quick lists keep whole. Returns whether there were any. O(their
    /// number).
    #[inline]
    fn merge_kept(&mut self) -> bool {
        let any = self.lists.any_kept();
        if any {
            self.merge_all_kept();
        }
        any
    }

    #[cold]
    fn merge_all_kept(&mut self) {
        while let Some(id) = self.lists.drain_kept(&mut self.nodes) {
            self.lists.merge_and_add(&mut self.nodes, id);
        }
    }

    /// Marks a used block as freed, and not yet available for reuse.
    pub fn retire(&mut self, id: BlockId) {
        let node = &mut self.nodes[id.0];
        debug_assert_eq!(node.state, State::Used);
        self.starts.clear(node.offset);
        node.state = State::Retired;
    }

    /// The used and retired blocks, in address order.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.nodes.walk().filter(|id| !self.nodes[*id].is_free()).map(|id| self.block(BlockId(id)))
    }

    /// The streams that backed nodes belong to, once for each node. O(nodes).
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        let nodes = self.nodes.walk().map(|id| &self.nodes[id]);
        nodes.filter(|node| node.backing != Backing::None).map(|node| node.stream)
    }

    /// Sets which tier some granules are in now, or that they have no backing; only idle granules
    /// may lose theirs. All free space is free for `home` from then on, so all work that may touch
    /// it must be done. Blocks are numbered anew. O(nodes + granules).
    pub fn set_tiers(&mut self, changes: impl IntoIterator<Item = (u32, Option<Tier>)>, home: StreamId) {
        changes.into_iter().for_each(|(granule, tier)| self.granules.set(granule, tier));
        self.granules.trim();
        self.lists.watch_seams(self.granules.is_mixed());
        self.rebuild(home);
    }

    /// Lays out all free nodes between the blocks anew, by what lies under them.
    fn rebuild(&mut self, home: StreamId) {
        let blocks = self.nodes.walk().map(|id| self.nodes[id]).filter(|node| !node.is_free());
        let blocks: Vec<Node> = blocks.collect();
        self.nodes.clear();
        self.lists.clear();
        self.starts.clear_all();
        let (mut last, mut at) = (NIL, 0);
        for node in blocks {
            last = self.lay_free(last, at, node.offset, home);
            let backing = self.granules.under(node.offset, node.size);
            let id = self.nodes.create(node.offset, node.size, backing, node.stream);
            let placed = &mut self.nodes[id];
            (placed.state, placed.marks, placed.requested) = (node.state, node.marks, node.requested);
            if node.state == State::Used {
                self.starts.set(node.offset, id);
            }
            self.nodes.link_after(last, id);
            last = id;
            at = node.offset + node.size;
        }
        self.lay_free(last, at, self.length, home);
    }

    /// Fills `from..to` with free nodes behind `last`, one for each run of granules of one kind.
    /// Returns the last of them.
    fn lay_free(&mut self, mut last: u32, from: u64, to: u64, stream: StreamId) -> u32 {
        let mut at = from;
        for (end, tier) in self.granules.runs(from, to) {
            let id = self.nodes.create(at, end - at, tier.map_or(Backing::None, Backing::In), stream);
            self.nodes.link_after(last, id);
            self.lists.add(&mut self.nodes, id);
            (last, at) = (id, end);
        }
        last
    }

    /// Divides a free node that lies in more than one tier into one node for each run, and merges
    /// those with their neighbours.
    fn release_mixed(&mut self, id: u32) {
        let Node { offset, size, stream, .. } = self.nodes[id];
        let Some((end, tier)) = self.granules.runs(offset, offset + size).next() else { return };
        self.nodes[id].size = end - offset;
        self.nodes[id].backing = tier.map_or(Backing::None, Backing::In);
        let last = self.lay_free(id, end, offset + size, stream);
        // The last piece first: merging the first may remove its node.
        if last != id {
            self.lists.remove(&mut self.nodes, last);
            self.lists.merge_and_add(&mut self.nodes, last);
        }
        self.lists.merge_and_add(&mut self.nodes, id);
    }

    /// Makes a used block of `size` at the start of a free node that is in no list, and adds the
    /// rest.
    #[inline]
    fn carve(&mut self, id: u32, size: BlockSize) -> BlockId {
        let bytes = size.rounded();
        debug_assert!(self.nodes[id].size >= bytes);
        if self.nodes[id].size > bytes {
            let rest = self.nodes.split(id, bytes);
            self.lists.add(&mut self.nodes, rest);
        }
        self.put_to_use(id, size)
    }

    /// Makes a used block of a free node that is in no list and has the block's size.
    #[inline]
    fn put_to_use(&mut self, id: u32, size: BlockSize) -> BlockId {
        let node = &mut self.nodes[id];
        node.requested = size.requested();
        node.state = State::Used;
        self.starts.set(node.offset, id);
        self.live += 1;
        self.live_bytes += node.size;
        BlockId(id)
    }
}

#[cfg(test)]
mod tests;
