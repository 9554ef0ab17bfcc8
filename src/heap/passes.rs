//! Passes of work: weights of the shared tier are lent from the ring while a pass runs.
//!
//! [`Ahead`](super::ahead::Ahead) knows slots and events; here it meets the memory: what of a
//! weight is shared, what becomes of a block that is freed, and the ring itself.

use super::Heap;
use super::ahead::{Asked, Borrower, Footing, Returned};
use crate::core::Tier;
use crate::driver::Stream;
use crate::error::Error;
use crate::sync::this_thread;

impl Heap {
    /// Begins a pass of work of a kind on a stream, after its safe point. Passes may be nested: an
    /// inner one belongs to the outer. Copies begin where an order and a ring are there.
    ///
    /// # Errors
    /// More streams than there are numbers.
    pub fn begin_pass(&mut self, kind: &str, stream: Stream) -> Result<Asked, Error> {
        self.layout.begin();
        let borrower = (this_thread(), self.stream_number(stream)?);
        let some_shared = self.stats.tiers[Tier::Shared].allocated.current() > 0;
        let asked = self.ahead.begin(kind, (borrower, stream), some_shared, self.footing());
        self.copy_ahead()?;
        self.ahead.note_first_copies();
        Ok(asked)
    }

    /// Notes that the weight at an address is for the calling thread to use on a stream, as if it
    /// had been lent there before.
    ///
    /// # Errors
    /// More streams than there are numbers.
    pub fn adopt(&mut self, address: u64, stream: Stream) -> Result<(), Error> {
        let borrower = (this_thread(), self.stream_number(stream)?);
        self.note_lent(address, Some(borrower));
        Ok(())
    }

    /// The weight of `bytes` at an address is about to be used on a stream. Returns where to read
    /// it: its slot, or the address itself. No allocation; two calls of the driver at most, except
    /// in a pass that is timed.
    pub fn lend(&mut self, address: u64, bytes: u64, stream: Stream) -> u64 {
        let borrower = self.streams.known(stream).map(|stream| (this_thread(), stream));
        self.note_lent(address, borrower);
        if let Some(slot) = self.ahead.lend(address, bytes, (borrower, stream)) {
            return slot;
        }
        match self.shared_part(address, bytes) {
            0 => {}
            shared => self.ahead.note_missed(shared),
        }
        address
    }

    /// A weight was used on a stream. `lent` is where it was read, as [`lend`](Heap::lend) said.
    ///
    /// # Errors
    /// The driver's, where what was written to a slot cannot be copied back.
    pub fn give_back_weight(&mut self, lent: u64, stream: Stream, how: Returned) -> Result<(), Error> {
        self.ahead.give_back(lent, stream, how)?;
        self.copy_ahead()
    }

    /// Ends a pass. `whole` says whether it came to its end.
    pub fn end_pass(&mut self, whole: bool) {
        self.ahead.end(this_thread(), whole, self.footing());
    }

    fn footing(&self) -> Footing {
        let held = Tier::ALL.into_iter().map(|tier| self.memory.backing.held(tier)).sum();
        Footing { fell: self.stats.fell_to_shared_bytes, held }
    }

    /// Copies what comes next in the order, as far as the ring has room. Copies wait for the pass's
    /// stream alone, so what was never lent to its borrower stays where it is: an order may name
    /// weights that others use in work of this kind, and addresses where other blocks lie by now.
    fn copy_ahead(&mut self) -> Result<(), Error> {
        while let Some(wanted @ (address, bytes)) = self.ahead.wanted() {
            let shared = if self.is_lent_in_pass(address) { self.shared_part(address, bytes) } else { 0 };
            if shared == 0 {
                self.ahead.skip();
                continue;
            }
            match self.ahead.copy_next(wanted, shared) {
                Ok(true) => {}
                Ok(false) => break,
                Err(why) => {
                    let device = self.memory.device();
                    log::debug!("device {device}: nothing more is copied ahead in this pass: {why}");
                }
            }
            self.note_copy(address)?;
        }
        Ok(())
    }

    /// Notes to whom a weight in the block that holds an address is lent. O(1), except where a
    /// borrower is new.
    fn note_lent(&mut self, address: u64, borrower: Option<Borrower>) {
        let Some(borrower) = borrower else { return };
        let mut bit = self.ahead.bit_of(borrower);
        if bit == 0 {
            bit = self.ahead.give_bit(borrower);
            self.memory.arenas.forget_lent(bit);
        }
        if let Ok((arena, block)) = self.memory.arenas.locate_inside(address) {
            self.memory.arenas[arena].core.marks_mut(block).lent |= bit;
        }
    }

    /// Whether a weight in the block that holds an address was lent to whom the pass is of.
    fn is_lent_in_pass(&self, address: u64) -> bool {
        let bit = self.ahead.borrower().map_or(0, |borrower| self.ahead.bit_of(borrower));
        let found = self.memory.arenas.locate_inside(address);
        found.is_ok_and(|(arena, block)| self.memory.arenas[arena].core.owner(block).1.lent & bit != 0)
    }

    /// How many bytes of a weight lie in the shared tier, by those of its block; 0 where it is in
    /// no live block.
    fn shared_part(&self, address: u64, bytes: u64) -> u64 {
        let Ok((arena, block)) = self.memory.arenas.locate_inside(address) else { return 0 };
        let bound = &self.memory.arenas[arena];
        let (offset, length) = bound.core.extent(block);
        let is_inside = address + bytes <= bound.base() + offset + length;
        if is_inside { bound.core.residency(block)[Tier::Shared].min(bytes) } else { 0 }
    }

    /// Notes that a copy reads a block: once freed, the block waits for the copies.
    fn note_copy(&mut self, address: u64) -> Result<(), Error> {
        let Some(copies) = self.ahead.stream() else { return Ok(()) };
        let stream = self.stream_number(copies)?;
        let (arena, block) = self.memory.arenas.locate_inside(address)?;
        self.memory.arenas[arena].core.marks_mut(block).used_elsewhere = true;
        self.retired.add_use(self.memory.arenas.address((arena, block)), stream);
        Ok(())
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
        let staged = self.memory.stage().unwrap_or_else(|why| {
            log::debug!("device {}: there is no ring: {why}", self.memory.device());
            None
        });
        match staged {
            Some(address) => self.ahead.use_ring(address, bytes),
            None => self.memory.keep_for_staging(0),
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
