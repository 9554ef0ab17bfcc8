//! Balance: which resident granules should give way to scratch, and which should come back, as a
//! pure function.
//!
//! Dedicated memory is divided between resident granules and the levels of scratch. All costs are
//! in one unit, a granule over the link. A granule in the shared tier costs its reads and writes in
//! every interval of the run to come. A move costs once.
//!
//! ```text
//!   dedicated │ residents, by reads        │ room for scratch, by level │
//!             │ most ………………………… fewest │ room-1 ………………… 0 │  levels from room on overflow
//!                                   ◀───────┼──▶
//!            demote while the next level gains more, promote while the last gains less
//! ```

use std::collections::HashSet;

use crate::core::place::GranuleId;
use crate::core::tier::Tier;

/// How often shared scratch crosses the link each time it is allocated: it is written and read at
/// least once.
pub const SCRATCH_TOUCHES: f64 = 2.0;

/// The cost of moving a granule. It crosses the link once, and the driver calls take about half as
/// long again (80 to 140 microseconds by the calls that were measured on an H100, compared with 160
/// for 2 MiB at 13 GB/s).
pub const MOVE: f64 = 1.5;

/// The cost of unmapping the backing of an idle granule and mapping it elsewhere: some 50
/// microseconds of calls.
pub const REMAP: f64 = 0.3;

/// A resident granule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Its arena and number.
    pub id: GranuleId,
    /// The tier it lies in.
    pub tier: Tier,
    /// How often it is read in an interval of the coming run.
    pub reads: f64,
    /// Whether other work reads it later.
    pub wanted_later: bool,
}

impl Candidate {
    /// What it costs to demote it: if other work reads it later, it has to come back.
    pub(super) fn price_of_leaving(&self) -> f64 {
        if self.wanted_later { 2.0 * MOVE } else { MOVE }
    }
}

/// The coming run.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'a> {
    /// Uses of each granule of scratch in an interval, by level, from the lowest up.
    pub uses: &'a [f64],
    /// The number of intervals to come.
    pub horizon: f64,
    /// Granules of dedicated memory that residents and scratch share.
    pub capacity: u64,
    /// Granules that fit the shared tier in addition to those there.
    pub shared_room: u64,
    /// What the moves must gain beyond their own cost, in granules over the link: the work needed
    /// before anything can move, and the loss from earlier moves.
    pub debt: f64,
}

/// The moves before a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// The granules to demote to the shared tier.
    pub demote: Vec<GranuleId>,
    /// The granules to promote to the dedicated tier.
    pub promote: Vec<GranuleId>,
    /// What the moves gain over the run, less their cost: granules over the link.
    pub gain: f64,
    /// Their cost, in the same unit.
    pub cost: f64,
}

impl Decision {
    /// Whether nothing should move.
    pub fn is_empty(&self) -> bool {
        self.demote.is_empty() && self.promote.is_empty()
    }
}

impl Outlook<'_> {
    /// What a level of scratch costs in the shared tier in one interval.
    pub(super) fn level(&self, level: u64) -> f64 {
        SCRATCH_TOUCHES * self.uses.get(level as usize).copied().unwrap_or(0.0)
    }

    /// What scratch costs in one interval that finds room for its lowest `room` levels.
    pub fn spilled(&self, room: u64) -> f64 {
        (room..self.uses.len() as u64).map(|level| self.level(level)).sum()
    }
}

/// A placement, by what it leaves to scratch and to the link: to compare what was expected of it
/// with what then happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// Dedicated granules that are left for scratch.
    pub room: u64,
    /// Granules of residents that are read over the link in one interval.
    pub shared_reads: f64,
}

/// The placement that a decision leads to. What is lent is not read over the link by the work.
pub fn placed(candidates: &[Candidate], outlook: &Outlook<'_>, decision: &Decision, lendable: &[bool]) -> Placed {
    let demoted: HashSet<&GranuleId> = decision.demote.iter().collect();
    let promoted: HashSet<&GranuleId> = decision.promote.iter().collect();
    let (mut shared_reads, mut dedicated) = (0.0, 0);
    for (candidate, is_lent) in candidates.iter().zip(lendable) {
        let is_dedicated = match candidate.tier {
            Tier::Dedicated => !demoted.contains(&candidate.id),
            Tier::Shared => promoted.contains(&candidate.id),
        };
        if is_dedicated {
            dedicated += 1;
        } else if !is_lent {
            shared_reads += candidate.reads;
        }
    }
    Placed { room: outlook.capacity.saturating_sub(dedicated), shared_reads }
}

/// Decides what moves before a run. O(n log n) in the candidates.
pub fn decide(candidates: &[Candidate], outlook: &Outlook<'_>) -> Decision {
    let in_tier = |tier| candidates.iter().copied().filter(move |candidate| candidate.tier == tier);
    let mut dedicated: Vec<Candidate> = in_tier(Tier::Dedicated).collect();
    // Fewest reads first. Among equals, granules that no later work reads, then the last in memory.
    dedicated
        .sort_by(|a, b| a.reads.total_cmp(&b.reads).then(a.wanted_later.cmp(&b.wanted_later)).then(b.id.cmp(&a.id)));
    let mut shared: Vec<Candidate> = in_tier(Tier::Shared).collect();
    shared.sort_by(|a, b| b.reads.total_cmp(&a.reads).then(a.id.cmp(&b.id)));
    let room = outlook.capacity.saturating_sub(dedicated.len() as u64);

    let demotions = dedicated.iter().take(outlook.shared_room as usize).zip(room..);
    let demotions = demotions.map(|(candidate, level)| {
        (
            outlook.horizon * (outlook.level(level) - candidate.reads) - candidate.price_of_leaving(),
            candidate.price_of_leaving(),
        )
    });
    let (demoted, mut gain, mut cost) = best_prefix(demotions);
    let mut promoted = 0;
    if demoted == 0 {
        let promotions = shared.iter().zip((0..room).rev());
        let promotions = promotions
            .map(|(candidate, level)| (outlook.horizon * (candidate.reads - outlook.level(level)) - MOVE, MOVE));
        (promoted, gain, cost) = best_prefix(promotions);
    }
    let swaps = shared[promoted..].iter().zip(&dedicated[demoted..]);
    let swaps = swaps.map(|(comes, goes)| {
        (outlook.horizon * (comes.reads - goes.reads) - MOVE - goes.price_of_leaving(), MOVE + goes.price_of_leaving())
    });
    let (swapped, more, price) = best_prefix(swaps);
    let ids = |candidates: &[Candidate]| candidates.iter().map(|candidate| candidate.id).collect();
    let decision = Decision {
        demote: ids(&dedicated[..demoted + swapped]),
        promote: ids(&shared[..promoted + swapped]),
        gain: gain + more,
        cost: cost + price,
    };
    if decision.gain > outlook.debt { decision } else { Decision::default() }
}

/// Finds the prefix of a row of (gain, cost) with the largest total gain. Returns its length, its
/// gain and its cost.
pub(super) fn best_prefix(row: impl Iterator<Item = (f64, f64)>) -> (usize, f64, f64) {
    let (mut best, mut gain, mut cost) = ((0, 0.0, 0.0), 0.0, 0.0);
    for (i, (more, price)) in row.enumerate() {
        gain += more;
        cost += price;
        if gain > best.1 {
            best = (i + 1, gain, cost);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(granule: u32, tier: Tier, reads: f64, wanted_later: bool) -> Candidate {
        Candidate { id: GranuleId { arena: crate::core::ArenaId(0), granule }, tier, reads, wanted_later }
    }

    fn numbers(ids: &[GranuleId]) -> Vec<u32> {
        ids.iter().map(|id| id.granule).collect()
    }

    fn outlook(uses: &[f64], horizon: f64, capacity: u64) -> Outlook<'_> {
        Outlook { uses, horizon, capacity, shared_room: 100, debt: 0.0 }
    }

    #[test]
    fn scratch_that_is_used_more_than_weights_displaces_them() {
        let weights: Vec<_> = (0..4).map(|i| candidate(i, Tier::Dedicated, 1.0, false)).collect();
        let decision = decide(&weights, &outlook(&[9.0, 9.0, 9.0], 1.0, 5));
        assert_eq!((numbers(&decision.demote), decision.promote.len()), (vec![3, 2], 0), "room for two levels more");
        assert!(decide(&weights, &outlook(&[9.0, 9.0, 9.0], 1.0, 7)).is_empty(), "everything fits");
    }

    #[test]
    fn scratch_that_is_used_once_does_not() {
        let weights: Vec<_> = (0..4).map(|i| candidate(i, Tier::Dedicated, 2.0, false)).collect();
        assert!(decide(&weights, &outlook(&[1.0; 8], 1000.0, 4)).is_empty(), "the cost is the same");
        let idle: Vec<_> = (0..4).map(|i| candidate(i, Tier::Dedicated, 0.0, true)).collect();
        assert!(decide(&idle, &outlook(&[1.0; 8], 1.0, 4)).is_empty(), "there and back costs more");
        assert_eq!(decide(&idle, &outlook(&[1.0; 8], 2.0, 4)).demote.len(), 4);
    }

    #[test]
    fn a_high_level_above_a_gap_can_pay_for_the_gap() {
        let weights: Vec<_> = (0..4).map(|i| candidate(i, Tier::Dedicated, 1.0, false)).collect();
        let decision = decide(&weights, &outlook(&[0.0, 0.0, 50.0], 1.0, 4));
        assert_eq!(decision.demote.len(), 3);
    }

    #[test]
    fn what_is_read_comes_back_when_there_is_room() {
        let shared: Vec<_> = (0..4).map(|i| candidate(i, Tier::Shared, f64::from(i), false)).collect();
        let decision = decide(&shared, &outlook(&[9.0], 2.0, 4));
        assert_eq!(numbers(&decision.promote), [3, 2, 1], "the level that is used keeps its room");
        assert!(decide(&shared[..1], &outlook(&[], 5.0, 9)).is_empty(), "unread granules may stay");
        assert!(decide(&shared[1..2], &outlook(&[], 1.0, 9)).is_empty(), "a single read in place costs less");
    }

    #[test]
    fn what_is_read_changes_places_with_what_is_idle() {
        let both = [
            candidate(0, Tier::Dedicated, 0.0, true),
            candidate(1, Tier::Dedicated, 5.0, false),
            candidate(2, Tier::Shared, 5.0, false),
        ];
        let decision = decide(&both, &outlook(&[], 1.0, 2));
        assert_eq!((numbers(&decision.demote), numbers(&decision.promote)), (vec![0], vec![2]));
        assert_eq!((decision.gain, decision.cost), (5.0 - 3.0 * MOVE, 3.0 * MOVE));
        let in_debt = Outlook { debt: 0.5, ..outlook(&[], 1.0, 2) };
        assert!(decide(&both, &in_debt).is_empty(), "earlier moves have not paid yet");
    }

    #[test]
    fn the_shared_tier_takes_no_more_than_it_has() {
        let weights: Vec<_> = (0..4).map(|i| candidate(i, Tier::Dedicated, 1.0, false)).collect();
        let full = Outlook { shared_room: 1, ..outlook(&[9.0; 8], 9.0, 4) };
        assert_eq!(decide(&weights, &full).demote.len(), 1);
    }
}
