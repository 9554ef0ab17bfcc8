//! The memory map, segments and claims: what lies where, for people and their tools.

use std::collections::BTreeMap;

use super::memory::Bound;
use super::{Heap, placing};
use crate::core::placement::{self, Order};
use crate::core::{Block, Class, Grant, PerTier, PoolId, Splits, Tier};

/// One granule, and how many of its bytes each kind of block fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GranuleMap {
    /// Its tier; `None` where it has no backing.
    pub tier: Option<Tier>,
    /// Bytes of blocks marked as the model's.
    pub model: u64,
    /// Bytes of scratch: blocks allocated while frozen that no action has placed since.
    pub scratch: u64,
    /// Bytes of all other blocks.
    pub other: u64,
}

/// One arena, or all the pinned arenas that belong to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaMap {
    /// `resident`, `scratch` or `pool`.
    pub purpose: &'static str,
    /// `small` or `large`.
    pub class: &'static str,
    /// The address of its first granule.
    pub base: u64,
    /// Its granules, up to the last one with backing. Those of pinned arenas follow one another.
    pub granules: Vec<GranuleMap>,
}

/// The memory map of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryMap {
    /// The size of a granule in bytes.
    pub granule: u64,
    /// The arenas that have any backing.
    pub arenas: Vec<ArenaMap>,
    /// Bytes in stock: backed and mapped nowhere. The reserve lies here until it is handed out.
    pub stock: PerTier<u64>,
    /// What the operating system was last seen to grant; nothing where it keeps no account.
    pub granted: PerTier<Grant>,
    /// Free space that cannot be returned to the driver, next to small blocks and next to large
    /// ones.
    pub splits: [Splits; 2],
}

/// A block in a [`Segment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentBlock {
    /// Its first address.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// The bytes that were requested; 0 for free space.
    pub requested: u64,
    /// The stream it belongs to, by its handle.
    pub stream: u64,
    /// Whether it is in use, waits for other streams, or is free space.
    pub state: BlockState,
    /// The bytes of it in each tier.
    pub residency: PerTier<u64>,
}

/// The state of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// In use.
    Live,
    /// Freed, and waiting for work on other streams.
    Retired,
    /// Free space.
    Free,
}

/// A run of backed granules of one arena, with its blocks and the free space between them, by
/// address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its first address.
    pub address: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The blocks that its arena is for.
    pub class: Class,
    /// The graph pool that it belongs to, if any.
    pub pool: Option<PoolId>,
    /// Its blocks and free space, by address.
    pub blocks: Vec<SegmentBlock>,
}

/// A live block that claims dedicated memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its first address.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it belongs to the model.
    pub model: bool,
    /// The tier that it is pinned to, if any.
    pub pin: Option<Tier>,
    /// The stream it belongs to, by its handle.
    pub stream: u64,
    /// The other streams that use it, by their handles.
    pub used_on: Vec<u64>,
}

impl Heap {
    /// The live blocks in the order in which an action would let them claim dedicated memory.
    /// Blocks of pools are left out, since nothing may move them. O(n log n) in the blocks.
    pub fn claims(&self, order: Order) -> Vec<Claim> {
        let mut residents = placing::residents(&self.memory, &self.automatic.learner, order.sort_by);
        placement::sort(&mut residents, order);
        let claims = residents.into_iter().filter_map(|resident| {
            let bound = &self.memory.arenas[resident.arena];
            let core = &bound.core;
            let id = core.find(resident.offset).filter(|_| !self.memory.arenas.is_pools(resident.arena))?;
            let address = bound.base() + resident.offset;
            let used_on = self.retired.uses_of(address).iter().map(|stream| self.streams.raw(*stream)).collect();
            let stream = self.streams.raw(core.owner(id).0);
            Some(Claim { address, size: resident.size, model: resident.model, pin: resident.pin, stream, used_on })
        });
        claims.collect()
    }

    /// All segments, by arena. O(blocks + granules).
    pub fn segments(&self) -> Vec<Segment> {
        self.memory.arenas.iter().flat_map(|(_, bound)| self.segments_of(bound)).collect()
    }

    fn segments_of(&self, bound: &Bound) -> Vec<Segment> {
        let blocks: Vec<Block> = bound.core.blocks().collect();
        let mut blocks = blocks.into_iter().peekable();
        let tiers: Vec<_> = bound.core.tiers().collect();
        let (mut granule, mut segments) = (0, Vec::new());
        for run in tiers.chunk_by(|a, b| a.is_some() == b.is_some()) {
            let (start, bytes) = (granule * self.memory.granule(), run.len() as u64 * self.memory.granule());
            granule += run.len() as u64;
            if run[0].is_none() {
                continue;
            }
            let (mut at, end, mut inside) = (start, start + bytes, Vec::new());
            while let Some(block) = blocks.next_if(|block| block.offset < end) {
                if block.offset > at {
                    inside.push(free_space(bound.base() + at, block.offset - at));
                }
                inside.push(self.segment_block(bound, &block));
                at = block.offset + block.size;
            }
            if at < end {
                inside.push(free_space(bound.base() + at, end - at));
            }
            segments.push(Segment {
                address: bound.base() + start,
                bytes,
                class: bound.core.class(),
                pool: bound.purpose().pool(),
                blocks: inside,
            });
        }
        segments
    }

    fn segment_block(&self, bound: &Bound, block: &Block) -> SegmentBlock {
        SegmentBlock {
            address: bound.base() + block.offset,
            size: block.size,
            requested: block.requested,
            stream: self.streams.raw(block.stream),
            state: if block.retired { BlockState::Retired } else { BlockState::Live },
            residency: bound.core.residency(block.id),
        }
    }

    /// The memory map. O(blocks + granules).
    pub fn map(&self) -> MemoryMap {
        let mut arenas = BTreeMap::new();
        for (id, bound) in self.memory.arenas.iter() {
            let granules = granules_of(bound);
            if granules.is_empty() {
                continue;
            }
            let owner = bound.belongs_to().unwrap_or(id);
            let row = arenas.entry((owner, bound.belongs_to().is_some())).or_insert_with(|| ArenaMap {
                purpose: bound.purpose().name(),
                class: bound.core.class().name(),
                base: bound.base(),
                granules: Vec::new(),
            });
            row.granules.extend(granules);
        }
        MemoryMap {
            granule: self.memory.granule(),
            arenas: arenas.into_values().collect(),
            stock: PerTier::from_fn(|tier| self.memory.backing.in_stock(tier)),
            granted: self.memory.granted(),
            splits: self.splits(),
        }
    }
}

/// A stretch of free space in a segment.
fn free_space(address: u64, size: u64) -> SegmentBlock {
    SegmentBlock { address, size, requested: 0, stream: 0, state: BlockState::Free, residency: PerTier::default() }
}

/// The granules of an arena, and the bytes that fill them.
fn granules_of(bound: &Bound) -> Vec<GranuleMap> {
    let mut granules: Vec<GranuleMap> =
        bound.core.tiers().map(|tier| GranuleMap { tier, ..GranuleMap::default() }).collect();
    for block in bound.core.blocks() {
        for (granule, bytes) in bound.core.shares_of(block.id) {
            let entry = &mut granules[granule as usize];
            *(if block.marks.model {
                &mut entry.model
            } else if block.marks.scratch {
                &mut entry.scratch
            } else {
                &mut entry.other
            }) += bytes;
        }
    }
    granules
}
