//! Nanoseconds per malloc and free: a log of genuine PyTorch's calls through `gk_malloc` and `gk_free`, beside peers.
//!
//! Method: the log is read into an array of (slot, size) beforehand, calls for 0 bytes left out. What the log never frees is the
//! model: it is allocated once, before anything is timed. The rest of the log is a round; rounds of all allocators
//! alternate, and each allocator's figure is the median of its rounds, divided by the mallocs in a round.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use giant_kitten::driver::sim::SimDriver;
use giant_kitten::{Kitten, Options, abi};
use kitten_sim::{Gpu, Profile};
use serde::Serialize;

use crate::peers::{BestFit, OffsetAllocator, Peer};
use crate::trace::open_bytes;

/// The log in this program: SD1.5 on genuine PyTorch 2.15.
pub const BUNDLED: &str = "torch215_sd15_mallocs";
const BUNDLED_BYTES: &[u8] = include_bytes!("../../../traces/torch215_sd15_mallocs.log.zst");

/// One call of a log: which block, of what size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    slot: u32,
    malloc: bool,
    bytes: u64,
}

/// A log, in two parts.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Sizes of the blocks that are never freed.
    resident: Vec<u64>,
    /// The calls for all others.
    round: Vec<Call>,
    slots: u32,
    pairs: usize,
    zero_calls: usize,
}

/// What was found. Nanoseconds on this machine's processor.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Nanoseconds for a malloc and its free through the C interface.
    pub ns_per_pair: f64,
    /// The same of other allocators.
    pub peers: BTreeMap<String, f64>,
    /// Driver calls in the timed rounds: 0, or something is wrong.
    pub driver_calls_steady: u64,
    /// Mallocs in a round.
    pub pairs: usize,
    /// Rounds of each allocator.
    pub rounds: usize,
    /// Calls of size 0 in the log, left out.
    pub zero_calls: usize,
    /// Blocks alive throughout.
    pub live_blocks: usize,
}

impl Log {
    /// Reads a log of lines `A address size device stream` and `F address size device stream`, plain or compressed by zstd.
    ///
    /// # Errors
    /// A file that cannot be read; a line that is not understood, by its number.
    pub fn open(path: Option<&str>) -> Result<Log> {
        let (name, bundled) = match path {
            None | Some(BUNDLED) => (BUNDLED, Some(BUNDLED_BYTES)),
            Some(path) => (path, None),
        };
        let lines = BufReader::new(open_bytes(name, bundled, "log")?).lines();
        let (mut calls, mut sizes) = (Vec::new(), Vec::new());
        let (mut live, mut slots, mut zero_calls) = (HashMap::new(), 0u32, 0);
        for (number, line) in lines.enumerate() {
            let at = || format!("{name}, line {}", number + 1);
            let line = line.with_context(|| format!("{}: damaged, or not text", at()))?;
            let words: Vec<&str> = line.split_whitespace().collect();
            let [what @ ("A" | "F"), address, size, ..] = words[..] else {
                return Err(anyhow!("{}: not a call such as \"A 0x7f00 512 0 (nil)\"", at()));
            };
            let size: u64 = size.parse().map_err(|_| anyhow!("{}: {size} is not a size", at()))?;
            ensure!(size <= 1 << 40, "{}: {size} bytes cannot be", at());
            if size == 0 || address == "(nil)" {
                zero_calls += 1;
            } else if what == "A" {
                ensure!(live.insert(address.to_owned(), slots).is_none(), "{}: {address} is given out twice", at());
                calls.push(Call { slot: slots, malloc: true, bytes: size });
                sizes.push(size);
                slots += 1;
            } else {
                let slot = live.remove(address).ok_or_else(|| anyhow!("{}: {address} is not allocated", at()))?;
                calls.push(Call { slot, malloc: false, bytes: sizes[slot as usize] });
            }
        }
        let mut log = Log { slots, zero_calls, ..Log::default() };
        let never_freed: std::collections::HashSet<u32> = live.into_values().collect();
        for call in calls {
            if never_freed.contains(&call.slot) {
                log.resident.push(call.bytes);
            } else {
                log.round.push(call);
            }
        }
        log.pairs = log.round.iter().filter(|call| call.malloc).count();
        ensure!(log.pairs > 0, "{name} has no block that is allocated and freed again");
        Ok(log)
    }
}

/// giant-kitten, through its C interface, on a simulated 8 GB card.
pub struct Ours {
    gpu: Gpu,
}

impl Ours {
    /// Installs a new allocator in this process.
    ///
    /// # Errors
    /// Where the simulated GPU cannot be made.
    pub fn new() -> Result<Ours> {
        let profile = Profile::builtin("nominal-8g").ok_or_else(|| anyhow!("the profile nominal-8g is missing"))?;
        let gpu = Gpu::new(&[profile])?;
        abi::install(Kitten::new(Options::default(), Arc::new(SimDriver::new(gpu.clone())))?);
        Ok(Ours { gpu })
    }
}

impl Peer for Ours {
    fn name(&self) -> &'static str {
        "giant-kitten"
    }

    #[inline]
    fn malloc(&mut self, bytes: u64) -> u64 {
        abi::gk_malloc(bytes as usize, 0, std::ptr::null_mut()) as u64
    }

    #[inline]
    fn free(&mut self, token: u64, bytes: u64) {
        abi::gk_free(token as *mut c_void, bytes as usize, 0, std::ptr::null_mut());
    }
}

/// The range that peers get: 1 TiB.
pub const ROOM: u64 = 1 << 40;

/// One round of the log, in nanoseconds.
fn round<P: Peer>(peer: &mut P, log: &Log, tokens: &mut [u64]) -> f64 {
    let start = Instant::now();
    for call in &log.round {
        if call.malloc {
            tokens[call.slot as usize] = black_box(peer.malloc(call.bytes));
        } else {
            peer.free(tokens[call.slot as usize], call.bytes);
        }
    }
    start.elapsed().as_nanos() as f64
}

/// An allocator that goes through a log again and again.
pub struct Runner<P> {
    peer: P,
    tokens: Vec<u64>,
    rounds: Vec<f64>,
}

impl<P: Peer> Runner<P> {
    /// Readies an allocator: what the log never frees, `live` more small blocks, and one untimed round.
    pub fn new(mut peer: P, log: &Log, live: usize) -> Self {
        for bytes in log.resident.iter().copied().chain((0..live).map(|i| 512 * (1 + i as u64 % 16))) {
            peer.malloc(bytes);
        }
        let mut runner = Runner { peer, tokens: vec![0; log.slots as usize], rounds: Vec::new() };
        // Once untimed, so that memory is mapped and tables have grown.
        round(&mut runner.peer, log, &mut runner.tokens);
        runner
    }

    /// Goes through the log some times.
    pub fn run(&mut self, log: &Log, times: usize) {
        for _ in 0..times {
            let elapsed = round(&mut self.peer, log, &mut self.tokens);
            self.rounds.push(elapsed);
        }
    }

    fn figure(&mut self, log: &Log) -> f64 {
        self.rounds.sort_by(f64::total_cmp);
        self.rounds[self.rounds.len() / 2] / log.pairs as f64
    }
}

/// Measures, with `live` more small blocks alive throughout.
///
/// # Errors
/// Where the simulated GPU cannot be made.
pub fn measure(log: &Log, live: usize, rounds: usize) -> Result<Figures> {
    let ours = Ours::new()?;
    let gpu = ours.gpu.clone();
    let mut ours = Runner::new(ours, log, live);
    let mut best_fit = Runner::new(BestFit::new(ROOM), log, live);
    let mut offset = Runner::new(OffsetAllocator::new(ROOM), log, live);
    let before = gpu.total_calls();
    // A few rounds of one before the next: each finds its own data in the caches, as in a program that has one allocator.
    for _ in 0..rounds.div_ceil(4) {
        ours.run(log, 4);
        best_fit.run(log, 4);
        offset.run(log, 4);
    }
    let driver_calls_steady = gpu.total_calls() - before;
    let peers =
        [(best_fit.peer.name().to_owned(), best_fit.figure(log)), (offset.peer.name().to_owned(), offset.figure(log))];
    Ok(Figures {
        ns_per_pair: ours.figure(log),
        peers: peers.into(),
        driver_calls_steady,
        pairs: log.pairs,
        rounds: ours.rounds.len(),
        zero_calls: log.zero_calls,
        live_blocks: log.resident.len() + live,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_log_is_whole() {
        let log = Log::open(None).unwrap();
        assert_eq!(
            (log.pairs, log.resident.len(), log.zero_calls),
            (5215, 0, 393),
            "its process freed the model at the end"
        );
    }

    #[test]
    fn peers_give_out_what_does_not_overlap() {
        let log = Log::open(None).unwrap();
        let mut peer = BestFit::new(1 << 40);
        let mut tokens = vec![0; log.slots as usize];
        let mut live: BTreeMap<u64, u64> = BTreeMap::new();
        for call in &log.round {
            let bytes = call.bytes;
            if call.malloc {
                let offset = peer.malloc(bytes);
                assert!(live.range(..offset + bytes).next_back().is_none_or(|(o, b)| o + b <= offset));
                live.insert(offset, bytes);
                tokens[call.slot as usize] = offset;
            } else {
                live.remove(&tokens[call.slot as usize]);
                peer.free(tokens[call.slot as usize], bytes);
            }
        }
    }
}
