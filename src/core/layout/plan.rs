//! Where each block of a step should lie: planned once the step is known, off the hot path.
//!
//! Each block goes into the tightest gap that is free for as long as it lives, or else above
//! everything in its way: the largest first, or the one with the largest product of size and life.
//! As long as that touches more granules than have to be, the block that ends highest is placed
//! earlier, and all is done again: the squeaky wheel gets the grease. Blocks that outlive the step
//! are obstacles.
//!
//! The blocks that are in the way of one are found by time: the step is cut into [`SPANS`] spans,
//! each with the blocks that live in it. The work is bounded by [`BUDGET`].
//!
//! After D. E. Joslin and D. P. Clements, "Squeaky wheel optimization", Journal of Artificial
//! Intelligence Research 10, 1999.

use std::cmp::Reverse;

/// How many spans a step is cut into.
const SPANS: usize = 64;
/// How many blocks are looked at in all: some tens of milliseconds.
const BUDGET: u64 = 1 << 25;
/// How many orders are tried.
const ROUNDS: usize = 600;
/// A layout that is this near to the best possible, as a part of that, is good enough.
const ENOUGH: u64 = 512;

/// A block of a step. Sizes and offsets are in units of 512 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) units: u64,
    /// The request that it is for.
    pub(super) born: u32,
    /// The request that may have its place again.
    pub(super) freed: u32,
}

impl Wanted {
    fn meets(&self, other: &Wanted) -> bool {
        self.born < other.freed && other.born < self.freed
    }
}

/// Something in the way: where, and until which unit.
type Obstacle = (u64, u64);

/// A layout: the offset of each block, and how many granules all touch, with the obstacles.
pub(super) type Placement = (Vec<u64>, u64);

/// Places blocks around obstacles, which are in order and do not touch. The blocks of the first
/// `early` requests come first, so that they lie low. `None` where it would take too long.
pub(super) fn place(blocks: &[Wanted], obstacles: &[Obstacle], granule: u64, early: usize) -> Option<Placement> {
    let life = |block: &Wanted| block.units * u64::from(block.freed - block.born);
    let mut budget = BUDGET;
    let mut best: Option<Placement> = None;
    let fewest = fewest(blocks, obstacles, granule);
    let last = blocks.iter().map(|block| block.freed).max()?;
    for worth in [&(|block: &Wanted| block.units) as &dyn Fn(&Wanted) -> u64, &life] {
        let mut order: Vec<usize> = (0..blocks.len()).collect();
        // What lives all along comes first too: the steps that follow have to go around it.
        let is_first = |at: usize| at < early || (blocks[at].born == 0 && blocks[at].freed == last);
        order.sort_by_key(|at| (!is_first(*at), Reverse(worth(&blocks[*at])), blocks[*at].born));
        let early = order.iter().take_while(|at| is_first(**at)).count();
        for _ in 0..ROUNDS / 2 {
            let Some(offsets) = in_order(blocks, obstacles, &order, &mut budget) else { return best };
            let ends = blocks.iter().zip(&offsets).map(|(block, offset)| (*offset, offset + block.units));
            let touched = touched(ends.chain(obstacles.iter().copied()), granule);
            let highest = (0..order.len()).max_by_key(|at| offsets[order[*at]] + blocks[order[*at]].units)?;
            if best.as_ref().is_none_or(|(_, least)| touched < *least) {
                best = Some((offsets, touched));
            }
            if best.as_ref().is_some_and(|(_, least)| *least <= fewest + fewest / ENOUGH) {
                return best;
            }
            let to = (highest / 2).max(early.min(highest));
            order[to..=highest].rotate_right(1);
        }
    }
    best
}

/// How few granules could do: those of the obstacles, and as many as the most that lives at once
/// would fill, of which one may be shared with them.
fn fewest(blocks: &[Wanted], obstacles: &[Obstacle], granule: u64) -> u64 {
    let mut changes: Vec<(u32, bool, u64)> =
        blocks.iter().flat_map(|b| [(b.born, true, b.units), (b.freed, false, b.units)]).collect();
    changes.sort_unstable();
    let (mut live, mut most) = (0, 0);
    for (_, is_born, units) in changes {
        live = if is_born { live + units } else { live - units };
        most = most.max(live);
    }
    touched(obstacles.iter().copied(), granule) + most / granule
}

/// How many granules some stretches touch.
pub(super) fn touched(stretches: impl Iterator<Item = Obstacle>, granule: u64) -> u64 {
    let mut granules: Vec<(u64, u64)> = stretches.map(|(from, to)| (from / granule, to.div_ceil(granule))).collect();
    granules.sort_unstable();
    let (mut count, mut upto) = (0, 0);
    for (from, to) in granules {
        count += to.saturating_sub(from.max(upto));
        upto = upto.max(to);
    }
    count
}

fn in_order(blocks: &[Wanted], obstacles: &[Obstacle], order: &[usize], budget: &mut u64) -> Option<Vec<u64>> {
    let mut placed = Placed::new(blocks, obstacles);
    let mut offsets = vec![0; blocks.len()];
    for at in order {
        offsets[*at] = placed.add(&blocks[*at], budget)?;
    }
    Some(offsets)
}

/// What is placed already, by the spans in which it lives, in the order of offsets.
struct Placed {
    /// How many requests a span has.
    span: u32,
    spans: Vec<Vec<(u64, Wanted)>>,
    all: Vec<(u64, Wanted)>,
}

impl Placed {
    fn new(blocks: &[Wanted], obstacles: &[Obstacle]) -> Placed {
        let last = blocks.iter().map(|block| block.freed).max().unwrap_or(0);
        let for_ever = |&(from, to): &Obstacle| (from, Wanted { units: to - from, born: 0, freed: u32::MAX });
        let all: Vec<_> = obstacles.iter().map(for_ever).collect();
        Placed { span: last.div_ceil(SPANS as u32).max(1), spans: vec![all.clone(); SPANS], all }
    }

    fn spans_of(&self, block: &Wanted) -> std::ops::Range<usize> {
        let first = (block.born / self.span) as usize;
        first..(block.freed.saturating_sub(1) / self.span) as usize + 1
    }

    /// Finds a place for a block and takes it.
    fn add(&mut self, block: &Wanted, budget: &mut u64) -> Option<u64> {
        let spans = self.spans_of(block);
        let near = if spans.len() == 1 { &self.spans[spans.start] } else { &self.all };
        *budget = budget.checked_sub(near.len() as u64)?;
        let (mut free_from, mut tightest) = (0, None);
        for (offset, other) in near {
            if !other.meets(block) {
                continue;
            }
            let gap = offset.saturating_sub(free_from);
            if gap >= block.units && tightest.is_none_or(|(least, _)| gap < least) {
                tightest = Some((gap, free_from));
            }
            free_from = free_from.max(offset + other.units);
        }
        let offset = tightest.map_or(free_from, |(_, offset)| offset);
        let enter = |list: &mut Vec<(u64, Wanted)>| {
            let at = list.partition_point(|(other, _)| *other < offset);
            list.insert(at, (offset, *block));
        };
        enter(&mut self.all);
        self.spans[spans].iter_mut().for_each(enter);
        Some(offset)
    }
}

/// The same layout for other sizes: every block lies above the same ones as before, as low as they
/// let it. Blocks of the first `early` requests stay where they are. `None` where it would take too
/// long.
pub(super) fn restack(
    blocks: &[Wanted],
    offsets: &[u64],
    sizes: &[u64],
    obstacles: &[Obstacle],
    early: usize,
) -> Option<Vec<u64>> {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|at| offsets[*at]);
    let mut stacked = offsets.to_vec();
    let mut budget = BUDGET;
    for (done, &at) in order.iter().enumerate().filter(|(_, at)| **at >= early) {
        budget = budget.checked_sub(done as u64)?;
        let below = order[..done].iter().filter(|other| blocks[**other].meets(&blocks[at]));
        let mut offset = below.map(|other| stacked[*other] + sizes[*other]).max().unwrap_or(0);
        let fixed = (0..early).filter(|other| blocks[*other].meets(&blocks[at]));
        let mut fixed: Vec<Obstacle> = fixed.map(|other| (offsets[other], offsets[other] + sizes[other])).collect();
        fixed.extend(obstacles);
        fixed.sort_unstable();
        for (from, to) in fixed {
            if from < offset + sizes[at] && offset < to {
                offset = to;
            }
        }
        stacked[at] = offset;
    }
    Some(stacked)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks() -> impl Strategy<Value = Vec<Wanted>> {
        let one = (1..5000u64, 0..200u32, 1..60u32);
        let one = one.prop_map(|(units, born, life)| Wanted { units, born, freed: born + life });
        prop::collection::vec(one, 1..120)
    }

    fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
        a.0 < b.1 && b.0 < a.1
    }

    fn assert_apart(blocks: &[Wanted], sizes: &[u64], offsets: &[u64], obstacles: &[Obstacle]) {
        let stretch = |at: usize| (offsets[at], offsets[at] + sizes[at]);
        for a in 0..blocks.len() {
            assert!(obstacles.iter().all(|obstacle| !overlap(stretch(a), *obstacle)), "{a} is in an obstacle");
            let clash = (0..a).find(|b| blocks[a].meets(&blocks[*b]) && overlap(stretch(a), stretch(*b)));
            assert_eq!(clash, None, "of block {a}");
        }
    }

    proptest! {
        #[test]
        fn no_two_blocks_share_a_place_at_one_time(blocks in blocks(), gaps in prop::collection::vec((1..900u64, 1..9000u64), 0..6)) {
            let mut at = 0;
            let obstacles: Vec<_> = gaps.into_iter().map(|(gap, long)| {
                at += gap + long;
                (at - long, at)
            }).collect();
            let (offsets, touched) = place(&blocks, &obstacles, 4096, 0).unwrap();
            let sizes: Vec<u64> = blocks.iter().map(|block| block.units).collect();
            assert_apart(&blocks, &sizes, &offsets, &obstacles);
            let live = |now: u32| blocks.iter().filter(|b| b.born <= now && now < b.freed).map(|b| b.units).sum::<u64>();
            prop_assert!(touched * 4096 >= (0..260).map(live).max().unwrap(), "less than what lives");
            let larger: Vec<u64> = sizes.iter().zip(0..).map(|(units, at)| units * (1 + at % 3)).collect();
            let stacked = restack(&blocks, &offsets, &larger, &obstacles, 0).unwrap();
            // Obstacles lie where they lie, so a stack may have grown into one that it lay under.
            if obstacles.is_empty() {
                assert_apart(&blocks, &larger, &stacked, &obstacles);
            }
        }
    }

    #[test]
    fn a_step_that_fits_needs_nothing_more() {
        // What lives long between what comes and goes: the fit by arrival fragments.
        let wanted = |units, born, freed| Wanted { units, born, freed };
        let blocks = [wanted(8, 0, 2), wanted(4, 1, 9), wanted(8, 2, 4), wanted(4, 3, 9), wanted(12, 4, 9)];
        let (_, touched) = place(&blocks, &[(20, 30)], 1, 0).unwrap();
        assert_eq!(touched, 10 + 20, "the most that lives at once, beside the obstacle");
    }

    #[test]
    fn the_work_is_bounded() {
        let block = |at: u32| Wanted { units: 1 + u64::from(at % 7), born: at, freed: at + 20_000 };
        let blocks: Vec<Wanted> = (0..16_384).map(block).collect();
        assert_eq!(place(&blocks, &[], 1, 0), None, "all of it lives at once");
        assert!(place(&blocks[..4000], &[], 1, 0).is_some());
    }
}
