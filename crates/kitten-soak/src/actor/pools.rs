//! Graph captures and memory pools of an actor, in right orders.
//!
//! The memory that a graph touches belongs to its pool until the graph is destroyed, so a replay is
//! safe at any time. The machine reports a fault if it is not.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use giant_kitten::abi::{self, GkPool};
use kitten_sim::Access;

use super::{Actor, is_about_a_capture};
use crate::Failure;
use crate::filter::{Filter, Streams};
use crate::machine::last_error;
use crate::notes::Call;
use crate::world::Block;

/// How an actor came to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A capture with a filter of streams.
    Capture,
    /// A capture of one stream, named by its handle.
    StreamCapture,
    /// A `MemPool` in use: it serves all requests of the actor, and nothing is captured.
    Region,
}

/// A pool that an actor holds.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) id: (u64, u64),
    pub(super) device: usize,
    pub(super) kind: Kind,
    /// The stream of the capture and of replays, by its place.
    pub(super) at: usize,
    /// The stream that has joined the capture, or will.
    pub(super) joined: Option<usize>,
    /// The streams that the filter of its capture accepts.
    pub(super) accepted: Streams,
    /// How many times it was begun and not ended.
    pub(super) open: u32,
    /// How many times it was begun and not released.
    pub(super) holds: u32,
    /// Whether it is also kept, as a `MemPool` keeps one.
    pub(super) kept: bool,
    /// Whether its stream is captured now.
    pub(super) captured: bool,
    pub(super) graphs: Vec<u64>,
}

/// The most pools of an actor.
const MOST_POOLS: usize = 3;

/// The name of a pool, as PyTorch passes it.
pub(super) fn named((a, b): (u64, u64)) -> GkPool {
    GkPool { a, b }
}

impl Actor {
    /// Takes a step with a pool, in a right order.
    ///
    /// # Errors
    /// An error that the library may not log.
    pub(super) fn pool_step(&mut self) -> Result<(), Failure> {
        if self.pools.is_empty() || (self.pools.len() < MOST_POOLS && self.random.u8(..4) == 0) {
            return self.begin_new();
        }
        let nth = self.random.usize(..self.pools.len());
        let is_open = self.pools[nth].open > 0;
        match self.random.u8(..8) {
            0 | 1 if is_open => self.fork(nth),
            2 if is_open && self.pools[nth].kind == Kind::Region => self.begin(nth),
            0..=5 if is_open => self.end(nth),
            _ if is_open => Ok(()),
            0..=2 => self.begin(nth),
            3 | 4 => self.replay(nth),
            5 => self.count_holds(nth),
            _ => self.release(nth),
        }
    }

    /// Adds to a capture a write to a block that it allocates.
    pub(super) fn note_captured(&mut self, block: &Block) {
        let Some(pool) = self.pools.iter().find(|pool| {
            pool.captured && pool.device == block.device && (pool.at == block.at || pool.joined == Some(block.at))
        }) else {
            return;
        };
        if let Some(own) = self.streams[pool.at] {
            let access = Access::write(block.address, block.bytes);
            let _ = self.world.machine.gpu.launch(own.raw, "captured work", &[access]);
        }
    }

    /// Begins a pool with a new name.
    fn begin_new(&mut self) -> Result<(), Failure> {
        let kind = match self.random.u8(..6) {
            0..=2 => Kind::Capture,
            3 => Kind::StreamCapture,
            _ => Kind::Region,
        };
        // It would be undefined which of two pools serves a request that both accept.
        let crosses = |other: &Pool| other.open > 0 && (other.kind == Kind::Region) != (kind == Kind::Region);
        let at = self.stream();
        let is_in_use = self.pools.iter().any(|pool| pool.at == at || pool.joined == Some(at));
        if at < 2 || is_in_use || self.pools.iter().any(crosses) {
            return Ok(());
        }
        let id = (self.number as u64 + 1, self.random.u64(1..1 << 40));
        let device = self.random.usize(..self.world.machine.used());
        self.pools.push(Pool {
            id,
            device,
            kind,
            at,
            joined: None,
            accepted: Arc::new([const { AtomicU64::new(u64::MAX) }; 2]),
            open: 0,
            holds: 0,
            kept: false,
            captured: false,
            graphs: Vec::new(),
        });
        let nth = self.pools.len() - 1;
        if self.random.u8(..3) == 0 {
            self.keep(nth)?;
        }
        self.begin(nth)?;
        self.forget_unheld(nth);
        Ok(())
    }

    /// Keeps a pool on all devices.
    fn keep(&mut self, nth: usize) -> Result<(), Failure> {
        let (a, b) = self.pools[nth].id;
        self.note(Call::KeepPool, 0, 0, b, 0);
        self.tally.others += 1;
        self.pools[nth].kept = true;
        match abi::gk_keep_pool(a, b) {
            abi::GK_OK => Ok(()),
            code => Err(Failure(format!("gk_keep_pool answers {code}: {}", last_error()))),
        }
    }

    /// Stops keeping a pool.
    fn unkeep(&mut self, nth: usize) -> Result<(), Failure> {
        let (a, b) = self.pools[nth].id;
        self.note(Call::DropPool, 0, 0, b, 0);
        self.tally.others += 1;
        self.pools[nth].kept = false;
        abi::gk_drop_pool(a, b);
        self.heard(is_about_a_capture)?;
        self.forget_unheld(nth);
        Ok(())
    }

    fn forget_unheld(&mut self, nth: usize) {
        if self.pools[nth].holds == 0 && !self.pools[nth].kept {
            self.pools.swap_remove(nth);
        }
    }

    /// Checks the number of holders of a pool.
    fn count_holds(&self, nth: usize) -> Result<(), Failure> {
        let Pool { id, device, holds, kept, .. } = self.pools[nth];
        let (holders, known) = (abi::gk_pool_holds(device as c_int, id.0, id.1), u64::from(holds) + u64::from(kept));
        if holders == known {
            Ok(())
        } else {
            Err(Failure(format!("gk_pool_holds returned {holders}, but {known} hold it")))
        }
    }

    /// Starts to allocate from a pool. The capture begins before or after it.
    fn begin(&mut self, nth: usize) -> Result<(), Failure> {
        let (kind, at) = (self.pools[nth].kind, self.pools[nth].at);
        let crosses = |other: &Pool| other.open > 0 && (other.kind == Kind::Region) != (kind == Kind::Region);
        let is_captured = self.free_stream(at).is_none();
        if self.pools.iter().any(crosses) || (kind != Kind::Region && is_captured) {
            return Ok(());
        }
        let capture_first = self.random.bool();
        if kind != Kind::Region && capture_first && !self.begin_capture(nth) {
            return Ok(());
        }
        if self.begin_in_library(nth)? {
            // It failed, because a call of the driver did.
            return self.end_capture(nth);
        }
        self.pools[nth].open += 1;
        self.pools[nth].holds += 1;
        if kind != Kind::Region && !capture_first && !self.begin_capture(nth) {
            return self.end(nth);
        }
        Ok(())
    }

    /// Begins a pool in the library. Returns whether the library logs an error.
    fn begin_in_library(&mut self, nth: usize) -> Result<bool, Failure> {
        let Pool { id, device, kind, at, .. } = self.pools[nth];
        let raw = self.streams[at].map_or(0, |own| own.raw);
        let number = device as c_int;
        self.tally.others += 1;
        let filter = match kind {
            Kind::StreamCapture => {
                self.note(Call::BeginStreamPool, device, at, id.1, raw);
                abi::gk_begin_allocate_stream_to_pool(number, raw as *mut c_void, named(id));
                return self.heard(|_| false);
            }
            Kind::Capture => {
                self.pools[nth].joined = self.partner(at);
                self.pools[nth].accepted[0].store(raw, Ordering::Relaxed);
                Filter::of_streams(&self.pools[nth].accepted)
            }
            Kind::Region => Filter::of_actor(self.number),
        };
        self.note(Call::BeginPool, device, at, id.1, raw);
        // SAFETY: the filter is laid out as PyTorch's.
        filter.pass(|filter| unsafe { abi::gk_begin_allocate_to_pool(number, named(id), filter) });
        self.heard(|_| false)
    }

    /// A stream that may join a capture of another.
    fn partner(&mut self, at: usize) -> Option<usize> {
        let partner = self.stream();
        let is_in_use = self.pools.iter().any(|pool| pool.at == partner || pool.joined == Some(partner));
        (partner >= 2 && partner != at && !is_in_use && self.free_stream(partner).is_some()).then_some(partner)
    }

    /// Begins the capture of a pool's stream. Returns whether it succeeded.
    fn begin_capture(&mut self, nth: usize) -> bool {
        let at = self.pools[nth].at;
        let Some(raw) = self.free_stream(at) else { return false };
        self.note(Call::BeginCapture, 0, at, 0, raw);
        let begun = self.world.machine.gpu.begin_capture(raw).is_ok();
        if begun && let Some(own) = &mut self.streams[at] {
            own.captured = true;
            self.pools[nth].captured = true;
            self.tally.captures += 1;
        }
        begun
    }

    /// A second stream joins the capture.
    fn fork(&mut self, nth: usize) -> Result<(), Failure> {
        let Pool { at, joined, captured, .. } = self.pools[nth];
        let (Some(own), Some(joined), true) = (self.streams[at], joined, captured) else { return Ok(()) };
        let Some(raw) = self.free_stream(joined) else { return Ok(()) };
        self.note(Call::Fork, 0, joined, 0, raw);
        if self.order(own.raw, raw)
            && let Some(own) = &mut self.streams[joined]
        {
            own.captured = true;
            self.pools[nth].accepted[1].store(raw, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Ends a capture, if there is one.
    ///
    /// # Errors
    /// An error that the library may not log.
    pub(super) fn end_a_capture(&mut self) -> Result<bool, Failure> {
        match self.pools.iter().position(|pool| pool.captured) {
            Some(nth) => self.end(nth).map(|()| true),
            None => Ok(false),
        }
    }

    /// Stops allocating from a pool, before or after the capture ends.
    fn end(&mut self, nth: usize) -> Result<(), Failure> {
        let library_first = self.random.bool();
        if library_first {
            self.end_in_library(nth)?;
        }
        self.end_capture(nth)?;
        if !library_first {
            self.end_in_library(nth)?;
        }
        Ok(())
    }

    fn end_in_library(&mut self, nth: usize) -> Result<(), Failure> {
        let Pool { id, device, kind, at, open, .. } = self.pools[nth];
        if open == 0 {
            return Ok(());
        }
        self.tally.others += 1;
        self.pools[nth].open -= 1;
        match (kind, self.streams[at]) {
            (Kind::StreamCapture, Some(own)) if self.random.bool() => {
                self.note(Call::EndStreamPool, device, at, id.1, own.raw);
                abi::gk_end_allocate_stream_to_pool(device as c_int, own.raw as *mut c_void);
            }
            _ => {
                self.note(Call::EndPool, device, at, id.1, 0);
                abi::gk_end_allocate_to_pool(device as c_int, named(id));
            }
        }
        self.heard(|_| false).map(drop)
    }

    /// Ends the capture of a pool's stream, even if calls fail.
    pub(super) fn end_capture(&mut self, nth: usize) -> Result<(), Failure> {
        let Pool { at, joined, captured, .. } = self.pools[nth];
        let (Some(own), true) = (self.streams[at], captured) else { return Ok(()) };
        self.note(Call::EndCapture, 0, at, 0, own.raw);
        let gpu = &self.world.machine.gpu;
        let graph = loop {
            match gpu.end_capture(own.raw) {
                Ok(graph) => break graph,
                Err(why) if !self.world.machine.is_armed() => {
                    return Err(Failure(format!("a capture cannot be ended: {why}")));
                }
                Err(_) => gpu.clear_failures(),
            }
        };
        self.pools[nth].captured = false;
        self.pools[nth].accepted.iter().for_each(|stream| stream.store(u64::MAX, Ordering::Relaxed));
        self.pools[nth].graphs.push(graph);
        for at in [Some(at), joined].into_iter().flatten() {
            if let Some(own) = &mut self.streams[at] {
                own.captured = false;
            }
        }
        Ok(())
    }

    /// Replays a graph on the stream that it was captured on.
    fn replay(&mut self, nth: usize) -> Result<(), Failure> {
        let Some(raw) = self.free_stream(self.pools[nth].at) else { return Ok(()) };
        let Some(graph) = self.random.choice(&self.pools[nth].graphs).copied() else { return Ok(()) };
        self.note(Call::Replay, self.pools[nth].device, self.pools[nth].at, 0, graph);
        self.tally.replays += 1;
        match self.world.machine.gpu.replay(graph, raw) {
            Err(why) if !self.world.machine.is_armed() => Err(Failure(format!("a graph cannot be replayed: {why}"))),
            _ => Ok(()),
        }
    }

    /// Releases a pool once, or stops keeping it. Before the last time, the graphs captured in it
    /// are destroyed.
    fn release(&mut self, nth: usize) -> Result<(), Failure> {
        if self.pools[nth].holds <= 1 && !self.destroy_graphs(nth) {
            return Ok(());
        }
        if self.pools[nth].kept && (self.pools[nth].holds == 0 || self.random.bool()) {
            return self.unkeep(nth);
        }
        let Pool { id, device, at, .. } = self.pools[nth];
        self.note(Call::ReleasePool, device, at, id.1, 0);
        self.tally.others += 1;
        self.pools[nth].holds -= 1;
        abi::gk_release_pool(device as c_int, named(id));
        self.heard(|_| false)?;
        self.forget_unheld(nth);
        Ok(())
    }

    /// Destroys the graphs of a pool once their work is done. Returns whether it could wait for
    /// that.
    pub(super) fn destroy_graphs(&mut self, nth: usize) -> bool {
        let gpu = &self.world.machine.gpu;
        let waited = self.free_stream(self.pools[nth].at).is_some_and(|raw| gpu.synchronize_stream(raw).is_ok());
        if waited {
            self.pools[nth].graphs.drain(..).for_each(|graph| gpu.destroy_graph(graph));
        }
        waited
    }

    /// Ends all captures and releases all pools, in a right order.
    ///
    /// # Errors
    /// An error that the library may not log; work that cannot be waited for.
    pub(super) fn end_pools(&mut self) -> Result<(), Failure> {
        while let Some(nth) = self.pools.len().checked_sub(1) {
            while self.pools[nth].open > 0 {
                self.end(nth)?;
            }
            let count = self.pools.len();
            while self.pools.len() == count {
                let held = (self.pools[nth].holds, self.pools[nth].kept);
                self.release(nth)?;
                if self.pools.len() == count && (self.pools[nth].holds, self.pools[nth].kept) == held {
                    return Err(Failure("the stream of a graph cannot be waited for".into()));
                }
            }
        }
        Ok(())
    }
}
