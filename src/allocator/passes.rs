//! Passes of work on a device, whose weights are lent from the ring of copies.

use super::Allocator;
use crate::driver::Stream;
use crate::error::Error;
use crate::heap::{Asked, Returned};

impl Allocator {
    /// Begins a pass of work of a kind on a stream, right after its safe point. A device that is
    /// not in use asks for nothing.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn begin_pass(&self, device: usize, kind: &str, stream: Stream) -> Result<Asked, Error> {
        self.devices.in_use(device)?.map_or_else(|| Ok(Asked::default()), |mut heap| heap.begin_pass(kind, stream))
    }

    /// The weight at an address is for the calling thread to use on a stream, as if it had been
    /// lent there before: its passes copy it ahead.
    ///
    /// # Errors
    /// A device that does not exist; more streams than there are numbers.
    pub fn adopt(&self, device: usize, address: u64, stream: Stream) -> Result<(), Error> {
        self.devices.in_use(device)?.map_or(Ok(()), |mut heap| heap.adopt(address, stream))
    }

    /// The weight of `bytes` at an address is about to be used on a stream. Returns where to read
    /// it.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn lend(&self, device: usize, address: u64, bytes: u64, stream: Stream) -> Result<u64, Error> {
        Ok(self.devices.in_use(device)?.map_or(address, |mut heap| heap.lend(address, bytes, stream)))
    }

    /// A weight was used on a stream. `lent` is where it was read, as [`lend`](Allocator::lend)
    /// said.
    ///
    /// # Errors
    /// A device that does not exist; the driver's, where what was written cannot be copied back.
    pub fn give_back_weight(&self, device: usize, lent: u64, stream: Stream, how: Returned) -> Result<(), Error> {
        self.devices.in_use(device)?.map_or(Ok(()), |mut heap| heap.give_back_weight(lent, stream, how))
    }

    /// Ends the pass that the calling thread began last on a device. `whole` says whether it came
    /// to its end.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn end_pass(&self, device: usize, whole: bool) -> Result<(), Error> {
        self.devices.in_use(device)?.iter_mut().for_each(|heap| heap.end_pass(whole));
        Ok(())
    }
}
