//! The slots of the ring: which weight each holds, who uses it, and what a copy into it must wait
//! for.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Returned;
use crate::core::ahead::{Ring, SlotId};
use crate::driver::{self, Driver, Event, Stream};
use crate::heap::events::Events;

/// Slots begin at multiples of this, as blocks do.
const ALIGNMENT: u64 = 512;

/// The bytes that a weight takes in the ring.
pub(in crate::heap) fn slot_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// What was counted. Bytes, unless said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::heap) struct Counts {
    /// How often a weight was lent from a slot.
    pub(in crate::heap) lent: u64,
    pub(in crate::heap) lent_bytes: u64,
    /// Copied from the shared tier.
    pub(in crate::heap) copied_bytes: u64,
    /// How often a weight in the shared tier was read in place.
    pub(in crate::heap) missed: u64,
    /// How often a copy was dropped unused.
    pub(in crate::heap) dropped: u64,
    pub(in crate::heap) written_back: u64,
}

/// A weight in the ring.
#[derive(Clone, Copy, Debug)]
struct Filled {
    slot: SlotId,
    bytes: u64,
    copied: Event,
    /// How often it is lent at the moment.
    lent: u32,
}

/// A slot that was given back: what overwrites it waits for the event.
#[derive(Clone, Copy, Debug)]
struct Left {
    slot: SlotId,
    bytes: u64,
    event: Event,
}

/// A slot that stays out of the way although its weight was given back or freed, or its pass has
/// ended: somebody holds it, or work that may use it could not be marked.
#[derive(Clone, Copy, Debug)]
struct Held {
    address: u64,
    slot: SlotId,
    bytes: u64,
    /// How often it is lent at the moment.
    lent: u32,
    /// Whether it was given back as kept, and not released since.
    is_kept: bool,
    /// Whether the weight was freed: nothing is written back.
    is_gone: bool,
    /// Whether work may use it that could not be marked. It stays until the device was waited for.
    is_unmarked: bool,
}

impl Held {
    /// Whether the slot has to stay out of the way.
    fn stays(&self) -> bool {
        self.lent > 0 || self.is_kept || self.is_unmarked
    }
}

/// The slots of a device.
#[derive(Debug)]
pub(super) struct Slots {
    driver: Arc<dyn Driver>,
    device: usize,
    ring: Ring,
    /// The first address of the ring.
    base: u64,
    /// By the addresses of the weights.
    filled: HashMap<u64, Filled>,
    /// The weights whose slots are lent, by the addresses of these.
    lent: HashMap<u64, u64>,
    held: Vec<Held>,
    left: VecDeque<Left>,
    events: Events,
    /// Whether copies that nobody has waited for may be under way. They read weights that are
    /// written next, perhaps.
    is_unsettled: bool,
    pub(super) counts: Counts,
}

impl Slots {
    pub(super) fn new(driver: Arc<dyn Driver>, device: usize) -> Slots {
        Slots {
            events: Events::new(driver.clone(), device),
            driver,
            device,
            ring: Ring::default(),
            base: 0,
            filled: HashMap::new(),
            lent: HashMap::new(),
            held: Vec::new(),
            left: VecDeque::new(),
            is_unsettled: false,
            counts: Counts::default(),
        }
    }

    /// Whether there is a ring.
    pub(super) fn has_ring(&self) -> bool {
        self.ring.length() > 0
    }

    /// Slots that stay out of the way although their weights were given back.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Uses a ring at an address, or none if it has no bytes. No slot is in use.
    pub(super) fn use_ring(&mut self, base: u64, bytes: u64) {
        self.base = base;
        self.ring = Ring::new(bytes);
        self.forget_left();
    }

    fn forget_left(&mut self) {
        self.left.drain(..).for_each(|left| self.events.recycle(left.event));
    }

    /// Begins again at the start of the ring, if no slot is in use except held ones.
    pub(super) fn start_over(&mut self) {
        self.ring.start_over();
    }

    /// Makes the copies wait for all work that is in a stream now.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn order(&mut self, before: Stream, copies: Stream) -> driver::Result<()> {
        let event = self.events.record(before)?;
        self.events.recycle(event);
        self.driver.wait(self.device, copies, event)
    }

    /// Whether a slot holds the weight at an address.
    pub(super) fn has(&self, address: u64) -> bool {
        self.filled.contains_key(&address)
    }

    /// Copies a weight into a slot, `shared` of whose bytes cross the link. Returns whether the
    /// ring had room.
    ///
    /// # Errors
    /// The driver's; the slot is given back then. The copy may be under way all the same.
    pub(super) fn fill(&mut self, address: u64, bytes: u64, shared: u64, copies: Stream) -> driver::Result<bool> {
        let Some(slot) = self.ring.admit(slot_bytes(bytes)) else { return Ok(false) };
        match self.copy_into(slot, address, bytes, copies) {
            Ok(copied) => {
                self.filled.insert(address, Filled { slot, bytes, copied, lent: 0 });
                self.counts.copied_bytes += shared;
                Ok(true)
            }
            Err(why) => {
                self.is_unsettled = true;
                self.leave(slot, bytes, copies, Returned::Read);
                Err(why)
            }
        }
    }

    /// Makes a stream wait for the copies, if some may be under way that nobody has waited for.
    pub(super) fn settle(&mut self, copies: Option<Stream>, stream: Stream) {
        let Some(copies) = copies.filter(|_| self.is_unsettled) else { return };
        match self.order(copies, stream).or_else(|_| self.driver.synchronize(self.device)) {
            Ok(()) => self.is_unsettled = false,
            Err(why) => log::debug!("device {}: copies are not waited for: {why}", self.device),
        }
    }

    fn copy_into(&mut self, slot: SlotId, address: u64, bytes: u64, copies: Stream) -> driver::Result<Event> {
        // What lay here, one time around the ring before, must have been used.
        let end = slot.0 + slot_bytes(bytes);
        let is_over = |left: &Left| left.slot.0 + self.ring.length() < end;
        for left in self.left.iter().take_while(|left| is_over(left)) {
            self.driver.wait(self.device, copies, left.event)?;
        }
        let is_past = |left: &Left| left.slot.0 + left.bytes + self.ring.length() <= end;
        while let Some(left) = self.left.front().copied().filter(is_past) {
            self.left.pop_front();
            self.events.recycle(left.event);
        }
        self.driver.copy_in_stream(self.device, self.address(slot), address, bytes, copies)?;
        self.events.record(copies)
    }

    /// The address of a slot.
    fn address(&self, slot: SlotId) -> u64 {
        self.base + self.ring.offset(slot)
    }

    /// Makes a stream wait for the copy of the weight at an address. Returns its slot's address;
    /// `None` where the weight is to be read in place.
    pub(super) fn enter(&mut self, address: u64, bytes: u64, stream: Stream) -> Option<u64> {
        let filled = self.filled.get_mut(&address).filter(|filled| filled.bytes == bytes)?;
        if let Err(why) = self.driver.wait(self.device, stream, filled.copied) {
            log::debug!("device {}: a weight is read in place: {why}", self.device);
            self.is_unsettled = true;
            return None;
        }
        filled.lent += 1;
        self.counts.lent += 1;
        self.counts.lent_bytes += bytes;
        let slot = filled.slot;
        let lent = self.address(slot);
        self.lent.insert(lent, address);
        Some(lent)
    }

    /// What was lent, by the address where it was read, was used on a stream.
    ///
    /// # Errors
    /// The driver's, where what was written cannot be copied back; the slot is kept then.
    pub(super) fn give_back(&mut self, lent: u64, stream: Stream, how: Returned) -> driver::Result<()> {
        if let Some(address) = self.lent.get(&lent).copied() {
            return self.give_back_filled(address, stream, how);
        }
        if let Some(index) = self.held.iter().position(|held| self.address(held.slot) == lent) {
            return self.give_back_held(index, stream, how);
        }
        if how == Returned::Released {
            self.release(lent, stream);
        }
        Ok(())
    }

    fn give_back_filled(&mut self, address: u64, stream: Stream, how: Returned) -> driver::Result<()> {
        let Some(mut filled) = self.filled.get(&address).copied() else { return Ok(()) };
        let written = match how {
            Returned::Written => self.write_back(address, filled.slot, filled.bytes, stream),
            Returned::Read | Returned::Kept | Returned::Released => Ok(()),
        };
        filled.lent -= 1;
        if how == Returned::Kept || written.is_err() {
            self.hold(address, filled).is_kept = true;
        } else if filled.lent > 0 {
            self.filled.insert(address, filled);
            if !self.mark(filled.slot, filled.bytes, stream, how) {
                self.hold(address, filled).is_unmarked = true;
            }
        } else {
            self.empty_slot(address, filled);
            self.leave(filled.slot, filled.bytes, stream, how);
        }
        written
    }

    fn give_back_held(&mut self, index: usize, stream: Stream, mut how: Returned) -> driver::Result<()> {
        let mut held = self.held[index];
        let mut written = Ok(());
        if how == Returned::Released && held.is_kept {
            held.is_kept = false;
            // Whoever releases what was kept knows the stream.
            how = Returned::Read;
        } else if held.lent > 0 {
            held.lent -= 1;
            if how == Returned::Written && !held.is_gone {
                written = self.write_back(held.address, held.slot, held.bytes, stream);
            }
            held.is_kept |= how == Returned::Kept || written.is_err();
        }
        held.is_unmarked |= !self.mark(held.slot, held.bytes, stream, how);
        self.held[index] = held;
        self.drop_held();
        written
    }

    /// Gives the held slots that nobody holds any more back to the ring.
    fn drop_held(&mut self) {
        let Slots { held, ring, .. } = self;
        held.retain(|held| {
            if !held.stays() {
                ring.give_back(held.slot);
            }
            held.stays()
        });
    }

    /// All work of the device is done: what stayed out of the way for that alone is free again.
    pub(super) fn work_is_done(&mut self) {
        self.held.iter_mut().for_each(|held| held.is_unmarked = false);
        self.drop_held();
    }

    /// Nobody uses the weight at an address any more, wherever it was lent, except for slots that
    /// were given back as kept.
    fn release(&mut self, address: u64, stream: Stream) {
        while self.filled.get(&address).is_some_and(|filled| filled.lent > 0) {
            let _ = self.give_back_filled(address, stream, Returned::Released);
        }
        for index in 0..self.held.len() {
            let mut held = self.held[index];
            if held.address == address && held.lent > 0 {
                held.lent = 0;
                held.is_unmarked |= !self.mark(held.slot, held.bytes, stream, Returned::Released);
                self.held[index] = held;
            }
        }
        self.drop_held();
    }

    fn write_back(&mut self, to: u64, slot: SlotId, bytes: u64, stream: Stream) -> driver::Result<()> {
        let from = self.address(slot);
        self.driver.copy_in_stream(self.device, to, from, bytes, stream).or_else(|_| {
            self.driver.synchronize(self.device)?;
            self.driver.copy(self.device, to, from, bytes)
        })?;
        self.counts.written_back += 1;
        Ok(())
    }

    /// Keeps the slot of a weight out of the way, for as long as it is lent at least.
    fn hold(&mut self, address: u64, filled: Filled) -> &mut Held {
        let Filled { slot, bytes, lent, .. } = filled;
        self.empty_slot(address, filled);
        self.ring.keep(slot);
        let held = Held { address, slot, bytes, lent, is_kept: false, is_gone: false, is_unmarked: false };
        self.held.push_mut(held)
    }

    /// Forgets that a slot holds a weight.
    fn empty_slot(&mut self, address: u64, filled: Filled) {
        self.filled.remove(&address);
        self.lent.remove(&self.address(filled.slot));
        self.events.recycle(filled.copied);
    }

    /// Gives a slot back to the ring, behind the work that may use it. Where that work cannot be
    /// marked, the slot stays out of the way until the device was waited for.
    fn leave(&mut self, slot: SlotId, bytes: u64, stream: Stream, how: Returned) {
        if self.mark(slot, bytes, stream, how) {
            self.ring.give_back(slot);
        } else {
            self.ring.keep(slot);
            let held = Held { address: 0, slot, bytes, lent: 0, is_kept: false, is_gone: true, is_unmarked: true };
            self.held.push(held);
        }
    }

    /// Notes that what overwrites a slot must wait for the work that is in a stream now; for all
    /// work if the slot is released for somebody else. Returns whether that work could be marked.
    /// If not, the slot has to stay out of the way.
    fn mark(&mut self, slot: SlotId, bytes: u64, stream: Stream, how: Returned) -> bool {
        let marked = match how {
            Returned::Released => self.record_all(stream),
            Returned::Read | Returned::Written | Returned::Kept => self.events.record(stream),
        };
        match marked {
            Ok(event) => {
                let index = self.left.partition_point(|other| other.slot <= slot);
                self.left.insert(index, Left { slot, bytes: slot_bytes(bytes), event });
                true
            }
            Err(why) => {
                log::debug!("device {}: a slot stays out of the way: {why}", self.device);
                false
            }
        }
    }

    /// An event behind all work of the device. A driver without such events is waited for.
    fn record_all(&mut self, stream: Stream) -> driver::Result<Event> {
        let event = self.events.take()?;
        let recorded = self.driver.record_all(self.device, event).or_else(|_| {
            self.driver.synchronize(self.device)?;
            self.driver.record(self.device, event, stream)
        });
        recorded.map(|()| event).inspect_err(|_| self.events.recycle(event))
    }

    /// Drops the copy of a weight that is not lent. Copies come one after the other, so the next
    /// one into its slot need not wait. Whoever writes the weight must: see
    /// [`settle`](Slots::settle).
    pub(super) fn drop_unused(&mut self, address: u64) {
        if let Some(filled) = self.filled.get(&address).copied().filter(|filled| filled.lent == 0) {
            self.empty_slot(address, filled);
            self.ring.give_back(filled.slot);
            self.is_unsettled = true;
            self.counts.dropped += 1;
        }
    }

    /// Empties all slots: those that are lent are held from now on.
    pub(super) fn empty(&mut self) {
        self.empty_those(|_| true);
    }

    /// Empties the slots of weights that were freed: those that are lent are held from now on.
    pub(super) fn forget(&mut self, is_gone: impl Fn(u64) -> bool) {
        self.empty_those(&is_gone);
        self.held.iter_mut().filter(|held| is_gone(held.address)).for_each(|held| held.is_gone = true);
    }

    fn empty_those(&mut self, is_one: impl Fn(u64) -> bool) {
        let addresses: Vec<u64> = self.filled.keys().copied().filter(|address| is_one(*address)).collect();
        for address in addresses {
            match self.filled.get(&address).copied() {
                Some(filled) if filled.lent > 0 => {
                    self.hold(address, filled);
                }
                _ => self.drop_unused(address),
            }
        }
    }

    /// Tests that the ring has a slot for each weight that is filled or held.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        let filled = self.filled.values().map(|filled| filled.bytes);
        let known: u64 = filled.chain(self.held.iter().map(|held| held.bytes)).map(slot_bytes).sum();
        if known != self.ring.used() || known > self.ring.length() {
            let (used, length) = (self.ring.used(), self.ring.length());
            return Err(format!("{known} bytes are in slots, {used} of {length} are used in the ring"));
        }
        Ok(())
    }

    /// Returns all events to the driver. Errors are only logged.
    pub(super) fn close(&mut self) {
        self.forget_left();
        self.lent.clear();
        self.filled.drain().for_each(|(_, filled)| self.events.recycle(filled.copied));
        self.events.close();
    }
}
