//! The recording of what happens, for whoever wants a history. Off, it costs nothing: who gives out and takes back blocks asks once
//! whether it is on, and takes the way through here if it is.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Heap, PoolId};
use crate::core::history::{Action, Event, Recording, Who};
use crate::core::{BlockId, StreamId, Tier};
use crate::driver::Stream;
use crate::error::Error;

impl Heap {
    /// Records in another way from now on.
    pub fn record(&mut self, recording: Recording) {
        self.history.record(recording);
    }

    /// What was recorded, the oldest first.
    pub fn history(&self) -> Vec<Event> {
        self.history.events().cloned().collect()
    }

    /// Who asked for the blocks that live, by their addresses, as far as it is known.
    pub fn askers(&self) -> HashMap<u64, Who> {
        self.history.askers().clone()
    }

    /// Whether nothing is recorded, and no live block is known to be anybody's.
    pub fn is_unobserved(&self) -> bool {
        self.history.is_idle()
    }

    pub(super) fn happened(&mut self, action: Action, address: u64, bytes: u64, stream: u64, who: Option<Who>) {
        if self.history.is_on() {
            let time_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
            let pool = match action {
                Action::OutOfMemory => None,
                _ => self.arena_of(address).and_then(|index| self.pools.of_arena(self.owner_of(index))),
            };
            let pool = pool.map_or((0, 0), |PoolId(a, b)| (a, b));
            self.history.push(Event { action, address, bytes, stream, pool, time_us, who });
        }
    }

    /// Records what came of a request.
    pub fn record_malloc(&mut self, result: &Result<u64, Error>, bytes: u64, stream: Stream, who: Option<Who>) {
        match result {
            Ok(address) => {
                self.history.begins(*address, who.clone());
                self.happened(Action::Alloc, *address, bytes, stream.0, who);
            }
            Err(Error::OutOfMemory(_)) => {
                let free = Tier::ALL.into_iter().map(|tier| self.unmapped(tier)).sum();
                self.happened(Action::OutOfMemory, free, bytes, stream.0, who);
            }
            Err(_) => {}
        }
    }

    /// [`free`](Heap::free), recorded. Where nobody says who gives the block back, whoever asked for it is named.
    ///
    /// # Errors
    /// As for [`free`](Heap::free); nothing is recorded then.
    pub fn recorded_free(&mut self, address: u64, stream: Stream, who: Option<Who>) -> Result<(), Error> {
        let (index, id) = self.locate(address)?;
        let core = &self.arenas[index].core;
        let (bytes, waiting) = (core.requested(id), self.retired.len());
        self.free(address, stream)?;
        let who = who.or_else(|| self.history.asker(address).cloned());
        self.happened(Action::FreeRequested, address, bytes, stream.0, who.clone());
        if self.retired.len() == waiting {
            self.history.ends(address);
            self.happened(Action::FreeCompleted, address, bytes, stream.0, who);
        }
        Ok(())
    }

    /// Records that a block that waited for other streams is free.
    pub(super) fn record_release(&mut self, index: usize, id: BlockId, stream: StreamId) {
        if !self.history.is_idle() {
            let bound = &self.arenas[index];
            let (address, bytes) = (bound.base + bound.core.extent(id).0, bound.core.requested(id));
            let (stream, who) = (self.streams.raw(stream), self.history.ends(address));
            self.happened(Action::FreeCompleted, address, bytes, stream, who);
        }
    }
}
