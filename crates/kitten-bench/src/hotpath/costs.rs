//! What calls off the hot path cost as more lives, on this machine's processor.
//!
//! Method: a simulated card has dedicated memory for half of the blocks, and shared memory for all.
//! The first half is allocated, with the sizes of `FIRST` in turn, and every third block of it is
//! freed, so that free space lies everywhere. Then the second half is allocated, whose larger
//! blocks do not fit there and overflow. Each figure is the median of `TIMES` calls; loading is
//! timed once. The simulated GPU's own work is in the figures that back new memory.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use giant_kitten::driver::{Stream, sim::SimDriver};
use giant_kitten::{Allocator, Options, Tier};
use kitten_sim::{Gpu, Profile};
use serde::Serialize;

/// The sizes of the first half in turn, in bytes.
const FIRST: [u64; 5] = [2 << 10, 12 << 10, 60 << 10, 1100 << 10, 1300 << 10];

/// The sizes of the second half in turn, in bytes.
const SECOND: [u64; 5] = [2 << 10, 12 << 10, 60 << 10, 1600 << 10, 1800 << 10];

/// Timed calls of each kind.
const TIMES: usize = 101;

/// The most blocks. More would need more mappings than a Linux process may have.
pub const MOST_BLOCKS: u64 = 400_000;

/// The figures for one number of live blocks, in nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// Blocks that were loaded, of which five sixths live.
    pub blocks: u64,
    /// A malloc of the second half, in the mean.
    pub loading: f64,
    /// A malloc that falls to free shared memory, and its free.
    pub overflow: f64,
    /// A safe point at which nothing has changed.
    pub safe_point: f64,
    /// The statistics.
    pub stats: f64,
    /// The memory that can still be had.
    pub memory_info: f64,
    /// Emptying the cache when nothing is idle.
    pub reset: f64,
    /// All segments and blocks.
    pub snapshot: f64,
}

fn median(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut found = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let start = Instant::now();
        call()?;
        found.push(start.elapsed().as_nanos() as f64);
    }
    found.sort_by(f64::total_cmp);
    Ok(found[TIMES / 2])
}

/// Measures with so many blocks.
///
/// # Errors
/// Too few blocks, or too many; a call that fails.
pub fn measure(blocks: u64) -> Result<Costs> {
    ensure!(
        (100..=MOST_BLOCKS).contains(&blocks),
        "--blocks {blocks}: between 100 and {MOST_BLOCKS} blocks are possible"
    );
    let card = Profile::builtin("nominal-8g").context("the profile nominal-8g is missing")?;
    let bytes = blocks / FIRST.len() as u64 * SECOND.iter().sum::<u64>();
    let dedicated_bytes = blocks / 2 / FIRST.len() as u64 * FIRST.iter().sum::<u64>() + (16 << 20);
    let card = Profile { dedicated_bytes, shared_bytes: bytes * 2 + (256 << 20), ..card };
    let driver = Arc::new(SimDriver::new(Gpu::new(&[card])?));
    let allocator = Allocator::new(Options::parse("copy_ahead:off").map_err(anyhow::Error::msg)?, driver)?;
    let malloc = |bytes: u64| allocator.malloc(bytes as usize, 0, Stream(0));
    let load = |sizes: [u64; 5]| {
        let sizes = sizes.iter().cycle().take(blocks as usize / 2);
        sizes.map(|bytes| malloc(*bytes)).collect::<Result<Vec<_>, _>>()
    };
    for address in load(FIRST)?.iter().step_by(3) {
        allocator.free(*address, 0, Stream(0))?;
    }
    let start = Instant::now();
    let second = load(SECOND)?;
    let loading = start.elapsed().as_nanos() as f64 / second.len() as f64;
    // The first ones take what is idle of the dedicated tier, and stay.
    let large = 64 << 20;
    while allocator.residency(malloc(large)?)?[Tier::Shared] == 0 {}
    // What they move, and what it costs, is settled before the others are timed.
    for _ in 0..TIMES {
        allocator.safe_point(0, "work")?;
    }
    Ok(Costs {
        blocks,
        loading,
        overflow: median(|| Ok(allocator.free(malloc(large)?, 0, Stream(0))?))?,
        safe_point: median(|| Ok(allocator.safe_point(0, "work").map(|_| ())?))?,
        stats: median(|| Ok(allocator.look(0).map(|_| ())?))?,
        memory_info: median(|| Ok(allocator.memory_info(0).map(|_| ())?))?,
        reset: median(|| Ok(allocator.reset()?))?,
        snapshot: median(|| Ok(allocator.snapshot(0).map(|_| ())?))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_made_with_memory_in_both_tiers() {
        let costs = measure(500).unwrap();
        assert!(costs.loading > 0.0 && costs.overflow > 0.0 && costs.snapshot > 0.0);
        assert!(measure(0).unwrap_err().to_string().contains("--blocks 0"));
        assert!(measure(MOST_BLOCKS + 1).is_err());
    }
}
