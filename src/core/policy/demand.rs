//! Demand: how much scratch is allocated between two safe points, by the level at which it lies.
//!
//! ```text
//!  level │            ┌──┐              the fourth block lies between its level before and after;
//!        │      ┌──┐  │4 │  ┌──┐        each bucket adds up the bytes allocated at its levels:
//!        │   ┌──┤3 │  ├──┤  │6 │        how often a byte of memory at that level is used
//!        │ ┌─┤2 │  ├──┘  └──┤5 ├──
//!      0 └─┴─┴──┴──┴────────┴──┴──▶ time
//! ```
//!
//! With a reserve of R, scratch allocated below level R gets dedicated memory, and scratch above it
//! does not. The bytes above a level are therefore what a reserve of that size would leave to the
//! shared tier, for every size at once. Level 0 is the memory that was live at the safe point. A
//! block that replaces some of that (the next latents, a cache that grows) lies below level 0 and
//! demands nothing.

/// A level with fewer uses than this held one block during the whole interval, and fragments of
/// others at most.
const USED_ONCE: f64 = 1.5;

/// Scratch of one interval between safe points.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Demand {
    shift: u32,
    /// Live bytes beyond the residents of the safe point. Negative where more of those were freed
    /// than was allocated.
    live: i64,
    /// The live bytes that the interval began with.
    begun_with: u64,
    peak: u64,
    /// Buckets of the interval that ended that hold what survived it among scratch.
    kept: usize,
    buckets: Vec<Bucket>,
}

/// One bucket of levels. A block is all levels above its start, less all levels above its end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bucket {
    /// Starts in this bucket, less ends in it.
    starts: i64,
    /// Bytes of this bucket below those ends, less bytes of it below those starts.
    bytes: i64,
}

impl Demand {
    /// No demand so far. Levels are told apart by `bucket` bytes, a power of two.
    pub fn new(bucket: u64) -> Demand {
        debug_assert!(bucket.is_power_of_two());
        Demand { shift: bucket.trailing_zeros(), ..Demand::default() }
    }

    /// A block of `bytes` was allocated. O(1), and without allocation below the highest peak so
    /// far.
    #[inline]
    pub fn allocate(&mut self, bytes: u64) {
        let start = self.live.max(0) as u64;
        self.live += bytes as i64;
        let end = self.live.max(0) as u64;
        self.peak = self.peak.max(end);
        let last = (end >> self.shift) as usize;
        if self.buckets.len() <= last {
            self.make_buckets(last + 1);
        }
        self.add_levels_above(start, 1);
        self.add_levels_above(end, -1);
    }

    #[cold]
    fn make_buckets(&mut self, count: usize) {
        self.buckets.resize(count, Bucket::default());
    }

    #[inline]
    fn add_levels_above(&mut self, level: u64, times: i64) {
        let bucket = &mut self.buckets[(level >> self.shift) as usize];
        bucket.starts += times;
        bucket.bytes -= times * (level & ((1 << self.shift) - 1)) as i64;
    }

    /// A block of `bytes` was freed. O(1).
    #[inline]
    pub fn free(&mut self, bytes: u64) {
        self.live -= bytes as i64;
    }

    /// The most bytes at once.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// How often each byte of a bucket is allocated, from the lowest level up.
    pub fn uses(&self) -> impl Iterator<Item = f64> + '_ {
        let size = (1u64 << self.shift) as f64;
        self.buckets.iter().scan(0, move |whole, bucket| {
            *whole += bucket.starts;
            Some(*whole as f64 + bucket.bytes as f64 / size)
        })
    }

    /// The same for a repetition that finds what survived the interval that ended, and does not
    /// allocate it again: a cache that is made once, or an optimizer's state.
    ///
    /// Survivors took a level each and lifted what came after them, up to the peak. When it came is
    /// not known, so its uses are spread evenly over the levels below.
    pub fn uses_if_kept(&self) -> Vec<f64> {
        let mut uses: Vec<f64> = self.uses().collect();
        let lifted: f64 = uses.drain(uses.len().saturating_sub(self.kept)..).sum();
        let spread = (lifted - self.kept as f64) / uses.len() as f64;
        uses.iter_mut().for_each(|level| *level = (*level + spread).max(0.0));
        uses
    }

    /// Buckets of levels of the interval that ended that hold what survived it among scratch.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Bytes that are allocated above a level, in whole buckets: what a reserve of that size would
    /// leave to the shared tier.
    pub fn above(&self, level: u64) -> f64 {
        self.uses().skip((level >> self.shift) as usize).sum::<f64>() * (1u64 << self.shift) as f64
    }

    /// Ends the interval. Memory that survives it and was allocated before anything else (a loaded
    /// model) is resident, not scratch: its buckets are dropped, and the levels above them shift
    /// down to 0. Survivors allocated between blocks of scratch (a cache that grows layer by layer)
    /// lay below scratch each time and still count as scratch.
    ///
    /// `lives` is how much of what the interval began with lives on, although it was expected to be
    /// replaced. It lay below everything else, and is resident too.
    pub fn end(&mut self, lives: u64) {
        self.drop_lowest((lives.min(self.begun_with) >> self.shift) as usize);
        let stays = u64::try_from(self.live).unwrap_or(0).saturating_sub(self.begun_with) >> self.shift;
        let loaded = self.uses().take(stays as usize).take_while(|uses| *uses < USED_ONCE).count();
        self.drop_lowest(loaded);
        self.kept = stays as usize - loaded;
    }

    /// Drops the lowest buckets, and shifts the levels above them down.
    fn drop_lowest(&mut self, count: usize) {
        let count = count.min(self.buckets.len());
        let starts: i64 = self.buckets.drain(..count).map(|bucket| bucket.starts).sum();
        if let Some(first) = self.buckets.first_mut() {
            first.starts += starts;
        }
        self.peak = self.peak.saturating_sub((count as u64) << self.shift);
    }

    /// Begins a new interval, `with` the bytes that survived the last one and that this one is
    /// expected to replace.
    pub fn begin(&mut self, with: u64) {
        (self.live, self.peak, self.begun_with) = (0, 0, with);
        self.buckets.clear();
        self.allocate(with);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_replaces_something_older_asks_for_nothing() {
        let mut demand = Demand::new(1024);
        demand.free(2048);
        demand.allocate(1024);
        assert_eq!(demand.peak(), 0);
        demand.allocate(2048);
        assert_eq!((demand.peak(), demand.uses().collect::<Vec<_>>()), (1024, vec![1.0, 0.0]));
    }

    #[test]
    fn what_stays_is_no_scratch() {
        let mut demand = Demand::new(1024);
        demand.begin(1024);
        demand.allocate(4096);
        demand.allocate(2048);
        demand.free(2048);
        demand.free(1024);
        demand.end(0);
        assert_eq!((demand.peak(), demand.uses().take(4).collect::<Vec<_>>()), (4096, vec![1.0, 1.0, 1.0, 1.0]));
        demand.begin(0);
        for _ in 0..3 {
            demand.allocate(2048);
            demand.free(2048);
            demand.allocate(1024);
        }
        demand.end(0);
        assert_eq!(demand.uses().take(3).collect::<Vec<_>>(), [2.0, 3.0, 3.0], "a cache that grew under scratch");
    }

    #[test]
    fn what_was_expected_to_pass_and_stays_is_no_scratch() {
        let mut demand = Demand::new(1024);
        demand.begin(4096);
        demand.allocate(2048);
        demand.free(2048);
        demand.end(4096);
        assert_eq!((demand.peak(), demand.uses().take(2).collect::<Vec<_>>()), (2048, vec![1.0, 1.0]));
        demand.begin(4096);
        demand.allocate(2048);
        demand.free(3072);
        demand.end(1024);
        assert_eq!(demand.peak(), 5120, "it was there together with what replaced it");
    }

    #[test]
    fn what_is_made_once_is_not_asked_for_again() {
        let mut demand = Demand::new(1024);
        demand.begin(0);
        for _ in 0..4 {
            demand.allocate(2048);
            demand.free(2048);
            demand.allocate(1024);
        }
        demand.end(0);
        let uses: Vec<f64> = demand.uses().collect();
        assert_eq!(uses, [2.0, 3.0, 3.0, 3.0, 1.0, 0.0]);
        assert_eq!(demand.uses_if_kept(), [3.5, 4.5], "four blocks of scratch of two levels each, and nothing else");
        demand.begin(0);
        demand.allocate(4096);
        demand.free(4096);
        demand.end(0);
        assert_eq!(demand.uses_if_kept(), demand.uses().collect::<Vec<_>>(), "nothing survived");
        demand.begin(0);
        demand.allocate(512);
        demand.allocate(4096);
        demand.free(512);
        demand.end(0);
        assert!(demand.uses_if_kept().iter().all(|level| *level <= 1.0), "all survived");
    }

    #[test]
    fn each_level_counts_what_lies_there() {
        let mut demand = Demand::new(1024);
        demand.allocate(1024);
        for _ in 0..3 {
            demand.allocate(2048);
            demand.free(2048);
        }
        demand.free(1024);
        demand.allocate(512);
        assert_eq!(demand.uses().collect::<Vec<_>>(), [1.5, 3.0, 3.0, 0.0]);
        assert_eq!(demand.peak(), 3072);
        assert_eq!([0, 1024, 1536, 2048, 9999].map(|level| demand.above(level)), [7680.0, 6144.0, 6144.0, 3072.0, 0.0]);
        demand.begin(0);
        assert_eq!((demand.peak(), demand.uses().sum::<f64>()), (0, 0.0));
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(sizes in prop::collection::vec((1..10_000u64, any::<bool>()), 0..200)) {
            let mut demand = Demand::new(1024);
            let (mut live, mut total, mut peak) = (0, 0, 0u64);
            let mut uses = Vec::new();
            for (bytes, kept) in sizes {
                demand.allocate(bytes);
                uses.resize(uses.len().max((live + bytes) as usize / 1024 + 1), 0.0);
                for (level, uses) in (0..).step_by(1024).zip(&mut uses) {
                    *uses += (live + bytes).clamp(level, level + 1024).saturating_sub(live.max(level)) as f64 / 1024.0;
                }
                total += bytes;
                live += bytes;
                peak = peak.max(live);
                if !kept {
                    demand.free(bytes);
                    live -= bytes;
                }
            }
            prop_assert_eq!(demand.uses().collect::<Vec<_>>(), uses);
            prop_assert_eq!((demand.uses().sum::<f64>() * 1024.0).round() as u64, total);
            prop_assert_eq!(demand.peak(), peak);
        }
    }
}
