//! Placement: which granules should be dedicated, as a pure function of the blocks that live in
//! them.
//!
//! The order is that of the original giant-kitten: the model's blocks first, then the others, each
//! sorted by size; or by what is known of their reads. Each block in turn claims the granules that
//! it needs and that no block before it has claimed, as long as dedicated memory lasts. All other
//! granules are shared. Small blocks share granules, so a plan counts granules, not bytes. The
//! block at the border gets as many of its first granules as are left.

use std::collections::HashMap;

use crate::core::place::{ArenaId, GranuleId};
use crate::core::tier::Tier;

/// A block that wants a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Resident {
    /// The arena it lies in.
    pub arena: ArenaId,
    /// Where it begins in that arena, in bytes.
    pub offset: u64,
    /// The granules it touches.
    pub granules: std::ops::Range<u32>,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it belongs to the model.
    pub model: bool,
    /// How often each of its bytes is read in an interval, on average over all work.
    pub reads: f64,
    /// The last interval that is known to have read it.
    pub last_read: u32,
    /// The tier that a program has pinned it to.
    pub pin: Option<Tier>,
}

/// The key by which blocks are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum SortBy {
    /// Size, as in the original.
    #[default]
    Size = 0,
    /// How often each of their bytes is read; equals by size.
    Reads = 1,
    /// When they were last read, the latest first; equals by size.
    Recency = 2,
}

impl SortBy {
    /// All keys.
    pub const ALL: [SortBy; 3] = [SortBy::Size, SortBy::Reads, SortBy::Recency];

    /// The key's name, as users meet it everywhere.
    pub fn name(self) -> &'static str {
        match self {
            SortBy::Size => "size",
            SortBy::Reads => "reads",
            SortBy::Recency => "recency",
        }
    }

    /// Parses a key's name.
    ///
    /// # Errors
    /// A sentence that names the text and the valid names.
    pub fn parse(text: &str) -> Result<SortBy, String> {
        let known = SortBy::ALL.into_iter().find(|by| by.name() == text);
        known.ok_or_else(|| format!("{text} is not one of {}", SortBy::ALL.map(SortBy::name).join(", ")))
    }
}

/// The order in which blocks claim dedicated granules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// The key they are sorted by.
    pub sort_by: SortBy,
    /// Large blocks come first instead of small ones.
    pub sort_reversed: bool,
    /// Model blocks do not come before the others.
    pub ignore_model: bool,
}

/// Where each granule should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The tier of every granule that a block touches.
    pub tiers: HashMap<GranuleId, Tier>,
    /// The number of granules that are dedicated.
    pub dedicated: u64,
}

impl Plan {
    /// The number of granules that are shared.
    pub fn shared(&self) -> u64 {
        self.tiers.len() as u64 - self.dedicated
    }
}

/// Sorts the blocks into the order in which they claim dedicated memory. Equals stay in address
/// order. O(n log n).
pub fn sort(blocks: &mut [Resident], order: Order) {
    blocks.sort_by(|a, b| {
        let model = if order.ignore_model { std::cmp::Ordering::Equal } else { b.model.cmp(&a.model) };
        let size = if order.sort_reversed { b.size.cmp(&a.size) } else { a.size.cmp(&b.size) };
        let value = match order.sort_by {
            SortBy::Size => std::cmp::Ordering::Equal,
            SortBy::Reads => b.reads.total_cmp(&a.reads),
            SortBy::Recency => b.last_read.cmp(&a.last_read),
        };
        model.then(value).then(size).then((a.arena, a.offset).cmp(&(b.arena, b.offset)))
    });
}

/// Plans which granules are dedicated, at most `budget` of them. Blocks that are pinned to a tier
/// are planned first, and stay there whatever the budget says. O(n log n) in the blocks,
/// O(granules).
pub fn plan(mut blocks: Vec<Resident>, order: Order, budget: u64) -> Plan {
    sort(&mut blocks, order);
    let mut plan = Plan::default();
    for (block, tier) in blocks.iter().filter_map(|block| Some((block, block.pin?))) {
        for granule in block.granules.clone() {
            plan.tiers.entry(GranuleId { arena: block.arena, granule }).or_insert_with(|| {
                plan.dedicated += u64::from(tier == Tier::Dedicated);
                tier
            });
        }
    }
    for block in &blocks {
        for granule in block.granules.clone() {
            let id = GranuleId { arena: block.arena, granule };
            plan.tiers.entry(id).or_insert_with(|| {
                if plan.dedicated < budget {
                    plan.dedicated += 1;
                    Tier::Dedicated
                } else {
                    Tier::Shared
                }
            });
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(granules: std::ops::Range<u32>, size: u64, model: bool) -> Resident {
        Resident {
            arena: ArenaId(0),
            offset: 1000 * u64::from(granules.start),
            granules,
            size,
            model,
            reads: 1.0,
            last_read: 0,
            pin: None,
        }
    }

    fn dedicated(plan: &Plan) -> Vec<u32> {
        let mut granules: Vec<_> =
            plan.tiers.iter().filter(|(_, t)| **t == Tier::Dedicated).map(|(id, _)| id.granule).collect();
        granules.sort_unstable();
        granules
    }

    /// Two blocks of the model (granules 0 to 2, and 3) and two others (4, and 5 to 6).
    fn example() -> Vec<Resident> {
        vec![block(0..3, 300, true), block(3..4, 100, true), block(4..5, 50, false), block(5..7, 200, false)]
    }

    #[test]
    fn the_model_first_then_the_others_small_to_large() {
        let order = Order::default();
        assert_eq!(dedicated(&plan(example(), order, 1)), [3], "the model's smallest");
        assert_eq!(dedicated(&plan(example(), order, 4)), [0, 1, 2, 3], "then its largest");
        assert_eq!(dedicated(&plan(example(), order, 5)), [0, 1, 2, 3, 4], "then the smallest of the others");
        assert_eq!(plan(example(), order, 100).shared(), 0);
    }

    #[test]
    fn reversed_and_without_the_model() {
        let reversed = Order { sort_reversed: true, ..Order::default() };
        assert_eq!(dedicated(&plan(example(), reversed, 3)), [0, 1, 2]);
        let ignoring = Order { ignore_model: true, ..Order::default() };
        assert_eq!(dedicated(&plan(example(), ignoring, 2)), [3, 4]);
        let both = Order { sort_reversed: true, ignore_model: true, ..Order::default() };
        assert_eq!(dedicated(&plan(example(), both, 5)), [0, 1, 2, 5, 6]);
    }

    #[test]
    fn by_reads_and_by_recency() {
        let with = |granules, reads, last_read| Resident { reads, last_read, ..block(granules, 100, true) };
        let blocks = vec![with(0..1, 1.0, 7), with(1..2, 0.0, 9), with(2..3, 2.0, 3), with(3..4, 1.0, 3)];
        let by = |sort_by, budget| dedicated(&plan(blocks.clone(), Order { sort_by, ..Order::default() }, budget));
        assert_eq!(by(SortBy::Reads, 1), [2]);
        assert_eq!(by(SortBy::Reads, 3), [0, 2, 3]);
        assert_eq!(by(SortBy::Recency, 2), [0, 1]);
        assert_eq!(by(SortBy::Size, 2), [0, 1]);
    }

    #[test]
    fn what_is_pinned_stays_where_it_is() {
        let mut blocks = example();
        (blocks[1].pin, blocks[3].pin) = (Some(Tier::Shared), Some(Tier::Dedicated));
        assert_eq!(dedicated(&plan(blocks.clone(), Order::default(), 4)), [0, 1, 5, 6]);
        assert_eq!(dedicated(&plan(blocks.clone(), Order::default(), 0)), [5, 6], "whatever the budget says");
        assert_eq!(dedicated(&plan(blocks, Order::default(), 100)), [0, 1, 2, 4, 5, 6]);
    }

    #[test]
    fn the_block_at_the_border_gets_its_first_granules() {
        assert_eq!(dedicated(&plan(example(), Order::default(), 2)), [0, 3]);
    }

    #[test]
    fn a_granule_is_counted_once() {
        let blocks = (0..100).map(|i| block(0..1, 512 + i, true)).chain([block(1..2, 4096, true)]).collect();
        let plan = plan(blocks, Order::default(), 2);
        assert_eq!((plan.dedicated, plan.shared()), (2, 0));
    }
}
