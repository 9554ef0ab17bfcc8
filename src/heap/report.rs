//! The memory map: what lies where, for people and their tools.

use super::{Heap, SCRATCH};
use crate::core::Tier;

/// One granule, and how many of its bytes each kind of block fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GranuleMap {
    /// Its tier; `None` where it has no backing.
    pub tier: Option<Tier>,
    /// Bytes of blocks marked as the model's.
    pub model: u64,
    /// Bytes of scratch: blocks that came while frozen, and that no action has placed since.
    pub scratch: u64,
    /// Bytes of all other blocks.
    pub other: u64,
}

/// One arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaMap {
    /// `resident`, `scratch` or `pool`.
    pub purpose: &'static str,
    /// `small` or `large`.
    pub class: &'static str,
    /// The address of its first granule.
    pub base: u64,
    /// Its granules, up to the last one with backing.
    pub granules: Vec<GranuleMap>,
}

/// The memory map of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    /// Bytes of a granule.
    pub granule: u64,
    /// The arenas that have any backing.
    pub arenas: Vec<ArenaMap>,
    /// Dedicated bytes in stock: backed, mapped nowhere. The reserve not yet handed out is here.
    pub stock_dedicated: u64,
    /// Shared bytes in stock.
    pub stock_shared: u64,
}

impl Heap {
    /// What lies where. O(blocks + granules).
    pub fn map(&self) -> MemoryMap {
        let mut arenas = Vec::new();
        for (index, bound) in self.arenas.iter().enumerate() {
            let tiers = (0..bound.core.granule_count()).map(|granule| bound.core.tier_of_granule(granule));
            let mut granules: Vec<_> = tiers.map(|tier| GranuleMap { tier, ..GranuleMap::default() }).collect();
            if granules.is_empty() {
                continue;
            }
            for block in bound.core.blocks() {
                for granule in bound.core.granules_of(block.id) {
                    let start = u64::from(granule) * self.granule;
                    let bytes = (block.offset + block.size).min(start + self.granule) - block.offset.max(start);
                    let entry = &mut granules[granule as usize];
                    if block.marks.model {
                        entry.model += bytes;
                    } else if block.marks.scratch {
                        entry.scratch += bytes;
                    } else {
                        entry.other += bytes;
                    }
                }
            }
            let purpose = match index {
                0..SCRATCH => "resident",
                2..4 => "scratch",
                _ => "pool",
            };
            let class = match bound.core.class() {
                crate::core::Class::Small => "small",
                crate::core::Class::Large => "large",
            };
            arenas.push(ArenaMap { purpose, class, base: bound.base, granules });
        }
        MemoryMap {
            granule: self.granule,
            arenas,
            stock_dedicated: self.stock.bytes(Tier::Dedicated),
            stock_shared: self.stock.bytes(Tier::Shared),
        }
    }
}
