//! Passes of work: blocks are lent as weights, read and written where the library says, and given
//! back.

use std::ffi::{CStr, c_int, c_void};

use giant_kitten::abi;

use super::reads::Read;
use super::{Actor, LEGACY};
use crate::contents::Contents;
use crate::machine::last_error;
use crate::notes::Call;
use crate::{Failure, complaints};

/// The kinds of work of the actors' passes.
pub const KINDS: [&CStr; 4] = [c"unet", c"vae", c"prefill", c"decode"];

/// The most weights that an actor lends in a pass.
const MOST: usize = 5;

/// The bytes of a weight. The least that is lent at all, since the machines are small.
pub(super) const WEIGHT: u64 = 1 << 20;

impl Actor {
    /// Some passes in a row.
    pub(super) fn passes(&mut self) -> Result<(), Failure> {
        (0..self.random.u8(1..6)).try_for_each(|_| self.pass())
    }

    /// A pass over the actor's weights on a device and a stream, in the order of their
    /// addresses, sometimes without one of them. Where there are few, one more is allocated first.
    fn pass(&mut self) -> Result<(), Failure> {
        // Mostly the same ones, so that the library learns an order.
        let device = self.number % self.world.machine.used();
        let at = if self.random.u8(..8) == 0 { self.stream() } else { LEGACY };
        let Some(raw) = self.free_stream(at) else { return Ok(()) };
        let mut weights = self.weights(device, at);
        if weights.len() < MOST {
            let Some(new) = self.malloc_of(WEIGHT, device, at)? else { return Ok(()) };
            let mut block = self.live.swap_remove(new);
            if block.contents.is_none() && !block.graphed {
                self.write(&mut block);
            }
            self.live.push(block);
            weights = self.weights(device, at);
        }
        if weights.len() > 1 && self.random.u8(..8) == 0 {
            weights.remove(self.random.usize(..weights.len()));
        }
        if self.random.u8(..8) == 0 {
            weights.iter().try_for_each(|weight| self.adopt(*weight, device, at, raw))?;
        }
        self.begin_pass(device, at, raw)?;
        let mut whole = true;
        for address in weights {
            self.lend_one(address, device, at, raw)?;
            if self.random.u8(..32) == 0 {
                whole = false;
                break;
            }
        }
        self.note(Call::EndPass, device, at, 0, u64::from(whole));
        self.tally.others += 1;
        self.answer("gk_end_pass", abi::gk_end_pass(device as c_int, c_int::from(whole)))
    }

    /// The addresses of the weights on a device and a stream.
    fn weights(&self, device: usize, at: usize) -> Vec<u64> {
        let is_weight = |block: &&crate::world::Block| {
            block.bytes == WEIGHT && block.device == device && block.at == at && block.contents.is_some()
        };
        let mut weights: Vec<u64> = self.live.iter().filter(is_weight).map(|block| block.address).collect();
        weights.sort_unstable();
        weights.truncate(MOST);
        weights
    }

    fn adopt(&mut self, weight: u64, device: usize, at: usize, raw: u64) -> Result<(), Failure> {
        self.note(Call::Adopt, device, at, WEIGHT, weight);
        self.tally.others += 1;
        let code = abi::gk_adopt(device as c_int, weight as *const c_void, raw as *mut c_void);
        self.answer("gk_adopt", code)
    }

    fn begin_pass(&mut self, device: usize, at: usize, raw: u64) -> Result<(), Failure> {
        self.note(Call::BeginPass, device, at, 0, 0);
        self.tally.others += 1;
        let (mut placement, mut all) = (0, 0);
        let (kind, stream) = (KINDS[self.number % KINDS.len()].as_ptr(), raw as *mut c_void);
        // SAFETY: a C string, and two values that may be written to.
        let code = unsafe { abi::gk_begin_pass(device as c_int, kind, stream, &mut placement, &mut all) };
        self.answer("gk_begin_pass", code)
    }

    /// Lends a weight, works with it where the library says, and gives it back.
    fn lend_one(&mut self, address: u64, device: usize, at: usize, raw: u64) -> Result<(), Failure> {
        let (number, stream, weight) = (device as c_int, raw as *mut c_void, address as *const c_void);
        let read_at = abi::gk_lend(number, weight, WEIGHT as usize, stream) as u64;
        self.note(Call::Lend, device, at, WEIGHT, read_at);
        self.tally.others += 2;
        self.tally.lent += u64::from(read_at != address);
        let Some(nth) = self.live.iter().position(|block| block.address == address) else { return Ok(()) };
        self.read_slot(nth, at, read_at)?;
        let mut how = abi::GK_READ;
        if self.random.u8(..8) == 0 {
            let contents = Contents::random(&mut self.random);
            let from = contents.bytes(WEIGHT);
            // SAFETY: contents can be read for ever.
            let launched = unsafe { self.world.machine.gpu.upload(raw, read_at, from.as_ptr(), WEIGHT) };
            if launched.is_ok() {
                self.live[nth].contents = Some(contents);
                how = if read_at == address { abi::GK_READ } else { abi::GK_WRITTEN };
            }
        } else if self.random.u8(..8) == 0 {
            how = abi::GK_KEPT;
        }
        self.note(Call::GiveBack, device, at, WEIGHT, how as u64);
        let lent = read_at as *const c_void;
        let code = abi::gk_give_back(number, lent, stream, how);
        if code != abi::GK_OK && how == abi::GK_WRITTEN {
            // What was written could not be copied back, and the library has said so.
            self.live[nth].contents = None;
        }
        self.answer("gk_give_back", code)?;
        if how == abi::GK_KEPT {
            self.read_slot(nth, at, read_at)?;
            self.tally.others += 1;
            self.answer("gk_give_back", abi::gk_give_back(number, lent, stream, abi::GK_RELEASED))?;
        }
        Ok(())
    }

    /// Launches a read of a weight where it was lent, which is compared later.
    fn read_slot(&mut self, nth: usize, at: usize, read_at: u64) -> Result<(), Failure> {
        let (Some(contents), Some(raw)) = (self.live[nth].contents, self.free_stream(at)) else { return Ok(()) };
        if self.reads.is_full() {
            self.settle()?;
        }
        if self.reads.is_full() {
            // The streams cannot be waited for now.
            return Ok(());
        }
        let mut found = self.reads.buffer(WEIGHT);
        // SAFETY: the buffer stays where it is until its stream has been waited for.
        match unsafe { self.world.machine.gpu.download(raw, found.as_mut_ptr(), read_at, WEIGHT) } {
            Ok(()) => self.reads.add(Read { found, contents, at, address: read_at }),
            Err(_) if self.world.machine.is_armed() => self.reads.take_back(found),
            Err(why) => return Err(Failure(format!("a weight that was lent at {read_at:#x} cannot be read: {why}"))),
        }
        Ok(())
    }

    /// Checks the answer of a call about passes.
    fn answer(&mut self, call: &str, code: c_int) -> Result<(), Failure> {
        let may = code == abi::GK_OK || (code == abi::GK_DRIVER && self.world.machine.is_armed());
        complaints::take();
        if may { Ok(()) } else { Err(Failure(format!("{call} returned {code}: {}", last_error()))) }
    }
}
