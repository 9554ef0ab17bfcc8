//! The recording of events for a history. It costs nothing while it is off: each caller that
//! allocates or frees checks once whether it is on, and takes the way through here if so.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Heap;
use super::memory::{Change, Place};
use crate::core::history::{Action, Event, Recording, Who};
use crate::core::{PoolId, StreamId, Tier};
use crate::driver::Stream;
use crate::error::Error;

impl Heap {
    /// Records in another way from now on.
    pub fn record(&mut self, recording: Recording) {
        self.history.record(recording);
    }

    /// The recorded events, the oldest first.
    pub fn history(&self) -> Vec<Event> {
        self.history.events().cloned().collect()
    }

    /// The callers that allocated the live blocks, by address, where they are known.
    pub fn callers(&self) -> HashMap<u64, Who> {
        self.history.callers().clone()
    }

    /// Whether nothing is recorded and no caller of a live block is known.
    pub fn is_unobserved(&self) -> bool {
        self.history.is_idle()
    }

    /// Records a mapping or unmapping.
    pub(super) fn record_change(&mut self, change: Change) {
        match change {
            Change::Mapped { address, bytes } => self.happened(Action::SegmentMap, address, bytes, 0, None),
            Change::Unmapped { address, bytes } => self.happened(Action::SegmentUnmap, address, bytes, 0, None),
        }
    }

    fn happened(&mut self, action: Action, address: u64, bytes: u64, stream: u64, who: Option<Who>) {
        if self.history.is_on() {
            let time_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
            let pool = match action {
                Action::OutOfMemory => None,
                _ => self.memory.arenas.of(address).and_then(|arena| self.memory.arenas[arena].purpose().pool()),
            };
            let pool = pool.map_or((0, 0), |PoolId(a, b)| (a, b));
            self.history.push(Event { action, address, bytes, stream, pool, time_us, who });
        }
    }

    /// Records the result of a request.
    pub fn record_malloc(&mut self, result: &Result<u64, Error>, bytes: u64, stream: Stream, who: Option<Who>) {
        match result {
            Ok(address) => {
                self.history.begins(*address, who.clone());
                self.happened(Action::Alloc, *address, bytes, stream.0, who);
            }
            Err(Error::OutOfMemory(_)) => {
                let free = Tier::ALL.into_iter().map(|tier| self.memory.unmapped(tier)).sum();
                self.happened(Action::OutOfMemory, free, bytes, stream.0, who);
            }
            Err(_) => {}
        }
    }

    /// [`free`](Heap::free), recorded. Without a `who`, the events name the caller that allocated
    /// the block.
    ///
    /// # Errors
    /// As for [`free`](Heap::free); nothing is recorded then.
    pub fn recorded_free(&mut self, address: u64, stream: Stream, who: Option<Who>) -> Result<(), Error> {
        let (arena, block) = self.memory.arenas.locate(address)?;
        let core = &self.memory.arenas[arena].core;
        let (bytes, waiting) = (core.requested(block), self.retired.len());
        self.free(address, stream)?;
        let who = who.or_else(|| self.history.caller(address).cloned());
        self.happened(Action::FreeRequested, address, bytes, stream.0, who.clone());
        if self.retired.len() == waiting {
            self.history.ends(address);
            self.happened(Action::FreeCompleted, address, bytes, stream.0, who);
        }
        Ok(())
    }

    /// Records that a block that waited for other streams is free.
    pub(super) fn record_release(&mut self, place: Place, stream: StreamId) {
        if !self.history.is_idle() {
            let (address, bytes) =
                (self.memory.arenas.address(place), self.memory.arenas[place.0].core.requested(place.1));
            let (stream, who) = (self.streams.raw(stream), self.history.ends(address));
            self.happened(Action::FreeCompleted, address, bytes, stream, who);
        }
    }
}
