//! The quiet between two rounds, while every actor is parked: actions, the books, and failures to
//! come.
//!
//! ```text
//!   mod.rs       what is done in which order, and what the next round is like
//!   books.rs     everything that is compared
//!   actions.rs   actions, which need a safe point
//! ```

mod actions;
mod books;

use std::ffi::c_int;
use std::ptr::{null, null_mut};

use fastrand::Rng;
use giant_kitten::abi;
use kitten_sim::{Completion, code};

use crate::actor::Actor;
use crate::machine::{last_error, no_fault, stats};
use crate::tally::Tally;
use crate::world::World;
use crate::{Failure, Part, complaints};

/// The calls of the driver that are made to fail one at a time.
const CALLS: &[&str] = &[
    "cuMemCreate",
    "cuMemMap",
    "cuMemUnmap",
    "cuMemSetAccess",
    "cuMemRelease",
    "cuMemcpyDtoDAsync",
    "cuStreamSynchronize",
    "cuMemcpyAsync",
    "cuStreamCreate",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemAddressReserve",
    "cuMemGetInfo",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventQuery",
    "cuStreamWaitEvent",
    "cuStreamIsCapturing",
    "cuCtxSynchronize",
];

/// About how many bytes a block takes, with the idle memory around it.
const USUAL: u64 = 10_000;

/// Conducts the quiet between two rounds.
pub struct Conductor {
    random: Rng,
    /// Counts of everything that it does.
    pub tally: Tally,
    /// How many granules had changed tier at the end of the last quiet, by device. Rounds move
    /// none.
    migrations: Vec<u64>,
}

impl Conductor {
    /// A conductor with its own random generator.
    pub fn new(seed: u64, devices: usize) -> Conductor {
        Conductor { random: Rng::with_seed(seed), tally: Tally::default(), migrations: vec![0; devices] }
    }

    /// Conducts the quiet between two rounds.
    ///
    /// # Errors
    /// The first failure.
    pub fn conduct(&mut self, world: &World, actors: &mut [&mut Actor]) -> Result<(), Failure> {
        self.disarm(world)?;
        no_fault()?;
        self.nothing_moved(world)?;
        if self.random.bool() {
            self.count(world, actors)?;
        }
        if self.random.u8(..8) == 0 {
            self.compare_with_snapshot(world, actors)?;
        }
        if world.parts.has(Part::Actions) {
            for _ in 0..self.random.u8(..4) {
                self.act_for_once(world, actors)?;
            }
            // Weights are lent where a safe point has made a ring.
            let passes = if world.parts.has(Part::Passes) { self.random.u8(..4) } else { 0 };
            for _ in 0..passes {
                let device = self.random.usize(..world.machine.used());
                self.safe_point_for_passes(world, device)?;
            }
        }
        if world.parts.has(Part::Captures) && self.random.u8(..8) == 0 {
            let device = self.random.usize(..world.machine.used());
            self.use_a_pool(world, device)?;
        }
        if self.random.u8(..4) == 0 {
            self.read_everything(world, actors)?;
        }
        self.set_the_scene(world, actors);
        for device in 0..world.machine.used() {
            self.migrations[device] = stats(device)?.migrations;
        }
        no_fault()
    }

    /// Stops the injection of failures, and lets the library repair what failed calls left behind.
    ///
    /// # Errors
    /// Whatever cannot be repaired.
    pub fn disarm(&mut self, world: &World) -> Result<(), Failure> {
        world.machine.gpu.clear_failures();
        world.machine.armed.store(false, std::sync::atomic::Ordering::Relaxed);
        complaints::take();
        for device in 0..world.machine.used() {
            self.allocate(device, 1)?;
        }
        Ok(())
    }

    /// Allocates and frees a block on the default stream. Returns whether there was room for it.
    fn allocate(&mut self, device: usize, bytes: u64) -> Result<bool, Failure> {
        let block = abi::gk_malloc(bytes as usize, device as c_int, null_mut());
        self.tally.others += 1;
        if block.is_null() {
            let why = last_error();
            let may = why.contains("out of memory") && complaints::take().is_none();
            return if may { Ok(false) } else { Err(Failure(format!("gk_malloc returned null: {why}"))) };
        }
        abi::gk_free(block, bytes as usize, device as c_int, null_mut());
        match complaints::take() {
            Some(why) => Err(Failure(format!("the library complains: {why}"))),
            None => Ok(true),
        }
    }

    /// Prepares the next round.
    fn set_the_scene(&mut self, world: &World, actors: &mut [&mut Actor]) {
        // Mostly there is room for all blocks, and sometimes there is not.
        let profiles = world.machine.profiles.iter().take(world.machine.used());
        let room: u64 = profiles.map(|profile| profile.dedicated_bytes + profile.shared_bytes).sum();
        let fair = room / (actors.len() as u64 * USUAL);
        let most = if self.random.u8(..6) == 0 { fair } else { fair / 3 }.clamp(30, 600) as usize;
        for actor in actors {
            actor.appetite = self.random.usize(20..most);
        }
        if world.parts.has(Part::Late) {
            let late = self.random.u8(..5) == 0;
            world.machine.gpu.set_completion(if late { Completion::Late } else { Completion::Immediate });
        }
        if self.random.bool() {
            abi::gk_record(0, 0, 0);
        }
        if world.parts.has(Part::Failures) && self.random.u8(..5) == 0 {
            self.arm(world, 1..3000);
        }
    }

    /// Makes calls of the driver fail: one or several, once or from some point on, of one kind or
    /// any.
    fn arm(&mut self, world: &World, after: std::ops::Range<u64>) {
        let gpu = &world.machine.gpu;
        world.machine.armed.store(true, std::sync::atomic::Ordering::Relaxed);
        for _ in 0..self.random.u8(1..4) {
            self.tally.armed += 1;
            let after = self.random.u64(after.clone());
            let code = [code::OUT_OF_MEMORY, code::UNKNOWN, code::ILLEGAL_ADDRESS, 12_345][self.random.usize(..4)];
            let call = CALLS[self.random.usize(..CALLS.len())];
            match self.random.u8(..4) {
                0 | 1 => gpu.fail_any(after, code),
                2 => gpu.fail(call, 1 + after / 100, code),
                _ => gpu.fail_from(call, 1 + after / 100, code),
            }
        }
    }

    /// Checks the end, when everything is freed: the library holds nothing, and all of a card can
    /// be allocated in one piece.
    ///
    /// # Errors
    /// Whatever is left, or cannot be allocated.
    pub fn finish(&mut self, world: &World) -> Result<(), Failure> {
        abi::gk_record(0, 0, 0);
        for device in 0..world.machine.used() {
            world.machine.take(device, 0);
            abi::gk_memory_fraction(1.0, device as c_int);
            // SAFETY: null takes the options.
            let answer = unsafe { abi::gk_disable(device as c_int, null()) };
            if answer != abi::GK_OK {
                return Err(Failure(format!("gk_disable at the end returned {answer}: {}", last_error())));
            }
            let left = stats(device)?;
            let pools = if world.parts.has(Part::Captures) { left.graph_pools } else { 0 };
            let counts = [left.blocks, left.allocated, left.requested, left.retired_blocks, left.active, pools];
            if counts != [0; 6] {
                return Err(Failure(format!(
                    "device {device} has {} blocks, {} bytes allocated, {} requested, {} blocks that wait, {} bytes active, {} pools \
                     at the end",
                    counts[0], counts[1], counts[2], counts[3], counts[4], counts[5]
                )));
            }
            if !self.allocate(device, left.dedicated_capacity)? {
                return Err(Failure(format!(
                    "all of device {device} is free, but cannot be allocated: {}",
                    last_error()
                )));
            }
        }
        world.machine.books()?;
        let idle = world.machine.used();
        let (capacity, free) = world
            .machine
            .gpu
            .memory_info(idle, kitten_sim::Tier::Dedicated)
            .map_err(|why| Failure(format!("the machine: {why}")))?;
        if capacity != free {
            return Err(Failure(format!("{} bytes are held on a device that was only queried", capacity - free)));
        }
        Ok(())
    }
}
