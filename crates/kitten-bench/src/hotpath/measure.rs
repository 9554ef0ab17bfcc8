//! Rounds of a log through each allocator, and their median.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use giant_kitten::show_size;
use serde::Serialize;

use super::log::Log;
use super::ours::Ours;
use super::peers::{BestFit, OffsetAllocator, Peer, ROOM};

/// The figures of a measurement: nanoseconds on this machine's processor.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Nanoseconds for a malloc and its free through the C interface.
    pub ns_per_pair: f64,
    /// The same of other allocators.
    pub peers: BTreeMap<String, f64>,
    /// Driver calls in the timed rounds. Anything but 0 is a bug.
    pub driver_calls_steady: u64,
    /// Mallocs in a round.
    pub pairs: usize,
    /// Rounds of each allocator.
    pub rounds: usize,
    /// Calls of size 0 in the log, left out.
    pub zero_calls: usize,
    /// Blocks that live throughout.
    pub live_blocks: usize,
}

/// A refused block ends the measurement: its time would not be a sample.
#[cold]
fn refused(peer: &impl Peer, bytes: u64) -> anyhow::Error {
    let (name, bytes) = (peer.name(), show_size(bytes));
    anyhow!("the log needs more memory than {name} has here, which refused a block of {bytes}: {}", peer.why())
}

/// Runs one round of the log. Returns its nanoseconds.
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

/// An allocator that runs a log again and again.
pub struct Runner<P> {
    peer: P,
    tokens: Vec<u64>,
    rounds: Vec<f64>,
}

impl<P: Peer> Runner<P> {
    /// Prepares an allocator: it allocates the blocks that the log never frees and `live` more
    /// small blocks, and runs one round that is not timed.
    ///
    /// # Errors
    /// A block that the allocator refuses.
    pub fn new(mut peer: P, log: &Log, live: usize) -> Result<Self> {
        for bytes in log.resident.iter().copied().chain((0..live).map(|i| 512 * (1 + i as u64 % 16))) {
            peer.malloc(bytes).ok_or_else(|| refused(&peer, bytes))?;
        }
        let mut runner = Runner { peer, tokens: vec![0; log.slots as usize], rounds: Vec::new() };
        // Not timed, so that memory is mapped and tables have grown before it counts.
        round(&mut runner.peer, log, &mut runner.tokens)?;
        Ok(runner)
    }

    /// Runs the log several times.
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

/// The most rounds. More would take days.
pub const MOST_ROUNDS: usize = 10_000_000;

/// The most additional live blocks. A peer has no room for more.
pub const MOST_LIVE: usize = 1_000_000;

/// Measures all allocators, with `live` more small blocks alive throughout.
///
/// # Errors
/// No rounds, or too many; a block that an allocator refuses; a simulated GPU that cannot be
/// created.
pub fn measure(log: &Log, live: usize, rounds: usize) -> Result<Figures> {
    ensure!(rounds > 0, "--rounds 0 measures nothing");
    ensure!(rounds <= MOST_ROUNDS, "--rounds {rounds}: no more than {MOST_ROUNDS} are possible");
    ensure!(live <= MOST_LIVE, "--live {live}: no more than {MOST_LIVE} blocks are possible");
    let ours = Ours::new()?;
    let gpu = ours.gpu();
    let mut ours = Runner::new(ours, log, live)?;
    let mut best_fit = Runner::new(BestFit::new(ROOM), log, live)?;
    let mut offset = Runner::new(OffsetAllocator::new(ROOM), log, live)?;
    let before = gpu.total_calls();
    // Several rounds of one allocator before the next, so that each finds its data in the caches,
    // as in a program with one allocator.
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
    fn a_refused_block_is_never_timed() {
        let log = Log::read(Box::new(&b"A 1 4096\nA 2 4096\nF 1 4096\nF 2 4096\n"[..]), "test").unwrap();
        let refused = |ready: Result<Runner<BestFit>>| format!("{:#}", ready.err().expect("too little room"));
        assert!(refused(Runner::new(BestFit::new(4096), &log, 0)).contains("btreemap-best-fit has here"));
        assert!(refused(Runner::new(BestFit::new(8192), &log, 1)).contains("refused a block of 4.00 KiB"));
        assert!(Runner::new(BestFit::new(8192), &log, 0).unwrap().run(&log, 1).is_ok());
        // An allocator that fills up only while it is timed.
        let mut runner = Runner::new(BestFit::new(8192), &log, 0).unwrap();
        runner.peer = BestFit::new(4096);
        assert!(runner.run(&log, 1).is_err());
        assert!(runner.rounds.is_empty());
    }

    #[test]
    fn blocks_of_peers_do_not_overlap() {
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
