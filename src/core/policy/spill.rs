//! Which of the blocks that a program loads belong in the shared tier, going by their size alone.
//!
//! An activation sorts the live blocks by size and gives small ones dedicated memory first. A start
//! that knows how that came out can do the same while blocks arrive in any order. Blocks above a
//! size are shared, and so is a number of bytes of the blocks of just that size.

/// The blocks that are shared while a program loads. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spill {
    /// Blocks larger than this are shared. 0 where nothing is known: no block is shared then.
    pub above: u64,
    /// The bytes that are shared of the blocks of just this size.
    pub at: u64,
}

impl Spill {
    /// The blocks that spill when those of these sizes share `budget` dedicated bytes, small ones
    /// first. O(n log n).
    pub fn of(mut sizes: Vec<u64>, budget: u64) -> Spill {
        sizes.sort_unstable();
        let mut dedicated = 0;
        for (number, size) in sizes.iter().enumerate() {
            if dedicated + size > budget {
                let at = sizes[number..].iter().take_while(|other| *other == size).sum();
                return Spill { above: *size, at };
            }
            dedicated += size;
        }
        Spill::default()
    }

    /// Whether a block of `size` bytes is shared. Counts it off. O(1).
    pub fn takes(&mut self, size: u64) -> bool {
        if self.above == 0 || size < self.above {
            return false;
        }
        if size == self.above {
            let takes = self.at >= size;
            self.at -= if takes { size } else { 0 };
            return takes;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fits_spills_nothing() {
        let mut spill = Spill::of(vec![5, 1, 3], 9);
        assert!(spill == Spill::default() && !spill.takes(100));
    }

    proptest! {
        /// Blocks that arrive in any order end up in the tier that an activation would have chosen.
        #[test]
        fn it_is_the_activations_choice(sizes in prop::collection::vec(1u64..20, 0..60), budget in 0u64..400, turn in 0usize..60) {
            let mut spill = Spill::of(sizes.clone(), budget);
            let mut order = sizes.clone();
            order.rotate_left(turn.min(sizes.len()));
            let mut dedicated: Vec<u64> = order.into_iter().filter(|size| !spill.takes(*size)).collect();
            dedicated.sort_unstable();
            let mut sorted = sizes;
            sorted.sort_unstable();
            let mut sum = 0;
            let first: Vec<u64> = sorted.into_iter().take_while(|size| { sum += size; sum <= budget }).collect();
            prop_assert_eq!(dedicated, first);
        }
    }
}
