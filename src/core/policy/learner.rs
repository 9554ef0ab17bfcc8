//! The knowledge of the automatic mode: what each kind of work asks for and reads, over the
//! intervals between safe points.

use std::collections::HashMap;

use super::balance::{Placed, SCRATCH_TOUCHES};
use super::demand::Demand;
use super::forecast::{Forecast, Reads};

/// Kinds of work that are remembered. All others count as one kind without a name.
const MOST_KINDS: usize = 64;

/// Addresses whose reads were reported, beyond twice the live blocks, before those of dead blocks
/// are forgotten.
const TOLD_SURPLUS: u64 = 1024;

/// How much a block is worth in the dedicated tier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// How often each of its bytes is read in an interval, on average over all work.
    pub reads: f64,
    /// The last interval that is known to have read it.
    pub last_read: u32,
}

/// What is expected of a block in the coming interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// How often each of its bytes is read.
    pub reads: f64,
    /// Whether work of another kind reads it.
    pub wanted_later: bool,
}

/// What the automatic mode has learned on one device. Bytes, unless said otherwise.
#[derive(Debug)]
pub struct Learner {
    granule: u64,
    /// The number of this interval. Blocks remember the one in which they were allocated.
    interval: u32,
    demand: Demand,
    /// The kind of work of this interval.
    kind: String,
    /// Whether there was a safe point. The time before it is loading, and nothing to learn from.
    begun: bool,
    /// Bytes read of blocks in this interval, by address.
    reads: HashMap<u64, u64>,
    /// The interval in which reads of the block at an address were last reported.
    told: HashMap<u64, u32>,
    forecasts: HashMap<String, Forecast>,
    /// Live bytes that were allocated in this interval.
    left: u64,
    /// The interval before this one.
    before: Before,
    /// Live bytes at the last safe point that this interval is expected to replace (a cache that is
    /// copied as it grows).
    passing: u64,
    /// The placement before and after the last move, while the work lasts that it was made for.
    last_move: Option<(Placed, Placed)>,
    /// What lived at the last safe point.
    lived: u64,
    /// Blocks freed that were older than the interval in which they were.
    outlived: u64,
    /// How often reports of reads have changed.
    changes_told: u64,
}

/// An interval that has ended.
#[derive(Debug, Default)]
struct Before {
    /// The kind of its work.
    kind: String,
    /// Bytes allocated in it that outlived it.
    left: u64,
    /// Those of them that still live.
    live: u64,
}

impl Learner {
    /// Nothing learned yet. Levels of scratch are told apart by `granule` bytes, a power of two.
    pub fn new(granule: u64) -> Learner {
        Learner {
            granule,
            interval: 0,
            demand: Demand::new(granule),
            kind: String::new(),
            begun: false,
            reads: HashMap::new(),
            told: HashMap::new(),
            forecasts: HashMap::new(),
            left: 0,
            before: Before::default(),
            passing: 0,
            last_move: None,
            lived: 0,
            outlived: 0,
            changes_told: 0,
        }
    }

    /// A block was allocated. O(1).
    #[inline]
    pub fn allocate(&mut self, bytes: u64) {
        self.demand.allocate(bytes);
        self.left += bytes;
    }

    /// A block was freed, which was allocated in the interval `born`. O(1).
    #[inline]
    pub fn free(&mut self, bytes: u64, born: u32) {
        self.demand.free(bytes);
        if born == self.interval {
            self.left = self.left.saturating_sub(bytes);
            return;
        }
        self.outlived += 1;
        if born == self.interval.wrapping_sub(1) {
            self.before.live = self.before.live.saturating_sub(bytes);
        }
    }

    /// How many blocks were freed that were older than the interval in which they were.
    pub fn outlived(&self) -> u64 {
        self.outlived
    }

    /// How often reports of reads have changed.
    pub fn changes_told(&self) -> u64 {
        self.changes_told
    }

    /// The number of this interval.
    #[inline]
    pub fn interval(&self) -> u32 {
        self.interval
    }

    /// The most scratch at once in this interval.
    pub fn peak(&self) -> u64 {
        self.demand.peak()
    }

    /// Bytes of scratch that a reserve of `level` bytes would have left to the shared tier in this
    /// interval.
    pub fn above(&self, level: u64) -> f64 {
        self.demand.above(level)
    }

    /// The kind of work of this interval, as the caller of the safe point named it.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The coming work, human-readable.
    pub fn work(&self) -> &str {
        if self.kind.is_empty() { "the next work" } else { &self.kind }
    }

    /// What lived at the last safe point; `None` where there was none.
    pub fn lived(&self) -> Option<u64> {
        self.begun.then_some(self.lived)
    }

    /// What is expected of the coming work; `None` where that is of a kind never seen.
    pub fn forecast(&self) -> Option<&Forecast> {
        self.forecasts.get(&self.kind)
    }

    /// Work reads `bytes` of the block that begins at `start`.
    pub fn touch(&mut self, start: u64, bytes: u64) {
        *self.reads.entry(start).or_default() += bytes;
        self.told.insert(start, self.interval);
    }

    /// Whether reads of the block at `address`, which was allocated in the interval `born`, were
    /// ever reported.
    fn was_told(&self, address: u64, born: u32) -> bool {
        self.told.get(&address).is_some_and(|interval| *interval >= born)
    }

    /// The value of a block of `bytes` at `address`, which was allocated in the interval `born`.
    /// One of which nothing was reported counts as read once in every interval.
    pub fn value(&self, address: u64, born: u32, bytes: u64) -> Value {
        if !self.was_told(address, born) {
            return Value { reads: 1.0, last_read: self.interval };
        }
        let (mut intervals, mut reads, mut last_read) = (0, 0.0, 0);
        for forecast in self.forecasts.values() {
            intervals += forecast.intervals();
            if let Some(read) = forecast.reads(address, born).filter(|read| *read > 0) {
                reads += read as f64 * forecast.intervals() as f64;
                last_read = last_read.max(forecast.last_reported());
            }
        }
        Value { reads: reads / (intervals.max(1) * bytes.max(1)) as f64, last_read }
    }

    /// What is expected of a block of `bytes` at `address` in the coming interval, which is of the
    /// kind of `forecast`.
    pub fn expected(&self, forecast: &Forecast, address: u64, born: u32, bytes: u64) -> Expected {
        let known = forecast.reads(address, born).map(|read| read as f64 / bytes as f64);
        let reads = known.unwrap_or(if self.was_told(address, born) { 0.0 } else { 1.0 });
        let mut others = self.forecasts.iter().filter(|(kind, _)| **kind != self.kind);
        let wanted_later = others.any(|(_, other)| other.reads(address, born).is_some_and(|bytes| bytes > 0));
        Expected { reads, wanted_later }
    }

    /// The reserve that the most demanding of all known work asks for.
    pub fn reserve(&self) -> u64 {
        let asks = |forecast: &Forecast| forecast.uses().len() as u64 * self.granule + forecast.slack();
        self.forecasts.values().map(asks).max().unwrap_or(0)
    }

    /// Ends the interval and learns from it. `next` names the coming work, `slack` is what scratch
    /// lost to fragments, and `lived` what is live now.
    pub fn end_interval(&mut self, next: &str, slack: u64, lived: u64) {
        let is_known = self.forecasts.len() < MOST_KINDS || self.forecasts.contains_key(next);
        let next = if is_known { next } else { "" };
        let reads = Reads { bytes: std::mem::take(&mut self.reads), interval: self.interval };
        self.demand.end(self.before.live);
        if std::mem::replace(&mut self.begun, true) {
            let forecast = self.forecasts.entry(self.kind.clone()).or_default();
            if let Some((before, after)) = self.last_move {
                let spill = |room: u64| SCRATCH_TOUCHES * self.demand.above(room * self.granule);
                let saved = (before.shared_reads - after.shared_reads) * self.granule as f64;
                forecast.count_gain(spill(before.room) - spill(after.room) + saved);
            }
            self.changes_told += u64::from(forecast.learn(&self.demand, reads, slack, next == self.kind));
        }
        self.judge_left();
        if next != self.kind {
            self.last_move = None;
            if let Some(forecast) = self.forecasts.get_mut(&self.kind) {
                forecast.end_run();
            }
            next.clone_into(&mut self.kind);
        }
        self.lived = lived;
    }

    /// Learns whether what the interval before this one left has passed, and expects the same of
    /// what this one leaves.
    fn judge_left(&mut self) {
        let before =
            std::mem::replace(&mut self.before, Before { kind: self.kind.clone(), left: self.left, live: self.left });
        if let Some(forecast) = self.forecasts.get_mut(&before.kind).filter(|_| before.left > 0) {
            forecast.note_passing(2 * before.live < before.left);
        }
        let passes = self.forecasts.get(&self.kind).is_some_and(Forecast::passes);
        self.passing = if passes { self.left } else { 0 };
        self.left = 0;
    }

    /// Live bytes of the interval that ended that the coming one is expected to replace.
    pub fn passing(&self) -> u64 {
        self.passing
    }

    /// Begins the next interval. `blocks` is the number of live blocks, `lives` tells whether one
    /// lives at an address.
    pub fn begin_interval(&mut self, blocks: u64, lives: impl Fn(u64) -> bool) {
        self.interval = self.interval.wrapping_add(1);
        self.demand.begin(self.passing);
        if self.told.len() as u64 > 2 * blocks + TOLD_SURPLUS {
            self.told.retain(|address, _| lives(*address));
        }
    }

    /// Notes a move for the coming work, which cost `cost` bytes over the link.
    pub fn note_move(&mut self, cost: f64, before: Placed, after: Placed) {
        self.last_move = Some((before, after));
        if let Some(forecast) = self.forecasts.get_mut(&self.kind) {
            forecast.count_gain(-cost);
        }
    }

    /// Forgets the last move: its placement is no longer in force.
    pub fn forget_move(&mut self) {
        self.last_move = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G: u64 = 1024;

    fn step(learner: &mut Learner, kind: &str, scratch: u64) {
        learner.allocate(scratch);
        learner.free(scratch, learner.interval());
        learner.end_interval(kind, 0, 0);
        learner.begin_interval(0, |_| false);
    }

    #[test]
    fn loading_teaches_nothing_and_work_its_reserve() {
        let mut learner = Learner::new(G);
        step(&mut learner, "step", 9 * G);
        assert_eq!((learner.reserve(), learner.lived()), (0, Some(0)), "that was loading");
        step(&mut learner, "decode", 3 * G - 1);
        step(&mut learner, "step", 5 * G - 1);
        assert_eq!(learner.reserve(), 5 * G, "the most demanding kind");
        assert_eq!((learner.kind(), learner.forecast().unwrap().intervals()), ("step", 1));
    }

    #[test]
    fn a_block_of_which_nothing_is_reported_is_read_once() {
        let mut learner = Learner::new(G);
        step(&mut learner, "a", 0);
        learner.touch(4096, 200);
        step(&mut learner, "a", 0);
        step(&mut learner, "b", 0);
        let born = 0;
        assert_eq!(learner.value(4096, born, 100), Value { reads: 2.0, last_read: 1 }, "as its kind of work reads it");
        assert_eq!(learner.value(8192, born, 100).reads, 1.0, "unknown");
        let forecast = Forecast::default();
        assert_eq!(learner.expected(&forecast, 4096, born, 100), Expected { reads: 0.0, wanted_later: true });
        assert_eq!(learner.expected(&forecast, 8192, born, 100), Expected { reads: 1.0, wanted_later: false });
    }

    #[test]
    fn more_kinds_than_are_remembered_are_one_kind() {
        let mut learner = Learner::new(G);
        (0..200).for_each(|kind| step(&mut learner, &format!("kind {kind}"), 0));
        let known = learner.forecasts.len();
        (200..300).for_each(|kind| step(&mut learner, &format!("kind {kind}"), 0));
        assert_eq!((learner.kind(), learner.forecasts.len()), ("", known));
        assert!(learner.forecasts.contains_key("kind 9") && !learner.forecasts.contains_key("kind 150"));
    }

    #[test]
    fn what_an_interval_leaves_passes_like_what_the_one_before_left() {
        let mut learner = Learner::new(G);
        // An interval that allocates `new` bytes, after `freed` bytes of the one before were freed.
        let mut interval = |kind: &str, new: u64, freed: u64| {
            learner.free(freed, learner.interval().wrapping_sub(1));
            learner.allocate(new);
            learner.end_interval(kind, 0, 0);
            learner.begin_interval(0, |_| false);
            learner.passing()
        };
        assert_eq!(interval("cache", 70, 0), 0, "loading");
        assert_eq!(interval("cache", 100, 70), 0, "nothing is known of what this work leaves");
        assert_eq!(interval("cache", 80, 51), 80, "most of the 100 bytes are gone");
        assert_eq!(interval("cache", 60, 40), 0, "half of the 80 bytes are still there");
        assert_eq!(interval("other", 50, 60), 50, "all of the 60 bytes are gone");
        assert_eq!(interval("cache", 9, 0), 0, "nothing is known of what other work leaves");
        assert_eq!(interval("cache", 30, 9), 0, "the last of the first work has stayed");
    }

    #[test]
    fn reads_of_dead_blocks_are_forgotten() {
        let mut learner = Learner::new(G);
        (0..2 * TOLD_SURPLUS).for_each(|number| learner.touch(512 * number, 1));
        learner.begin_interval(0, |address| address < 5120);
        assert_eq!(learner.told.len(), 10);
    }
}
