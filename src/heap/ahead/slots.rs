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

/// A slot that somebody holds although its weight was given back, or was freed.
#[derive(Clone, Copy, Debug)]
struct Held {
    address: u64,
    slot: SlotId,
    bytes: u64,
    /// Whether it was freed while it was lent: it is given back as if it were still there.
    is_awaited: bool,
}

/// The slots of a device.
#[derive(Debug)]
pub(super) struct Slots {
    driver: Arc<dyn Driver>,
    device: usize,
    ring: Ring,
    /// The first address of the ring.
    base: u64,
    filled: HashMap<u64, Filled>,
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

    /// Slots that somebody holds although their weights were given back.
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

    /// Whether a slot holds the weight at an address, or somebody holds a slot of it.
    pub(super) fn has(&self, address: u64) -> bool {
        self.filled.contains_key(&address) || self.held.iter().any(|held| held.address == address)
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
                self.leave(slot, bytes, copies);
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
        Some(self.address(slot))
    }

    /// A weight was used on a stream.
    ///
    /// # Errors
    /// The driver's, where what was written cannot be copied back; the slot holds it then.
    pub(super) fn give_back(&mut self, address: u64, stream: Stream, how: Returned) -> driver::Result<()> {
        if how == Returned::Released {
            self.release(address, stream);
            return Ok(());
        }
        let Some(mut filled) = self.filled.get(&address).copied().filter(|filled| filled.lent > 0) else {
            if self.held.iter().any(|held| held.address == address && held.is_awaited) {
                self.release(address, stream);
            }
            return Ok(());
        };
        if how == Returned::Written {
            if let Err(why) = self.write_back(address, filled, stream) {
                self.hold(address, false);
                return Err(why);
            }
            self.counts.written_back += 1;
        }
        if how == Returned::Kept {
            self.hold(address, false);
            return Ok(());
        }
        filled.lent -= 1;
        if filled.lent > 0 {
            // The last one that gives it back may be on another stream.
            self.mark(filled.slot, filled.bytes, stream);
            self.filled.insert(address, filled);
            return Ok(());
        }
        self.filled.remove(&address);
        self.events.recycle(filled.copied);
        self.leave(filled.slot, filled.bytes, stream);
        Ok(())
    }

    fn write_back(&self, to: u64, filled: Filled, stream: Stream) -> driver::Result<()> {
        let from = self.address(filled.slot);
        self.driver.copy_in_stream(self.device, to, from, filled.bytes, stream).or_else(|_| {
            self.driver.synchronize(self.device)?;
            self.driver.copy(self.device, to, from, filled.bytes)
        })
    }

    /// Keeps the slot of a weight out of the way.
    fn hold(&mut self, address: u64, is_awaited: bool) {
        if let Some(filled) = self.filled.remove(&address) {
            self.ring.keep(filled.slot);
            self.held.push(Held { address, slot: filled.slot, bytes: filled.bytes, is_awaited });
            self.events.recycle(filled.copied);
        }
    }

    /// Gives back the slots of a weight that were held.
    fn release(&mut self, address: u64, stream: Stream) {
        while let Some(index) = self.held.iter().position(|held| held.address == address) {
            let held = self.held.swap_remove(index);
            self.leave(held.slot, held.bytes, stream);
        }
    }

    /// Gives a slot back to the ring, behind the work that is in a stream now. Where that work
    /// cannot be marked, the slot stays out of the way.
    fn leave(&mut self, slot: SlotId, bytes: u64, stream: Stream) {
        if self.mark(slot, bytes, stream) {
            self.ring.give_back(slot);
        } else {
            self.ring.keep(slot);
            self.held.push(Held { address: 0, slot, bytes, is_awaited: false });
        }
    }

    /// Notes that what overwrites a slot must wait for the work that is in a stream now. Returns
    /// whether that work could be marked.
    fn mark(&mut self, slot: SlotId, bytes: u64, stream: Stream) -> bool {
        match self.events.record(stream) {
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

    /// Drops the copy of a weight that is not lent. Copies come one after the other, so the next
    /// one into its slot need not wait. Whoever writes the weight must: see
    /// [`settle`](Slots::settle).
    pub(super) fn drop_unused(&mut self, address: u64) {
        if let Some(filled) = self.filled.get(&address).copied().filter(|filled| filled.lent == 0) {
            self.filled.remove(&address);
            self.ring.give_back(filled.slot);
            self.events.recycle(filled.copied);
            self.is_unsettled = true;
            self.counts.dropped += 1;
        }
    }

    /// Empties the slots of some weights: those that are lent are held from now on.
    pub(super) fn empty(&mut self, is_one: impl Fn(u64) -> bool, is_awaited: bool) {
        let addresses: Vec<u64> = self.filled.keys().copied().filter(|address| is_one(*address)).collect();
        for address in addresses {
            match self.filled.get(&address) {
                Some(filled) if filled.lent > 0 => self.hold(address, is_awaited),
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
        self.filled.drain().for_each(|(_, filled)| self.events.recycle(filled.copied));
        self.events.close();
    }
}
