//! What a run would have wanted from its start, for the next one.

use super::spill::Spill;
use super::steady::{Steady, WORKS};

/// What a run would have wanted of its device. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What the dedicated tier could hold.
    pub capacity: u64,
    /// The reserve; 0 where everything fitted.
    pub reserve: u64,
    /// What lived once the program had loaded.
    pub resident: u64,
    /// Which part of that belonged in the shared tier, as far as it still lived at the end.
    pub spill: Spill,
}

/// What is known of a run whose steps nobody reports. Bytes.
#[derive(Debug, Default)]
pub struct Hindsight {
    steady: Steady,
    /// The sizes of the blocks that lived when the program had begun to work. At its end they are
    /// usually gone.
    lived: Vec<u64>,
    /// Their sum.
    lived_bytes: u64,
}

impl Hindsight {
    /// A block is allocated where `live` bytes lived before; `gone` is how many were freed so far.
    /// O(1).
    #[inline]
    pub fn allocate(&mut self, live: u64, bytes: u64, gone: impl FnOnce() -> u64) {
        self.steady.allocate(live, bytes, gone);
    }

    /// Whether the sizes of the live blocks should be noted: once the program works, and again each
    /// time that a tenth more lives. O(1).
    pub fn wants_sizes(&self, live: u64, gone: u64) -> bool {
        gone >= WORKS && live > self.lived_bytes + self.lived_bytes / 10
    }

    /// Notes the sizes of the live blocks.
    pub fn note_sizes(&mut self, sizes: Vec<u64>) {
        self.lived_bytes = sizes.iter().sum();
        self.lived = sizes;
    }

    /// The reserve and what is resident, as the run itself has shown. What fragments add is a
    /// guess, since nobody has reported where a step ends.
    pub fn found(&self, granule: u64, capacity: u64) -> (u64, u64) {
        let scratch = self.steady.scratch();
        ((scratch + scratch / 32).next_multiple_of(granule).min(capacity), self.steady.resident())
    }

    /// What the run would have wanted, given what it found of reserve and residents. `sizes` are
    /// those of the blocks that live now. O(n log n) in the blocks.
    pub fn wanted(&self, capacity: u64, (reserve, resident): (u64, u64), sizes: Vec<u64>) -> Wanted {
        if resident + reserve <= capacity {
            return Wanted { capacity, reserve: 0, resident, spill: Spill::default() };
        }
        // The blocks that live now, if they still are the residents; otherwise those noted earlier.
        let are_residents = |sizes: &&Vec<u64>| sizes.iter().sum::<u64>().abs_diff(resident) <= resident / 5;
        let sizes = [&sizes, &self.lived].into_iter().find(are_residents);
        let spill = sizes.map_or_else(Spill::default, |sizes| Spill::of(sizes.clone(), capacity - reserve));
        Wanted { capacity, reserve, resident, spill }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_wants_nothing() {
        let wanted = Hindsight::default().wanted(100, (40, 60), vec![60]);
        assert_eq!(wanted, Wanted { capacity: 100, reserve: 0, resident: 60, spill: Spill::default() });
    }

    #[test]
    fn sizes_noted_earlier_serve_where_the_blocks_are_gone() {
        let mut hindsight = Hindsight::default();
        assert!(!hindsight.wants_sizes(80, WORKS - 1) && hindsight.wants_sizes(80, WORKS));
        hindsight.note_sizes(vec![30, 50]);
        assert!(!hindsight.wants_sizes(88, WORKS) && hindsight.wants_sizes(89, WORKS));
        let wanted = hindsight.wanted(100, (40, 80), vec![5]);
        assert_eq!(wanted.spill, Spill::of(vec![30, 50], 60));
        assert_eq!(hindsight.wanted(100, (40, 80), vec![10, 70]).spill, Spill::of(vec![10, 70], 60));
        assert_eq!(Hindsight::default().wanted(100, (40, 80), vec![5]).spill, Spill::default());
    }
}
