//! Passes of work: weights of the shared tier are lent from the ring while a pass runs.
//!
//! [`Ahead`](super::ahead::Ahead) knows slots and events; here it meets the memory: what of a
//! weight is shared, what becomes of a block that is freed, and the ring itself.

use super::Heap;
use super::ahead::{Asked, Returned};
use crate::core::Tier;
use crate::driver::Stream;
use crate::error::Error;

impl Heap {
    /// Begins a pass of work of a kind on a stream, after its safe point. Passes may be nested: an
    /// inner one belongs to the outer. Copies begin where an order and a ring are there.
    ///
    /// # Errors
    /// More streams than there are numbers.
    pub fn begin_pass(&mut self, kind: &str, stream: Stream) -> Result<Asked, Error> {
        let some_shared = self.stats.tiers[Tier::Shared].allocated.current() > 0;
        let asked = self.ahead.begin(kind, stream, some_shared);
        self.copy_ahead()?;
        self.ahead.note_first_copies();
        Ok(asked)
    }

    /// The weight of `bytes` at an address is about to be used on a stream. Returns where to read
    /// it: its slot, or the address itself. No allocation; two calls of the driver at most, except
    /// in a pass that is timed.
    pub fn lend(&mut self, address: u64, bytes: u64, stream: Stream) -> u64 {
        if let Some(slot) = self.ahead.lend(address, bytes, stream) {
            return slot;
        }
        let is_shared = self.residency(address).is_ok_and(|parts| parts[Tier::Shared] > 0);
        self.ahead.counts.missed += u64::from(is_shared);
        address
    }

    /// The weight at an address was used on a stream.
    ///
    /// # Errors
    /// The driver's, where what was written to a slot cannot be copied back.
    pub fn give_back_weight(&mut self, address: u64, stream: Stream, how: Returned) -> Result<(), Error> {
        self.ahead.give_back(address, stream, how)?;
        self.copy_ahead()
    }

    /// Ends a pass. `whole` says whether it came to its end.
    pub fn end_pass(&mut self, whole: bool) {
        self.ahead.end(whole);
    }

    /// Copies what comes next in the order, as far as the ring has room.
    fn copy_ahead(&mut self) -> Result<(), Error> {
        while let Some((address, bytes)) = self.ahead.wanted() {
            let shared = if self.ahead.is_worth_it() { self.shared_part(address, bytes) } else { 0 };
            if shared == 0 {
                self.ahead.skip();
                continue;
            }
            if !self.ahead.copy_next(shared) {
                break;
            }
            self.note_copy(address)?;
        }
        Ok(())
    }

    /// How many bytes of a weight lie in the shared tier, by those of its block; 0 where it is in
    /// no live block.
    fn shared_part(&self, address: u64, bytes: u64) -> u64 {
        let inside = self.extent(address).is_ok_and(|(start, length)| address + bytes <= start + length);
        if inside { self.residency(address).map_or(0, |parts| parts[Tier::Shared]).min(bytes) } else { 0 }
    }

    /// Notes that a copy reads a block: once freed, the block waits for the copies.
    fn note_copy(&mut self, address: u64) -> Result<(), Error> {
        let Some(copies) = self.ahead.stream() else { return Ok(()) };
        let stream = self.stream_number(copies)?;
        let (arena, block) = self.memory.arenas.locate_inside(address)?;
        let bound = &mut self.memory.arenas[arena];
        bound.core.marks_mut(block).used_elsewhere = true;
        let start = bound.base() + bound.core.extent(block).0;
        self.retired.add_use(start, stream);
        Ok(())
    }

    /// Forgets what is known of the weights in a block that is freed.
    pub(super) fn forget_weights(&mut self, address: u64, bytes: u64) {
        self.ahead.forget(address, address + bytes);
    }

    /// Makes the ring as long as it is wanted, if dedicated memory has room for it. No pass is
    /// under way and the device has done all work.
    pub(super) fn make_ring(&mut self, bytes: u64) {
        if self.ahead.is_in_use() || bytes == self.memory.staged() {
            return;
        }
        self.drop_ring();
        if bytes == 0 {
            return;
        }
        self.memory.keep_for_staging(bytes);
        match self.memory.stage() {
            Ok(Some(address)) => self.ahead.use_ring(address, bytes),
            Ok(None) => self.memory.keep_for_staging(0),
            Err(why) => {
                log::debug!("device {}: there is no ring: {why}", self.memory.device());
                self.memory.keep_for_staging(0);
            }
        }
        self.note();
    }

    /// Gives up the ring. No pass is under way and the device has done all work.
    pub(super) fn drop_ring(&mut self) {
        if !self.ahead.is_in_use() {
            self.ahead.use_none();
            self.memory.unstage();
        }
    }
}
