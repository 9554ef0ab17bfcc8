//! The recording of what happens, for whoever wants a history. Off, it costs nothing: who gives out and takes back blocks asks once
//! whether it is on, and takes the way through here if it is.

use std::time::{SystemTime, UNIX_EPOCH};

use super::Heap;
use crate::core::history::{Action, Event, History};
use crate::core::{BlockId, StreamId, Tier};
use crate::driver::Stream;
use crate::error::Error;

impl Heap {
    /// Begins to record anew, the last `most` events; 0 ends it. What was recorded is forgotten.
    pub fn record(&mut self, most: usize) {
        self.history = (most > 0).then(|| History::new(most));
    }

    /// What was recorded, the oldest first.
    pub fn history(&self) -> Vec<Event> {
        self.history.iter().flat_map(History::events).copied().collect()
    }

    pub(super) fn happened(&mut self, action: Action, address: u64, bytes: u64, stream: u64, stack: u64) {
        if let Some(history) = &mut self.history {
            let time_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
            history.push(Event { action, address, bytes, stream, time_us, stack });
        }
    }

    /// Records what came of a request.
    pub fn record_malloc(&mut self, result: &Result<u64, Error>, bytes: u64, stream: Stream, stack: u64) {
        match result {
            Ok(address) => self.happened(Action::Alloc, *address, bytes, stream.0, stack),
            Err(Error::OutOfMemory(_)) => {
                let free = Tier::ALL.into_iter().map(|tier| self.unmapped(tier)).sum();
                self.happened(Action::OutOfMemory, free, bytes, stream.0, stack);
            }
            Err(_) => {}
        }
    }

    /// [`free`](Heap::free), recorded.
    ///
    /// # Errors
    /// As for [`free`](Heap::free); nothing is recorded then.
    pub fn recorded_free(&mut self, address: u64, stream: Stream, stack: u64) -> Result<(), Error> {
        let (index, id) = self.locate(address)?;
        let core = &self.arenas[index].core;
        let (bytes, waiting) = (core.requested(id), self.retired.len());
        self.free(address, stream)?;
        self.happened(Action::FreeRequested, address, bytes, stream.0, stack);
        if self.retired.len() == waiting {
            self.happened(Action::FreeCompleted, address, bytes, stream.0, stack);
        }
        Ok(())
    }

    /// Records that a block that waited for other streams is free.
    pub(super) fn record_release(&mut self, index: usize, id: BlockId, stream: StreamId) {
        if self.history.is_some() {
            let bound = &self.arenas[index];
            let (address, bytes) = (bound.base + bound.core.extent(id).0, bound.core.requested(id));
            let stream = self.streams.raw(stream);
            self.happened(Action::FreeCompleted, address, bytes, stream, 0);
        }
    }
}
