//! Graph captures and memory pools of an actor, in right orders and in wrong ones.
//!
//! What a graph touches is its pool's until it is unmade, so that replays are safe whenever they come; the machine sees it if not.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use giant_kitten::abi;
use kitten_sim::Access;

use crate::Failure;
use crate::actor::{Actor, Block, is_about_a_capture};

use crate::filter::{Filter, Streams};
use crate::machine::last_error;
use crate::notes::Call;

/// How an actor came to a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A capture with a filter of streams.
    Capture,
    /// A capture of one stream, by its name.
    StreamCapture,
    /// A `MemPool` in use: whatever the actor asks for, and nothing is captured.
    Region,
}

/// A pool that an actor holds.
#[derive(Debug)]
pub struct Pool {
    id: (u64, u64),
    device: usize,
    kind: Kind,
    /// The stream that is captured, and replayed on, by its place.
    pub at: usize,
    /// The stream that has joined the capture, or will.
    pub joined: Option<usize>,
    /// What the filter of its capture accepts.
    accepted: Streams,
    /// How often it was begun and not ended.
    open: u32,
    /// How often it was begun and not released.
    holds: u32,
    /// Whether it is kept besides, as a `MemPool` keeps one.
    kept: bool,
    /// Whether its stream is captured now.
    captured: bool,
    graphs: Vec<u64>,
}

/// The most pools of an actor.
const MOST_POOLS: usize = 3;

/// What may be said to a wrong order. Anything in words, but nothing of blocks: those are not concerned.
fn is_about_a_pool(text: &str) -> bool {
    text.contains("pool") || text.contains("capture")
}

impl Actor {
    /// Something with a pool, in a right order.
    ///
    /// # Errors
    /// What the library may not complain of.
    pub fn pool_step(&mut self) -> Result<(), Failure> {
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

    /// Notes what a capture allocates: its graph writes to it.
    pub fn note_captured(&mut self, block: &Block) {
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

    /// Begins a pool of a new name.
    fn begin_new(&mut self) -> Result<(), Failure> {
        let kind = match self.random.u8(..6) {
            0..=2 => Kind::Capture,
            3 => Kind::StreamCapture,
            _ => Kind::Region,
        };
        // Two that accept the same requests at once would leave it open whose they are.
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

    /// Ends to keep a pool.
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

    /// Those who hold a pool are counted right.
    fn count_holds(&self, nth: usize) -> Result<(), Failure> {
        let Pool { id, device, holds, kept, .. } = self.pools[nth];
        let (told, known) = (abi::gk_pool_holds(device as c_int, id.0, id.1), u64::from(holds) + u64::from(kept));
        if told == known { Ok(()) } else { Err(Failure(format!("gk_pool_holds says {told}, and {known} hold it"))) }
    }

    /// Begins to allocate from a pool: the capture before or after it.
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
        if self.tell_begin(nth)? {
            // It could not be: a call of the driver has failed.
            return self.end_capture(nth);
        }
        self.pools[nth].open += 1;
        self.pools[nth].holds += 1;
        if kind != Kind::Region && !capture_first && !self.begin_capture(nth) {
            return self.end(nth);
        }
        Ok(())
    }

    /// Tells the library that a pool is begun; whether it complains.
    fn tell_begin(&mut self, nth: usize) -> Result<bool, Failure> {
        let Pool { id, device, kind, at, .. } = self.pools[nth];
        let raw = self.streams[at].map_or(0, |own| own.raw);
        let number = device as c_int;
        self.tally.others += 1;
        let filter = match kind {
            Kind::StreamCapture => {
                self.note(Call::BeginStreamPool, device, at, id.1, raw);
                abi::gk_begin_allocate_stream_to_pool(number, raw as *mut c_void, id.0, id.1);
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
        // SAFETY: a filter as libstdc++ has it.
        unsafe { abi::gk_begin_allocate_to_pool(number, id.0, id.1, filter.as_ptr()) };
        self.heard(|_| false)
    }

    /// A stream that may join a capture of another.
    fn partner(&mut self, at: usize) -> Option<usize> {
        let partner = self.stream();
        let is_in_use = self.pools.iter().any(|pool| pool.at == partner || pool.joined == Some(partner));
        (partner >= 2 && partner != at && !is_in_use && self.free_stream(partner).is_some()).then_some(partner)
    }

    /// Begins to capture the stream of a pool; whether that could be done.
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
    /// What the library may not complain of.
    pub fn end_a_capture(&mut self) -> Result<bool, Failure> {
        match self.pools.iter().position(|pool| pool.captured) {
            Some(nth) => self.end(nth).map(|()| true),
            None => Ok(false),
        }
    }

    /// Ends to allocate from a pool, before or after the capture ends.
    fn end(&mut self, nth: usize) -> Result<(), Failure> {
        let told_first = self.random.bool();
        if told_first {
            self.tell_end(nth)?;
        }
        self.end_capture(nth)?;
        if !told_first {
            self.tell_end(nth)?;
        }
        Ok(())
    }

    fn tell_end(&mut self, nth: usize) -> Result<(), Failure> {
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
                abi::gk_end_allocate_to_pool(device as c_int, id.0, id.1);
            }
        }
        self.heard(|_| false).map(drop)
    }

    /// Ends the capture of a pool's stream, whatever fails.
    fn end_capture(&mut self, nth: usize) -> Result<(), Failure> {
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

    /// Releases a pool once, or keeps it no more; with the last time, all that was captured in it is unmade before.
    fn release(&mut self, nth: usize) -> Result<(), Failure> {
        if self.pools[nth].holds <= 1 && !self.unmake_graphs(nth) {
            return Ok(());
        }
        if self.pools[nth].kept && (self.pools[nth].holds == 0 || self.random.bool()) {
            return self.unkeep(nth);
        }
        let Pool { id, device, at, .. } = self.pools[nth];
        self.note(Call::ReleasePool, device, at, id.1, 0);
        self.tally.others += 1;
        self.pools[nth].holds -= 1;
        abi::gk_release_pool(device as c_int, id.0, id.1);
        self.heard(|_| false)?;
        self.forget_unheld(nth);
        Ok(())
    }

    /// Unmakes the graphs of a pool once their work is done; whether that could be waited for.
    fn unmake_graphs(&mut self, nth: usize) -> bool {
        let gpu = &self.world.machine.gpu;
        let waited = self.free_stream(self.pools[nth].at).is_some_and(|raw| gpu.synchronize_stream(raw).is_ok());
        if waited {
            self.pools[nth].graphs.drain(..).for_each(|graph| gpu.destroy_graph(graph));
        }
        waited
    }

    /// Something with pools in a wrong order, or of names that nobody knows. It may be refused; it may never break what comes after.
    ///
    /// # Errors
    /// What is broken.
    pub fn wrong_order(&mut self) -> Result<(), Failure> {
        self.tally.wrong += 1;
        self.tally.others += 1;
        let device = self.random.usize(..self.world.machine.used()) as c_int;
        if !self.pools.is_empty() && self.random.bool() {
            let nth = self.random.usize(..self.pools.len());
            return self.abuse(nth);
        }
        let (a, b) = (self.number as u64 + 1, self.random.u64(..1 << 40) | 1 << 41);
        let at = self.stream();
        let raw = self.streams[at].map_or(0, |own| own.raw);
        let is_in_use = self.pools.iter().any(|pool| pool.at == at);
        match self.random.u8(..5) {
            0 => {
                self.note(Call::EndPool, device as usize, at, b, 0);
                abi::gk_end_allocate_to_pool(device, a, b);
            }
            1 => {
                self.note(Call::ReleasePool, device as usize, at, b, 0);
                abi::gk_release_pool(device, a, b);
            }
            2 if !is_in_use => {
                self.note(Call::EndStreamPool, device as usize, at, 0, raw);
                abi::gk_end_allocate_stream_to_pool(device, raw as *mut c_void);
            }
            3 => {
                // A device that there is not.
                let device = self.world.machine.profiles.len() as c_int;
                abi::gk_end_allocate_to_pool(device, a, b);
                abi::gk_release_pool(device, a, b);
                self.heard(|text| text.contains("there is no device"))?;
            }
            _ => self.release_before_end(device, (a, b))?,
        }
        self.heard(is_about_a_pool)?;
        self.probe()
    }

    /// A pool of the whole actor is released before it is ended, or so often as it was never begun.
    fn release_before_end(&mut self, device: c_int, (a, b): (u64, u64)) -> Result<(), Failure> {
        if self.pools.iter().any(|pool| pool.open > 0) {
            return Ok(());
        }
        let filter = Filter::of_actor(self.number);
        self.note(Call::BeginPool, device as usize, 0, b, 0);
        // SAFETY: a filter as libstdc++ has it.
        unsafe { abi::gk_begin_allocate_to_pool(device, a, b, filter.as_ptr()) };
        if self.heard(|_| false)? {
            return Ok(());
        }
        self.probe()?;
        for _ in 0..self.random.u8(1..3) {
            self.note(Call::ReleasePool, device as usize, 0, b, 0);
            abi::gk_release_pool(device, a, b);
            self.heard(is_about_a_pool)?;
            self.probe()?;
        }
        for _ in 0..self.random.u8(1..3) {
            self.note(Call::EndPool, device as usize, 0, b, 0);
            abi::gk_end_allocate_to_pool(device, a, b);
            self.heard(is_about_a_pool)?;
            self.probe()?;
        }
        Ok(())
    }

    /// One of its own pools is released too early and too often, and ended too often and on a wrong device; afterwards it has it no more.
    fn abuse(&mut self, nth: usize) -> Result<(), Failure> {
        // Replays that are not done could not be waited for while their stream is captured.
        let is_quiet = match self.pools[nth].captured {
            true => self.pools[nth].graphs.is_empty(),
            false => self.unmake_graphs(nth),
        };
        if !is_quiet {
            return Ok(());
        }
        let Pool { id, device, at, open, holds, kept, .. } = self.pools[nth];
        let wrong = (device + 1) % self.world.machine.used();
        let mut calls = vec![(Call::EndPool, wrong), (Call::ReleasePool, wrong)];
        calls.resize(calls.len() + open as usize + self.random.usize(..2), (Call::EndPool, device));
        calls.resize(calls.len() + holds as usize + self.random.usize(..2), (Call::ReleasePool, device));
        calls.resize(calls.len() + usize::from(kept) + self.random.usize(..2), (Call::DropPool, device));
        self.random.shuffle(&mut calls);
        for (call, device) in calls {
            self.note(call, device, at, id.1, 0);
            match call {
                Call::EndPool => abi::gk_end_allocate_to_pool(device as c_int, id.0, id.1),
                Call::DropPool => abi::gk_drop_pool(id.0, id.1),
                _ => abi::gk_release_pool(device as c_int, id.0, id.1),
            }
            self.heard(is_about_a_pool)?;
            self.probe()?;
        }
        self.pools[nth].open = 0;
        self.end_capture(nth)?;
        let pool = self.pools.swap_remove(nth);
        pool.graphs.iter().for_each(|graph| self.world.machine.gpu.destroy_graph(*graph));
        self.probe()
    }

    /// Ends all captures and releases all pools, in a right order.
    ///
    /// # Errors
    /// What the library may not complain of; what cannot be waited for.
    pub fn end_pools(&mut self) -> Result<(), Failure> {
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
