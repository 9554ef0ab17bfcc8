//! Streams, and blocks that are used on several or change hands.

use std::ffi::c_void;

use giant_kitten::abi;

use super::{Actor, LEGACY, MOST_STREAMS, Own, PER_THREAD};
use crate::Failure;
use crate::contents::LONGEST;
use crate::notes::Call;
use crate::world::Block;

/// Whether a stream is destroyed now and then. A block must be freed before a stream is destroyed
/// that it was recorded on, by PyTorch's own allocator as by this one, and actors do not know who
/// frees a block. So no block is recorded on these streams.
pub(super) fn is_destroyed(at: usize) -> bool {
    at > PER_THREAD && at % 2 == 1
}

impl Actor {
    /// Uses a block on another stream as PyTorch does: ordered behind the block's own stream, and
    /// recorded.
    pub(super) fn use_elsewhere(&mut self) -> Result<(), Failure> {
        let Some(nth) = self.some_eager_block() else { return Ok(()) };
        let to = self.stream();
        let at = self.live[nth].at;
        let (Some(from), Some(raw)) = (self.free_stream(at), self.free_stream(to)) else { return Ok(()) };
        if is_destroyed(to) || !self.order(from, raw) {
            return Ok(());
        }
        self.record_stream(nth, to, raw)?;
        if self.live[nth].contents.is_none() || self.random.bool() {
            // From now on the other stream works on it.
            self.live[nth].at = to;
            let mut block = self.live.swap_remove(nth);
            block.contents = None;
            if block.bytes <= LONGEST {
                self.write(&mut block);
            }
            self.live.push(block);
            return Ok(());
        }
        // The other stream reads it, and then this one works on it again.
        self.read(nth, to)?;
        if !self.order(raw, from) {
            self.live[nth].at = to;
        }
        Ok(())
    }

    /// Makes a stream wait for all work that is in another now. Returns whether it succeeded.
    pub(super) fn order(&self, before: u64, after: u64) -> bool {
        let gpu = &self.world.machine.gpu;
        let Ok(event) = gpu.create_event() else { return false };
        let ordered = gpu.record(event, before).and_then(|()| gpu.wait(after, event)).is_ok();
        self.destroy_event(event);
        ordered
    }

    /// Destroys an event, even if calls fail.
    fn destroy_event(&self, event: u64) {
        while self.world.machine.gpu.destroy_event(event).is_err() {
            // A lasting failure would repeat for ever.
            self.world.machine.gpu.clear_failures();
        }
    }

    pub(super) fn record_stream(&mut self, nth: usize, to: usize, raw: u64) -> Result<(), Failure> {
        let Block { address, bytes, device, .. } = self.live[nth];
        let inside = address + self.random.u64(..bytes);
        self.note(Call::RecordStream, device, to, bytes, address);
        self.tally.others += 1;
        abi::gk_record_stream(inside as *mut c_void, raw as *mut c_void);
        self.heard(|_| false).map(drop)
    }

    /// Gives a block to any actor that takes it, with an event behind the work on it.
    pub(super) fn mail(&mut self) -> Result<(), Failure> {
        let Some(nth) = self.some_eager_block() else { return Ok(()) };
        let Some(raw) = self.free_stream(self.live[nth].at) else { return Ok(()) };
        let gpu = &self.world.machine.gpu;
        let Ok(event) = gpu.create_event() else { return Ok(()) };
        if gpu.record(event, raw).is_err() {
            self.destroy_event(event);
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

    /// Takes over a block of another actor, and works on it on a stream of its own.
    pub(super) fn take_mail(&mut self) -> Result<(), Failure> {
        let at = self.stream();
        let Some(raw) = self.free_stream(at).filter(|_| !is_destroyed(at)) else { return Ok(()) };
        match self.next_in_mail() {
            Some(block) => self.take_over(block, at, raw),
            None => Ok(()),
        }
    }

    pub(super) fn next_in_mail(&self) -> Option<Block> {
        self.world.mail.lock().ok().and_then(|mut mail| mail.pop())
    }

    pub(super) fn take_over(&mut self, mut block: Block, at: usize, raw: u64) -> Result<(), Failure> {
        self.note(Call::Taken, block.device, at, block.bytes, block.address);
        let Some(event) = block.ready.take() else { return Err(Failure("a block in the mail has no event".into())) };
        let ordered = self.world.machine.gpu.wait(raw, event).is_ok();
        self.destroy_event(event);
        if !ordered {
            // The previous actor's work is never known to be done here, so the block is not used.
            block.contents = None;
        }
        block.at = at;
        self.live.push(block);
        self.record_stream(self.live.len() - 1, at, raw)?;
        if !ordered { self.free_of(self.live.len() - 1) } else { Ok(()) }
    }

    pub(super) fn create_or_destroy_stream(&mut self) -> Result<(), Failure> {
        let at = self.random.usize(PER_THREAD + 1..MOST_STREAMS);
        if self.streams.len() <= at {
            self.streams.resize(at + 1, None);
        }
        if let Some(own) = self.streams[at] {
            return if is_destroyed(at) { self.destroy_stream(at, own) } else { Ok(()) };
        }
        if let Ok(raw) = self.world.machine.gpu.create_stream() {
            self.note(Call::CreateStream, 0, at, 0, raw);
            self.streams[at] = Some(Own { raw, captured: false });
        }
        Ok(())
    }

    /// Destroys a stream after waiting for it. Its blocks are worked on elsewhere from then on.
    ///
    /// # Errors
    /// Bytes that differ in reads on the stream; an error that the library may not log.
    pub(super) fn destroy_stream(&mut self, at: usize, own: Own) -> Result<(), Failure> {
        let is_of_a_pool = self.pools.iter().any(|pool| pool.at == at || pool.joined == Some(at));
        if own.captured || is_of_a_pool || self.world.machine.gpu.synchronize_stream(own.raw).is_err() {
            return Ok(());
        }
        self.settle()?;
        if self.reads.any_on(at) || self.world.machine.gpu.destroy_stream(own.raw).is_err() {
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

    pub(super) fn complete(&mut self) -> Result<(), Failure> {
        for _ in 0..self.random.u8(1..20) {
            self.world.machine.gpu.complete_one(self.random.u64(..));
        }
        Ok(())
    }
}
