//! Standstill: what a safe point looked at when it moved nothing, so that the next one need not
//! look again.
//!
//! Work repeats. At most safe points the same blocks live in the same tiers, and the same work
//! comes. What did not pay then does not pay now, unless more of the work is expected.

use crate::core::ahead::Knowledge;
use crate::core::tier::PerTier;

/// The part of a debt that must be left for it to count as the same. What a move has cost is paid
/// back little by little, and it is not worth a look each time.
const SAME_DEBT: f64 = 0.5;
/// How far the uses of a level may be from what they were. A forecast comes near to what repeats,
/// and never quite reaches it.
const SAME_USES: f64 = 0.05;

/// What a choice depends on. Bytes, unless said otherwise.
#[derive(Clone, Debug)]
pub struct Standstill {
    /// Live blocks.
    pub blocks: u64,
    /// Blocks freed, so far, that were older than their interval.
    pub outlived: u64,
    /// Bytes of live blocks in each tier.
    pub allocated: PerTier<u64>,
    /// Dedicated memory that can be had.
    pub reach: u64,
    /// The ring of copies.
    pub ring: u64,
    /// How often reports of reads have changed.
    pub told: u64,
    /// What is known of copying the work's weights ahead.
    pub copying: Knowledge,
    /// Uses of each level of scratch in an interval.
    pub uses: Vec<f64>,
    /// What scratch takes beyond its peak.
    pub slack: u64,
    /// Intervals that are expected.
    pub horizon: f64,
    /// What a move must gain beyond its own cost.
    pub debt: f64,
}

impl Standstill {
    /// Whether nothing has to move now either: all is the same, no more of the work is expected,
    /// and about as much must be gained. O(levels of scratch).
    pub fn covers(&self, now: &Standstill) -> bool {
        let counts = |of: &Standstill| {
            let tiers = (of.allocated, of.reach, of.ring);
            (of.blocks, of.outlived, tiers, of.told, of.copying, of.slack, of.uses.len())
        };
        counts(self) == counts(now)
            && now.horizon <= self.horizon
            && now.debt >= SAME_DEBT * self.debt
            && self.uses.iter().zip(&now.uses).all(|(then, now)| (then - now).abs() <= SAME_USES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_pay_does_not_pay_for_less() {
        let then = Standstill {
            blocks: 3,
            outlived: 7,
            allocated: PerTier::new(100, 20),
            reach: 120,
            ring: 0,
            told: 1,
            copying: Knowledge::default(),
            uses: vec![2.0, 1.0],
            slack: 4,
            horizon: 9.0,
            debt: 50.0,
        };
        assert!(then.covers(&then));
        assert!(then.covers(&Standstill { horizon: 3.0, debt: 60.0, ..then.clone() }));
        assert!(then.covers(&Standstill { uses: vec![1.96, 1.0], ..then.clone() }));
        let changed = [
            Standstill { horizon: 10.0, ..then.clone() },
            Standstill { debt: 24.0, ..then.clone() },
            Standstill { blocks: 4, ..then.clone() },
            Standstill { outlived: 8, ..then.clone() },
            Standstill { allocated: PerTier::new(99, 21), ..then.clone() },
            Standstill { uses: vec![2.0, 1.5], ..then.clone() },
            Standstill { uses: vec![2.0], ..then.clone() },
            Standstill { told: 2, ..then.clone() },
        ];
        assert!(changed.iter().all(|now| !then.covers(now)));
    }
}
