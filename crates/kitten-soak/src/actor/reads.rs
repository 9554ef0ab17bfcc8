//! Reads of an actor that are under way, compared when they are done.

use crate::Failure;
use crate::contents::Contents;
use crate::tally::Tally;

/// The most reads under way.
const MOST: usize = 24;

/// A read under way.
pub(super) struct Read {
    /// The bytes that are read.
    pub(super) found: Vec<u8>,
    /// The bytes that they should be.
    pub(super) contents: Contents,
    /// The stream of the actor, by its place.
    pub(super) at: usize,
    /// Where the block begins.
    pub(super) address: u64,
}

/// The reads under way, and buffers for the next ones.
#[derive(Default)]
pub(super) struct Reads {
    under_way: Vec<Read>,
    spare: Vec<Vec<u8>>,
}

impl Reads {
    /// Whether no more can be added.
    pub(super) fn is_full(&self) -> bool {
        self.under_way.len() >= MOST
    }

    /// Whether none is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Whether any is under way on a stream.
    pub(super) fn any_on(&self, at: usize) -> bool {
        self.under_way.iter().any(|read| read.at == at)
    }

    /// A buffer of zeros for a read. It stays where it is until the read is done.
    pub(super) fn buffer(&mut self, bytes: u64) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.resize(bytes as usize, 0);
        buffer
    }

    /// Takes back the buffer of a read that was not launched.
    pub(super) fn take_back(&mut self, buffer: Vec<u8>) {
        self.spare.push(buffer);
    }

    /// Adds a read that was launched.
    pub(super) fn add(&mut self, read: Read) {
        self.under_way.push(read);
    }

    /// Compares the reads whose streams `wait` could wait for.
    ///
    /// # Errors
    /// Bytes that differ.
    pub(super) fn settle(&mut self, mut wait: impl FnMut(usize) -> bool, tally: &mut Tally) -> Result<(), Failure> {
        let mut at = 0;
        while at < self.under_way.len() {
            if !wait(self.under_way[at].at) {
                at += 1;
                continue;
            }
            let read = self.under_way.swap_remove(at);
            tally.compared += 1;
            tally.compared_bytes += read.found.len() as u64;
            if let Some((first, count)) = read.contents.difference(&read.found) {
                return Err(Failure(format!(
                    "the block of {} bytes at {:#x} differs in {count} bytes, the first of them {first}",
                    read.found.len(),
                    read.address
                )));
            }
            self.spare.push(read.found);
        }
        Ok(())
    }
}
