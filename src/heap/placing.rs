//! What wants to lie where: the blocks of a device as a placement sees them, and the moves that a
//! placement asks for.

use super::memory::{Memory, Move};
use crate::core::placement::{self, Order, Plan, Resident, SortBy};
use crate::core::policy::{Learner, Value};
use crate::core::{Tier, show_size};
use crate::error::Error;

/// Whether a placement leaves blocks alone that a program has pinned to a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pins {
    Kept,
    Overridden,
}

/// Everything that wants a place: the blocks, and the idle granules of pools, which graphs may
/// touch. What is known of reads is looked up only where blocks are sorted by it. O(blocks +
/// granules).
pub(super) fn residents(memory: &Memory, learner: &Learner, sort_by: SortBy) -> Vec<Resident> {
    let mut residents = Vec::new();
    for (arena, bound) in memory.arenas.iter() {
        residents.extend(bound.core.blocks().map(|block| {
            let value = match sort_by {
                SortBy::Size => Value { reads: 0.0, last_read: 0 },
                SortBy::Reads | SortBy::Recency => {
                    learner.value(bound.base() + block.offset, block.marks.born, block.size)
                }
            };
            Resident {
                arena,
                offset: block.offset,
                granules: bound.core.granules_of(block.id),
                size: block.size,
                model: block.marks.model,
                reads: value.reads,
                last_read: value.last_read,
                pin: block.marks.pin,
            }
        }));
        if memory.arenas.is_pools(arena) {
            let granule = memory.granule();
            residents.extend(bound.core.idle_granules().into_iter().map(|idle| Resident {
                arena,
                offset: u64::from(idle) * granule,
                granules: idle..idle + 1,
                size: granule,
                model: false,
                reads: 0.0,
                last_read: 0,
                pin: None,
            }));
        }
    }
    residents
}

/// The moves of a plan, each arena's granules in order: of every granule that lies in another tier
/// than it should.
///
/// # Errors
/// Where the plan needs more of the shared tier than it can hold.
pub(super) fn moves(memory: &Memory, plan: &Plan) -> Result<Vec<Move>, Error> {
    let (needed, limit) = (plan.shared() * memory.granule(), memory.reach(Tier::Shared));
    if needed > limit {
        return Err(Error::refused(format!(
            "{} would have to lie in the shared tier, which holds {}: choose a smaller reserve or persist, free \
             something, or raise the option \"shared\"; nothing was moved",
            show_size(needed),
            show_size(limit)
        )));
    }
    let is_elsewhere = |(id, tier): &Move| memory.arenas.tier_of(*id).is_some_and(|lies| lies != *tier);
    let mut moves: Vec<Move> = plan.tiers.iter().map(|(id, tier)| (*id, *tier)).filter(is_elsewhere).collect();
    moves.sort_unstable();
    Ok(moves)
}

/// Bytes that a placement in `order`, with `budget` bytes dedicated, would move and cannot, because
/// shared memory is pinned: those of blocks in the wrong tier, each counted whole; or, if that is
/// more, what granules that are not full take beyond the budget. A shared block that would fit only
/// if no granule was broken is not counted.
pub(super) fn unmovable(memory: &Memory, mut residents: Vec<Resident>, order: Order, budget: u64) -> u64 {
    placement::sort(&mut residents, order);
    let (mut room, mut stays) = (budget, 0);
    for resident in residents {
        let lies = memory.arenas[resident.arena].core.tier_of_granule(resident.granules.start);
        let spare = if lies == Some(Tier::Shared) { 2 * memory.granule() } else { 0 };
        let by_room = if resident.size + spare <= room { Tier::Dedicated } else { Tier::Shared };
        let wanted = resident.pin.unwrap_or(by_room);
        if wanted == Tier::Dedicated {
            room = room.saturating_sub(resident.size);
        }
        if lies.is_some_and(|lies| lies != wanted) {
            stays += resident.size;
        }
    }
    stays.max(memory.mapped(Tier::Dedicated).saturating_sub(budget))
}
