//! One thread of a program: it allocates, works, frees, and calls PyTorch's hooks at any time.
//!
//! ```text
//!   mod.rs       the actor, its dice, and which step comes next
//!   blocks.rs    blocks: allocated, written, read, queried, freed
//!   reads.rs     reads under way, compared when they are done
//!   streams.rs   streams, and blocks that are used on several or change hands
//!   pools.rs     graph captures and memory pools, in right orders
//!   wrong.rs     wrong arguments, and pools in wrong orders
//!   hooks.rs     PyTorch's hooks, and queries about devices
//!   passes.rs    passes of work, whose weights are lent
//! ```
//!
//! Each file but the first and `reads.rs` has the steps of one kind, as methods of the actor: a
//! step needs its dice, its streams and its blocks.

mod blocks;
mod hooks;
pub mod passes;
mod pools;
mod reads;
mod streams;
mod wrong;

use std::ffi::c_int;
use std::sync::Arc;

use fastrand::Rng;
use giant_kitten::abi;

use crate::machine::no_fault;
use crate::notes::Call;
use crate::tally::Tally;
use crate::world::{Block, World};
use crate::{Failure, Part, complaints, filter};
use pools::Pool;
use reads::Reads;

/// A stream of an actor.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Its handle.
    pub raw: u64,
    /// Whether a capture records it.
    pub captured: bool,
}

/// The places of the streams that every actor has: the legacy default stream, and that of its
/// thread.
pub const LEGACY: usize = 0;
const PER_THREAD: usize = 1;
/// The most streams of an actor.
const MOST_STREAMS: usize = 7;

/// How many steps of 2^16 are something other than malloc and free.
const OTHERS: u32 = 650;

/// One thread of a program.
pub struct Actor {
    /// Its number.
    pub number: usize,
    /// The state that it shares with the others.
    pub world: Arc<World>,
    /// Its random generator.
    pub random: Rng,
    /// Its streams. An empty place is that of a destroyed stream.
    pub streams: Vec<Option<Own>>,
    /// Its live blocks.
    pub live: Vec<Block>,
    /// Its pools.
    pools: Vec<Pool>,
    /// How many blocks it tends to have.
    pub appetite: usize,
    /// How many pieces of work it has begun and not ended, by device.
    pub pieces: Vec<u32>,
    /// Counts of everything that it has done.
    pub tally: Tally,
    reads: Reads,
}

impl Actor {
    /// An actor of a world.
    pub fn new(number: usize, world: Arc<World>, seed: u64) -> Actor {
        let mut random = Rng::with_seed(seed);
        let legacy = random.u64(..2);
        let pieces = vec![0; world.machine.used()];
        Actor {
            number,
            world,
            random,
            streams: [legacy, 2].map(|raw| Some(Own { raw, captured: false })).into(),
            live: Vec::new(),
            pools: Vec::new(),
            appetite: 200,
            pieces,
            tally: Tally::default(),
            reads: Reads::default(),
        }
    }

    /// Records a call.
    #[inline]
    pub fn note(&self, call: Call, device: usize, at: usize, bytes: u64, address: u64) {
        self.world.notes[self.number].note(call, device, at, bytes, address);
    }

    /// Whether the library has logged an error. `may` accepts the errors that the last call allows.
    ///
    /// # Errors
    /// An error that the library may never log, or not now.
    pub fn heard(&self, may: impl Fn(&str) -> bool) -> Result<bool, Failure> {
        let Some(text) = complaints::take() else { return Ok(false) };
        let is_own_fault = text.contains("fault of giant-kitten's own");
        if is_own_fault || !(may(&text) || self.world.machine.is_armed()) {
            return Err(Failure(format!("the library complains: {text}")));
        }
        Ok(true)
    }

    /// Takes a number of steps.
    ///
    /// # Errors
    /// The first failure.
    pub fn act(&mut self, steps: u64) -> Result<(), Failure> {
        filter::act_as(self.number);
        for step in 0..steps {
            self.step()?;
            if step % 64 == 0 {
                no_fault()?;
            }
        }
        self.settle()?;
        // Actions wait for pieces of work, and so take place only in rounds after which none is
        // left.
        if self.random.u8(..4) > 0 {
            self.end_pieces();
        }
        no_fault()
    }

    fn end_pieces(&mut self) {
        for device in 0..self.pieces.len() {
            for _ in 0..std::mem::take(&mut self.pieces[device]) {
                abi::gk_end_work(device as c_int);
            }
        }
    }

    #[inline]
    fn step(&mut self) -> Result<(), Failure> {
        let dice = self.random.u32(..1 << 16);
        // One step in a hundred is something else. The others keep the number of blocks near the
        // appetite.
        if dice < OTHERS {
            return self.something_else();
        }
        let hungry = if self.live.len() < self.appetite { 36_000 } else { 30_000 };
        if dice - OTHERS < hungry { self.malloc().map(drop) } else { self.free() }
    }

    fn something_else(&mut self) -> Result<(), Failure> {
        // Captures are short, because no thread can wait for the device during one.
        if self.random.u8(..3) == 0 && self.end_a_capture()? {
            return Ok(());
        }
        match self.random.u32(..1000) {
            0..180 => self.ask_of_a_block(),
            180..300 => self.check_one(),
            300..400 if self.world.parts.has(Part::Streams) => self.use_elsewhere(),
            400..460 if self.world.parts.has(Part::Streams) => self.mail(),
            460..560 if self.world.parts.has(Part::Streams) => self.take_mail(),
            560..590 if self.world.parts.has(Part::Streams) => self.create_or_destroy_stream(),
            590..700 if self.world.parts.has(Part::Captures) => self.pool_step(),
            700..716 if self.world.parts.has(Part::WrongOrders) => self.wrong_order(),
            716..756 => self.wrong_argument(),
            756..776 => self.ask_of_a_device(),
            776..786 if self.world.parts.has(Part::Hooks) => self.reset(),
            786..796 if self.world.parts.has(Part::Hooks) => self.fraction(),
            796..806 => self.prefer(),
            806..809 if self.world.parts.has(Part::Hooks) => self.record(),
            809..814 if self.world.parts.has(Part::Foreign) => self.foreign(),
            814..824 => self.piece_of_work(),
            824..834 if self.world.parts.has(Part::Hooks) => {
                self.note(Call::Idle, 0, 0, 0, 0);
                self.world.machine.look_for_idle();
                self.heard(|_| false).map(drop)
            }
            834..880 if self.world.parts.has(Part::Passes) => self.passes(),
            880..1000 if self.world.parts.has(Part::Late) => self.complete(),
            _ => Ok(()),
        }
    }

    fn device(&mut self) -> usize {
        // Mostly a device of its own, so that threads meet sometimes but not always.
        let used = self.world.machine.used();
        if self.random.u8(..4) == 0 { self.random.usize(..used) } else { self.number % used }
    }

    /// The place of a random stream.
    pub fn stream(&mut self) -> usize {
        loop {
            let at = self.random.usize(..self.streams.len());
            if self.streams[at].is_some() {
                return at;
            }
        }
    }

    /// The handle of a stream that is not captured.
    pub fn free_stream(&self, at: usize) -> Option<u64> {
        self.streams.get(at).copied().flatten().filter(|own| !own.captured).map(|own| own.raw)
    }

    /// Ends everything: captures, pools, blocks and streams. Every stream serves one more
    /// allocation before that.
    ///
    /// # Errors
    /// The first failure.
    pub fn finish(&mut self) -> Result<(), Failure> {
        filter::act_as(self.number);
        abi::gk_prefer(abi::GK_DEDICATED);
        self.end_pieces();
        self.end_pools()?;
        self.settle()?;
        while let Some(block) = self.next_in_mail() {
            self.take_over(block, LEGACY, self.streams[LEGACY].map_or(0, |own| own.raw))?;
        }
        while let Some(last) = self.live.len().checked_sub(1) {
            self.free_of(last)?;
        }
        self.settle()?;
        if !self.reads.is_empty() {
            return Err(Failure("work cannot be waited for at the end".into()));
        }
        self.probe()?;
        for at in PER_THREAD + 1..self.streams.len() {
            if let Some(own) = self.streams[at].filter(|_| streams::is_destroyed(at)) {
                self.destroy_stream(at, own)?;
            }
        }
        no_fault()
    }

    /// Checks that every stream can allocate on every device, or memory has run out, whatever was
    /// done before.
    ///
    /// # Errors
    /// Any other answer.
    pub fn probe(&mut self) -> Result<(), Failure> {
        for device in 0..self.world.machine.used() {
            for at in 0..self.streams.len() {
                if self.streams[at].is_some()
                    && let Some(nth) = self.malloc_of(700, device, at)?
                {
                    self.free_of(nth)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether an error says that a capture is in the way.
pub fn is_about_a_capture(text: &str) -> bool {
    text.contains("captured")
}
