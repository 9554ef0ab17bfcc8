//! Blocks: allocated, written, read, queried, freed.

use std::ffi::{c_int, c_void};

use giant_kitten::abi;

use super::passes::WEIGHT;
use super::reads::Read;
use super::{Actor, MOST_STREAMS};
use crate::contents::{Contents, LONGEST};
use crate::machine::last_error;
use crate::notes::Call;
use crate::world::Block;
use crate::{Failure, complaints};

/// How many times as long as others weights live.
const WEIGHTS_LAST: u8 = 100;

/// How many blocks of 2^32 have contents.
const SAMPLED: u32 = u32::MAX / 50;

extern "C-unwind" fn malloc_unwinding(size: usize, device: c_int, stream: *mut c_void) -> *mut c_void {
    abi::gk_malloc(size, device, stream)
}

impl Actor {
    fn size(&mut self) -> u64 {
        let dice = self.random.u32(..10_000);
        match dice {
            0..9000 => self.random.u64(1..=2000),
            9000..9900 => self.random.u64(1..=20_000),
            9900..9994 => self.random.u64(1..=200_000),
            _ => self.random.u64((1 << 20)..LONGEST.min(5 << 19)),
        }
    }

    /// Allocates a block on a random device and stream. Returns its place.
    pub(super) fn malloc(&mut self) -> Result<Option<usize>, Failure> {
        let (device, at, bytes) = (self.device(), self.stream(), self.size());
        self.malloc_of(bytes, device, at)
    }

    /// Allocates a block. Returns its place among the live blocks.
    ///
    /// # Errors
    /// An answer that the library may not give; a block that is not aligned.
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
            return Err(Failure(format!("gk_malloc returned {address:#x}, which is not aligned")));
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

    /// Checks why an allocation was refused. A mistake with a pool is never a reason.
    #[cold]
    pub(super) fn refused(&mut self) -> Result<(), Failure> {
        let why = last_error();
        let complained = complaints::take();
        let may = if self.world.machine.is_armed() {
            !why.contains("graph pool") && !why.contains("fault of giant-kitten's own")
        } else {
            why.contains("out of memory") && complained.is_none()
        };
        if may { Ok(()) } else { Err(Failure(format!("gk_malloc returned null: {why}"))) }
    }

    /// Launches a write of new contents on the block's stream.
    pub(super) fn write(&mut self, block: &mut Block) {
        let Some(raw) = self.free_stream(block.at) else { return };
        let contents = Contents::random(&mut self.random);
        self.note(Call::Upload, block.device, block.at, block.bytes, block.address);
        let from = contents.bytes(block.bytes);
        // SAFETY: contents can be read for ever.
        let launched = unsafe { self.world.machine.gpu.upload(raw, block.address, from.as_ptr(), block.bytes) };
        block.contents = launched.is_ok().then_some(contents);
    }

    /// Launches a read of a block on a stream, which is compared later.
    ///
    /// # Errors
    /// A block that cannot be read although no call was made to fail.
    pub(super) fn read(&mut self, nth: usize, at: usize) -> Result<(), Failure> {
        let block = &self.live[nth];
        let (Some(contents), Some(raw)) = (block.contents, self.free_stream(at)) else { return Ok(()) };
        let (address, bytes, device) = (block.address, block.bytes, block.device);
        if self.reads.is_full() {
            self.settle()?;
        }
        if self.reads.is_full() {
            // The streams cannot be waited for now.
            return Ok(());
        }
        let mut found = self.reads.buffer(bytes);
        self.note(Call::Download, device, at, bytes, address);
        // SAFETY: the buffer stays where it is until its stream has been waited for.
        let launched = unsafe { self.world.machine.gpu.download(raw, found.as_mut_ptr(), address, bytes) };
        match launched {
            Ok(()) => self.reads.add(Read { found, contents, at, address }),
            Err(_) if self.world.machine.is_armed() => self.reads.take_back(found),
            Err(why) => {
                return Err(Failure(format!("a live block of {bytes} bytes at {address:#x} cannot be read: {why}")));
            }
        }
        Ok(())
    }

    /// Waits for the reads under way, where that is possible now, and compares them.
    ///
    /// # Errors
    /// Bytes that differ.
    pub fn settle(&mut self) -> Result<(), Failure> {
        let (streams, gpu) = (&self.streams, &self.world.machine.gpu);
        let mut waited = [None; MOST_STREAMS];
        let wait = |at: usize| {
            *waited[at].get_or_insert_with(|| {
                let free = streams[at].filter(|own| !own.captured);
                free.is_some_and(|own| gpu.synchronize_stream(own.raw).is_ok())
            })
        };
        self.reads.settle(wait, &mut self.tally)
    }

    /// Frees a random block.
    pub(super) fn free(&mut self) -> Result<(), Failure> {
        if self.live.is_empty() {
            return Ok(());
        }
        let nth = self.random.usize(..self.live.len());
        // Weights live longer than other blocks, so that passes use them again.
        if self.live[nth].bytes == WEIGHT && self.random.u8(..WEIGHTS_LAST) > 0 {
            return Ok(());
        }
        self.free_of(nth)
    }

    /// Frees a block by its place. Its contents are read first, and the block is often freed before
    /// the read is done.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    pub fn free_of(&mut self, nth: usize) -> Result<(), Failure> {
        if self.live[nth].contents.is_some() {
            self.read(nth, self.live[nth].at)?;
            if self.random.bool() {
                self.settle()?;
            }
        }
        let block = self.live.swap_remove(nth);
        // The stream that used it last may free it, too.
        let last =
            self.streams[block.at].filter(|_| self.tally.frees.is_multiple_of(4)).map_or(block.owner, |own| own.raw);
        self.note(Call::Free, block.device, block.at, block.bytes, block.address);
        self.tally.frees += 1;
        abi::gk_free(block.address as *mut c_void, block.bytes as usize, block.device as c_int, last as *mut c_void);
        self.heard(|_| false).map(drop)
    }

    pub(super) fn some_block(&mut self) -> Option<usize> {
        (!self.live.is_empty()).then(|| self.random.usize(..self.live.len()))
    }

    /// A random block that no graph writes to.
    pub(super) fn some_eager_block(&mut self) -> Option<usize> {
        self.some_block().filter(|nth| !self.live[*nth].graphed)
    }

    /// Queries a block by an address inside it, or marks or touches it.
    pub(super) fn ask_of_a_block(&mut self) -> Result<(), Failure> {
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
                        "gk_base_alloc returned {length} bytes at {base:#x} for the block of {bytes} bytes at {address:#x}"
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

    /// Compares a block that stays alive.
    pub(super) fn check_one(&mut self) -> Result<(), Failure> {
        let Some(nth) = self.some_block() else { return Ok(()) };
        match self.live[nth].contents {
            Some(_) => self.read(nth, self.live[nth].at),
            None => Ok(()),
        }
    }
}
