//! The timers of a pass: how long the work from each weight to the next takes, without the waits
//! for copies, and how fast the first copies are. A timer that cannot be had is left out.

use std::collections::HashMap;

use crate::core::ahead::Seen;
use crate::driver::{Driver, Event, Stream};
use crate::heap::events::Events;

/// The timers of a pass.
#[derive(Debug, Default)]
pub(super) struct Timing {
    begin: Option<Event>,
    end: Option<Event>,
    /// Around the first copies, and their bytes over the link; `None` where nothing is copied.
    first_copies: Option<(Event, Event, u64)>,
    /// For each weight that was called: its address, when its work could begin except for the copy,
    /// and when it began.
    turns: Vec<(u64, Event, Event)>,
    /// Bytes of the pass's weights that crossed the link.
    crossed: u64,
    /// Whether nearly all of its scratch found dedicated memory.
    has_fitted: bool,
}

/// What the timers of a pass have shown. Seconds.
pub(super) enum Measured {
    /// A pass that read everything in place.
    InPlace {
        /// The whole of it.
        all: Seen,
        /// Whether nearly all of its scratch found dedicated memory, so that hardly anything but
        /// weights crossed the link.
        has_fitted: bool,
    },
    /// A pass whose weights were copied.
    Copied {
        /// The whole of it.
        all: Seen,
        /// Before the first weight.
        head: f64,
        /// From each weight, by its address, to the next.
        turns: HashMap<u64, f64>,
        /// The link's rate, in bytes per second, if something crossed it at the beginning.
        link: Option<f64>,
    },
}

impl Timing {
    /// Begins with a pass on a stream, of whose weights some are copied on `copies`, if any.
    /// `copied` is what has been copied so far.
    pub(super) fn begin(timers: &mut Events, stream: Stream, copies: Option<Stream>, copied: u64) -> Timing {
        let begin = timers.record(stream).ok();
        let first_copies = copies.and_then(|copies| {
            let first = timers.record(copies).ok()?;
            match timers.record(copies) {
                Ok(last) => Some((first, last, copied)),
                Err(_) => {
                    timers.recycle(first);
                    None
                }
            }
        });
        Timing { begin, first_copies, ..Timing::default() }
    }

    /// The first copies are queued; `copied` is what has been copied so far.
    pub(super) fn note_first_copies(&mut self, driver: &dyn Driver, device: usize, copies: Stream, copied: u64) {
        let Some((_, last, bytes)) = &mut self.first_copies else { return };
        *bytes = copied - *bytes;
        if driver.record(device, *last, copies).is_err() {
            *bytes = 0;
        }
    }

    /// The work on the weight at an address could begin at `reach`, and begins behind what is in
    /// the stream now.
    pub(super) fn note_turn(&mut self, timers: &mut Events, address: u64, reach: Event, stream: Stream) {
        match timers.record(stream) {
            Ok(go) => self.turns.push((address, reach, go)),
            Err(_) => timers.recycle(reach),
        }
    }

    /// Ends with the pass. `crossed` bytes of its weights crossed the link, and `has_fitted` says
    /// whether nearly all of its scratch found dedicated memory.
    pub(super) fn end(&mut self, timers: &mut Events, stream: Stream, crossed: u64, has_fitted: bool) {
        self.end = timers.record(stream).ok();
        (self.crossed, self.has_fitted) = (crossed, has_fitted);
    }

    /// What was measured; `None` where a timer is missing or not reached.
    pub(super) fn read(&self, driver: &dyn Driver, device: usize) -> Option<Measured> {
        let between = |from, to| driver.seconds_between(device, from, to).ok();
        let (begin, end) = (self.begin?, self.end?);
        let all = between(begin, end).filter(|_| matches!(driver.is_done(device, end), Ok(true)))?;
        let all = Seen { seconds: all, crossed: self.crossed };
        let Some((first, last, bytes)) = self.first_copies else {
            return Some(Measured::InPlace { all, has_fitted: self.has_fitted });
        };
        let head = between(begin, self.turns.first().map_or(end, |turn| turn.1))?;
        let next = self.turns.iter().skip(1).map(|turn| turn.1).chain([end]);
        let mut turns = HashMap::with_capacity(self.turns.len());
        for ((address, _, go), next) in self.turns.iter().zip(next) {
            *turns.entry(*address).or_default() += between(*go, next)?;
        }
        let copying = if bytes > 0 { between(first, last).filter(|seconds| *seconds > 0.0) } else { None };
        Some(Measured::Copied { all, head, turns, link: copying.map(|seconds| bytes as f64 / seconds) })
    }

    /// Keeps the timers for reuse.
    pub(super) fn recycle(self, timers: &mut Events) {
        let turns = self.turns.into_iter().flat_map(|(_, reach, go)| [reach, go]);
        let copies = self.first_copies.into_iter().flat_map(|(first, last, _)| [first, last]);
        let all = self.begin.into_iter().chain(self.end).chain(copies).chain(turns);
        all.for_each(|timer| timers.recycle(timer));
    }
}
