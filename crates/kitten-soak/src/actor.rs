//! What one thread of a program does: it allocates, works, gives back, and calls PyTorch's hooks at any time.

use std::ffi::{c_char, c_int, c_void};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use giant_kitten::abi;
use giant_kitten::internals::BlockSize;

use crate::contents::{Contents, LONGEST};
use crate::machine::{Machine, last_error, no_fault, stats, text};
use crate::notes::{Call, Notes};
use crate::pools::Pool;
use crate::{Failure, Part, Parts, complaints, filter};

/// What all actors share.
#[derive(Debug)]
pub struct World {
    /// The machine with the library on it.
    pub machine: Machine,
    /// Whether one thread acts for all.
    pub alone: bool,
    /// What is done.
    pub parts: Parts,
    /// The last calls of each actor.
    pub notes: Vec<Notes>,
    /// Blocks on their way from one actor to another.
    pub mail: Mutex<Vec<Block>>,
}

/// A live block.
#[derive(Debug)]
pub struct Block {
    /// Where it begins.
    pub address: u64,
    /// What was asked for.
    pub bytes: u64,
    /// On which device.
    pub device: usize,
    /// The stream it was asked for, by its handle: what PyTorch names when it gives the block back.
    pub owner: u64,
    /// The stream of its actor that works on it, by its place.
    pub at: usize,
    /// What it holds, where that is known.
    pub contents: Option<Contents>,
    /// Whether a graph writes to it, whenever that is replayed.
    pub graphed: bool,
    /// While in the mail: an event behind all work on it.
    pub ready: Option<u64>,
}

/// A stream of an actor.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Its handle.
    pub raw: u64,
    /// Whether a capture records it.
    pub captured: bool,
}

/// A read under way, to be compared when it is done.
struct Check {
    found: Vec<u8>,
    contents: Contents,
    at: usize,
    address: u64,
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Blocks given out.
    pub mallocs: u64,
    /// Requests refused.
    pub refused: u64,
    /// Blocks given back.
    pub frees: u64,
    /// Other calls of the library.
    pub others: u64,
    /// Contents compared, and their bytes.
    pub compared: u64,
    /// Bytes of them.
    pub compared_bytes: u64,
    /// Captures.
    pub captures: u64,
    /// Replays of graphs.
    pub replays: u64,
    /// Wrong orders and wrong arguments.
    pub wrong: u64,
    /// Failures armed.
    pub armed: u64,
    /// Actions.
    pub actions: u64,
}

impl Tally {
    /// All calls of the library.
    pub fn operations(&self) -> u64 {
        self.mallocs + self.refused + self.frees + self.others
    }

    /// Adds another.
    pub fn add(&mut self, other: &Tally) {
        for (sum, more) in self.all_mut().into_iter().zip(other.all()) {
            *sum += more;
        }
    }

    fn all(mut self) -> [u64; 11] {
        self.all_mut().map(|count| *count)
    }

    fn all_mut(&mut self) -> [&mut u64; 11] {
        [
            &mut self.mallocs,
            &mut self.refused,
            &mut self.frees,
            &mut self.others,
            &mut self.compared,
            &mut self.compared_bytes,
            &mut self.captures,
            &mut self.replays,
            &mut self.wrong,
            &mut self.armed,
            &mut self.actions,
        ]
    }
}

/// The places of the streams that every actor has: the legacy default stream, and its thread's own.
pub const LEGACY: usize = 0;
const PER_THREAD: usize = 1;
/// The most streams of an actor.
const MOST_STREAMS: usize = 7;
/// The most reads under way.
const MOST_CHECKS: usize = 24;

/// One thread of a program.
pub struct Actor {
    /// Its number.
    pub number: usize,
    /// What it shares with the others.
    pub world: Arc<World>,
    /// Its dice.
    pub random: Rng,
    /// Its streams; a place that is empty was unmade.
    pub streams: Vec<Option<Own>>,
    /// Its live blocks.
    pub live: Vec<Block>,
    /// Its pools.
    pub pools: Vec<Pool>,
    /// How many blocks it tends to have.
    pub appetite: usize,
    /// How many pieces of work it is inside of, by device.
    pub pieces: Vec<u32>,
    /// What it has done.
    pub tally: Tally,
    checks: Vec<Check>,
    spare: Vec<Vec<u8>>,
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
            checks: Vec::new(),
            spare: Vec::new(),
        }
    }

    /// Notes a call.
    #[inline]
    pub fn note(&self, call: Call, device: usize, at: usize, bytes: u64, address: u64) {
        self.world.notes[self.number].note(call, device, at, bytes, address);
    }

    /// Whether the library has complained; an answer to a call that may.
    ///
    /// # Errors
    /// What it may never say, and what it may not say now.
    pub fn heard(&self, may: impl Fn(&str) -> bool) -> Result<bool, Failure> {
        let Some(text) = complaints::take() else { return Ok(false) };
        let is_own_fault = text.contains("a bug of giant-kitten");
        if is_own_fault || !(may(&text) || self.world.machine.is_armed()) {
            return Err(Failure(format!("the library complains: {text}")));
        }
        Ok(true)
    }

    /// Does so many things.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn act(&mut self, steps: u64) -> Result<(), Failure> {
        filter::act_as(self.number);
        for step in 0..steps {
            self.step()?;
            if step % 64 == 0 {
                no_fault()?;
            }
        }
        self.settle()?;
        no_fault()
    }

    #[inline]
    fn step(&mut self) -> Result<(), Failure> {
        let dice = self.random.u32(..1 << 16);
        // One in a hundred is something else; the rest keeps the number of blocks about where it should be.
        if dice < OTHERS {
            return self.something_else();
        }
        let hungry = if self.live.len() < self.appetite { 36_000 } else { 30_000 };
        if dice - OTHERS < hungry { self.malloc().map(drop) } else { self.free() }
    }

    fn something_else(&mut self) -> Result<(), Failure> {
        // While anything is captured nobody can wait for the device: captures are short.
        if self.random.u8(..3) == 0 && self.end_a_capture()? {
            return Ok(());
        }
        match self.random.u32(..1000) {
            0..180 => self.ask_of_a_block(),
            180..300 => self.check_one(),
            300..400 if self.world.parts.has(Part::Streams) => self.use_elsewhere(),
            400..460 if self.world.parts.has(Part::Streams) => self.mail(),
            460..560 if self.world.parts.has(Part::Streams) => self.take_mail(),
            560..590 if self.world.parts.has(Part::Streams) => self.make_or_unmake_stream(),
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
            834..1000 if self.world.parts.has(Part::Late) => self.complete(),
            _ => Ok(()),
        }
    }

    fn device(&mut self) -> usize {
        // Mostly one of its own, so that threads meet and do not always meet.
        let used = self.world.machine.used();
        if self.random.u8(..4) == 0 { self.random.usize(..used) } else { self.number % used }
    }

    /// The place of a stream that can be worked on now.
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

    fn size(&mut self) -> u64 {
        let dice = self.random.u32(..10_000);
        match dice {
            0..9000 => self.random.u64(1..=2000),
            9000..9900 => self.random.u64(1..=20_000),
            9900..9994 => self.random.u64(1..=200_000),
            _ => self.random.u64((1 << 20)..LONGEST.min(5 << 19)),
        }
    }

    /// Asks for a block, somewhere, for some stream; the place of it.
    fn malloc(&mut self) -> Result<Option<usize>, Failure> {
        let (device, at, bytes) = (self.device(), self.stream(), self.size());
        self.malloc_of(bytes, device, at)
    }

    /// Asks for a block; its place among those that live.
    ///
    /// # Errors
    /// What the library may not answer; a block that is not aligned.
    pub fn malloc_of(&mut self, bytes: u64, device: usize, at: usize) -> Result<Option<usize>, Failure> {
        let Some(own) = self.streams[at] else { return Ok(None) };
        let stream = own.raw as *mut c_void;
        let ask = if self.tally.mallocs % 256 == 5 { abi::gk_torch_malloc } else { malloc_unwinding };
        let address = ask(bytes as usize, device as c_int, stream) as u64;
        self.note(Call::Malloc, device, at, bytes, address);
        if address == 0 {
            self.tally.refused += 1;
            return self.refused().map(|()| None);
        }
        if !address.is_multiple_of(512) {
            return Err(Failure(format!("gk_malloc gave out {address:#x}")));
        }
        self.tally.mallocs += 1;
        let mut block =
            Block { address, bytes, device, owner: own.raw, at, contents: None, graphed: own.captured, ready: None };
        if own.captured {
            self.note_captured(&block);
        } else if self.random.u32(..) < SAMPLED && bytes <= LONGEST {
            self.write(&mut block);
        }
        self.live.push(block);
        Ok(Some(self.live.len() - 1))
    }

    /// Why a block could not be had. What is wrong with a pool is never a reason.
    #[cold]
    fn refused(&mut self) -> Result<(), Failure> {
        let why = last_error();
        let complained = complaints::take();
        let may = if self.world.machine.is_armed() {
            !why.contains("graph pool") && !why.contains("a bug of giant-kitten")
        } else {
            why.contains("out of memory") && complained.is_none()
        };
        if may { Ok(()) } else { Err(Failure(format!("gk_malloc gives nothing: {why}"))) }
    }

    /// Launches a write of new contents on the block's stream.
    fn write(&mut self, block: &mut Block) {
        let Some(raw) = self.free_stream(block.at) else { return };
        let contents = Contents::random(&mut self.random);
        self.note(Call::Upload, block.device, block.at, block.bytes, block.address);
        let from = contents.bytes(block.bytes);
        // SAFETY: contents can be read for good.
        let launched = unsafe { self.world.machine.gpu.upload(raw, block.address, from.as_ptr(), block.bytes) };
        block.contents = launched.is_ok().then_some(contents);
    }

    /// Launches a read of a block on a stream, to be compared later.
    ///
    /// # Errors
    /// A block that cannot be read, though no call fails.
    fn read(&mut self, nth: usize, at: usize) -> Result<(), Failure> {
        let block = &self.live[nth];
        let (Some(contents), Some(raw)) = (block.contents, self.free_stream(at)) else { return Ok(()) };
        let (address, bytes, device) = (block.address, block.bytes, block.device);
        if self.checks.len() >= MOST_CHECKS {
            self.settle()?;
        }
        if self.checks.len() >= MOST_CHECKS {
            // The streams cannot be waited for now.
            return Ok(());
        }
        let mut found = self.spare.pop().unwrap_or_default();
        found.clear();
        found.resize(bytes as usize, 0);
        self.note(Call::Download, device, at, bytes, address);
        // SAFETY: the buffer stays where it is until its stream was waited for.
        let launched = unsafe { self.world.machine.gpu.download(raw, found.as_mut_ptr(), address, bytes) };
        match launched {
            Ok(()) => self.checks.push(Check { found, contents, at, address }),
            Err(_) if self.world.machine.is_armed() => self.spare.push(found),
            Err(why) => {
                return Err(Failure(format!("a live block of {bytes} bytes at {address:#x} cannot be read: {why}")));
            }
        }
        Ok(())
    }

    /// Waits for the reads under way, where that is possible now, and compares.
    ///
    /// # Errors
    /// What differs.
    pub fn settle(&mut self) -> Result<(), Failure> {
        let mut waited = [None; MOST_STREAMS];
        let mut at = 0;
        while at < self.checks.len() {
            let place = self.checks[at].at;
            let done = *waited[place].get_or_insert_with(|| {
                self.free_stream(place).is_some_and(|raw| self.world.machine.gpu.synchronize_stream(raw).is_ok())
            });
            if !done {
                at += 1;
                continue;
            }
            let check = self.checks.swap_remove(at);
            self.tally.compared += 1;
            self.tally.compared_bytes += check.found.len() as u64;
            if let Some((first, count)) = check.contents.difference(&check.found) {
                return Err(Failure(format!(
                    "the block of {} bytes at {:#x} differs in {count} bytes, the first of them {first}",
                    check.found.len(),
                    check.address
                )));
            }
            self.spare.push(check.found);
        }
        Ok(())
    }

    /// Gives a block back.
    fn free(&mut self) -> Result<(), Failure> {
        if self.live.is_empty() {
            return Ok(());
        }
        let nth = self.random.usize(..self.live.len());
        self.free_of(nth)
    }

    /// Gives back a block by its place; what it holds is read first, often while the read is not done yet.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn free_of(&mut self, nth: usize) -> Result<(), Failure> {
        if self.live[nth].contents.is_some() {
            self.read(nth, self.live[nth].at)?;
            if self.random.bool() {
                self.settle()?;
            }
        }
        let block = self.live.swap_remove(nth);
        // What used it last may give it back, too.
        let last =
            self.streams[block.at].filter(|_| self.tally.frees.is_multiple_of(4)).map_or(block.owner, |own| own.raw);
        self.note(Call::Free, block.device, block.at, block.bytes, block.address);
        self.tally.frees += 1;
        abi::gk_free(block.address as *mut c_void, block.bytes as usize, block.device as c_int, last as *mut c_void);
        self.heard(|_| false).map(drop)
    }

    fn some_block(&mut self) -> Option<usize> {
        (!self.live.is_empty()).then(|| self.random.usize(..self.live.len()))
    }

    /// Questions about a block, by an address inside of it, and what is told of it.
    fn ask_of_a_block(&mut self) -> Result<(), Failure> {
        let Some(nth) = self.some_block() else { return Ok(()) };
        let Block { address, bytes, device, at, .. } = self.live[nth];
        let inside = (address + self.random.u64(..bytes)) as *mut c_void;
        self.tally.others += 1;
        let code = match self.random.u8(..4) {
            0 => {
                self.note(Call::BaseAlloc, device, at, bytes, address);
                let mut length = 0;
                // SAFETY: the length may be written to.
                let base = unsafe { abi::gk_base_alloc(inside, &mut length) } as u64;
                if base != address || (length as u64) < bytes {
                    return Err(Failure(format!(
                        "gk_base_alloc says that the block of {bytes} bytes at {address:#x} is one of {length} at {base:#x}"
                    )));
                }
                abi::GK_OK
            }
            1 => {
                self.note(Call::Tier, device, at, bytes, address);
                let (mut dedicated, mut shared) = (0, 0);
                // SAFETY: both may be written to.
                let code = unsafe { abi::gk_tier(inside, &mut dedicated, &mut shared) };
                let split = dedicated > 0 && shared > 0 && !self.world.machine.profiles[device].migrates;
                if dedicated + shared < bytes || split {
                    return Err(Failure(format!(
                        "the block of {bytes} bytes at {address:#x} has {dedicated} in dedicated and {shared} in shared memory"
                    )));
                }
                code
            }
            2 => {
                self.note(Call::Mark, device, at, bytes, address);
                abi::gk_mark(inside, self.random.i32(0..2))
            }
            _ => {
                self.note(Call::Touch, device, at, bytes, address);
                abi::gk_touch(inside, self.random.usize(..10_000))
            }
        };
        if code == abi::GK_OK { Ok(()) } else { Err(Failure(format!("a live block is unknown: {}", last_error()))) }
    }

    /// Compares a block that lives on.
    fn check_one(&mut self) -> Result<(), Failure> {
        let Some(nth) = self.some_block() else { return Ok(()) };
        match self.live[nth].contents {
            Some(_) => self.read(nth, self.live[nth].at),
            None => Ok(()),
        }
    }

    /// A block that no graph writes to.
    fn some_eager_block(&mut self) -> Option<usize> {
        self.some_block().filter(|nth| !self.live[*nth].graphed)
    }

    /// Uses a block on another stream, as PyTorch does: ordered behind the block's own, and recorded.
    fn use_elsewhere(&mut self) -> Result<(), Failure> {
        let Some(nth) = self.some_eager_block() else { return Ok(()) };
        let to = self.stream();
        let at = self.live[nth].at;
        let (Some(from), Some(raw)) = (self.free_stream(at), self.free_stream(to)) else { return Ok(()) };
        if !self.order(from, raw) {
            return Ok(());
        }
        self.record_stream(nth, to, raw)?;
        if self.live[nth].contents.is_none() || self.random.bool() {
            // From now on it is worked on there.
            self.live[nth].at = to;
            let mut block = self.live.swap_remove(nth);
            block.contents = None;
            if block.bytes <= LONGEST {
                self.write(&mut block);
            }
            self.live.push(block);
            return Ok(());
        }
        // Read there, and then worked on here again.
        self.read(nth, to)?;
        if !self.order(raw, from) {
            self.live[nth].at = to;
        }
        Ok(())
    }

    /// Makes a stream wait for all work now in another; whether that could be done.
    pub fn order(&self, before: u64, after: u64) -> bool {
        let gpu = &self.world.machine.gpu;
        let Ok(event) = gpu.create_event() else { return false };
        let ordered = gpu.record(event, before).and_then(|()| gpu.wait(after, event)).is_ok();
        self.unmake(event);
        ordered
    }

    /// Unmakes an event, whatever fails.
    fn unmake(&self, event: u64) {
        while self.world.machine.gpu.destroy_event(event).is_err() {
            // A lasting failure of the machine would hold it up for ever.
            self.world.machine.gpu.clear_failures();
        }
    }

    fn record_stream(&mut self, nth: usize, to: usize, raw: u64) -> Result<(), Failure> {
        let Block { address, bytes, device, .. } = self.live[nth];
        let inside = address + self.random.u64(..bytes);
        self.note(Call::RecordStream, device, to, bytes, address);
        self.tally.others += 1;
        abi::gk_record_stream(inside as *mut c_void, raw as *mut c_void);
        self.heard(|_| false).map(drop)
    }

    /// Gives a block to whoever takes it, with an event behind the work on it.
    fn mail(&mut self) -> Result<(), Failure> {
        let Some(nth) = self.some_eager_block() else { return Ok(()) };
        let Some(raw) = self.free_stream(self.live[nth].at) else { return Ok(()) };
        let gpu = &self.world.machine.gpu;
        let Ok(event) = gpu.create_event() else { return Ok(()) };
        if gpu.record(event, raw).is_err() {
            self.unmake(event);
            return Ok(());
        }
        let mut block = self.live.swap_remove(nth);
        self.note(Call::Mail, block.device, block.at, block.bytes, block.address);
        block.ready = Some(event);
        if let Ok(mut mail) = self.world.mail.lock() {
            mail.push(block);
        }
        Ok(())
    }

    /// Takes over a block of another actor, to work on it on a stream of its own.
    fn take_mail(&mut self) -> Result<(), Failure> {
        let at = self.stream();
        let Some(raw) = self.free_stream(at) else { return Ok(()) };
        match self.next_in_mail() {
            Some(block) => self.take_over(block, at, raw),
            None => Ok(()),
        }
    }

    fn next_in_mail(&self) -> Option<Block> {
        self.world.mail.lock().ok().and_then(|mut mail| mail.pop())
    }

    fn take_over(&mut self, mut block: Block, at: usize, raw: u64) -> Result<(), Failure> {
        self.note(Call::Taken, block.device, at, block.bytes, block.address);
        let Some(event) = block.ready.take() else { return Err(Failure("a block in the mail has no event".into())) };
        let ordered = self.world.machine.gpu.wait(raw, event).is_ok();
        self.unmake(event);
        if !ordered {
            // The work of the one before is never known to be done here: nothing is done with it.
            block.contents = None;
        }
        block.at = at;
        self.live.push(block);
        self.record_stream(self.live.len() - 1, at, raw)?;
        if !ordered { self.free_of(self.live.len() - 1) } else { Ok(()) }
    }

    fn make_or_unmake_stream(&mut self) -> Result<(), Failure> {
        let at = self.random.usize(PER_THREAD + 1..MOST_STREAMS);
        if self.streams.len() <= at {
            self.streams.resize(at + 1, None);
        }
        if let Some(own) = self.streams[at] {
            return self.unmake_stream(at, own);
        }
        if let Ok(raw) = self.world.machine.gpu.create_stream() {
            self.note(Call::CreateStream, 0, at, 0, raw);
            self.streams[at] = Some(Own { raw, captured: false });
        }
        Ok(())
    }

    /// Unmakes a stream, after it was waited for; what was worked on there is worked on elsewhere.
    ///
    /// # Errors
    /// What differs of what was read there; what the library may not complain of.
    pub fn unmake_stream(&mut self, at: usize, own: Own) -> Result<(), Failure> {
        let is_of_a_pool = self.pools.iter().any(|pool| pool.at == at || pool.joined == Some(at));
        if own.captured || is_of_a_pool || self.world.machine.gpu.synchronize_stream(own.raw).is_err() {
            return Ok(());
        }
        self.settle()?;
        if self.checks.iter().any(|check| check.at == at) || self.world.machine.gpu.destroy_stream(own.raw).is_err() {
            return Ok(());
        }
        self.note(Call::DestroyStream, 0, at, 0, own.raw);
        self.streams[at] = None;
        for nth in 0..self.live.len() {
            if self.live[nth].at == at {
                self.live[nth].at = LEGACY;
                self.record_stream(nth, LEGACY, self.streams[LEGACY].map_or(0, |own| own.raw))?;
            }
        }
        Ok(())
    }

    /// Calls that cannot be: they are refused, and nothing else happens.
    fn wrong_argument(&mut self) -> Result<(), Failure> {
        self.tally.others += 1;
        self.tally.wrong += 1;
        let here = std::ptr::from_mut(self).cast::<c_void>();
        match self.random.u8(..6) {
            0 => {
                if let Some(nth) = self.some_block()
                    && self.live[nth].bytes > 1
                {
                    let Block { address, bytes, device, at, owner, .. } = self.live[nth];
                    let inside = address + self.random.u64(1..bytes);
                    self.note(Call::WrongFree, device, at, bytes, inside);
                    abi::gk_free(inside as *mut c_void, 1, device as c_int, owner as *mut c_void);
                    if !self.heard(|text| text.contains("not the start of a live block"))? {
                        return Err(Failure(format!("gk_free takes {inside:#x}, which lies inside a block")));
                    }
                }
                return Ok(());
            }
            1 => {
                self.note(Call::WrongFree, 0, 0, 0, here as u64);
                abi::gk_free(here, 1, self.random.i32(-1..5), std::ptr::null_mut());
                self.heard(|text| text.contains("not the start of a live block"))?;
            }
            2 => {
                abi::gk_free(std::ptr::null_mut(), 0, 0, std::ptr::null_mut());
                if !abi::gk_malloc(0, 0, std::ptr::null_mut()).is_null() {
                    return Err(Failure("gk_malloc(0) is not null".into()));
                }
                self.heard(|_| false)?;
            }
            3 => {
                if !abi::gk_malloc(usize::MAX - self.random.usize(..1 << 40), 0, std::ptr::null_mut()).is_null() {
                    return Err(Failure("gk_malloc gives out more than there can be".into()));
                }
                self.refused()?;
            }
            4 => {
                let device = self.world.machine.profiles.len() as c_int + self.random.i32(0..3);
                if !abi::gk_malloc(1, device, std::ptr::null_mut()).is_null() {
                    return Err(Failure(format!("gk_malloc gives out memory of device {device}")));
                }
                self.heard(|text| text.contains("there is no device"))?;
            }
            _ => {
                let answers = [abi::gk_mark(here, 1), abi::gk_touch(here, 1)];
                // SAFETY: null is allowed.
                let base = unsafe { abi::gk_base_alloc(here, std::ptr::null_mut()) };
                if answers != [abi::GK_NOT_ALLOCATED; 2] || !base.is_null() {
                    return Err(Failure(format!("memory of nobody's is known: {answers:?}, {base:?}")));
                }
            }
        }
        Ok(())
    }

    /// Questions about a device, also the one that nobody uses.
    fn ask_of_a_device(&mut self) -> Result<(), Failure> {
        let most = self.world.machine.used() - 1 + usize::from(self.world.parts.has(Part::Questions));
        let device = self.random.usize(..=most);
        self.tally.others += 1;
        let number = device as c_int;
        let ask: extern "C" fn(c_int) -> *mut c_char = match self.random.u8(..10) {
            8 => return self.memory_info(device),
            9 => abi::gk_device_json,
            0..3 => {
                self.note(Call::Stats, device, 0, 0, 0);
                return stats(device).map(drop);
            }
            3 => {
                self.note(Call::ResetPeaks, device, 0, 0, 0);
                return match abi::gk_reset_peaks(number) {
                    abi::GK_OK => Ok(()),
                    code => Err(Failure(format!("gk_reset_peaks answers {code}: {}", last_error()))),
                };
            }
            4 => abi::gk_stats_json,
            5 => abi::gk_snapshot_json,
            6 => abi::gk_map_json,
            _ => abi::gk_history_json,
        };
        self.note(Call::Json, device, 0, 0, ask as usize as u64);
        // SAFETY: the text is freed here alone.
        if let Some(text) = unsafe { text(ask(number)) }
            && self.random.u8(..8) == 0
        {
            serde_json::from_str::<serde_json::Value>(&text)
                .map_err(|why| Failure(format!("an answer is no JSON: {why}: {text}")))?;
        }
        Ok(())
    }

    fn memory_info(&mut self, device: usize) -> Result<(), Failure> {
        self.note(Call::MemoryInfo, device, 0, 0, 0);
        let tier = self.random.i32(0..2);
        let (mut free, mut total) = (0, 0);
        // SAFETY: both may be written to.
        match unsafe { abi::gk_memory_info(device as c_int, tier, &mut free, &mut total) } {
            abi::GK_OK if free <= total => Ok(()),
            abi::GK_OK => Err(Failure(format!("gk_memory_info: {free} bytes of {total} are free"))),
            abi::GK_DRIVER if self.world.machine.is_armed() => Ok(()),
            code => Err(Failure(format!("gk_memory_info answers {code}: {}", last_error()))),
        }
    }

    /// Begins or ends a piece of work, or rests.
    fn piece_of_work(&mut self) -> Result<(), Failure> {
        let device = self.device();
        let number = device as c_int;
        self.note(Call::Work, device, 0, u64::from(self.pieces[device]), 0);
        self.tally.others += 1;
        let code = match self.random.u8(..3) {
            0 if self.pieces[device] < 3 => {
                self.pieces[device] += 1;
                abi::gk_begin_work(number)
            }
            1 if self.pieces[device] > 0 => {
                self.pieces[device] -= 1;
                abi::gk_end_work(number)
            }
            _ => abi::gk_rest(number),
        };
        if code == abi::GK_OK { Ok(()) } else { Err(Failure(format!("a piece of work: {code}: {}", last_error()))) }
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.note(Call::Reset, 0, 0, 0, 0);
        self.tally.others += 1;
        abi::gk_reset();
        self.heard(is_about_a_capture).map(drop)
    }

    fn fraction(&mut self) -> Result<(), Failure> {
        let device = self.device();
        let fraction = if self.random.bool() { 1.0 } else { 0.3 + 0.7 * self.random.f64() };
        self.note(Call::Fraction, device, 0, (fraction * 100.0) as u64, 0);
        self.tally.others += 1;
        abi::gk_memory_fraction(fraction, device as c_int);
        self.heard(|_| false).map(drop)
    }

    fn prefer(&mut self) -> Result<(), Failure> {
        let tier = if self.random.u8(..4) == 0 { abi::GK_SHARED } else { abi::GK_DEDICATED };
        self.note(Call::Prefer, 0, 0, tier as u64, 0);
        self.tally.others += 1;
        abi::gk_prefer(tier);
        Ok(())
    }

    /// Begins or ends a history, with the stacks of whoever calls: there is no Python here, and so there are none.
    fn record(&mut self) -> Result<(), Failure> {
        let events = if self.random.bool() { self.random.usize(1..5000) } else { 0 };
        self.note(Call::Record, 0, 0, events as u64, 0);
        self.tally.others += 1;
        let stacks = self.random.i32(0..=3);
        match abi::gk_record(events, stacks, self.random.u32(..)) {
            abi::GK_OK => Ok(()),
            code => Err(Failure(format!("gk_record answers {code}: {}", last_error()))),
        }
    }

    fn foreign(&mut self) -> Result<(), Failure> {
        let device = self.device();
        let most = self.world.machine.profiles[device].dedicated_bytes / 2;
        let bytes = if self.random.bool() { 0 } else { self.random.u64(..most) };
        self.note(Call::Foreign, device, 0, bytes, 0);
        self.world.machine.take(device, bytes);
        Ok(())
    }

    fn complete(&mut self) -> Result<(), Failure> {
        for _ in 0..self.random.u8(1..20) {
            self.world.machine.gpu.complete_one(self.random.u64(..));
        }
        Ok(())
    }

    /// Ends everything: captures, pools, blocks, streams; each stream has been asked for something once more.
    ///
    /// # Errors
    /// What is wrong.
    pub fn finish(&mut self) -> Result<(), Failure> {
        filter::act_as(self.number);
        abi::gk_prefer(abi::GK_DEDICATED);
        for device in 0..self.pieces.len() {
            for _ in 0..std::mem::take(&mut self.pieces[device]) {
                abi::gk_end_work(device as c_int);
            }
        }
        self.end_pools()?;
        self.settle()?;
        while let Some(block) = self.next_in_mail() {
            self.take_over(block, LEGACY, self.streams[LEGACY].map_or(0, |own| own.raw))?;
        }
        while let Some(last) = self.live.len().checked_sub(1) {
            self.free_of(last)?;
        }
        self.settle()?;
        if !self.checks.is_empty() {
            return Err(Failure("work cannot be waited for at the end".into()));
        }
        self.probe()?;
        for at in PER_THREAD + 1..self.streams.len() {
            if let Some(own) = self.streams[at] {
                self.unmake_stream(at, own)?;
            }
        }
        no_fault()
    }

    /// Every stream gets memory on every device, or there is none: whatever was done in whatever order before.
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

/// So many steps of 2^16 are something else than malloc and free.
const OTHERS: u32 = 650;

/// So many blocks of 2^32 have contents.
const SAMPLED: u32 = u32::MAX / 50;

extern "C-unwind" fn malloc_unwinding(size: usize, device: c_int, stream: *mut c_void) -> *mut c_void {
    abi::gk_malloc(size, device, stream)
}

/// Whether a complaint is that a capture is in the way.
pub fn is_about_a_capture(text: &str) -> bool {
    text.contains("captured")
}

/// What a block takes.
pub fn taken(block: &Block) -> u64 {
    BlockSize::of(block.bytes).map_or(0, BlockSize::rounded)
}
