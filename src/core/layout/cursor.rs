//! Following a plan: a cursor goes along the requests of a step, and says where each block goes.

use super::guard::Tally;
use super::plan::{self, Wanted};
use super::sequence::{Sequence, Stretched};
use crate::core::arena::Near;
use crate::core::size::ALIGNMENT;

/// So many requests that a plan has and the step has not are passed over.
const AHEAD: usize = 32;
/// A request whose size varies may be smaller than planned by this factor.
const SMALLER: u32 = 8;
/// A block that outlives its step is small if it is less than this part of what lives.
const SMALL: u64 = 64;
/// Units by which the blocks of a plan that stretches are apart, for what rounding takes.
const ROUNDING: u64 = 2;

/// Where the block of a request goes.
#[derive(Clone, Copy, Debug)]
struct Spot {
    /// The most that has its place here, and the least.
    units: u32,
    fewest: u32,
    near: Near,
    offset: u64,
    /// Where the block goes the next time, if it outlives the step: the one before lives still.
    twin: Option<u64>,
}

/// The same in a step whose first differing request is twice as large as ever.
#[derive(Clone, Copy, Debug)]
struct Far {
    units: u32,
    offset: u64,
}

/// A plan for one sequence. Offsets are in bytes.
#[derive(Debug)]
pub(super) struct Plan {
    spots: Vec<Spot>,
    /// The first request that differs, and the plan stretched.
    far: Option<(usize, Vec<Far>)>,
    /// Granules that the plan touches, together with what was in its way when it was made.
    pub(super) granules: u64,
}

impl Plan {
    /// A plan around obstacles, in units; `None` where it takes too long. O(requests²) at most.
    pub(super) fn new(sequence: &Sequence, obstacles: &[(u64, u64)], granule: u64) -> Option<Plan> {
        let stretched = sequence.stretched();
        let apart = if stretched.is_some() { ROUNDING } else { 0 };
        let count = sequence.most().len();
        let wanted = |at: usize| {
            let units = u64::from(sequence.most()[at].units) + apart;
            let (born, freed) = if sequence.stays(at) { (0, count as u32) } else { (at as u32, sequence.freed(at)) };
            Wanted { units, born, freed }
        };
        // What outlives the step has two places, which take turns, where that costs little.
        let stays = (0..count).filter(|at| sequence.stays(*at));
        let is_small = |at: &usize| u64::from(sequence.most()[*at].units) * SMALL <= sequence.most_live;
        let twins: Vec<usize> = stays.filter(is_small).collect();
        let blocks: Vec<Wanted> = (0..count).chain(twins.iter().copied()).map(wanted).collect();
        let early = stretched.as_ref().map_or(0, |stretched| stretched.first);
        let (offsets, granules) = plan::place(&blocks, obstacles, granule / ALIGNMENT, early)?;
        let far = stretched.and_then(|stretched| Self::stretch(&blocks, &offsets, obstacles, &twins, stretched));
        let spot = |at: usize| {
            let units = sequence.most()[at].units;
            let fewest = if sequence.varies(at) { units / SMALLER } else { units };
            let twin = twins.binary_search(&at).ok().map(|twin| offsets[count + twin] * ALIGNMENT);
            Spot { units, fewest, near: Near::default(), offset: offsets[at] * ALIGNMENT, twin }
        };
        Some(Plan { spots: (0..count).map(spot).collect(), far, granules })
    }

    fn stretch(
        blocks: &[Wanted],
        offsets: &[u64],
        obstacles: &[(u64, u64)],
        twins: &[usize],
        stretched: Stretched,
    ) -> Option<(usize, Vec<Far>)> {
        let units = stretched.units.iter().chain(twins.iter().map(|at| &stretched.units[*at]));
        let sizes: Vec<u64> = units.map(|units| u64::from(*units) + ROUNDING).collect();
        let offsets = plan::restack(blocks, offsets, &sizes, obstacles, stretched.first)?;
        let far = stretched.units.into_iter().zip(offsets);
        Some((stretched.first, far.map(|(units, offset)| Far { units, offset: offset * ALIGNMENT }).collect()))
    }

    /// Whether the plan is for steps that begin with a request, and how much larger it is.
    pub(super) fn begins_with(&self, units: u32) -> Option<u32> {
        let spot = self.spots.first()?;
        let stretches = matches!(self.far, Some((0, _))) && units > spot.units && units / 2 <= spot.units;
        (stretches || spot.fits(units)).then(|| spot.units.abs_diff(units))
    }
}

impl Spot {
    /// Its offset; where it has a twin, that is next.
    #[inline]
    fn turn(&mut self) -> u64 {
        let offset = self.offset;
        if let Some(twin) = &mut self.twin {
            self.offset = std::mem::replace(twin, offset);
        }
        offset
    }

    #[inline]
    fn fits(&self, units: u32) -> bool {
        units <= self.units && units >= self.fewest
    }
}

/// Where a step is in its plan.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    at: usize,
    /// How far the plan is stretched: 0 not at all, 1 to twice the length.
    stretch: f64,
    pub(super) tally: Tally,
}

impl Cursor {
    /// Where the block of the next request goes, and where to look for that; `None` where the plan
    /// does not have it.
    #[inline]
    pub(super) fn next<'a>(&mut self, plan: &'a mut Plan, units: u32) -> Option<(u64, &'a mut Near)> {
        self.tally.try_one();
        if self.stretch == 0.0
            && let Some(spot) = plan.spots.get(self.at)
            && spot.fits(units)
        {
            let spot = &mut plan.spots[self.at];
            self.at += 1;
            return Some((spot.turn(), &mut spot.near));
        }
        self.search(plan, units)
    }

    #[cold]
    fn search<'a>(&mut self, plan: &'a mut Plan, units: u32) -> Option<(u64, &'a mut Near)> {
        if self.stretch == 0.0
            && let Some((first, far)) = &plan.far
            && *first == self.at
        {
            // A longer step than any before shows itself.
            let (known, twice) = (plan.spots[self.at].units, far[self.at].units);
            if units > known && units <= twice {
                self.stretch = f64::from(units - known) / f64::from(twice - known);
            }
        }
        let stop = plan.spots.len().min(self.at + AHEAD);
        let found = (self.at.min(stop)..stop).find(|at| self.fits(plan, *at, units, *at == self.at))?;
        self.at = found + 1;
        let offset = if self.stretch > 0.0 { self.offset(plan, found) } else { plan.spots[found].turn() };
        Some((offset, &mut plan.spots[found].near))
    }

    /// Whether a request is that of a spot: the very next may be smaller, one further ahead has to
    /// be the same.
    fn fits(&self, plan: &Plan, at: usize, units: u32, is_next: bool) -> bool {
        let spot = plan.spots[at];
        let more = match &plan.far {
            Some((_, far)) if self.stretch > 0.0 => {
                let more = (f64::from(far[at].units.saturating_sub(spot.units)) * self.stretch).ceil() as u32;
                if more > 0 { more + ROUNDING as u32 } else { 0 }
            }
            _ => 0,
        };
        if is_next { spot.fits(units.saturating_sub(more)) || spot.fits(units) } else { units == spot.units + more }
    }

    fn offset(&self, plan: &Plan, at: usize) -> u64 {
        let near = plan.spots[at].offset;
        match &plan.far {
            Some((_, far)) if self.stretch > 0.0 => {
                let more = (far[at].offset as f64 - near as f64) * self.stretch;
                let offset = (near as f64 + more).max(0.0) as u64;
                offset.next_multiple_of(ALIGNMENT)
            }
            _ => near,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::log::Request;
    use super::*;

    fn step(length: u32) -> Vec<Request> {
        let sizes = [4000, 2 * length, 3000 + length, 4000, 5 * length, 6 * length, 2100, 2 * length];
        sizes.into_iter().zip([8, 4, 6, 8, 6, 7, 8, 8]).map(|(units, freed)| Request { units, freed }).collect()
    }

    fn plan(lengths: &[u32]) -> Plan {
        let mut sequence = Sequence::new(&step(lengths[0]), 0, 0);
        for length in &lengths[1..] {
            sequence.note(&step(*length), 0, 0);
        }
        Plan::new(&sequence, &[(0, 1000)], 4096 * ALIGNMENT).unwrap()
    }

    fn follow(plan: &mut Plan, requests: &[Request]) -> Vec<Option<u64>> {
        let mut cursor = Cursor::default();
        requests.iter().map(|request| Some(cursor.next(plan, request.units)?.0 / ALIGNMENT)).collect()
    }

    fn assert_apart(requests: &[Request], offsets: &[Option<u64>]) {
        for (a, (request, offset)) in requests.iter().zip(offsets).enumerate() {
            let offset = offset.unwrap_or_else(|| panic!("request {a} has no place"));
            assert!(offset >= 1000);
            for (b, other) in requests[..a].iter().enumerate().filter(|(_, other)| other.freed as usize > a) {
                let at = offsets[b].unwrap();
                let is_apart = offset >= at + u64::from(other.units) || at >= offset + u64::from(request.units);
                assert!(is_apart, "{a} meets {b}");
            }
        }
    }

    #[test]
    fn shorter_steps_have_the_places_of_the_longest_and_longer_ones_stretch_them() {
        let mut plan = plan(&[2000, 4000, 3000]);
        for length in [4000, 2000, 3333] {
            let offsets = follow(&mut plan, &step(length));
            assert_eq!(offsets, follow(&mut plan, &step(4000)));
            assert_apart(&step(length), &offsets);
        }
        for length in [4001, 5000, 7777, 8000] {
            assert_apart(&step(length), &follow(&mut plan, &step(length)));
        }
        assert_eq!(follow(&mut plan, &step(9000))[1], None, "more than twice as long");
    }

    #[test]
    fn requests_that_are_left_out_are_passed_over_and_new_ones_have_no_place() {
        let mut plan = plan(&[3000, 3000]);
        let all = follow(&mut plan, &step(3000));
        let mut fewer = step(3000);
        fewer.remove(2);
        assert_eq!(follow(&mut plan, &fewer)[2..], all[3..]);
        let mut more = step(3000);
        more.insert(2, Request { units: 1_000_000, freed: 3 });
        let offsets = follow(&mut plan, &more);
        assert_eq!((offsets[2], &offsets[3..]), (None, &all[2..]));
    }
}
