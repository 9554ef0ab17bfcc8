//! Demand: what scratch asks for between two safe points, by the level it lies at.
//!
//! ```text
//!  level │            ┌──┐                 the fourth block lies between its level before and after;
//!        │      ┌──┐  │4 │  ┌──┐           each bucket adds up the bytes allocated at its levels:
//!        │   ┌──┤3 │  ├──┤  │6 │           how often a byte of memory at that level is used
//!        │ ┌─┤2 │  ├──┘  └──┤5 ├──
//!        └─┴─┴──┴──┴────────┴──┴──▶ time
//! ```
//!
//! With a reserve of R, what is allocated below level R finds dedicated memory, and what is allocated above it does not. So the bytes
//! above a level are what a reserve of that size would leave to the shared tier, for every size at once.

/// Scratch of one interval between safe points. Counting is O(1) for blocks no longer than a bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    shift: u32,
    live: u64,
    peak: u64,
    buckets: Vec<u64>,
}

impl Demand {
    /// Nothing asked for yet; levels are told apart by `bucket` bytes, a power of two.
    pub fn new(bucket: u64) -> Demand {
        debug_assert!(bucket.is_power_of_two());
        Demand { shift: bucket.trailing_zeros(), ..Demand::default() }
    }

    /// A block came to life.
    #[inline]
    pub fn take(&mut self, bytes: u64) {
        let (mut at, end) = (self.live, self.live + bytes);
        self.live = end;
        if end > self.peak {
            self.peak = end;
            let needed = (end >> self.shift) as usize + 1;
            if needed > self.buckets.len() {
                self.buckets.resize(needed, 0);
            }
        }
        while at < end {
            let bucket = at >> self.shift;
            let stop = ((bucket + 1) << self.shift).min(end);
            self.buckets[bucket as usize] += stop - at;
            at = stop;
        }
    }

    /// A block that came to life in this interval was given back.
    #[inline]
    pub fn give_back(&mut self, bytes: u64) {
        self.live = self.live.saturating_sub(bytes);
    }

    /// The most bytes at once.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// How many bytes are allocated for each byte of a bucket, from the lowest level up.
    pub fn uses(&self) -> impl Iterator<Item = f64> + '_ {
        let bucket = (1u64 << self.shift) as f64;
        self.buckets.iter().map(move |bytes| *bytes as f64 / bucket)
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        (self.live, self.peak) = (0, 0);
        self.buckets.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_level_counts_what_lies_there() {
        let mut demand = Demand::new(1024);
        demand.take(1024);
        for _ in 0..3 {
            demand.take(2048);
            demand.give_back(2048);
        }
        demand.give_back(1024);
        demand.take(512);
        assert_eq!(demand.uses().collect::<Vec<_>>(), [1.5, 3.0, 3.0, 0.0]);
        assert_eq!(demand.peak(), 3072);
        demand.clear();
        assert_eq!((demand.peak(), demand.uses().count()), (0, 0));
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(sizes in prop::collection::vec((1..10_000u64, any::<bool>()), 0..200)) {
            let mut demand = Demand::new(1024);
            let (mut live, mut total, mut peak) = (0, 0, 0u64);
            for (bytes, kept) in sizes {
                demand.take(bytes);
                total += bytes;
                live += bytes;
                peak = peak.max(live);
                if !kept {
                    demand.give_back(bytes);
                    live -= bytes;
                }
            }
            prop_assert_eq!((demand.uses().sum::<f64>() * 1024.0).round() as u64, total);
            prop_assert_eq!(demand.peak(), peak);
        }
    }
}
