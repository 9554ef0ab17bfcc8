//! Sequences: the requests of one kind of step, recognised when they come again.
//!
//! Steps with as many requests, of similar sizes in the same order, are one sequence: the same
//! program with other lengths or batches. A sequence keeps the largest size of each request and the
//! longest life of its block, so that a plan for these serves every step that asks for no more.
//!
//! Where the sizes of three steps are affine in the first one that differs, a longer step than any
//! before is known by that request, and its plan is the known one stretched.

use super::guard::Guard;
use super::log::{LIVES, Request};

/// Steps with fewer requests are not worth a plan.
pub(super) const FEWEST: usize = 8;
/// How many times as large a request may be as the same one of a similar step.
const SIMILAR: u32 = 8;
/// How far a size may be from an affine one: so many units, and one in so many.
const ROUNDING: (f64, f64) = (2.0, 512.0);

/// The requests of one kind of step.
#[derive(Debug)]
pub(super) struct Sequence {
    /// The largest of each request, in units, and the longest life of its block.
    most: Vec<Request>,
    /// The units of each request in the step with the least first request that differs.
    least: Vec<u32>,
    /// Whether sizes have proved to be affine in the first one that differs.
    is_affine: bool,
    /// How often it was seen.
    pub(super) seen: u32,
    /// When it was seen last.
    pub(super) last: u64,
    /// The most units of one of its steps that lived at once.
    pub(super) most_live: u64,
    pub(super) guard: Guard,
}

/// How a sequence goes on beyond its largest step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stretched {
    /// The first request that differs.
    pub(super) first: usize,
    /// The units of each request in a step whose first differing request is twice as large as ever.
    pub(super) units: Vec<u32>,
}

impl Sequence {
    /// A sequence that was seen once.
    pub(super) fn new(requests: &[Request], most_live: u64, now: u64) -> Sequence {
        Sequence {
            most: requests.to_vec(),
            least: requests.iter().map(|request| request.units).collect(),
            is_affine: false,
            seen: 1,
            last: now,
            most_live,
            guard: Guard::new(2),
        }
    }

    /// The largest of each request, and the longest life of its block.
    pub(super) fn most(&self) -> &[Request] {
        &self.most
    }

    /// Whether a step is one of this sequence.
    pub(super) fn is_like(&self, requests: &[Request]) -> bool {
        let is_similar =
            |(known, new): (&Request, &Request)| known.units.max(new.units) / SIMILAR <= known.units.min(new.units);
        self.most.len() == requests.len() && self.most.iter().zip(requests).all(is_similar)
    }

    /// Notes a step of this sequence. Returns whether it asked for more than any before: larger
    /// blocks, or longer lives.
    pub(super) fn note(&mut self, requests: &[Request], most_live: u64, now: u64) -> bool {
        self.learn_law(requests);
        (self.seen, self.last) = (self.seen.saturating_add(1), now);
        self.most_live = self.most_live.max(most_live);
        let mut grew = false;
        for (known, new) in self.most.iter_mut().zip(requests) {
            grew |= new.units > known.units || new.freed > known.freed;
            known.units = known.units.max(new.units);
            known.freed = known.freed.max(new.freed);
        }
        grew
    }

    /// Whether the size of a request differs between steps, as far as is known.
    pub(super) fn varies(&self, at: usize) -> bool {
        self.most[at].units != self.least[at]
    }

    /// The first request whose size differs between steps.
    fn differs(&self) -> Option<usize> {
        self.most.iter().zip(&self.least).position(|(most, least)| most.units != *least)
    }

    /// Tests on a step whether sizes are affine in the first that differs.
    fn learn_law(&mut self, requests: &[Request]) {
        let differs = |known: (&Request, &Request)| known.0.units != known.1.units;
        let first = self.differs().or_else(|| self.most.iter().zip(requests).position(differs));
        let Some(first) = first else { return };
        let (low, high, new) = (self.least[first], self.most[first].units, requests[first].units);
        if low == high {
            // The second step: two are always affine.
            self.least = match new < low {
                true => requests.iter().map(|request| request.units).collect(),
                false => self.most.iter().map(|request| request.units).collect(),
            };
            return;
        }
        let part = (f64::from(new) - f64::from(low)) / (f64::from(high) - f64::from(low));
        let fits = |((most, least), new): ((&Request, &u32), &Request)| {
            let (most, least, new) = (f64::from(most.units), f64::from(*least), f64::from(new.units));
            let wanted = least + part * (most - least);
            (new - wanted).abs() <= ROUNDING.0 * part.abs().max(1.0) + new / ROUNDING.1
        };
        let fits = self.most.iter().zip(&self.least).zip(requests).all(fits);
        if new != low && new != high {
            self.is_affine = fits;
        }
        if new < low {
            self.least = requests.iter().map(|request| request.units).collect();
        }
    }

    /// How the sequence goes on beyond its largest step; `None` where that is not known.
    pub(super) fn stretched(&self) -> Option<Stretched> {
        let first = self.differs().filter(|_| self.is_affine)?;
        let span = f64::from(self.most[first].units) - f64::from(self.least[first]);
        let times = f64::from(self.most[first].units) / span;
        if times <= 0.0 {
            return None;
        }
        let far = |(most, least): (&Request, &u32)| {
            let (most, least) = (f64::from(most.units), f64::from(*least));
            (most + times * (most - least)).max(most).min(f64::from(u32::MAX / 2)) as u32
        };
        Some(Stretched { first, units: self.most.iter().zip(&self.least).map(far).collect() })
    }

    /// Whether the block of a request outlives the step.
    pub(super) fn stays(&self, at: usize) -> bool {
        self.most[at].freed == LIVES
    }

    /// The request until which the block of each lives: of those that outlive the step, its end.
    pub(super) fn freed(&self, at: usize) -> u32 {
        match self.most[at].freed {
            LIVES => self.most.len() as u32,
            freed => freed.max(at as u32 + 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(length: u32) -> Vec<Request> {
        let sizes = [4000, 2 * length, 3000 + length, 4000, 5 * length / 3, 6 * length, 2100, 2 * length];
        sizes.into_iter().zip(3..).map(|(units, freed)| Request { units, freed }).collect()
    }

    fn seen(lengths: &[u32]) -> Sequence {
        let mut sequence = Sequence::new(&step(lengths[0]), 0, 0);
        for length in &lengths[1..] {
            assert!(sequence.is_like(&step(*length)));
            sequence.note(&step(*length), 0, 0);
        }
        sequence
    }

    #[test]
    fn sizes_that_are_affine_in_the_first_that_differs_are_one_sequence() {
        for lengths in [[2000, 3000, 2500], [3000, 2000, 3500], [2500, 3500, 2000], [3500, 3000, 2000]] {
            let sequence = seen(&lengths);
            assert!(sequence.is_affine, "{lengths:?}");
            let longest = *lengths.iter().max().unwrap();
            let sizes = |requests: &[Request]| requests.iter().map(|request| request.units).collect::<Vec<_>>();
            assert_eq!(sizes(&sequence.most), sizes(&step(longest)));
            let far = sequence.stretched().unwrap();
            assert_eq!(far.first, 1);
            for (far, wanted) in far.units.iter().zip(sizes(&step(2 * longest))) {
                assert!(far.abs_diff(wanted) <= 2, "{far} for {wanted}");
            }
        }
    }

    #[test]
    fn two_steps_are_no_law_and_neither_are_others() {
        assert_eq!(seen(&[2000, 3000]).stretched(), None);
        assert_eq!(seen(&[2000, 3000, 3000, 2000]).stretched(), None, "the same two again");
        let mut sequence = seen(&[2000, 3000, 2500]);
        let mut other = step(2700);
        other[5].units += 1000;
        sequence.note(&other, 0, 0);
        assert_eq!(sequence.stretched(), None);
    }

    #[test]
    fn a_step_that_asks_for_more_is_told_from_one_that_does_not() {
        let mut sequence = seen(&[3000]);
        assert!(!sequence.note(&step(2000), 0, 0));
        assert!(sequence.note(&step(3001), 0, 0));
        let mut longer = step(2000);
        longer[0].freed = LIVES;
        assert!(sequence.note(&longer, 0, 0));
        assert_eq!((sequence.freed(0), sequence.freed(1)), (8, 4));
        assert!(!sequence.is_like(&step(2000)[1..]));
        assert!(!sequence.is_like(&step(60_000)));
    }
}
