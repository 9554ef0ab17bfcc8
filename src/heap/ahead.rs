//! Copies ahead of use: the stream that makes them, the slots that hold them, and what each kind of
//! work has shown of its order.
//!
//! ```text
//!   begin ──▶ copies wait for the work before ──▶ the ring is filled in order of use
//!   lend ──▶ the work waits for the slot's copy ──▶ where to read
//!   give back ──▶ an event behind the work ──▶ the next copies wait for what they overwrite
//!   end ──▶ what was not used is dropped, and the order is learned
//! ```
//!
//! No copy crosses a pass, so whatever is written between two passes is seen. The host never waits:
//! all order is made by events. Whatever fails leaves the weight to be read where it lies.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::core::ahead::{Called, LEAST, MOST, Order, Passed, Ring, SlotId};
use crate::driver::{self, Driver, Event, Stream};

/// Kinds of work whose order is remembered. Others are left in place.
const MOST_KINDS: usize = 64;

/// How many passes of a kind are timed at most. A pass cannot be timed where the card has not
/// reached its end when the next one begins.
const MOST_TIMED: u32 = 3;

/// The link's rate until it is measured, in bytes per second: PCIe 3.0 with 16 lanes.
const LINK: f64 = 13e9;

/// How much slower than in place a pass may be before nothing is copied ahead for its kind.
const NOT_SLOWER: f64 = 1.02;

/// Slots begin at multiples of this, as blocks do.
const ALIGNMENT: u64 = 512;

/// The bytes that a weight takes in the ring.
pub(super) fn slot_bytes(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

/// Whether weights of the shared tier are copied ahead of their use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyAhead {
    /// Where that is expected to pay, through a ring as large as it should be.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always, through a ring of so many bytes.
    Ring(u64),
}

/// How a weight that was lent is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Returned {
    /// It was read, or not used at all.
    Read = 0,
    /// It was written: the slot is copied back to the weight.
    Written = 1,
    /// Somebody still holds the slot. It is not reused before it is released.
    Kept = 2,
    /// Nobody holds the slot any more that was kept.
    Released = 3,
}

/// What a pass asks of its caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// A number that changes whenever other weights than before should be lent; 0 where none.
    pub placement: u64,
    /// Whether every weight should be lent, since the order is being learned. Otherwise only those
    /// of which something lies in the shared tier.
    pub all: bool,
}

/// What was counted. Bytes, unless said otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// How often a weight was lent from a slot.
    pub(super) lent: u64,
    pub(super) lent_bytes: u64,
    /// Copied from the shared tier.
    pub(super) copied_bytes: u64,
    /// How often a weight in the shared tier was read in place.
    pub(super) missed: u64,
    /// How often a copy was dropped unused.
    pub(super) dropped: u64,
    pub(super) written_back: u64,
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

/// One pass of work.
#[derive(Debug)]
struct Pass {
    kind: String,
    stream: Stream,
    depth: u32,
    /// The place after the last weight that was called.
    expected: usize,
    /// The place of the next weight to copy.
    next: usize,
    /// Whether copies are made in this pass.
    copies: bool,
    all: bool,
    passed: Vec<Passed>,
    timing: Option<Timing>,
}

/// The timers of a pass.
#[derive(Debug, Default)]
struct Timing {
    begin: Option<Event>,
    end: Option<Event>,
    /// Around the first copies, and their bytes over the link.
    first_copies: Option<(Event, Event, u64)>,
    /// For each weight that was called: its address, when its work could begin except for the copy,
    /// and when it began.
    turns: Vec<(u64, Event, Event)>,
}

/// What is known of one kind of work.
#[derive(Debug, Default)]
pub(super) struct Kind {
    pub(super) order: Order,
    /// Whether the next pass should report every weight.
    wants_all: bool,
    /// The timers of its last pass, until the card has reached them.
    timing: Option<Timing>,
    /// How many passes were timed.
    timed: u32,
    /// Seconds of computation before the first weight.
    pub(super) head: f64,
    /// Seconds of the last whole pass that read everything in place.
    pub(super) in_place: Option<f64>,
    /// Why nothing is copied ahead for it, human-readable.
    pub(super) refused: Option<String>,
}

/// Copying ahead on one device.
#[derive(Debug)]
pub(super) struct Ahead {
    driver: Arc<dyn Driver>,
    device: usize,
    mode: CopyAhead,
    /// The stream of the copies, once there was one.
    stream: Option<Stream>,
    /// Why there are no copies on this device, human-readable.
    unavailable: Option<String>,
    kinds: HashMap<String, Kind>,
    ring: Ring,
    /// The first address of the ring.
    base: u64,
    filled: HashMap<u64, Filled>,
    held: Vec<Held>,
    left: VecDeque<Left>,
    events: Vec<Event>,
    timers: Vec<Event>,
    pass: Option<Pass>,
    /// Counts what changes which weights should be lent.
    placement: u64,
    /// The link's rate as it was measured last, in bytes per second.
    link: Option<f64>,
    pub(super) counts: Counts,
}

impl Ahead {
    pub(super) fn new(driver: Arc<dyn Driver>, device: usize, mode: CopyAhead) -> Ahead {
        Ahead {
            driver,
            device,
            mode,
            stream: None,
            unavailable: None,
            kinds: HashMap::new(),
            ring: Ring::default(),
            base: 0,
            filled: HashMap::new(),
            held: Vec::new(),
            left: VecDeque::new(),
            events: Vec::new(),
            timers: Vec::new(),
            pass: None,
            placement: 1,
            link: None,
            counts: Counts::default(),
        }
    }

    /// Whether copies are made on this device if they pay.
    pub(super) fn mode(&self) -> CopyAhead {
        if self.unavailable.is_some() { CopyAhead::Off } else { self.mode }
    }

    /// The stream of the copies, if there is one.
    pub(super) fn stream(&self) -> Option<Stream> {
        self.stream
    }

    /// What is known of a kind of work.
    pub(super) fn kind(&self, kind: &str) -> Option<&Kind> {
        self.kinds.get(kind)
    }

    /// The link's rate, in bytes per second.
    pub(super) fn link(&self) -> f64 {
        self.link.unwrap_or(LINK)
    }

    /// Slots that somebody holds although their weights were given back.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether a pass is under way, or a slot is held.
    pub(super) fn is_in_use(&self) -> bool {
        self.pass.is_some() || !self.held.is_empty()
    }

    /// Notes that other weights than before may lie in the shared tier.
    pub(super) fn placed_anew(&mut self) {
        self.placement += 1;
    }

    /// Uses a ring at an address. No slot is in use.
    pub(super) fn use_ring(&mut self, base: u64, bytes: u64) {
        self.base = base;
        self.ring = Ring::new(bytes);
        self.forget_left();
        self.placed_anew();
    }

    /// Uses no ring any more. No slot is in use, and the device has done all work.
    pub(super) fn use_none(&mut self) {
        if self.ring.length() > 0 {
            self.ring = Ring::default();
            self.forget_left();
            self.placed_anew();
        }
    }

    fn forget_left(&mut self) {
        self.events.extend(self.left.drain(..).map(|left| left.event));
    }

    /// Begins a pass, or one within it.
    pub(super) fn begin(&mut self, kind: &str, stream: Stream, some_shared: bool) -> Asked {
        if let Some(pass) = &mut self.pass {
            pass.depth += 1;
            return Asked::default();
        }
        if self.mode() == CopyAhead::Off || !some_shared {
            return Asked::default();
        }
        if !self.kinds.contains_key(kind) && self.kinds.len() >= MOST_KINDS {
            return Asked::default();
        }
        if !matches!(self.driver.is_capturing(self.device, stream), Ok(false)) {
            return Asked::default();
        }
        self.read_timing(kind);
        let known = self.kinds.entry(kind.to_owned()).or_default();
        let has_ring = self.ring.length() > 0 && known.refused.is_none() && !known.order.uses().is_empty();
        let all = known.order.passes() == 0 || known.wants_all || (has_ring && known.timing_is_missing());
        if !all && !has_ring {
            return Asked::default();
        }
        let timing = all.then(Timing::default);
        self.ring.start_over();
        let copies = has_ring && self.begin_copies(stream);
        let kind = kind.to_owned();
        let pass = Pass { kind, stream, depth: 1, expected: 0, next: 0, copies, all, passed: Vec::new(), timing };
        self.pass = Some(pass);
        self.begin_timing();
        Asked { placement: 2 * self.placement + u64::from(all), all }
    }

    /// Makes the copies of a pass wait for all work before it.
    fn begin_copies(&mut self, stream: Stream) -> bool {
        let begun = self.copy_stream().and_then(|copies| {
            let event = self.event()?;
            self.events.push(event);
            self.driver.record(self.device, event, stream)?;
            self.driver.wait(self.device, copies, event)
        });
        if let Err(why) = &begun {
            log::debug!("device {}: nothing is copied ahead in this pass: {why}", self.device);
        }
        begun.is_ok()
    }

    fn copy_stream(&mut self) -> driver::Result<Stream> {
        if let Some(stream) = self.stream {
            return Ok(stream);
        }
        match self.driver.create_stream(self.device) {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(stream)
            }
            Err(why) => {
                if why.code == driver::NOT_SUPPORTED {
                    self.unavailable = Some(why.to_string());
                }
                Err(why)
            }
        }
    }

    /// The weight that should be copied next, if one should.
    pub(super) fn wanted(&self) -> Option<(u64, u64)> {
        let pass = self.pass.as_ref().filter(|pass| pass.copies)?;
        let known = self.kinds.get(&pass.kind)?.order.uses().get(pass.next)?;
        Some((known.address, known.bytes))
    }

    /// Passes over the weight that should be copied next.
    pub(super) fn skip(&mut self) {
        if let Some(pass) = &mut self.pass {
            pass.next += 1;
        }
    }

    /// Whether the weight that should be copied next is worth it: it is used in most passes, and
    /// not in the ring.
    pub(super) fn is_worth_it(&self) -> bool {
        let Some(pass) = &self.pass else { return false };
        let known = self.kinds.get(&pass.kind).and_then(|kind| kind.order.uses().get(pass.next));
        known.is_some_and(|known| {
            known.is_reliable()
                && (LEAST..=MOST).contains(&known.bytes)
                && !self.filled.contains_key(&known.address)
                && !self.held.iter().any(|held| held.address == known.address)
        })
    }

    /// Copies the weight that should be copied next, `shared` of whose bytes cross the link, and
    /// passes over it. Returns whether the ring had room.
    pub(super) fn copy_next(&mut self, shared: u64) -> bool {
        let (Some((address, bytes)), Some(copies)) = (self.wanted(), self.stream) else { return false };
        let Some(slot) = self.ring.admit(slot_bytes(bytes)) else { return false };
        match self.copy_into(slot, address, bytes, copies) {
            Ok(copied) => {
                self.filled.insert(address, Filled { slot, bytes, copied, lent: 0 });
                self.counts.copied_bytes += shared;
                self.skip();
                true
            }
            Err(why) => {
                log::debug!("device {}: nothing more is copied ahead in this pass: {why}", self.device);
                self.leave(slot, bytes, copies);
                if let Some(pass) = &mut self.pass {
                    pass.copies = false;
                }
                false
            }
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
        while self.left.front().is_some_and(is_past) {
            self.events.extend(self.left.pop_front().map(|left| left.event));
        }
        let event = self.event()?;
        let to = self.base + self.ring.offset(slot);
        let copied = self
            .driver
            .copy_in_stream(self.device, to, address, bytes, copies)
            .and_then(|()| self.driver.record(self.device, event, copies));
        if copied.is_err() {
            self.events.push(event);
        }
        copied.map(|()| event)
    }

    /// The weight at an address is about to be used on a stream. Returns where to read it, and
    /// whether it was copied.
    pub(super) fn lend(&mut self, address: u64, bytes: u64, stream: Stream) -> Option<u64> {
        let mut reach = None;
        if self.pass.as_ref().is_some_and(|pass| pass.stream == stream) {
            reach = self.begin_turn(stream);
            self.note_call(address, bytes);
        }
        let lent = self.enter_slot(address, bytes, stream);
        if let Some(reach) = reach {
            self.note_turn(address, reach, stream);
        }
        lent
    }

    fn enter_slot(&mut self, address: u64, bytes: u64, stream: Stream) -> Option<u64> {
        let filled = self.filled.get_mut(&address).filter(|filled| filled.bytes == bytes)?;
        if let Err(why) = self.driver.wait(self.device, stream, filled.copied) {
            log::debug!("device {}: a weight is read in place: {why}", self.device);
            return None;
        }
        filled.lent += 1;
        self.counts.lent += 1;
        self.counts.lent_bytes += bytes;
        Some(self.base + self.ring.offset(filled.slot))
    }

    /// Moves on in the order to a weight that is called. Copies of what lies between are dropped.
    fn note_call(&mut self, address: u64, bytes: u64) {
        let Some(pass) = &mut self.pass else { return };
        if pass.all {
            pass.passed.push(Passed { address, bytes });
        }
        let Some(kind) = self.kinds.get_mut(&pass.kind) else { return };
        match kind.order.called(address, bytes, pass.expected) {
            Called::At(place) => {
                let skipped = pass.expected..place;
                kind.wants_all |= kind.order.uses()[place].is_new();
                pass.expected = place + 1;
                pass.next = pass.next.max(place + 1);
                if !skipped.is_empty() {
                    let passed: Vec<u64> = kind.order.uses()[skipped].iter().map(|known| known.address).collect();
                    passed.into_iter().for_each(|address| self.drop_unused(address));
                }
            }
            Called::Unexpected => kind.wants_all |= kind.order.place_of(address).is_none(),
        }
    }

    /// Drops the copy of a weight that is not lent. Copies come one after the other, so nothing has
    /// to be waited for.
    fn drop_unused(&mut self, address: u64) {
        if let Some(filled) = self.filled.get(&address).copied().filter(|filled| filled.lent == 0) {
            self.filled.remove(&address);
            self.ring.give_back(filled.slot);
            self.events.push(filled.copied);
            self.counts.dropped += 1;
        }
    }

    /// A weight was used on a stream. Returns whether it was lent from a slot.
    ///
    /// # Errors
    /// The driver's, where what was written cannot be copied back; the slot holds it then.
    pub(super) fn give_back(&mut self, address: u64, stream: Stream, how: Returned) -> driver::Result<bool> {
        if how == Returned::Released {
            self.release_held(address, stream);
            return Ok(false);
        }
        let Some(mut filled) = self.filled.get(&address).copied().filter(|filled| filled.lent > 0) else {
            if self.held.iter().any(|held| held.address == address && held.is_awaited) {
                self.release_held(address, stream);
            }
            return Ok(false);
        };
        if how == Returned::Written {
            let from = self.base + self.ring.offset(filled.slot);
            if let Err(why) = self.write_back(address, from, filled.bytes, stream) {
                self.hold(address, false);
                return Err(why);
            }
            self.counts.written_back += 1;
        }
        if how == Returned::Kept {
            self.hold(address, false);
            return Ok(true);
        }
        filled.lent -= 1;
        if filled.lent > 0 {
            // The last one that gives it back may be on another stream.
            self.leave_event(filled, stream);
            self.filled.insert(address, filled);
            return Ok(true);
        }
        self.filled.remove(&address);
        self.events.push(filled.copied);
        self.leave(filled.slot, filled.bytes, stream);
        Ok(true)
    }

    fn write_back(&self, to: u64, from: u64, bytes: u64, stream: Stream) -> driver::Result<()> {
        self.driver.copy_in_stream(self.device, to, from, bytes, stream).or_else(|_| {
            self.driver.synchronize(self.device)?;
            self.driver.copy(self.device, to, from, bytes)
        })
    }

    /// Keeps the slot of a weight out of the way.
    fn hold(&mut self, address: u64, is_awaited: bool) {
        if let Some(filled) = self.filled.remove(&address) {
            self.ring.keep(filled.slot);
            self.held.push(Held { address, slot: filled.slot, bytes: filled.bytes, is_awaited });
            self.events.push(filled.copied);
        }
    }

    /// Gives back a slot that was held.
    fn release_held(&mut self, address: u64, stream: Stream) {
        while let Some(index) = self.held.iter().position(|held| held.address == address) {
            let held = self.held.swap_remove(index);
            self.leave(held.slot, held.bytes, stream);
        }
    }

    /// Gives a slot back to the ring, behind the work that is in a stream now. Where that work
    /// cannot be marked, the slot stays out of the way.
    fn leave(&mut self, slot: SlotId, bytes: u64, stream: Stream) {
        let left = Filled { slot, bytes, copied: Event(0), lent: 0 };
        if self.leave_event(left, stream) {
            self.ring.give_back(slot);
        } else {
            self.ring.keep(slot);
            self.held.push(Held { address: 0, slot, bytes, is_awaited: false });
        }
    }

    fn leave_event(&mut self, filled: Filled, stream: Stream) -> bool {
        let Ok(event) = self.event() else { return false };
        if let Err(why) = self.driver.record(self.device, event, stream) {
            log::debug!("device {}: a slot stays out of the way: {why}", self.device);
            self.events.push(event);
            return false;
        }
        let left = Left { slot: filled.slot, bytes: slot_bytes(filled.bytes), event };
        let index = self.left.partition_point(|other| other.slot <= left.slot);
        self.left.insert(index, left);
        true
    }

    /// Ends a pass, or one within it. `whole` says whether it came to its end. Returns whether the
    /// outermost one ended.
    pub(super) fn end(&mut self, whole: bool) -> bool {
        let Some(pass) = &mut self.pass else { return false };
        pass.depth -= 1;
        if pass.depth > 0 {
            return false;
        }
        self.end_timing();
        let Some(pass) = self.pass.take() else { return false };
        let addresses: Vec<u64> = self.filled.keys().copied().collect();
        for address in addresses {
            match self.filled.get(&address) {
                Some(filled) if filled.lent > 0 => self.hold(address, false),
                _ => self.drop_unused(address),
            }
        }
        let Some(kind) = self.kinds.get_mut(&pass.kind) else { return true };
        if whole && pass.all {
            let learned = kind.order.passes();
            kind.order.learn(&pass.passed);
            kind.wants_all = false;
            if learned == 0 {
                self.placement += 1;
            }
        }
        if let Some(timing) = pass.timing {
            if whole {
                kind.timing = Some(timing);
                kind.timed += u32::from(pass.copies);
            } else {
                self.timers.extend(timing.into_events());
            }
        }
        true
    }

    /// The block from `start` to `end` is freed: nothing of it is in the ring any more, and no
    /// order has it.
    pub(super) fn forget(&mut self, start: u64, end: u64) {
        let gone = |address: u64| (start..end).contains(&address);
        let addresses: Vec<u64> = self.filled.keys().copied().filter(|address| gone(*address)).collect();
        for address in addresses {
            match self.filled.get(&address) {
                Some(filled) if filled.lent > 0 => self.hold(address, true),
                _ => self.drop_unused(address),
            }
        }
        for kind in self.kinds.values_mut() {
            if kind.order.forget(gone) {
                kind.wants_all = true;
            }
        }
    }

    fn event(&mut self) -> driver::Result<Event> {
        match self.events.pop() {
            Some(event) => Ok(event),
            None => self.driver.create_event(self.device),
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

    /// Returns everything to the driver. Errors are only logged.
    pub(super) fn close(&mut self) {
        self.forget_left();
        self.events.extend(self.filled.drain().map(|(_, filled)| filled.copied));
        self.timers.extend(self.pass.take().and_then(|pass| pass.timing).into_iter().flat_map(Timing::into_events));
        for kind in self.kinds.values_mut() {
            self.timers.extend(kind.timing.take().into_iter().flat_map(Timing::into_events));
        }
        for event in self.events.drain(..).chain(self.timers.drain(..)) {
            if let Err(why) = driver::insist(|| self.driver.destroy_event(self.device, event)) {
                log::debug!("an event could not be destroyed: {why}");
            }
        }
        if let Some(stream) = self.stream.take()
            && let Err(why) = driver::insist(|| self.driver.destroy_stream(self.device, stream))
        {
            log::debug!("the stream of the copies could not be destroyed: {why}");
        }
    }
}

impl Kind {
    /// Whether the next pass should be timed: its weights are copied, and how long the work between
    /// them takes is unknown.
    fn timing_is_missing(&self) -> bool {
        self.timed < MOST_TIMED && !self.order.is_timed()
    }
}

impl Timing {
    fn into_events(self) -> impl Iterator<Item = Event> {
        let turns = self.turns.into_iter().flat_map(|(_, reach, go)| [reach, go]);
        let copies = self.first_copies.into_iter().flat_map(|(first, last, _)| [first, last]);
        self.begin.into_iter().chain(self.end).chain(copies).chain(turns)
    }
}

/// Timing: when each weight's work could begin, and when it began. Where a timer cannot be had, the
/// pass is not timed.
impl Ahead {
    fn timer(&mut self, stream: Stream) -> Option<Event> {
        let timer = self.timers.pop().map_or_else(|| self.driver.create_timer(self.device), Ok).ok()?;
        if self.driver.record(self.device, timer, stream).is_err() {
            self.timers.push(timer);
            return None;
        }
        Some(timer)
    }

    fn begin_timing(&mut self) {
        let Some((stream, true)) = self.pass.as_ref().map(|pass| (pass.stream, pass.timing.is_some())) else { return };
        let begin = self.timer(stream);
        let copies = self.stream.filter(|_| self.pass.as_ref().is_some_and(|pass| pass.copies));
        let first = copies.and_then(|copies| {
            let first = self.timer(copies)?;
            let Some(last) = self.timer(copies) else {
                self.timers.push(first);
                return None;
            };
            Some((first, last, self.counts.copied_bytes))
        });
        if let Some(timing) = self.pass.as_mut().and_then(|pass| pass.timing.as_mut()) {
            timing.begin = begin;
            timing.first_copies = first;
        }
    }

    /// The first copies of a pass are queued.
    pub(super) fn note_first_copies(&mut self) {
        let (copied, copies) = (self.counts.copied_bytes, self.stream);
        let Some(timing) = self.pass.as_mut().and_then(|pass| pass.timing.as_mut()) else { return };
        let (Some((_, last, bytes)), Some(copies)) = (&mut timing.first_copies, copies) else { return };
        *bytes = copied - *bytes;
        if self.driver.record(self.device, *last, copies).is_err() {
            *bytes = 0;
        }
    }

    fn end_timing(&mut self) {
        let Some((stream, true)) = self.pass.as_ref().map(|pass| (pass.stream, pass.timing.is_some())) else { return };
        let end = self.timer(stream);
        if let Some(timing) = self.pass.as_mut().and_then(|pass| pass.timing.as_mut()) {
            timing.end = end;
        }
    }

    fn begin_turn(&mut self, stream: Stream) -> Option<Event> {
        let is_timed = self.pass.as_ref().is_some_and(|pass| pass.timing.is_some() && pass.copies);
        if is_timed { self.timer(stream) } else { None }
    }

    fn note_turn(&mut self, address: u64, reach: Event, stream: Stream) {
        let go = self.timer(stream);
        match (go, self.pass.as_mut().and_then(|pass| pass.timing.as_mut())) {
            (Some(go), Some(timing)) => timing.turns.push((address, reach, go)),
            (go, _) => self.timers.extend(go.into_iter().chain([reach])),
        }
    }

    /// Reads the timers of a kind's last pass, if the card has reached them.
    fn read_timing(&mut self, name: &str) {
        let Some(timing) = self.kinds.get_mut(name).and_then(|kind| kind.timing.take()) else { return };
        self.learn_times(name, &timing);
        self.timers.extend(timing.into_events());
    }

    /// Learns from the timers of a pass; nothing where one of them is not reached.
    fn learn_times(&mut self, name: &str, timing: &Timing) -> Option<()> {
        let (begin, end) = (timing.begin?, timing.end?);
        let all = self.between(begin, end).filter(|_| matches!(self.driver.is_done(self.device, end), Ok(true)))?;
        let Some((first, last, bytes)) = timing.first_copies else {
            self.kinds.get_mut(name)?.in_place = Some(all);
            return None;
        };
        let (head, turns) = self.seconds_of(timing)?;
        if bytes > 0
            && let Some(seconds) = self.between(first, last).filter(|seconds| *seconds > 0.0)
        {
            self.link = Some(bytes as f64 / seconds);
        }
        let mode = self.mode;
        let kind = self.kinds.get_mut(name)?;
        kind.head = head;
        kind.order.time(&turns);
        if let Some(in_place) = kind.in_place.filter(|in_place| all > NOT_SLOWER * in_place)
            && mode == CopyAhead::Auto
        {
            kind.refused = Some(format!(
                "a pass of {name} took {all:.3} s with its weights copied ahead, and {in_place:.3} s with them in place"
            ));
        }
        self.placement += 1;
        Some(())
    }

    fn between(&self, from: Event, to: Event) -> Option<f64> {
        self.driver.seconds_between(self.device, from, to).ok()
    }

    /// Seconds before the first weight, and from each weight, by its address, to the next.
    fn seconds_of(&self, timing: &Timing) -> Option<(f64, HashMap<u64, f64>)> {
        let (begin, end) = (timing.begin?, timing.end?);
        let head = self.between(begin, timing.turns.first().map_or(end, |turn| turn.1))?;
        let next = timing.turns.iter().skip(1).map(|turn| turn.1).chain([end]);
        let mut turns = HashMap::with_capacity(timing.turns.len());
        for ((address, _, go), next) in timing.turns.iter().zip(next) {
            *turns.entry(*address).or_default() += self.between(*go, next)?;
        }
        Some((head, turns))
    }
}
