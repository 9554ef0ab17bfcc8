//! What is done while every actor is parked: actions, which need a safe point; the books; failures for the time that comes.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::ptr::{null, null_mut};

use fastrand::Rng;
use giant_kitten::abi::{self, GkActivation};
use kitten_sim::{Completion, code};

use crate::actor::{Actor, Tally, World, is_about_a_capture, taken};
use crate::machine::{last_error, no_fault, stats, text};
use crate::{Failure, Part, complaints};

/// The calls of the driver that are made to fail one at a time.
const CALLS: &[&str] = &[
    "cuMemCreate",
    "cuMemMap",
    "cuMemUnmap",
    "cuMemSetAccess",
    "cuMemRelease",
    "cuMemcpyDtoD",
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

/// About what a block takes, in bytes, with what lies idle beside it.
const USUAL: u64 = 10_000;

/// What sees to the quiet between two rounds.
pub struct Conductor {
    random: Rng,
    /// What is counted of what it does.
    pub tally: Tally,
    /// Granules that had changed tier when the last quiet ended, by device: rounds move none.
    migrations: Vec<u64>,
}

impl Conductor {
    /// With dice of its own.
    pub fn new(seed: u64, devices: usize) -> Conductor {
        Conductor { random: Rng::with_seed(seed), tally: Tally::default(), migrations: vec![0; devices] }
    }

    /// Before anything was allocated: questions cost nothing, on any device.
    ///
    /// # Errors
    /// What they cost.
    pub fn ask_before_use(&mut self, world: &World) -> Result<(), Failure> {
        if !world.parts.has(Part::Questions) {
            return Ok(());
        }
        let before = world.machine.gpu.total_calls();
        for device in 0..world.machine.profiles.len() {
            let number = device as c_int;
            stats(device)?;
            for ask in [abi::gk_stats_json, abi::gk_snapshot_json, abi::gk_map_json, abi::gk_history_json] {
                // SAFETY: the text is freed here alone.
                unsafe { text(ask(number)) };
            }
            // SAFETY: null takes the options, and the text is freed here alone.
            unsafe { text(abi::gk_claims_json(number, null())) };
            abi::gk_reset_peaks(number);
            abi::gk_reset_totals(number);
            // SAFETY: null is allowed.
            unsafe { abi::gk_base_alloc(null_mut(), null_mut()) };
            self.tally.others += 8;
        }
        abi::gk_reset();
        complaints::take();
        let calls = world.machine.gpu.total_calls() - before;
        for device in 0..world.machine.profiles.len() {
            let number = device as c_int;
            // SAFETY: the text is freed here alone.
            unsafe { text(abi::gk_device_json(number)) };
            // SAFETY: null is allowed.
            unsafe { abi::gk_memory_info(number, abi::GK_DEDICATED, null_mut(), null_mut()) };
            self.tally.others += 3;
        }
        let left = world.machine.gpu.outstanding();
        if calls > 0 || left != kitten_sim::Outstanding::default() {
            return Err(Failure(format!(
                "questions before the first allocation made {calls} calls of the driver: {left:?}"
            )));
        }
        Ok(())
    }

    /// Between two rounds.
    ///
    /// # Errors
    /// What is wrong.
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

    /// Nothing that lives was moved beside the work of the actors.
    fn nothing_moved(&self, world: &World) -> Result<(), Failure> {
        for device in 0..world.machine.used() {
            let moved = stats(device)?.migrations - self.migrations[device];
            if moved > 0 && !world.machine.moves_at_resets {
                return Err(Failure(format!(
                    "{moved} granules of device {device} changed tier while actors were at work"
                )));
            }
        }
        Ok(())
    }

    /// No call fails from now on, and what failing calls left behind is put right.
    ///
    /// # Errors
    /// What cannot be put right.
    pub fn disarm(&mut self, world: &World) -> Result<(), Failure> {
        world.machine.gpu.clear_failures();
        world.machine.armed.store(false, std::sync::atomic::Ordering::Relaxed);
        complaints::take();
        for device in 0..world.machine.used() {
            self.allocate(device, 1)?;
        }
        Ok(())
    }

    /// Allocates and frees a block on the default stream; whether it could be had.
    fn allocate(&mut self, device: usize, bytes: u64) -> Result<bool, Failure> {
        let block = abi::gk_malloc(bytes as usize, device as c_int, null_mut());
        self.tally.others += 1;
        if block.is_null() {
            let why = last_error();
            let may = why.contains("out of memory") && complaints::take().is_none();
            return if may { Ok(false) } else { Err(Failure(format!("gk_malloc gives nothing: {why}"))) };
        }
        abi::gk_free(block, bytes as usize, device as c_int, null_mut());
        match complaints::take() {
            Some(why) => Err(Failure(format!("the library complains: {why}"))),
            None => Ok(true),
        }
    }

    /// Compares what the library counts with what the actors have, and with the machine.
    ///
    /// # Errors
    /// What differs.
    pub fn count(&mut self, world: &World, actors: &[&mut Actor]) -> Result<(), Failure> {
        world.machine.books()?;
        let mail = world.mail.lock().map_err(|_| Failure("the mail is broken".into()))?;
        for device in 0..world.machine.used() {
            let live = || {
                let own = actors.iter().flat_map(|actor| actor.live.iter());
                own.chain(mail.iter()).filter(|block| block.device == device)
            };
            let found = stats(device)?;
            let (blocks, bytes) = (live().count() as u64, live().map(taken).sum::<u64>());
            let requested: u64 = live().map(|block| block.bytes).sum();
            let allocated = found.dedicated_allocated + found.shared_allocated;
            if (found.blocks, found.allocated, allocated) != (blocks, bytes, bytes) {
                return Err(Failure(format!(
                    "device {device} has {blocks} live blocks of {bytes} bytes; gk_stats says {} of {}, {} in dedicated and {} in \
                     shared memory",
                    found.blocks, found.allocated, found.dedicated_allocated, found.shared_allocated
                )));
            }
            if found.requested < requested || (found.retired_blocks == 0 && found.requested != requested) {
                return Err(Failure(format!(
                    "{requested} bytes were asked for on device {device}, {} by gk_stats, with {} blocks that wait",
                    found.requested, found.retired_blocks
                )));
            }
            if found.mallocs - found.frees != found.blocks {
                return Err(Failure(format!(
                    "device {device}: {} mallocs less {} frees are not {} blocks",
                    found.mallocs, found.frees, found.blocks
                )));
            }
        }
        Self::overlap(actors)
    }

    /// No two live blocks share memory.
    fn overlap(actors: &[&mut Actor]) -> Result<(), Failure> {
        let blocks = actors.iter().flat_map(|actor| actor.live.iter());
        let mut blocks: Vec<(u64, u64)> = blocks.map(|block| (block.address, taken(block))).collect();
        blocks.sort_unstable();
        match blocks.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            Some(pair) => Err(Failure(format!(
                "two live blocks share memory: {:#x}+{} and {:#x}+{}",
                pair[0].0, pair[0].1, pair[1].0, pair[1].1
            ))),
            None => Ok(()),
        }
    }

    /// Every live block is in the snapshot, and no other is.
    ///
    /// # Errors
    /// What differs.
    pub fn compare_with_snapshot(&mut self, world: &World, actors: &[&mut Actor]) -> Result<(), Failure> {
        let mail = world.mail.lock().map_err(|_| Failure("the mail is broken".into()))?;
        for device in 0..world.machine.used() {
            self.tally.others += 1;
            // SAFETY: the text is freed here alone.
            let text = unsafe { text(abi::gk_snapshot_json(device as c_int)) };
            let text = text.ok_or_else(|| Failure(format!("gk_snapshot_json: {}", last_error())))?;
            let segments: serde_json::Value =
                serde_json::from_str(&text).map_err(|why| Failure(format!("a snapshot is no JSON: {why}")))?;
            let number = |value: &serde_json::Value, key: &str| value[key].as_u64().unwrap_or(u64::MAX);
            let blocks = segments["segments"].as_array().into_iter().flatten();
            let blocks = blocks.flat_map(|segment| segment["blocks"].as_array().into_iter().flatten());
            let mut told: HashMap<u64, u64> = blocks
                .filter(|block| block["state"] == "active_allocated")
                .map(|block| (number(block, "address"), number(block, "requested_size")))
                .collect();
            let own = actors.iter().flat_map(|actor| actor.live.iter());
            for block in own.chain(mail.iter()).filter(|block| block.device == device) {
                if told.remove(&block.address) != Some(block.bytes) {
                    return Err(Failure(format!(
                        "the snapshot of device {device} does not have the block of {} bytes at {:#x}",
                        block.bytes, block.address
                    )));
                }
            }
            if let Some((address, bytes)) = told.into_iter().next() {
                return Err(Failure(format!(
                    "the snapshot of device {device} has a block of {bytes} bytes at {address:#x} that nobody has"
                )));
            }
        }
        Ok(())
    }

    /// One action, sometimes with calls that fail in the middle of it.
    fn act_for_once(&mut self, world: &World, actors: &mut [&mut Actor]) -> Result<(), Failure> {
        let fails = world.parts.has(Part::Failures) && self.random.u8(..6) == 0;
        if fails {
            self.arm(world, 1..120);
        }
        let device = self.random.usize(..world.machine.used());
        let granule = world.machine.profiles[device].granularity;
        let migrates = world.machine.profiles[device].migrates;
        let number = device as c_int;
        let activation = GkActivation {
            reserve: if self.random.u8(..3) == 0 { abi::GK_AUTO } else { self.random.u64(..40) * granule },
            persist: self.random.u64(..12).saturating_sub(8) * granule,
            sort_reversed: self.random.i32(0..2),
            ignore_model: self.random.i32(0..2),
            sort_by: self.random.i32(0..3),
        };
        let how = if self.random.u8(..8) == 0 { null() } else { &raw const activation };
        self.tally.actions += 1;
        self.tally.others += 1;
        let migrations = stats(device)?.migrations;
        let (name, answer) = match self.random.u8(..16) {
            // SAFETY: null, or a struct.
            0..5 => ("gk_activate", unsafe { abi::gk_activate(number, how) }),
            // SAFETY: null, or a struct.
            5 | 6 => ("gk_disable", unsafe { abi::gk_disable(number, how) }),
            7 => ("gk_free_vram", abi::gk_free_vram(number)),
            // SAFETY: null, or a struct.
            8 => ("gk_begin_loading", unsafe { abi::gk_begin_loading(number, how) }),
            9..12 => {
                if self.random.bool() {
                    abi::gk_vouch(number);
                }
                let kind = CString::new(["", "unet", "vae"][self.random.usize(..3)]).unwrap_or_default();
                // SAFETY: a C string.
                ("gk_safe_point", unsafe { abi::gk_safe_point(number, kind.as_ptr()) })
            }
            12..15 => ("gk_move", self.move_one(actors)),
            _ => ("gk_reset_totals", abi::gk_reset_totals(number)),
        };
        let why = last_error();
        let may = match answer {
            abi::GK_OK => true,
            abi::GK_ARGUMENT => why.contains("reserve") || why.contains("persist"),
            abi::GK_REFUSED => {
                is_about_a_capture(&why)
                    || why.contains("shared tier")
                    || why.contains("tier, which has")
                    || why.contains("tier has")
                    || fails
            }
            abi::GK_IMMOVABLE => name == "gk_move" || !migrates,
            abi::GK_DRIVER => fails || is_about_a_capture(&why),
            _ => fails && answer == abi::GK_OUT_OF_MEMORY,
        };
        if !may {
            return Err(Failure(format!("{name} of device {device} with {activation:?} answers {answer}: {why}")));
        }
        if fails {
            self.disarm(world)?;
        }
        let refused = [abi::GK_ARGUMENT, abi::GK_REFUSED].contains(&answer) && !fails;
        if refused && stats(device)?.migrations != migrations {
            return Err(Failure(format!("{name} of device {device} is refused, and has moved memory: {why}")));
        }
        let someone_works = !world.alone && actors.iter().any(|actor| actor.pieces[device] > 0);
        if name == "gk_safe_point" && someone_works && stats(device)?.migrations != migrations {
            return Err(Failure(format!("a safe point of device {device} has moved memory beside a piece of work")));
        }
        match complaints::take() {
            Some(why) if !fails => Err(Failure(format!("the library complains in {name}: {why}"))),
            _ => world.machine.books(),
        }
    }

    /// A pool that accepts every stream, begun and ended.
    fn use_a_pool(&mut self, world: &World, device: usize) -> Result<(), Failure> {
        let (number, name) = (device as c_int, self.random.u64(1 << 42..1 << 43));
        // SAFETY: null is allowed.
        unsafe { abi::gk_begin_allocate_to_pool(number, 0, name, null()) };
        if complaints::take().is_some() && world.machine.is_armed() {
            return Ok(());
        }
        self.allocate(device, 3000)?;
        self.allocate(device, 3 << 20)?;
        let released_first = self.random.bool();
        if released_first {
            abi::gk_release_pool(number, 0, name);
        }
        self.allocate(device, 500)?;
        abi::gk_end_allocate_to_pool(number, 0, name);
        if !released_first {
            abi::gk_release_pool(number, 0, name);
        }
        self.tally.others += 3;
        match complaints::take() {
            Some(why) => Err(Failure(format!("the library complains of a pool: {why}"))),
            None if abi::gk_pool_holds(number, 0, name) != 0 => Err(Failure("a pool that nobody holds is held".into())),
            None => Ok(()),
        }
    }

    fn move_one(&mut self, actors: &[&mut Actor]) -> c_int {
        let actor = &actors[self.random.usize(..actors.len())];
        let tier = if self.random.bool() { abi::GK_DEDICATED } else { abi::GK_SHARED };
        match self.random.choice(&actor.live) {
            Some(block) => {
                let inside = block.address + self.random.u64(..block.bytes);
                abi::gk_move(inside as *mut c_void, tier)
            }
            None => abi::GK_OK,
        }
    }

    /// Compares the contents of all blocks that have any, where no capture is in the way of waiting for the work on them.
    fn read_everything(&mut self, world: &World, actors: &mut [&mut Actor]) -> Result<(), Failure> {
        if world.machine.gpu.synchronize(0).is_err() {
            return Ok(());
        }
        let mut found = Vec::new();
        for block in actors.iter().flat_map(|actor| actor.live.iter()) {
            let Some(contents) = block.contents else { continue };
            found.resize(block.bytes as usize, 0);
            world.machine.gpu.read(block.address, &mut found).map_err(|why| {
                Failure(format!("a live block of {} bytes at {:#x}: {why}", block.bytes, block.address))
            })?;
            self.tally.compared += 1;
            self.tally.compared_bytes += block.bytes;
            if let Some((first, count)) = contents.difference(&found) {
                return Err(Failure(format!(
                    "the block of {} bytes at {:#x} differs in {count} bytes, the first of them {first}",
                    block.bytes, block.address
                )));
            }
        }
        Ok(())
    }

    /// What the next round is like.
    fn set_the_scene(&mut self, world: &World, actors: &mut [&mut Actor]) {
        // Mostly there is room for all, and now and then there is not.
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

    /// Makes calls of the driver fail: one or several, once or from then on, of one kind or any.
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

    /// When everything was given back: the library has nothing more, and all of a card can be had in one piece.
    ///
    /// # Errors
    /// What is left, or cannot be had.
    pub fn finish(&mut self, world: &World) -> Result<(), Failure> {
        abi::gk_record(0, 0, 0);
        for device in 0..world.machine.used() {
            world.machine.take(device, 0);
            abi::gk_memory_fraction(1.0, device as c_int);
            // SAFETY: null takes the options.
            let answer = unsafe { abi::gk_disable(device as c_int, null()) };
            if answer != abi::GK_OK {
                return Err(Failure(format!("gk_disable at the end answers {answer}: {}", last_error())));
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
                return Err(Failure(format!("all of device {device} is free, and cannot be had: {}", last_error())));
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
            return Err(Failure(format!("{} bytes are held on a device that was only asked about", capacity - free)));
        }
        Ok(())
    }
}
