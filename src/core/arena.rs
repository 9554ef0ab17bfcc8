//! One arena: a range of addresses, divided in granules for the driver and in blocks for the caller.
//!
//! ```text
//!  granules  │ dedicated │ dedicated │  shared   │  shared   │  (none)   │ (none) …
//!  nodes     │ used │free │  used            │ used │ free  │ hole ────────────────▶
//!              #0 ⇄  #4  ⇄  #1               ⇄  #2  ⇄  #5   ⇄  #3
//! ```
//!
//! The nodes tile the arena from its first byte to its last, linked in address order. A node is in use, retired
//! (given back, but work on another stream may still touch it), or free. What is free is one of one kind: a hole (no
//! backing), or wholly in one tier and given back on one stream. Neighbours of one kind are always merged, but for small ones that a
//! quick list keeps whole until something needs them.
//! A used block may lie in both tiers: where no more could be dedicated, or once a placement has moved some of its granules.
//!
//! Invariants, which [`Arena::check`] tests: the nodes tile the arena; no two free neighbours are of one kind;
//! holes begin and end at granules and cover exactly the granules without backing; each free node is in its list.

use std::ops::Range;

use super::bins::Bins;
use super::quick::QuickLists;
use super::size::{ALIGNMENT, SMALL_LIMIT};
use super::tier::{PerTier, Tier};

/// No node.
pub(crate) const NIL: u32 = u32::MAX;

/// A stream, by the number the heap gave it. Reuse on one stream is in order; across streams it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u16);

/// A block of an arena, by the number of its node. Good until the block is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub(crate) u32);

/// Which blocks an arena is for: the small ones are kept apart, so that they do not break up what large ones reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Up to [`SMALL_LIMIT`].
    Small,
    /// Above it.
    Large,
}

impl Class {
    /// The class of a request.
    #[inline]
    pub fn of(bytes: u64) -> Class {
        if bytes <= SMALL_LIMIT { Class::Small } else { Class::Large }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Free, and kept whole for the next request of its size: in a quick list, not merged.
    Kept,
    Used,
    Retired,
}

/// What lies under a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    None,
    In(Tier),
    Mixed,
}

/// A stretch of the arena. Public to the index of free nodes, which threads its lists through it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) bin_prev: u32,
    pub(crate) bin_next: u32,
    prev: u32,
    next: u32,
    requested: u64,
    state: State,
    backing: Backing,
    stream: StreamId,
    marks: Marks,
}

impl Node {
    /// Whether nobody uses it or may use it still.
    fn is_free(&self) -> bool {
        matches!(self.state, State::Free | State::Kept)
    }
}

/// What the heap remembers of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Belongs to the model: placed before everything else.
    pub model: bool,
    /// Allocated while frozen and not yet placed by an action: scratch, as far as anybody knows.
    pub scratch: bool,
    /// Used on streams besides its own.
    pub shared_use: bool,
    /// The tier that a program has put it in, to stay there until it says otherwise.
    pub pin: Option<Tier>,
    /// The interval between safe points in which it came to life.
    pub born: u32,
}

/// A block as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number in this arena.
    pub id: BlockId,
    /// Where it begins, in bytes from the arena's start.
    pub offset: u64,
    /// Its length: the request, rounded up.
    pub size: u64,
    /// What was asked for.
    pub requested: u64,
    /// The stream it belongs to.
    pub stream: StreamId,
    /// Given back, but still waiting for work on other streams.
    pub retired: bool,
    /// What the heap remembers of it.
    pub marks: Marks,
}

/// Backing that an allocation needs before it can be made; see [`Arena::plan_growth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    hole: u32,
    /// The first granule to back.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Growth {
    /// The first granules of it alone.
    pub fn first(self, count: u32) -> Growth {
        Growth { count: count.min(self.count), ..self }
    }
}

/// The bookkeeping of one arena. All offsets and sizes are in bytes; nothing here is an address.
#[derive(Debug)]
pub struct Arena {
    length: u64,
    granule: u64,
    class: Class,
    nodes: Vec<Node>,
    vacant: Vec<u32>,
    /// By stream, then by tier.
    free: Vec<[Bins; 2]>,
    quick: QuickLists,
    holes: Vec<u32>,
    /// The tier of each granule, up to the last one ever backed.
    granules: Vec<Option<Tier>>,
    backed: PerTier<u64>,
    /// The node of the used block that begins in each slot of `1 << slot_shift` bytes. A used block of a large arena is longer
    /// than a slot, and one of a small arena at least as long, so no two begin in one slot.
    starts: Vec<u32>,
    slot_shift: u32,
    live: u64,
}

impl Arena {
    /// An arena of `length` bytes, nothing backed. `length` is a multiple of `granule`, a power of two.
    pub fn new(length: u64, granule: u64, class: Class) -> Self {
        debug_assert!(
            granule.is_power_of_two() && granule >= ALIGNMENT && length.is_multiple_of(granule) && length > 0
        );
        let slot_shift = match class {
            Class::Small => ALIGNMENT.trailing_zeros(),
            Class::Large => SMALL_LIMIT.trailing_zeros(),
        };
        let mut arena = Arena {
            length,
            granule,
            class,
            nodes: Vec::new(),
            vacant: Vec::new(),
            free: Vec::new(),
            quick: QuickLists::new(),
            holes: Vec::new(),
            granules: Vec::new(),
            backed: PerTier::default(),
            starts: Vec::new(),
            slot_shift,
            live: 0,
        };
        let all = arena.new_node(0, length, Backing::None, StreamId(0));
        arena.list(all);
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
        self.backed
    }

    /// How many blocks are used or retired.
    pub fn live_blocks(&self) -> u64 {
        self.live
    }

    /// The tier of a granule; `None` where it has no backing.
    pub fn tier_of_granule(&self, granule: u32) -> Option<Tier> {
        self.granules.get(granule as usize).copied().flatten()
    }

    /// How many granules, from the first, may have backing.
    pub fn granule_count(&self) -> u32 {
        self.granules.len() as u32
    }

    /// Takes a block out of what is free in `tier` for `stream`: one that was kept whole, or else of the nearest sizes the lowest. O(1),
    /// once the quick lists are empty.
    #[inline]
    pub fn take(&mut self, bytes: u64, requested: u64, tier: Tier, stream: StreamId) -> Option<BlockId> {
        if let Some(id) = self.quick.newest(bytes)
            && self.nodes[id as usize].stream == stream
            && self.nodes[id as usize].backing == Backing::In(tier)
        {
            self.quick.pop(&self.nodes, bytes);
            return Some(self.put_to_use(id, requested));
        }
        let found = self.take_listed(bytes, requested, tier, stream);
        if found.is_none() && self.merge_kept() {
            return self.take_listed(bytes, requested, tier, stream);
        }
        found
    }

    #[inline]
    fn take_listed(&mut self, bytes: u64, requested: u64, tier: Tier, stream: StreamId) -> Option<BlockId> {
        let bins = self.free.get_mut(stream.0 as usize)?;
        let bins = &mut bins[tier as usize];
        let id = bins.find(&self.nodes, bytes)?;
        bins.remove(&mut self.nodes, id);
        Some(self.carve(id, bytes, requested))
    }

    /// Takes a block out of what is free in `tier` for any other stream, and says which. The caller must order
    /// the two streams before anything uses the block, which belongs to `stream` now. O(streams).
    pub fn take_from_others(
        &mut self,
        bytes: u64,
        requested: u64,
        tier: Tier,
        stream: StreamId,
        mut willing: impl FnMut(StreamId) -> bool,
    ) -> Option<(BlockId, StreamId)> {
        self.merge_kept();
        for other in (0..self.free.len() as u16).map(StreamId) {
            if other == stream || self.free[other.0 as usize][tier as usize].is_empty() {
                continue;
            }
            let Some(id) = self.free[other.0 as usize][tier as usize].find(&self.nodes, bytes) else { continue };
            if !willing(other) {
                continue;
            }
            self.unlist(id);
            let block = self.carve(id, bytes, requested);
            self.nodes[id as usize].stream = stream;
            return Some((block, other));
        }
        None
    }

    /// Takes a block out of free neighbours for `stream` that are long enough only together, as one lies in each tier: best fit, the
    /// lowest of equals, with as much of it dedicated as can be. O(nodes).
    pub fn take_across(&mut self, bytes: u64, requested: u64, stream: StreamId) -> Option<BlockId> {
        self.merge_kept();
        let (mut best, mut id): (Option<(u64, u32)>, _) = (None, 0);
        while id != NIL {
            let mut length = 0;
            let first = id;
            while id != NIL && self.is_free_for(id, stream) {
                length += self.nodes[id as usize].size;
                id = self.nodes[id as usize].next;
            }
            if length >= bytes && best.is_none_or(|(shortest, _)| length < shortest) {
                best = Some((length, first));
            }
            if id == first {
                id = self.nodes[id as usize].next;
            }
        }
        let (length, run) = best?;
        let Node { offset, .. } = self.nodes[run as usize];
        let behind = length - bytes;
        let dedicated = |from: u64| self.residency_of(from, bytes)[Tier::Dedicated];
        let start = if dedicated(offset + behind) > dedicated(offset) { offset + behind } else { offset };
        self.unlist(run);
        while self.nodes[run as usize].size < length {
            self.unlist(self.nodes[run as usize].next);
            self.absorb_next(run);
        }
        let block = if start > offset { self.split(run, start - offset) } else { run };
        let rest = (start + bytes < offset + length).then(|| self.split(block, bytes));
        let node = &mut self.nodes[block as usize];
        (node.state, node.stream) = (State::Used, stream);
        self.nodes[block as usize].backing = self.backing_of(start, bytes);
        // Not before the block is in use: what is left over must not be merged with it.
        rest.into_iter().chain((block != run).then_some(run)).for_each(|left| self.release_mixed(left));
        Some(self.carve(block, bytes, requested))
    }

    fn is_free_for(&self, id: u32, stream: StreamId) -> bool {
        self.is_backed_and_free(id) && self.nodes[id as usize].stream == stream
    }

    /// Cuts an unlisted free node behind its first `bytes`; the number of the second part, unlisted as well.
    fn split(&mut self, id: u32, bytes: u64) -> u32 {
        let Node { offset, size, backing, stream, .. } = self.nodes[id as usize];
        let rest = self.new_node(offset + bytes, size - bytes, backing, stream);
        self.link_after(id, rest);
        self.nodes[id as usize].size = bytes;
        rest
    }

    /// Which granules to back in `tier` so that `bytes`, which nothing free can serve, can be taken on `stream`: as few as can be, using
    /// what is free in that tier beside a hole; of equals the lowest. `None` where no hole is long enough. O(holes).
    pub fn plan_growth(&self, bytes: u64, tier: Tier, stream: StreamId) -> Option<Growth> {
        self.plan(bytes, stream, |backing| backing == Backing::In(tier))
    }

    /// The same for [`take_across`](Arena::take_across), which uses what is free in either tier. O(holes).
    pub fn plan_growth_across(&self, bytes: u64, stream: StreamId) -> Option<Growth> {
        self.plan(bytes, stream, |backing| backing != Backing::None)
    }

    fn plan(&self, bytes: u64, stream: StreamId, wanted: impl Fn(Backing) -> bool) -> Option<Growth> {
        let usable = |mut id: u32, onward: fn(&Node) -> u32| {
            let mut bytes = 0;
            while id != NIL && self.is_free_for(id, stream) && wanted(self.nodes[id as usize].backing) {
                let node = &self.nodes[id as usize];
                bytes += node.size;
                id = onward(node);
            }
            bytes
        };
        let before = |hole: &Node| usable(hole.prev, |node| node.prev);
        let behind = |hole: &Node| usable(hole.next, |node| node.next);
        let mut best: Option<(Growth, u64)> = None;
        for &hole in &self.holes {
            let node = &self.nodes[hole as usize];
            let missing = bytes.saturating_sub(before(node));
            let wanted = missing.next_multiple_of(self.granule).max(self.granule);
            let backed = if wanted <= node.size {
                wanted
            } else if missing <= node.size + behind(node) {
                node.size
            } else {
                continue;
            };
            let count = (backed / self.granule) as u32;
            let growth = Growth { hole, first: (node.offset / self.granule) as u32, count };
            if best.is_none_or(|(b, offset)| (count, node.offset) < (b.count, offset)) {
                best = Some((growth, node.offset));
            }
        }
        best.map(|(growth, _)| growth)
    }

    /// Says that the granules of `growth` are backed in `tier` now, and free for `stream`.
    pub fn grow(&mut self, growth: Growth, tier: Tier, stream: StreamId) {
        self.merge_kept();
        let end = (growth.first + growth.count) as usize;
        if self.granules.len() < end {
            self.granules.resize(end, None);
        }
        self.granules[growth.first as usize..end].fill(Some(tier));
        let bytes = u64::from(growth.count) * self.granule;
        self.backed[tier] += bytes;

        self.unlist(growth.hole);
        let hole = self.nodes[growth.hole as usize];
        if hole.size > bytes {
            let rest = self.split(growth.hole, bytes);
            self.list(rest);
        }
        let node = &mut self.nodes[growth.hole as usize];
        node.backing = Backing::In(tier);
        node.stream = stream;
        self.merge_and_list(growth.hole);
    }

    /// The used block that begins at `offset`. O(1).
    #[inline]
    pub fn find(&self, offset: u64) -> Option<BlockId> {
        let slot = (offset >> self.slot_shift) as usize;
        let id = *self.starts.get(slot)?;
        (id != NIL && self.nodes[id as usize].offset == offset).then_some(BlockId(id))
    }

    /// The used block that holds `offset`, at its start or inside. O(slots the block spans).
    pub fn find_inside(&self, offset: u64) -> Option<BlockId> {
        let last = ((offset >> self.slot_shift) as usize).min(self.starts.len().checked_sub(1)?);
        let id = self.starts[..=last]
            .iter()
            .rev()
            .copied()
            .find(|id| *id != NIL && self.nodes[*id as usize].offset <= offset)?;
        let node = &self.nodes[id as usize];
        (offset < node.offset + node.size).then_some(BlockId(id))
    }

    /// A block as others see it.
    pub fn block(&self, id: BlockId) -> Block {
        let node = &self.nodes[id.0 as usize];
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

    /// Length and offset of a block, without the rest.
    #[inline]
    pub fn extent(&self, id: BlockId) -> (u64, u64) {
        let node = &self.nodes[id.0 as usize];
        (node.offset, node.size)
    }

    /// What was asked for, without the rest.
    #[inline]
    pub fn requested(&self, id: BlockId) -> u64 {
        self.nodes[id.0 as usize].requested
    }

    /// The stream and marks of a block, without the rest.
    #[inline]
    pub fn owner(&self, id: BlockId) -> (StreamId, Marks) {
        let node = &self.nodes[id.0 as usize];
        (node.stream, node.marks)
    }

    /// What the heap remembers of a block, to be changed.
    #[inline]
    pub fn marks_mut(&mut self, id: BlockId) -> &mut Marks {
        &mut self.nodes[id.0 as usize].marks
    }

    /// The tier of a block that lies in one; `None` where it lies in both.
    #[inline]
    pub fn tier(&self, id: BlockId) -> Option<Tier> {
        match self.nodes[id.0 as usize].backing {
            Backing::In(tier) => Some(tier),
            Backing::None | Backing::Mixed => None,
        }
    }

    /// How many bytes of a block lie in each tier. O(granules of the block).
    pub fn residency(&self, id: BlockId) -> PerTier<u64> {
        let node = &self.nodes[id.0 as usize];
        self.residency_of(node.offset, node.size)
    }

    fn residency_of(&self, offset: u64, size: u64) -> PerTier<u64> {
        let mut bytes = PerTier::default();
        let (mut at, end) = (offset, offset + size);
        while at < end {
            let granule = at / self.granule;
            let stop = ((granule + 1) * self.granule).min(end);
            if let Some(tier) = self.tier_of_granule(granule as u32) {
                bytes[tier] += stop - at;
            }
            at = stop;
        }
        bytes
    }

    /// The granules a block touches.
    pub fn granules_of(&self, id: BlockId) -> Range<u32> {
        let node = &self.nodes[id.0 as usize];
        (node.offset / self.granule) as u32..(node.offset + node.size).div_ceil(self.granule) as u32
    }

    /// Gives a used or retired block back for reuse on `stream`, merged with its neighbours. O(1); O(granules) where it lies in
    /// both tiers.
    #[inline]
    pub fn release(&mut self, id: BlockId, stream: StreamId) {
        let node = &mut self.nodes[id.0 as usize];
        if node.state == State::Used {
            self.starts[(node.offset >> self.slot_shift) as usize] = NIL;
        }
        node.state = State::Free;
        node.stream = stream;
        node.marks = Marks::default();
        self.live -= 1;
        match node.backing {
            Backing::Mixed => self.release_mixed(id.0),
            _ if self.class == Class::Small => self.keep(id.0),
            _ => self.merge_and_list(id.0),
        }
    }

    /// Keeps a small free node whole for the next request of its size.
    #[inline]
    fn keep(&mut self, id: u32) {
        if self.quick.push(&mut self.nodes, id) {
            self.nodes[id as usize].state = State::Kept;
        } else {
            // This one first: what is free and in no list must not be met by others that are merged.
            self.merge_and_list(id);
            self.merge_kept();
        }
    }

    /// Merges what the quick lists have kept whole: whether there was any. O(what they hold).
    #[inline]
    fn merge_kept(&mut self) -> bool {
        let any = !self.quick.is_empty();
        if any {
            self.merge_all_kept();
        }
        any
    }

    #[cold]
    fn merge_all_kept(&mut self) {
        while let Some(id) = self.quick.drain(&self.nodes) {
            self.nodes[id as usize].state = State::Free;
            self.merge_and_list(id);
        }
    }

    /// Marks a used block as given back, but not yet for reuse.
    pub fn retire(&mut self, id: BlockId) {
        let node = &mut self.nodes[id.0 as usize];
        debug_assert_eq!(node.state, State::Used);
        self.starts[(node.offset >> self.slot_shift) as usize] = NIL;
        node.state = State::Retired;
    }

    /// The used and retired blocks, in address order.
    pub fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.walk().filter(|id| !self.nodes[*id as usize].is_free()).map(|id| self.block(BlockId(id)))
    }

    /// The streams that anything backed belongs to, once for each node. O(nodes).
    pub fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        let nodes = self.walk().map(|id| &self.nodes[id as usize]);
        nodes.filter(|node| node.backing != Backing::None).map(|node| node.stream)
    }

    /// The backed granules that no used or retired block touches, in order. O(nodes).
    pub fn idle_granules(&self) -> Vec<u32> {
        self.free_stretches().flat_map(|(start, end)| self.granules_within(start, end)).collect()
    }

    /// The stretches of backed free space that share a granule with a block, and their bytes on such granules: what cannot be given
    /// back. O(nodes).
    pub fn splits(&self) -> (u64, u64) {
        let (mut count, mut bytes) = (0, 0);
        for (start, end) in self.free_stretches() {
            let shared = end - start - self.granules_within(start, end).len() as u64 * self.granule;
            count += u64::from(shared > 0);
            bytes += shared;
        }
        (count, bytes)
    }

    /// What is backed and free between blocks and holes, of whatever kinds, from where to where. O(nodes) for all.
    fn free_stretches(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut walk = self.walk().peekable();
        std::iter::from_fn(move || {
            let first = walk.find(|id| self.is_backed_and_free(*id))?;
            let Node { offset, size, .. } = self.nodes[first as usize];
            let mut end = offset + size;
            while let Some(next) = walk.next_if(|id| self.is_backed_and_free(*id)) {
                end += self.nodes[next as usize].size;
            }
            Some((offset, end))
        })
    }

    /// The granules that lie between two offsets, all of them.
    fn granules_within(&self, start: u64, end: u64) -> Range<u32> {
        start.div_ceil(self.granule) as u32..(end / self.granule) as u32
    }

    /// Of the idle granules those in `tier`, as runs of neighbours. O(nodes + granules).
    pub fn idle_runs(&self, tier: Tier) -> Vec<Range<u32>> {
        let idle = self.idle_granules().into_iter().filter(|granule| self.tier_of_granule(*granule) == Some(tier));
        let idle: Vec<u32> = idle.collect();
        idle.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[0] + run.len() as u32).collect()
    }

    fn is_backed_and_free(&self, id: u32) -> bool {
        let node = &self.nodes[id as usize];
        node.is_free() && node.backing != Backing::None
    }

    /// Says which tier some granules are in now, or that they have no backing; only idle granules may lose theirs. Everything free is
    /// from then on free for `home`, so all work that may touch it must be done. O(nodes + granules).
    pub fn set_tiers(&mut self, changes: impl IntoIterator<Item = (u32, Option<Tier>)>, home: StreamId) {
        for (granule, tier) in changes {
            let slot = &mut self.granules[granule as usize];
            if let Some(old) = *slot {
                self.backed[old] -= self.granule;
            }
            if let Some(new) = tier {
                self.backed[new] += self.granule;
            }
            *slot = tier;
        }
        while let Some(None) = self.granules.last() {
            self.granules.pop();
        }
        self.rebuild(home);
    }

    /// Lays out all free nodes anew, between the blocks, by what lies under them.
    fn rebuild(&mut self, home: StreamId) {
        let kept: Vec<Node> = self.walk().map(|id| self.nodes[id as usize]).filter(|node| !node.is_free()).collect();
        self.nodes.clear();
        self.vacant.clear();
        self.free.clear();
        self.quick.clear();
        self.holes.clear();
        self.starts.fill(NIL);
        let (mut last, mut at) = (NIL, 0);
        for node in kept {
            last = self.lay_free(last, at, node.offset, home);
            let id = self.new_node(node.offset, node.size, self.backing_of(node.offset, node.size), node.stream);
            let (state, marks, requested) = (node.state, node.marks, node.requested);
            let placed = &mut self.nodes[id as usize];
            (placed.state, placed.marks, placed.requested) = (state, marks, requested);
            if state == State::Used {
                self.starts[(node.offset >> self.slot_shift) as usize] = id;
            }
            self.link_after(last, id);
            last = id;
            at = node.offset + node.size;
        }
        self.lay_free(last, at, self.length, home);
    }

    /// Fills `from..to` with free nodes behind `last`, one for each run of granules of one kind; returns the last.
    fn lay_free(&mut self, mut last: u32, from: u64, to: u64, stream: StreamId) -> u32 {
        let mut at = from;
        while at < to {
            let tier = self.tier_of_granule((at / self.granule) as u32);
            let mut end = at;
            while end < to && self.tier_of_granule((end / self.granule) as u32) == tier {
                end = (end / self.granule + 1) * self.granule;
                if tier.is_none() && end / self.granule >= self.granules.len() as u64 {
                    end = to;
                }
            }
            end = end.min(to);
            let backing = tier.map_or(Backing::None, Backing::In);
            let id = self.new_node(at, end - at, backing, stream);
            self.link_after(last, id);
            self.list(id);
            last = id;
            at = end;
        }
        last
    }

    fn backing_of(&self, offset: u64, size: u64) -> Backing {
        let first = self.tier_of_granule((offset / self.granule) as u32);
        let end = (offset + size).div_ceil(self.granule);
        let uniform = (offset / self.granule..end).all(|g| self.tier_of_granule(g as u32) == first);
        match first {
            Some(tier) if uniform => Backing::In(tier),
            None if uniform => Backing::None,
            _ => Backing::Mixed,
        }
    }

    /// Makes a free node that lies in both tiers into one node for each run, and merges what can be merged.
    fn release_mixed(&mut self, id: u32) {
        let Node { offset, size, prev, next, stream, .. } = self.nodes[id as usize];
        let (mut at, end) = (offset, offset + size);
        let mut piece = id;
        while at < end {
            let tier = self.tier_of_granule((at / self.granule) as u32);
            let mut stop = at;
            while stop < end && self.tier_of_granule((stop / self.granule) as u32) == tier {
                stop = ((stop / self.granule + 1) * self.granule).min(end);
            }
            let backing = tier.map_or(Backing::None, Backing::In);
            if at == offset {
                self.nodes[id as usize].size = stop - at;
                self.nodes[id as usize].backing = backing;
            } else {
                let rest = self.new_node(at, stop - at, backing, stream);
                self.link_after(piece, rest);
                self.list(rest);
                piece = rest;
            }
            at = stop;
        }
        debug_assert!(prev == NIL || self.nodes[prev as usize].next == id);
        debug_assert!(next == NIL || self.nodes[next as usize].prev == piece);
        // The last piece first: merging the first may do away with its node.
        if piece != id {
            self.unlist(piece);
            self.merge_and_list(piece);
        }
        self.merge_and_list(id);
    }

    /// Makes a listed-out free node into a used block of `bytes` at its start, and lists the rest.
    #[inline]
    fn carve(&mut self, id: u32, bytes: u64, requested: u64) -> BlockId {
        let size = self.nodes[id as usize].size;
        debug_assert!(size >= bytes);
        if size > bytes {
            let rest = self.split(id, bytes);
            self.list(rest);
        }
        self.put_to_use(id, requested)
    }

    /// Makes an unlisted free node a used block.
    #[inline]
    fn put_to_use(&mut self, id: u32, requested: u64) -> BlockId {
        let node = &mut self.nodes[id as usize];
        node.requested = requested;
        node.state = State::Used;
        let slot = (node.offset >> self.slot_shift) as usize;
        if slot >= self.starts.len() {
            self.starts.resize(slot + 1, NIL);
        }
        self.starts[slot] = id;
        self.live += 1;
        BlockId(id)
    }

    /// Merges an unlisted free node with free neighbours of its kind, and lists it.
    #[inline]
    fn merge_and_list(&mut self, mut id: u32) {
        let Node { prev, next, .. } = self.nodes[id as usize];
        if next != NIL && self.same_kind(id, next) {
            self.unlist(next);
            self.absorb_next(id);
        }
        if prev != NIL && self.same_kind(id, prev) {
            self.unlist(prev);
            self.absorb_next(prev);
            id = prev;
        }
        self.list(id);
    }

    #[inline]
    fn same_kind(&self, a: u32, b: u32) -> bool {
        let (a, b) = (&self.nodes[a as usize], &self.nodes[b as usize]);
        let free = a.state == State::Free && b.state == State::Free;
        free && a.backing == b.backing && (a.stream == b.stream || a.backing == Backing::None)
    }

    /// Makes a node and the one behind it one; the first keeps its number.
    #[inline]
    fn absorb_next(&mut self, id: u32) {
        let gone = self.nodes[id as usize].next;
        let Node { size, next, .. } = self.nodes[gone as usize];
        self.nodes[id as usize].size += size;
        self.nodes[id as usize].next = next;
        if next != NIL {
            self.nodes[next as usize].prev = id;
        }
        self.vacant.push(gone);
    }

    #[inline]
    fn list(&mut self, id: u32) {
        let node = &self.nodes[id as usize];
        match node.backing {
            Backing::In(tier) => {
                let stream = node.stream.0 as usize;
                if stream >= self.free.len() {
                    self.free.resize_with(stream + 1, || [Bins::new(), Bins::new()]);
                }
                self.free[stream][tier as usize].insert(&mut self.nodes, id);
            }
            Backing::None => self.holes.push(id),
            Backing::Mixed => debug_assert!(false, "a free node lies in one tier or in none"),
        }
    }

    #[inline]
    fn unlist(&mut self, id: u32) {
        let node = &self.nodes[id as usize];
        match node.backing {
            Backing::In(tier) => self.free[node.stream.0 as usize][tier as usize].remove(&mut self.nodes, id),
            Backing::None => self.holes.retain(|hole| *hole != id),
            Backing::Mixed => debug_assert!(false, "a free node lies in one tier or in none"),
        }
    }

    #[inline]
    fn new_node(&mut self, offset: u64, size: u64, backing: Backing, stream: StreamId) -> u32 {
        if let Some(id) = self.vacant.pop() {
            // Field by field: a node that was built elsewhere first would be waited for.
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
            marks: Marks::default(),
        });
        (self.nodes.len() - 1) as u32
    }

    /// Links a new node behind `left`; with no `left` it is the first.
    #[inline]
    fn link_after(&mut self, left: u32, id: u32) {
        if left == NIL {
            return;
        }
        let right = self.nodes[left as usize].next;
        self.nodes[id as usize].prev = left;
        self.nodes[id as usize].next = right;
        self.nodes[left as usize].next = id;
        if right != NIL {
            self.nodes[right as usize].prev = id;
        }
    }

    /// The nodes in address order. The first keeps the number 0 for ever: splitting and merging keep the left number.
    fn walk(&self) -> impl Iterator<Item = u32> + '_ {
        let mut id = 0;
        std::iter::from_fn(move || {
            let here = (id != NIL).then_some(id)?;
            id = self.nodes[here as usize].next;
            Some(here)
        })
    }

    /// Tests the invariants. O(nodes + granules).
    ///
    /// # Errors
    /// The first that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        let (mut at, mut prev, mut live, mut walked) = (0, NIL, 0, 0);
        let (mut listed, mut kept) = (0, 0);
        for id in self.walk() {
            walked += 1;
            let node = &self.nodes[id as usize];
            if node.offset != at || node.prev != prev || node.size == 0 {
                return Err(format!("node {id} at {:#x} does not follow {at:#x}", node.offset));
            }
            if node.backing != self.backing_of(node.offset, node.size) {
                return Err(format!("node {id} at {at:#x} says {:?}, its granules do not", node.backing));
            }
            if node.state == State::Kept {
                if !self.quick.contains(&self.nodes, id) || !matches!(node.backing, Backing::In(_)) {
                    return Err(format!("the kept node {id} at {at:#x} is in no quick list"));
                }
                kept += 1;
            } else if node.state == State::Free {
                if node.backing == Backing::Mixed {
                    return Err(format!("the free node {id} at {at:#x} lies in both tiers"));
                }
                if prev != NIL && self.same_kind(prev, id) {
                    return Err(format!("nodes {prev} and {id} at {at:#x} ought to be one"));
                }
                let found = match node.backing {
                    Backing::In(tier) => self.free[node.stream.0 as usize][tier as usize].contains(&self.nodes, id),
                    _ => self.holes.contains(&id),
                };
                if !found {
                    return Err(format!("the free node {id} at {at:#x} is in no list"));
                }
                listed += 1;
            } else {
                live += 1;
                if node.backing == Backing::None {
                    return Err(format!("block {id} at {at:#x} has no backing"));
                }
                let known = self.find(node.offset) == Some(BlockId(id));
                if known != (node.state == State::Used) {
                    return Err(format!("block {id} at {at:#x} and the table of starts disagree"));
                }
            }
            at += node.size;
            prev = id;
        }
        if at != self.length || walked + self.vacant.len() != self.nodes.len() || live != self.live {
            return Err(format!("the nodes end at {at:#x} of {:#x}; {live} blocks of {}", self.length, self.live));
        }
        let in_lists: usize =
            self.holes.len() + self.free.iter().flatten().map(|bins| bins.count(&self.nodes)).sum::<usize>();
        if in_lists != listed {
            return Err(format!("{in_lists} nodes in the lists, {listed} are free"));
        }
        if kept != self.quick.count() {
            return Err(format!("{} nodes in the quick lists, {kept} are kept", self.quick.count()));
        }
        for tier in Tier::ALL {
            let counted = self.granules.iter().filter(|g| **g == Some(tier)).count() as u64 * self.granule;
            if counted != self.backed[tier] {
                return Err(format!("{counted} bytes backed in {tier}, {} counted", self.backed[tier]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
