//! Forecast: what one kind of work is expected to allocate and to read, learned from its past
//! intervals.
//!
//! An interval is the time between two safe points. Each belongs to a kind of work (a UNet's step,
//! a VAE's decode). A run is a row of intervals of one kind.

use std::collections::HashMap;

use super::demand::Demand;

/// The least weight of the latest interval against all before it; the first few weigh the same.
/// Alternating work is remembered for some intervals, and a lasting change is soon believed.
const LATEST: f64 = 0.25;
/// The longest run that is expected, in intervals. The forecast for an interval is too uncertain to
/// stake more on it.
const LONGEST_RUN: f64 = 32.0;

/// Bytes of blocks that were read in an interval, by address, and the number of that interval.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// By address.
    pub bytes: HashMap<u64, u64>,
    /// The interval.
    pub interval: u32,
}

/// The expectation for one kind of work.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    /// Uses of each byte of a bucket of levels in one interval, from the lowest level up.
    uses: Vec<f64>,
    /// The reads of blocks in one interval, as far as they are reported.
    reads: Reads,
    /// Bytes that scratch took beyond its peak, because of fragments.
    slack: u64,
    intervals: u64,
    run: u64,
    finished_runs: u64,
    finished_intervals: u64,
    /// What the latest interval left among its scratch, in buckets of levels.
    kept: usize,
    /// Whether most of what such an interval left was gone by the end of the next one.
    passes: bool,
    /// The gain of past moves less their cost, in bytes over the link. Never above 0.
    balance: f64,
}

impl Forecast {
    /// Learns from an interval that has ended.
    ///
    /// `reads` are those reported during it; if there are none, the earlier ones stay in force.
    /// `slack` is the bytes that its scratch took beyond its peak. `goes_on` is whether the next
    /// interval is of this kind too. Returns whether other reads are in force now.
    pub fn learn(&mut self, demand: &Demand, reads: Reads, slack: u64, goes_on: bool) -> bool {
        let latest = LATEST.max(1.0 / (self.intervals + 1) as f64);
        // What an interval left is expected to stay while the run goes on, so that the next one
        // finds it, unless the one before left as much: a cache that grows does so each time, and
        // one that is made at the begin of a run is made once. The next run makes it again.
        let kept = std::mem::replace(&mut self.kept, demand.kept());
        let is_made_once = goes_on && 2 * kept < self.kept;
        let uses = if is_made_once { demand.uses_if_kept() } else { demand.uses().collect() };
        self.uses.resize(self.uses.len().max(uses.len()), 0.0);
        for (bucket, known) in self.uses.iter_mut().enumerate() {
            *known += latest * (uses.get(bucket).copied().unwrap_or(0.0) - *known);
        }
        let is_told_otherwise = !reads.bytes.is_empty() && reads.bytes != self.reads.bytes;
        if !reads.bytes.is_empty() {
            self.reads = reads;
        }
        self.slack = self.slack.max(slack);
        self.intervals += 1;
        self.run += 1;
        is_told_otherwise
    }

    /// Notes whether most of what the last interval left is gone, one interval later.
    pub fn note_passing(&mut self, passes: bool) {
        self.passes = passes;
    }

    /// Whether what an interval leaves is expected to be replaced by the next one.
    pub fn passes(&self) -> bool {
        self.passes
    }

    /// Ends a run: other work begins.
    pub fn end_run(&mut self) {
        self.finished_runs += 1;
        self.finished_intervals += self.run;
        self.run = 0;
    }

    /// The number of intervals that this was learned from.
    pub fn intervals(&self) -> u64 {
        self.intervals
    }

    /// Whether a run has ended.
    pub fn has_run(&self) -> bool {
        self.finished_runs > 0
    }

    /// The number of intervals expected to be left of the present run, at least 1. A run is
    /// expected to last as long as the runs before did on average; the first run, twice as long as
    /// so far.
    pub fn horizon(&self) -> f64 {
        let left = if !self.has_run() {
            self.run as f64
        } else {
            self.finished_intervals as f64 / self.finished_runs as f64 - self.run as f64
        };
        left.clamp(1.0, LONGEST_RUN)
    }

    /// Uses of each byte of a bucket of levels, from the lowest level up.
    pub fn uses(&self) -> &[f64] {
        &self.uses
    }

    /// The same with `fragments` more levels. Fragments lie between the blocks and are used as
    /// often as the levels around them, so the lowest level repeats.
    pub fn levels(&self, fragments: usize) -> Vec<f64> {
        let lowest = self.uses.first().copied().unwrap_or(0.0);
        std::iter::repeat_n(lowest, fragments).chain(self.uses.iter().copied()).collect()
    }

    /// Bytes that scratch takes beyond its peak.
    pub fn slack(&self) -> u64 {
        self.slack
    }

    /// Bytes that this work is known to read of the block at `address`, which was allocated in the
    /// interval `born`. Reads of an older block at that address do not count.
    pub fn reads(&self, address: u64, born: u32) -> Option<u64> {
        self.reads.bytes.get(&address).copied().filter(|_| self.reads.interval >= born)
    }

    /// The interval in which reads were last reported.
    pub fn last_reported(&self) -> u32 {
        self.reads.interval
    }

    /// Counts what a move cost (negative) or has gained, in bytes over the link.
    pub fn count_gain(&mut self, bytes: f64) {
        self.balance = (self.balance + bytes).min(0.0);
    }

    /// What the next move must gain beyond its own cost, in bytes over the link. It keeps moves
    /// that do not pay from going on.
    pub fn debt(&self) -> f64 {
        -self.balance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_once_is_not_asked_for_again_and_what_grows_is() {
        let leaves = |granules: u64| {
            let mut demand = Demand::new(1024);
            demand.allocate(1024);
            demand.free(1024);
            for _ in 0..granules {
                demand.allocate(2048);
                demand.free(2048);
                demand.allocate(1024);
            }
            demand.end(0);
            demand
        };
        let levels = |left: &[u64], goes_on: bool| {
            let mut forecast = Forecast::default();
            for granules in left {
                forecast.learn(&leaves(*granules), Reads::default(), 0, goes_on);
            }
            forecast.uses().iter().filter(|uses| **uses > 0.0).count()
        };
        assert_eq!(levels(&[6], true), 2, "it stays");
        assert_eq!(levels(&[6, 6], true), 7, "it grows");
        assert_eq!(levels(&[6, 0, 0, 0, 6], true), 2, "it stays again");
        assert_eq!(levels(&[6], false), 7, "the next run makes it again");
    }

    fn demand(bytes: u64) -> Demand {
        let mut demand = Demand::new(1024);
        demand.allocate(bytes);
        demand
    }

    #[test]
    fn the_first_intervals_count_alike() {
        let mut forecast = Forecast::default();
        forecast.learn(&demand(2048), Reads::default(), 0, true);
        assert_eq!(forecast.uses(), [1.0, 1.0, 0.0]);
        forecast.learn(&demand(1024), Reads::default(), 7, true);
        assert_eq!(forecast.uses(), [1.0, 0.5, 0.0]);
        assert_eq!((forecast.slack(), forecast.intervals()), (7, 2));
    }

    #[test]
    fn a_run_is_expected_to_last_as_long_as_before() {
        let mut forecast = Forecast::default();
        assert_eq!(forecast.horizon(), 1.0);
        (0..20).for_each(|_| {
            forecast.learn(&demand(1), Reads::default(), 0, true);
        });
        assert_eq!(forecast.horizon(), 20.0, "the first run: as long as it has lasted");
        forecast.end_run();
        assert_eq!(forecast.horizon(), 20.0);
        (0..15).for_each(|_| {
            forecast.learn(&demand(1), Reads::default(), 0, true);
        });
        assert_eq!(forecast.horizon(), 5.0);
        (0..15).for_each(|_| {
            forecast.learn(&demand(1), Reads::default(), 0, true);
        });
        assert_eq!(forecast.horizon(), 1.0, "longer than ever");
    }

    #[test]
    fn reported_reads_stay_until_others_are_reported() {
        let mut forecast = Forecast::default();
        assert_eq!(forecast.reads(4096, 0), None);
        forecast.learn(&demand(1), Reads { bytes: HashMap::from([(4096, 250)]), interval: 3 }, 0, true);
        assert_eq!((forecast.reads(4096, 3), forecast.reads(8192, 3)), (Some(250), None));
        assert_eq!(forecast.reads(4096, 4), None, "that was another block");
        forecast.learn(&demand(1), Reads { interval: 4, ..Reads::default() }, 0, true);
        assert_eq!(forecast.reads(4096, 3), Some(250), "reads stay in force until others are reported");
    }

    #[test]
    fn debts_are_paid_back_and_nothing_is_saved_up() {
        let mut forecast = Forecast::default();
        forecast.count_gain(-10.0);
        assert_eq!(forecast.debt(), 10.0);
        forecast.count_gain(100.0);
        assert_eq!(forecast.debt(), 0.0);
        forecast.count_gain(-1.0);
        assert_eq!(forecast.debt(), 1.0);
    }
}
