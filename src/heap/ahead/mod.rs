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
//! ```text
//!   mod.rs      passes: what is lent and copied when
//!   slots.rs    the slots of the ring, and the events between copies and work
//!   timing.rs   the timers of a pass
//! ```
//!
//! No copy crosses a pass, so whatever is written between two passes is seen. The host never waits:
//! all order is made by events. Whatever fails leaves the weight to be read where it lies.

mod slots;
mod timing;

use std::collections::HashMap;
use std::sync::Arc;

use self::slots::Slots;
use self::timing::{Measured, Timing};
use super::events::Events;
use crate::core::ahead::{Called, Hidden, Knowledge, Order, Passed, Seen, Trial, Use};
use crate::core::{StreamId, ThreadId};
use crate::driver::{self, Driver, Stream};

pub(super) use self::slots::{Counts, slot_bytes};

/// Kinds of work whose order is remembered. Others are left in place.
const MOST_KINDS: usize = 64;

/// How many passes of a kind are timed at most. A pass cannot be timed where the card has not
/// reached its end when the next one begins.
const MOST_TIMED: u32 = 3;

/// The link's rate until it is measured, in bytes per second: PCIe 3.0 with 16 lanes.
const LINK: f64 = 13e9;

/// The part of what crosses the link in a pass that may be scratch, for the pass to show how its
/// weights are read.
const HARDLY: u64 = 32;

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
    /// Nobody uses the slot any more that had been kept, or whose user is gone. With the address of
    /// the weight itself: wherever it is lent, except for slots that were kept.
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

/// Who runs passes: a thread, on a stream. Each thread has a default stream of its own, so the
/// stream is that of its number.
pub(super) type Borrower = (ThreadId, StreamId);

/// So many borrowers have a bit in [`Marks::lent`](crate::core::Marks). The bit of the one that
/// came first goes to the next one.
const MOST_BORROWERS: usize = u32::BITS as usize;

/// One pass of work.
#[derive(Debug)]
struct Pass {
    kind: String,
    borrower: Borrower,
    stream: Stream,
    depth: u32,
    /// The place after the last weight that was called.
    expected: usize,
    /// The place of the next weight to copy.
    next: usize,
    /// The stream of the copies, if some are made in this pass.
    copies: Option<Stream>,
    all: bool,
    passed: Vec<Passed>,
    timing: Option<Timing>,
    /// Bytes that had been copied when it began.
    copied_before: u64,
    /// Bytes of weights that were read in place in the shared tier.
    read_in_place: u64,
    /// What the memory was when it began.
    before: Footing,
}

/// What the memory of a device is at a moment, by which the time of a pass is judged. Bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Footing {
    /// Of blocks that have fallen to the shared tier so far.
    pub(super) fell: u64,
    /// Of backing that is held from the driver.
    pub(super) held: u64,
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
    /// Seconds of the last whole pass that read everything in place, with whatever of its scratch
    /// lay in the shared tier.
    pub(super) in_place: Option<f64>,
    /// What its passes have shown of whether copying pays.
    pub(super) trial: Trial,
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
    slots: Slots,
    timers: Events,
    pass: Option<Pass>,
    /// Those that have a bit, by its place.
    borrowers: Vec<Borrower>,
    /// The place of the bit that the next borrower gets.
    next_bit: usize,
    /// Counts what changes which weights should be lent.
    placement: u64,
    /// The link's rate as it was measured last, in bytes per second.
    link: Option<f64>,
}

impl Ahead {
    pub(super) fn new(driver: Arc<dyn Driver>, device: usize, mode: CopyAhead) -> Ahead {
        Ahead {
            slots: Slots::new(driver.clone(), device),
            timers: Events::timers(driver.clone(), device),
            driver,
            device,
            mode,
            stream: None,
            unavailable: None,
            kinds: HashMap::new(),
            pass: None,
            borrowers: Vec::new(),
            next_bit: 0,
            placement: 1,
            link: None,
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

    /// The bit of a borrower in [`Marks::lent`](crate::core::Marks); 0 where it has none.
    pub(super) fn bit_of(&self, borrower: Borrower) -> u32 {
        self.borrowers.iter().position(|known| *known == borrower).map_or(0, |place| 1 << place)
    }

    /// The bits of all borrowers on a stream.
    pub(super) fn bits_on(&self, stream: StreamId) -> u32 {
        let known = self.borrowers.iter().enumerate().filter(|(_, borrower)| borrower.1 == stream);
        known.fold(0, |bits, (place, _)| bits | 1 << place)
    }

    /// Gives a borrower a bit, which no block must have in its marks. It may have been another's.
    pub(super) fn give_bit(&mut self, borrower: Borrower) -> u32 {
        let place = self.next_bit;
        self.next_bit = (place + 1) % MOST_BORROWERS;
        match self.borrowers.get_mut(place) {
            Some(first) => *first = borrower,
            None => self.borrowers.push(borrower),
        }
        1 << place
    }

    /// Forgets all borrowers: streams are numbered anew.
    pub(super) fn forget_borrowers(&mut self) {
        self.borrowers.clear();
        self.next_bit = 0;
    }

    /// Whose pass is under way.
    pub(super) fn borrower(&self) -> Option<Borrower> {
        self.pass.as_ref().map(|pass| pass.borrower)
    }

    /// What is known of a kind of work.
    pub(super) fn kind(&self, kind: &str) -> Option<&Kind> {
        self.kinds.get(kind)
    }

    /// What is known of all kinds of work.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &Kind> {
        self.kinds.values()
    }

    /// How much is known of copying the weights of a kind of work.
    pub(super) fn knowledge(&self, kind: &str) -> Knowledge {
        self.kind(kind).map_or_else(Knowledge::default, |known| Knowledge {
            weights: known.order.uses().len(),
            is_timed: known.trial.is_timed(),
            is_refused: known.refused.is_some(),
        })
    }

    /// The link's rate, in bytes per second.
    pub(super) fn link(&self) -> f64 {
        self.link.unwrap_or(LINK)
    }

    /// What copying ahead does for a kind of work, human-readable; `None` where it has not been
    /// timed.
    pub(super) fn in_words(&self, kind: &str) -> Option<String> {
        let known = self.kinds.get(kind)?;
        if let Some(refused) = &known.refused {
            return Some(format!("nothing is copied ahead: {refused}"));
        }
        let Hidden { waited, share } = known.trial.hidden(self.link()).filter(|_| self.slots.has_ring())?;
        Some(format!("a pass waits {waited:.3} s for copies, {:.0} % of which are hidden behind work", 100.0 * share))
    }

    /// What was counted.
    pub(super) fn counts(&self) -> Counts {
        self.slots.counts
    }

    /// Slots that stay out of the way although their weights were given back.
    pub(super) fn held(&self) -> usize {
        self.slots.held()
    }

    /// All work of the device is done.
    pub(super) fn work_is_done(&mut self) {
        self.slots.work_is_done();
    }

    /// Whether a pass is under way, or a slot is held.
    pub(super) fn is_in_use(&self) -> bool {
        self.pass.is_some() || self.slots.held() > 0
    }

    /// Notes that other weights than before may lie in the shared tier.
    pub(super) fn placed_anew(&mut self) {
        self.placement += 1;
    }

    /// Uses a ring at an address. No slot is in use.
    pub(super) fn use_ring(&mut self, base: u64, bytes: u64) {
        self.slots.use_ring(base, bytes);
        self.placed_anew();
    }

    /// Uses no ring any more. No slot is in use, and the device has done all work.
    pub(super) fn use_none(&mut self) {
        if self.slots.has_ring() {
            self.use_ring(0, 0);
        }
    }

    /// Begins a pass, or one within it. While a pass of another thread goes on, everything is read
    /// in place. `some_shared` says whether anything lies in the shared tier.
    pub(super) fn begin(
        &mut self,
        kind: &str,
        (borrower, stream): (Borrower, Stream),
        some_shared: bool,
        before: Footing,
    ) -> Asked {
        if let Some(pass) = &mut self.pass {
            pass.depth += u32::from(pass.borrower.0 == borrower.0);
            return Asked::default();
        }
        let is_known = self.kinds.contains_key(kind) || self.kinds.len() < MOST_KINDS;
        if self.mode() == CopyAhead::Off || !some_shared || !is_known {
            return Asked::default();
        }
        if !matches!(self.driver.is_capturing(self.device, stream), Ok(false)) {
            return Asked::default();
        }
        self.read_timing(kind);
        let known = self.kinds.entry(kind.to_owned()).or_default();
        let has_ring = self.slots.has_ring() && known.refused.is_none() && !known.order.uses().is_empty();
        let all = known.order.passes() == 0 || known.wants_all || (has_ring && known.timing_is_missing());
        if !all && !has_ring {
            return Asked::default();
        }
        self.slots.start_over();
        let copies = if has_ring { self.begin_copies(stream) } else { None };
        let copied = self.slots.counts.copied_bytes;
        let timing = all.then(|| Timing::begin(&mut self.timers, stream, copies, copied));
        self.pass = Some(Pass {
            kind: kind.to_owned(),
            borrower,
            stream,
            depth: 1,
            expected: 0,
            next: 0,
            copies,
            all,
            passed: Vec::new(),
            timing,
            copied_before: copied,
            read_in_place: 0,
            before,
        });
        Asked { placement: 2 * self.placement + u64::from(all), all }
    }

    /// Makes the copies of a pass wait for all work before it. Returns their stream.
    fn begin_copies(&mut self, stream: Stream) -> Option<Stream> {
        let begun = self.copy_stream().and_then(|copies| self.slots.order(stream, copies).map(|()| copies));
        begun.inspect_err(|why| log::debug!("device {}: nothing is copied ahead in this pass: {why}", self.device)).ok()
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

    /// The address and the bytes of the weight that should be copied next, if one should. Passes
    /// over those that are not worth it, or in the ring already.
    pub(super) fn wanted(&mut self) -> Option<(u64, u64)> {
        let pass = self.pass.as_mut().filter(|pass| pass.copies.is_some())?;
        let uses = self.kinds.get(&pass.kind)?.order.uses();
        let is_wanted = |known: &Use| known.is_worth_copying() && !self.slots.has(known.address);
        let rest = uses.get(pass.next..)?;
        pass.next += rest.iter().position(is_wanted).unwrap_or(rest.len());
        uses.get(pass.next).map(|known| (known.address, known.bytes))
    }

    /// Passes over the weight that should be copied next.
    pub(super) fn skip(&mut self) {
        if let Some(pass) = &mut self.pass {
            pass.next += 1;
        }
    }

    /// Copies the weight that should be copied next, `shared` of whose bytes cross the link, and
    /// passes over it. Returns whether the ring had room.
    ///
    /// # Errors
    /// The driver's. The copy may be under way, and no more are made in this pass.
    pub(super) fn copy_next(&mut self, (address, bytes): (u64, u64), shared: u64) -> driver::Result<bool> {
        let Some(pass) = &mut self.pass else { return Ok(false) };
        let Some(copies) = pass.copies else { return Ok(false) };
        let filled = self.slots.fill(address, bytes, shared, copies);
        match &filled {
            Ok(has_room) => pass.next += usize::from(*has_room),
            Err(_) => pass.copies = None,
        }
        filled
    }

    /// The first copies of a pass are queued.
    pub(super) fn note_first_copies(&mut self) {
        let Some(pass) = &mut self.pass else { return };
        if let (Some(timing), Some(copies)) = (&mut pass.timing, self.stream) {
            timing.note_first_copies(&*self.driver, self.device, copies, self.slots.counts.copied_bytes);
        }
    }

    /// The weight at an address is about to be used on a stream. Returns the address of its slot;
    /// `None` where it is to be read in place. Copies wait for nobody's work except that of the
    /// pass's borrower, so others do not read them: they may have written the weight since.
    pub(super) fn lend(
        &mut self,
        address: u64,
        bytes: u64,
        (borrower, stream): (Option<Borrower>, Stream),
    ) -> Option<u64> {
        let lent = match &self.pass {
            Some(pass) if Some(pass.borrower) == borrower => self.lend_in_pass(address, bytes, stream),
            _ => None,
        };
        if lent.is_none() {
            // It may be written where it lies.
            self.slots.settle(self.stream, stream);
        }
        lent
    }

    fn lend_in_pass(&mut self, address: u64, bytes: u64, stream: Stream) -> Option<u64> {
        let is_timed = self.pass.as_ref().is_some_and(|pass| pass.timing.is_some() && pass.copies.is_some());
        let reach = if is_timed { self.timers.record(stream).ok() } else { None };
        self.note_call(address, bytes);
        let lent = self.slots.enter(address, bytes, stream);
        let timing = self.pass.as_mut().and_then(|pass| pass.timing.as_mut());
        if let (Some(reach), Some(timing)) = (reach, timing) {
            timing.note_turn(&mut self.timers, address, reach, stream);
        }
        lent
    }

    /// A weight was called of which so many bytes lie in the shared tier, and is read in place.
    pub(super) fn note_missed(&mut self, shared: u64) {
        self.slots.counts.missed += 1;
        if let Some(pass) = &mut self.pass {
            pass.read_in_place += shared;
        }
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
                let uses = kind.order.uses();
                kind.wants_all |= uses[place].is_new();
                uses[pass.expected..place].iter().for_each(|known| self.slots.drop_unused(known.address));
                pass.expected = place + 1;
                pass.next = pass.next.max(place + 1);
            }
            Called::Unexpected => kind.wants_all |= kind.order.place_of(address).is_none(),
        }
    }

    /// What was lent, by the address where it was read, was used on a stream.
    ///
    /// # Errors
    /// The driver's, where what was written cannot be copied back; the slot is kept then.
    pub(super) fn give_back(&mut self, lent: u64, stream: Stream, how: Returned) -> driver::Result<()> {
        self.slots.give_back(lent, stream, how)
    }

    /// Ends a pass of a thread, or one within it. A thread that has none ends nothing. `whole` says
    /// whether the pass came to its end.
    pub(super) fn end(&mut self, thread: ThreadId, whole: bool, now: Footing) {
        let Some(mut pass) = self.pass.take_if(|pass| pass.borrower.0 == thread) else { return };
        pass.depth -= 1;
        if pass.depth > 0 {
            self.pass = Some(pass);
            return;
        }
        if let Some(timing) = &mut pass.timing {
            let crossed = self.slots.counts.copied_bytes - pass.copied_before + pass.read_in_place;
            let spilled = now.fell.saturating_sub(pass.before.fell);
            timing.end(&mut self.timers, pass.stream, crossed, spilled <= crossed / HARDLY);
        }
        self.slots.empty();
        // What comes after the pass may write any weight.
        self.slots.settle(self.stream, pass.stream);
        let Some(kind) = self.kinds.get_mut(&pass.kind) else { return };
        if whole && pass.all {
            self.placement += u64::from(kind.order.passes() == 0);
            kind.order.learn(&pass.passed);
            // Without a ring nothing else would ask for another pass.
            kind.wants_all = kind.order.has_new();
        }
        match pass.timing {
            Some(timing) if whole => {
                kind.timed += u32::from(pass.copies.is_some());
                // Backing was created while the work waited: another pass is timed, if one may be.
                let is_apart = pass.copies.is_some() && now.held > pass.before.held && kind.timed < MOST_TIMED;
                match is_apart {
                    true => timing.recycle(&mut self.timers),
                    false => kind.timing = Some(timing),
                }
            }
            Some(timing) => timing.recycle(&mut self.timers),
            None => {}
        }
    }

    /// The block from `start` to `end` is freed: nothing of it is in the ring any more, and no
    /// order has it.
    pub(super) fn forget(&mut self, start: u64, end: u64) {
        let is_gone = |address: u64| (start..end).contains(&address);
        self.slots.forget(is_gone);
        for kind in self.kinds.values_mut() {
            kind.wants_all |= kind.order.forget(is_gone);
            if kind.order.uses().is_empty() {
                // Another model comes, whose passes have not been timed.
                kind.timed = 0;
            }
        }
    }

    /// Reads the timers of a kind's last pass, if the card has reached them.
    fn read_timing(&mut self, name: &str) {
        let Some(kind) = self.kinds.get_mut(name) else { return };
        let Some(timing) = kind.timing.take() else { return };
        match timing.read(&*self.driver, self.device) {
            Some(Measured::InPlace { all, has_fitted }) => {
                kind.in_place = Some(all.seconds);
                if has_fitted {
                    kind.trial.note_in_place(all);
                }
            }
            Some(Measured::Copied { all, head, turns, link }) => {
                self.link = link.or(self.link);
                self.placement += 1;
                kind.head = head;
                kind.order.time(&turns);
                kind.trial.note_ahead(all, head + turns.values().sum::<f64>());
                if self.mode == CopyAhead::Auto {
                    kind.refuse_if_slower(name, all, self.link.unwrap_or(LINK));
                }
            }
            None => {}
        }
        timing.recycle(&mut self.timers);
    }

    /// Tests the slots against the ring.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        self.slots.check()
    }

    /// Returns everything to the driver. Errors are only logged.
    pub(super) fn close(&mut self) {
        self.slots.close();
        let of_pass = self.pass.take().and_then(|pass| pass.timing);
        let of_kinds = self.kinds.values_mut().filter_map(|kind| kind.timing.take());
        of_pass.into_iter().chain(of_kinds).for_each(|timing| timing.recycle(&mut self.timers));
        self.timers.close();
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

    /// Copies nothing ahead any more if a pass took longer so than in place.
    fn refuse_if_slower(&mut self, name: &str, ahead: Seen, link: f64) {
        if let Some(in_place) = self.trial.is_slower_than(ahead, link) {
            self.refused = Some(format!(
                "a pass of {name} took {:.3} s with its weights copied ahead, and {in_place:.3} s with them in place",
                ahead.seconds
            ));
        }
    }
}
