//! Lends weights while work is replayed, as the hooks of the Python package do: those that an
//! operation of a module reads are lent at its first one, and given back when another module
//! begins.

use anyhow::Result;
use giant_kitten::{Allocator, Returned};
use kitten_sim::Elapsed;

use crate::card::Card;

/// The least bytes of a weight that is lent.
const LEAST: u64 = 1 << 20;
/// The part of a weight that an operation reads at least, or it is read in place.
const LEAST_PART: u64 = 4;

/// A slot of the ring, and the work for which it was lent.
#[derive(Clone, Copy, Debug)]
pub struct SlotUse {
    /// Its address.
    pub slot: u64,
    /// Its bytes.
    pub bytes: u64,
    /// The operations of the step from the first that it was lent for to the one after the last.
    pub operations: (usize, usize),
}

/// What a step took whose weights were lent.
pub(super) struct Timed {
    /// Seconds from its beginning to the end of its last work.
    pub seconds: f64,
    /// Bytes copied ahead.
    pub copy_bytes: u64,
    /// Seconds that the work waited for copies.
    pub waited: f64,
    /// Seconds in which copies to the device were under way.
    pub link: f64,
}

/// The weights that are lent in a step.
#[derive(Default)]
pub(super) struct Lending {
    /// Whether this pass lends at all.
    is_on: bool,
    /// The kind of work of this step.
    kind: String,
    /// The weight that was lent first in this pass.
    first: Option<u64>,
    module: String,
    /// The weights that are lent to the module, in order, each with where it is read.
    lent: Vec<(u64, u64)>,
    /// The slots that were lent in this step.
    uses: Vec<SlotUse>,
    /// How many operations the step had so far.
    operations: usize,
    before: Elapsed,
    copied_before: u64,
}

impl Lending {
    /// Whether a weight of `bytes` of which an operation reads `read` is lent.
    pub fn takes(bytes: u64, read: u64) -> bool {
        bytes >= LEAST && read >= bytes / LEAST_PART
    }

    /// Begins a step of a kind of work.
    pub fn begin(&mut self, allocator: &Allocator, card: &dyn Card, kind: &str) -> Result<()> {
        let device = card.device();
        card.driver().synchronize(device)?;
        self.before = card.timeline();
        self.copied_before = allocator.stats(device)?.copied_ahead_bytes;
        self.uses.clear();
        self.operations = 0;
        kind.clone_into(&mut self.kind);
        self.begin_pass(allocator, card)
    }

    fn begin_pass(&mut self, allocator: &Allocator, card: &dyn Card) -> Result<()> {
        self.is_on = allocator.begin_pass(card.device(), &self.kind, card.stream())?.placement > 0;
        self.first = None;
        Ok(())
    }

    /// An operation of a module follows.
    pub fn enter(&mut self, allocator: &Allocator, card: &dyn Card, module: &str) -> Result<()> {
        if self.is_on && module != self.module {
            self.give_back(allocator, card)?;
            module.clone_into(&mut self.module);
        }
        Ok(())
    }

    fn give_back(&mut self, allocator: &Allocator, card: &dyn Card) -> Result<()> {
        for (address, read) in std::mem::take(&mut self.lent) {
            let open = self.uses.iter_mut().rev().find(|used| read != address && used.slot == read);
            open.into_iter().for_each(|used| used.operations.1 = self.operations);
            allocator.give_back_weight(card.device(), read, card.stream(), Returned::Read)?;
        }
        Ok(())
    }

    /// Lends a weight. Returns whether it is read from a slot.
    pub fn lend(&mut self, allocator: &Allocator, card: &dyn Card, address: u64, bytes: u64) -> Result<bool> {
        if !self.is_on {
            return Ok(false);
        }
        if let Some((_, read)) = self.lent.iter().find(|(known, _)| *known == address) {
            return Ok(*read != address);
        }
        if self.first == Some(address) && self.lent.is_empty() {
            // A step may call the model several times, such as with and without a prompt.
            allocator.end_pass(card.device(), true)?;
            self.begin_pass(allocator, card)?;
            if !self.is_on {
                return Ok(false);
            }
        }
        self.first = self.first.or(Some(address));
        let read = allocator.lend(card.device(), address, bytes, card.stream())?;
        self.lent.push((address, read));
        if read != address {
            self.uses.push(SlotUse { slot: read, bytes, operations: (self.operations, self.operations + 1) });
        }
        Ok(read != address)
    }

    /// An operation of the step was queued.
    pub fn note_operation(&mut self) {
        self.operations += 1;
    }

    /// The slots that were lent in this step.
    pub fn uses(&self) -> &[SlotUse] {
        &self.uses
    }

    /// Ends a step. Returns what it took; `None` where nothing was lent.
    pub fn end(&mut self, allocator: &Allocator, card: &dyn Card) -> Result<Option<Timed>> {
        let device = card.device();
        self.give_back(allocator, card)?;
        allocator.end_pass(device, true)?;
        card.driver().synchronize(device)?;
        let after = card.timeline();
        let copy_bytes = allocator.stats(device)?.copied_ahead_bytes - self.copied_before;
        let timed = Timed {
            seconds: after.seconds - self.before.seconds,
            copy_bytes,
            waited: after.waited - self.before.waited,
            link: after.copies_to_device - self.before.copies_to_device,
        };
        Ok((std::mem::take(&mut self.is_on) && copy_bytes > 0).then_some(timed))
    }
}
