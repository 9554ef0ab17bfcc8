//! Nanoseconds per malloc and free: a log of genuine PyTorch's calls through `gk_malloc` and `gk_free`, beside peers.
//!
//! Method: the log is read into an array of (slot, size) beforehand, calls for 0 bytes left out. What the log never frees is the
//! model: it is allocated once, before anything is timed. The rest of the log is a round; rounds of all allocators
//! alternate, and each allocator's figure is the median of its rounds, divided by the mallocs in a round.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::hint::black_box;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use giant_kitten::driver::sim::SimDriver;
use giant_kitten::{Allocator, Options, abi, show_size};
use kitten_sim::{Gpu, Profile};
use serde::Serialize;

use crate::input::{self, Lines};
use crate::peers::{BestFit, OffsetAllocator, Peer};
use crate::replay::last_error;
use crate::text::plain;

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
        Log::read(input::open(name, bundled, "log")?, name)
    }

    /// A log from any source of bytes; `source` names it in errors.
    ///
    /// # Errors
    /// As for [`open`](Log::open).
    pub fn read(bytes: Box<dyn Read>, source: &str) -> Result<Log> {
        let mut lines = Lines::new(bytes, source);
        let (mut calls, mut sizes) = (Vec::new(), Vec::new());
        let (mut live, mut slots, mut zero_calls) = (HashMap::new(), 0u32, 0);
        while lines.advance()? {
            let mut words = lines.line().split_whitespace();
            let call = (words.next(), words.next(), words.next(), words.next());
            let (Some(what @ ("A" | "F")), Some(address), Some(size), _) = call else {
                return Err(anyhow!("{}: not a call such as \"A 0x7f00 512 0 (nil)\"", lines.at()));
            };
            let (at, address) = (|| lines.at(), plain(address));
            let size: u64 = size.parse().map_err(|_| anyhow!("{}: {} is not a size", at(), plain(size)))?;
            ensure!(size <= ROOM, "{}: {size} bytes cannot be", at());
            if size == 0 || address == "(nil)" {
                zero_calls += 1;
            } else if what == "A" {
                let other = live.insert(address.to_string(), slots);
                ensure!(other.is_none(), "{}: {address} is given out twice", at());
                calls.push(Call { slot: slots, malloc: true, bytes: size });
                sizes.push(size);
                slots += 1;
            } else {
                let slot = live.remove(&*address).ok_or_else(|| anyhow!("{}: {address} is not allocated", at()))?;
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
        ensure!(log.pairs > 0, "{} has no block that is allocated and freed again", lines.source());
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
        abi::install(Allocator::new(Options::default(), Arc::new(SimDriver::new(gpu.clone())))?);
        Ok(Ours { gpu })
    }
}

impl Peer for Ours {
    fn name(&self) -> &'static str {
        "giant-kitten"
    }

    #[inline]
    fn malloc(&mut self, bytes: u64) -> Option<u64> {
        let address = abi::gk_malloc(bytes as usize, 0, std::ptr::null_mut()) as u64;
        (address != 0).then_some(address)
    }

    fn why(&self) -> String {
        last_error()
    }

    #[inline]
    fn free(&mut self, token: u64, bytes: u64) {
        abi::gk_free(token as *mut c_void, bytes as usize, 0, std::ptr::null_mut());
    }
}

/// The range that peers get: 1 TiB.
pub const ROOM: u64 = 1 << 40;

/// What an allocator refuses is no sample: it ends the measurement.
#[cold]
fn refused(peer: &impl Peer, bytes: u64) -> anyhow::Error {
    let (name, bytes) = (peer.name(), show_size(bytes));
    anyhow!("the log needs more memory than {name} has here, which refused a block of {bytes}: {}", peer.why())
}

/// One round of the log, in nanoseconds.
fn round<P: Peer>(peer: &mut P, log: &Log, tokens: &mut [u64]) -> Result<f64> {
    let start = Instant::now();
    for call in &log.round {
        if call.malloc {
            let token = black_box(peer.malloc(call.bytes)).ok_or_else(|| refused(peer, call.bytes))?;
            tokens[call.slot as usize] = token;
        } else {
            peer.free(tokens[call.slot as usize], call.bytes);
        }
    }
    Ok(start.elapsed().as_nanos() as f64)
}

/// An allocator that goes through a log again and again.
pub struct Runner<P> {
    peer: P,
    tokens: Vec<u64>,
    rounds: Vec<f64>,
}

impl<P: Peer> Runner<P> {
    /// Readies an allocator: what the log never frees, `live` more small blocks, and one untimed round.
    ///
    /// # Errors
    /// A block that the allocator refuses.
    pub fn new(mut peer: P, log: &Log, live: usize) -> Result<Self> {
        for bytes in log.resident.iter().copied().chain((0..live).map(|i| 512 * (1 + i as u64 % 16))) {
            peer.malloc(bytes).ok_or_else(|| refused(&peer, bytes))?;
        }
        let mut runner = Runner { peer, tokens: vec![0; log.slots as usize], rounds: Vec::new() };
        // Once untimed, so that memory is mapped and tables have grown.
        round(&mut runner.peer, log, &mut runner.tokens)?;
        Ok(runner)
    }

    /// Goes through the log some times.
    ///
    /// # Errors
    /// A block that the allocator refuses.
    pub fn run(&mut self, log: &Log, times: usize) -> Result<()> {
        for _ in 0..times {
            let elapsed = round(&mut self.peer, log, &mut self.tokens)?;
            self.rounds.push(elapsed);
        }
        Ok(())
    }

    fn figure(&mut self, log: &Log) -> f64 {
        self.rounds.sort_by(f64::total_cmp);
        self.rounds[self.rounds.len() / 2] / log.pairs as f64
    }
}

/// No more rounds can be asked for: they would take days.
pub const MOST_ROUNDS: usize = 10_000_000;

/// No more blocks can be kept alive: a peer has no room for more.
pub const MOST_LIVE: usize = 1_000_000;

/// Measures, with `live` more small blocks alive throughout.
///
/// # Errors
/// No rounds, or too many; a block that an allocator refuses; where the simulated GPU cannot be made.
pub fn measure(log: &Log, live: usize, rounds: usize) -> Result<Figures> {
    ensure!(rounds > 0, "--rounds 0 measures nothing");
    ensure!(rounds <= MOST_ROUNDS, "--rounds {rounds}: no more than {MOST_ROUNDS} can be had");
    ensure!(live <= MOST_LIVE, "--live {live}: no more than {MOST_LIVE} blocks can be kept alive");
    let ours = Ours::new()?;
    let gpu = ours.gpu.clone();
    let mut ours = Runner::new(ours, log, live)?;
    let mut best_fit = Runner::new(BestFit::new(ROOM), log, live)?;
    let mut offset = Runner::new(OffsetAllocator::new(ROOM), log, live)?;
    let before = gpu.total_calls();
    // A few rounds of one before the next: each finds its own data in the caches, as in a program that has one allocator.
    for _ in 0..rounds.div_ceil(4) {
        ours.run(log, 4)?;
        best_fit.run(log, 4)?;
        offset.run(log, 4)?;
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

    fn log(text: &'static str) -> Result<Log> {
        Log::read(Box::new(text.as_bytes()), "test")
    }

    #[test]
    fn wrong_logs_are_named_by_line() {
        for (text, said) in [
            ("", "test has no block that is allocated and freed again"),
            ("\n\n", "no block"),
            ("A 0x1 512\n", "no block"),
            ("nonsense\n", "test, line 1: not a call"),
            ("A 0x1 512\nA 0x1 512\n", "line 2: 0x1 is given out twice"),
            ("F 0x1 512\n", "line 1: 0x1 is not allocated"),
            ("A 0x1 512\nF 0x1 512\nF 0x1 512\n", "line 3: 0x1 is not allocated"),
            ("A 0x1 -512\n", "-512 is not a size"),
            ("A 0x1 1e9\n", "1e9 is not a size"),
            ("A 0x1 nan\n", "nan is not a size"),
            ("A 0x1 18446744073709551616\n", "18446744073709551616 is not a size"),
            ("A 0x1 18446744073709551615\n", "18446744073709551615 bytes cannot be"),
            ("A \u{1b}[2J 1\nA \u{1b}[2J 1\n", "\\u{1b}[2J is given out twice"),
        ] {
            let why = format!("{:#}", log(text).expect_err(text));
            assert!(why.contains(said), "{text:?}: {why}");
        }
    }

    #[test]
    fn what_is_refused_is_never_timed() {
        let log = log("A 1 4096\nA 2 4096\nF 1 4096\nF 2 4096\n").unwrap();
        let refused = |ready: Result<Runner<BestFit>>| format!("{:#}", ready.err().expect("too little room"));
        assert!(refused(Runner::new(BestFit::new(4096), &log, 0)).contains("btreemap-best-fit has here"));
        assert!(refused(Runner::new(BestFit::new(8192), &log, 1)).contains("refused a block of 4.00 KiB"));
        assert!(Runner::new(BestFit::new(8192), &log, 0).unwrap().run(&log, 1).is_ok());
        // One that fills up only while it is timed.
        let mut runner = Runner::new(BestFit::new(8192), &log, 0).unwrap();
        runner.peer = BestFit::new(4096);
        assert!(runner.run(&log, 1).is_err());
        assert!(runner.rounds.is_empty());
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
                let offset = peer.malloc(bytes).unwrap();
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
