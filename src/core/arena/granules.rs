//! Granules: which tier lies under each part of an arena.

use std::ops::Range;

use super::node::Backing;
use crate::core::tier::{PerTier, Tier};

/// The tier of each granule of an arena. All offsets and sizes are in bytes.
#[derive(Debug)]
pub(super) struct Granules {
    /// Bytes of a granule.
    size: u64,
    /// The tier of each granule, up to the last one that has backing.
    tiers: Vec<Option<Tier>>,
    backed: PerTier<u64>,
}

impl Granules {
    /// Granules of `size` bytes each, none of them backed.
    pub(super) fn new(size: u64) -> Self {
        Granules { size, tiers: Vec::new(), backed: PerTier::default() }
    }

    /// Bytes of a granule.
    #[inline]
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// How many granules, from the first, may have backing.
    pub(super) fn count(&self) -> u32 {
        self.tiers.len() as u32
    }

    /// Bytes backed in each tier.
    pub(super) fn backed(&self) -> PerTier<u64> {
        self.backed
    }

    /// Whether there is backing in more than one tier.
    pub(super) fn is_mixed(&self) -> bool {
        self.backed.iter().filter(|bytes| **bytes > 0).count() > 1
    }

    /// The tier of a granule; `None` where it has no backing.
    pub(super) fn tier(&self, granule: u32) -> Option<Tier> {
        self.tiers.get(granule as usize).copied().flatten()
    }

    /// Sets the tier of a granule, or that it has no backing.
    pub(super) fn set(&mut self, granule: u32, tier: Option<Tier>) {
        let granule = granule as usize;
        if self.tiers.len() <= granule {
            self.tiers.resize(granule + 1, None);
        }
        if let Some(old) = std::mem::replace(&mut self.tiers[granule], tier) {
            self.backed[old] -= self.size;
        }
        if let Some(new) = tier {
            self.backed[new] += self.size;
        }
    }

    /// Forgets the granules without backing at the end.
    pub(super) fn trim(&mut self) {
        while let Some(None) = self.tiers.last() {
            self.tiers.pop();
        }
    }

    /// The runs of equal backing between two offsets, as (end, tier). O(granules).
    pub(super) fn runs(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, Option<Tier>)> + '_ {
        let mut at = from;
        std::iter::from_fn(move || {
            if at >= to {
                return None;
            }
            let tier = self.tier((at / self.size) as u32);
            while at < to && self.tier((at / self.size) as u32) == tier {
                at = (at / self.size + 1) * self.size;
                if tier.is_none() && at / self.size >= self.tiers.len() as u64 {
                    at = to;
                }
            }
            at = at.min(to);
            Some((at, tier))
        })
    }

    /// What lies under a stretch. O(granules of the stretch).
    pub(super) fn under(&self, offset: u64, bytes: u64) -> Backing {
        match self.runs(offset, offset + bytes).next() {
            Some((end, _)) if end < offset + bytes => Backing::Mixed,
            Some((_, Some(tier))) => Backing::In(tier),
            Some((_, None)) | None => Backing::None,
        }
    }

    /// How many bytes of a stretch lie in each tier. O(granules of the stretch).
    pub(super) fn residency(&self, offset: u64, bytes: u64) -> PerTier<u64> {
        let mut residency = PerTier::default();
        let mut at = offset;
        for (end, tier) in self.runs(offset, offset + bytes) {
            if let Some(tier) = tier {
                residency[tier] += end - at;
            }
            at = end;
        }
        residency
    }

    /// The granules that a stretch touches.
    pub(super) fn touched(&self, offset: u64, bytes: u64) -> Range<u32> {
        (offset / self.size) as u32..(offset + bytes).div_ceil(self.size) as u32
    }

    /// The granules that lie wholly between two offsets.
    pub(super) fn within(&self, start: u64, end: u64) -> Range<u32> {
        start.div_ceil(self.size) as u32..(end / self.size) as u32
    }

    /// Tests that the sums are those of the granules. O(granules).
    ///
    /// # Errors
    /// The first sum that differs.
    pub(super) fn check(&self) -> Result<(), String> {
        for tier in Tier::ALL {
            let counted = self.tiers.iter().filter(|known| **known == Some(tier)).count() as u64 * self.size;
            if counted != self.backed[tier] {
                return Err(format!("{counted} bytes are backed in {tier}, {} are counted", self.backed[tier]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_residency_agree() {
        let mut granules = Granules::new(100);
        for (granule, tier) in [(0, Tier::Dedicated), (1, Tier::Dedicated), (2, Tier::Shared), (4, Tier::Shared)] {
            granules.set(granule, Some(tier));
        }
        let (dedicated, shared) = (Some(Tier::Dedicated), Some(Tier::Shared));
        let runs: Vec<_> = granules.runs(50, 1000).collect();
        assert_eq!(runs, [(200, dedicated), (300, shared), (400, None), (500, shared), (1000, None)]);
        assert_eq!(granules.residency(50, 950), PerTier::new(150, 200));
        assert_eq!(granules.under(0, 200), Backing::In(Tier::Dedicated));
        assert_eq!((granules.under(150, 100), granules.under(300, 100)), (Backing::Mixed, Backing::None));
        assert_eq!((granules.touched(150, 51), granules.within(150, 299)), (1..3, 2..2));
        granules.set(4, None);
        granules.trim();
        assert_eq!((granules.count(), granules.backed()), (3, PerTier::new(200, 100)));
        granules.check().unwrap();
    }
}
