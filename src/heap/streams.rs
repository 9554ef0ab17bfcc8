//! Streams by small numbers, the order between them, and the events that show when work is done.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::events::Events;
use crate::core::StreamId;
use crate::driver::{self, Driver, Event, Stream};
use crate::error::Error;

/// The raw handle that means "the calling thread's own default stream".
const PER_THREAD: u64 = 2;

/// The identity of a stream. The legacy default stream has two handles, and the per-thread handle
/// means another stream in each thread. The handle of a destroyed stream may be reused for a new
/// stream, which is then taken for the old one, as in PyTorch's own allocator. A stream must
/// therefore be idle when it is destroyed.
///
/// A program may destroy a stream at any time, and a driver crashes on its handle. So the driver is
/// only given the handle of a stream that the caller names now, of a default stream, of one that is
/// known to be captured, and, as by PyTorch's own allocator, of one that `record_stream` was told
/// of, when the block is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    raw: u64,
    thread: u64,
}

impl Key {
    #[inline]
    fn of(stream: Stream) -> Key {
        match stream.0 {
            0 | 1 => Key { raw: 0, thread: 0 },
            PER_THREAD => Key { raw: PER_THREAD, thread: thread_number() },
            raw => Key { raw, thread: 0 },
        }
    }
}

/// A number that no other thread of the process has or had.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

/// The number of known streams from which on those that own nothing are looked for.
const CROWDED: usize = 64;

/// What came of an attempt to record an event on a stream.
pub(super) enum Mark {
    /// The event, recorded behind all work on the stream.
    Event(Event),
    /// The stream is captured, or the driver failed: a later attempt may succeed.
    Later,
    /// The stream is the default stream of another thread.
    Unnamed,
    /// The driver says that the stream is destroyed. No later attempt may be made.
    Lost,
}

impl Mark {
    fn failed(why: &driver::DriverError) -> Mark {
        if why.code == driver::INVALID_HANDLE { Mark::Lost } else { Mark::Later }
    }
}

/// How long a device may take to say that it is idle.
const MOMENT: Duration = Duration::from_micros(500);

/// The streams seen on one device, and its events.
#[derive(Debug)]
pub(super) struct Streams {
    driver: Arc<dyn Driver>,
    device: usize,
    /// The streams by number; `None` for a number that is free.
    keys: Vec<Option<Key>>,
    numbers: HashMap<Key, StreamId>,
    last: (Key, StreamId),
    /// The number of known streams at which those that own nothing are forgotten before one is
    /// added.
    limit: usize,
    events: Events,
}

impl Streams {
    /// No stream is known except the legacy default stream, which is always number 0.
    pub(super) fn new(driver: Arc<dyn Driver>, device: usize) -> Self {
        let (default, id) = (Key { raw: 0, thread: 0 }, StreamId(0));
        Streams {
            events: Events::new(driver.clone(), device),
            driver,
            device,
            keys: vec![Some(default)],
            numbers: HashMap::from([(default, id)]),
            last: (default, id),
            limit: CROWDED,
        }
    }

    /// The number of a known stream. O(1).
    #[inline]
    pub(super) fn known(&mut self, stream: Stream) -> Option<StreamId> {
        let key = Key::of(stream);
        if key == self.last.0 {
            return Some(self.last.1);
        }
        self.known_by(key)
    }

    fn known_by(&mut self, key: Key) -> Option<StreamId> {
        let id = *self.numbers.get(&key)?;
        self.last = (key, id);
        Some(id)
    }

    /// Whether so many streams are known that some should be forgotten before another is added.
    pub(super) fn is_crowded(&self) -> bool {
        self.numbers.len() >= self.limit
    }

    /// Numbers a stream that is not known yet. O(streams).
    ///
    /// # Errors
    /// More streams than there are numbers, each with live blocks.
    pub(super) fn add(&mut self, stream: Stream) -> Result<StreamId, Error> {
        let key = Key::of(stream);
        let index = self.keys.iter().position(Option::is_none).unwrap_or(self.keys.len());
        let id = u16::try_from(index).map(StreamId).map_err(|_| {
            Error::refused(format!(
                "{} streams have live blocks on device {}, which is the limit: free the blocks of some of them first",
                self.numbers.len(),
                self.device
            ))
        })?;
        self.keys.resize(self.keys.len().max(index + 1), None);
        self.keys[index] = Some(key);
        self.numbers.insert(key, id);
        self.last = (key, id);
        Ok(id)
    }

    /// Whether the legacy default stream has unfinished work. It is the one stream that cannot have
    /// been destroyed, so the driver may be asked about it at any time.
    pub(super) fn is_default_busy(&self) -> bool {
        matches!(self.driver.is_idle(self.device, Stream(0)), Ok(false))
    }

    /// Forgets the streams for which `is_used` returns false, except the legacy default stream.
    /// O(streams).
    pub(super) fn forget(&mut self, is_used: impl Fn(StreamId) -> bool) {
        self.numbers.retain(|_, id| id.0 == 0 || is_used(*id));
        for (index, key) in self.keys.iter_mut().enumerate() {
            if key.is_some_and(|key| self.numbers.get(&key) != Some(&StreamId(index as u16))) {
                *key = None;
            }
        }
        self.last = (Key { raw: 0, thread: 0 }, StreamId(0));
        self.expect_more();
    }

    /// Forgets no stream until there are twice as many as now.
    pub(super) fn expect_more(&mut self) {
        self.limit = CROWDED.max(2 * self.numbers.len());
    }

    /// Whether the device has unfinished work in any stream. Waits a moment for what is nearly
    /// done. A driver that cannot tell is asked about the legacy default stream alone.
    pub(super) fn is_any_busy(&mut self) -> bool {
        let Ok(event) = self.events.take() else { return false };
        let is_busy = match self.driver.record_all(self.device, event) {
            Ok(()) => !self.is_done_soon(event),
            Err(_) => self.is_default_busy(),
        };
        self.events.recycle(event);
        is_busy
    }

    /// Whether all work before an event is done within a moment. An event takes some microseconds
    /// even on a device that is idle.
    fn is_done_soon(&self, event: Event) -> bool {
        let start = Instant::now();
        loop {
            if self.is_done(event) {
                return true;
            }
            if start.elapsed() > MOMENT {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// The number of the stream that frees, given the stream that allocated. PyTorch passes the
    /// handle of the allocation. If that is the per-thread handle, it means the stream of the
    /// thread that allocated.
    #[inline]
    pub(super) fn known_at_free(&mut self, stream: Stream, owner: StreamId) -> Option<StreamId> {
        if stream.0 == PER_THREAD && self.raw(owner) == PER_THREAD {
            return Some(owner);
        }
        self.known(stream)
    }

    /// The handle by which a stream was first seen; that of the default stream if it has been
    /// forgotten.
    pub(super) fn raw(&self, id: StreamId) -> u64 {
        self.keys.get(id.0 as usize).copied().flatten().map_or(0, |key| key.raw)
    }

    /// The driver's handle of a stream; `None` where this thread cannot name the stream.
    fn handle(&self, id: StreamId) -> Option<Stream> {
        let key = (*self.keys.get(id.0 as usize)?)?;
        (key.raw != PER_THREAD || key.thread == thread_number()).then_some(Stream(key.raw))
    }

    /// Whether a stream is being captured. `None` where the driver cannot be asked: the stream is
    /// destroyed, or is the default stream of another thread.
    pub(super) fn is_captured(&self, id: StreamId) -> Option<bool> {
        self.driver.is_capturing(self.device, self.handle(id)?).ok()
    }

    /// Whether a stream is being captured. A stream about which the driver cannot be asked counts
    /// as captured, since it must not be touched then.
    pub(super) fn is_capturing(&self, id: StreamId) -> bool {
        self.is_captured(id).unwrap_or(true)
    }

    /// Makes later work on `after`, which the caller names, wait for all work now on `before`.
    /// Returns whether that succeeded. `before` may be destroyed, so unless it is a default stream,
    /// `after` waits for the whole device. Not while a graph is captured.
    pub(super) fn order(&mut self, before: StreamId, after: StreamId) -> bool {
        let Some(after) = self.handle(after) else { return false };
        let Ok(event) = self.events.take() else { return false };
        let recorded = match self.default_handle(before) {
            Some(stream) => self.driver.record(self.device, event, stream),
            None => self.record_all(event),
        };
        let ordered = recorded.and_then(|()| self.driver.wait(self.device, after, event));
        self.events.recycle(event);
        ordered.is_ok()
    }

    /// Records an event behind all work of the device. Waits for that work where the driver cannot
    /// record it.
    fn record_all(&self, event: Event) -> driver::Result<()> {
        match self.driver.record_all(self.device, event) {
            Err(why) if why.code == driver::NOT_SUPPORTED => self.driver.synchronize(self.device),
            recorded => recorded,
        }
    }

    /// The handle of a default stream that this thread can name, which nobody can destroy.
    fn default_handle(&self, id: StreamId) -> Option<Stream> {
        self.handle(id).filter(|stream| matches!(stream.0, 0 | PER_THREAD))
    }

    /// Records an event behind all work now on a stream, unless the stream is captured: the event
    /// would become a part of the capture.
    pub(super) fn mark(&mut self, id: StreamId) -> Mark {
        let Some(stream) = self.handle(id) else { return Mark::Unnamed };
        match self.driver.is_capturing(self.device, stream) {
            Ok(false) => {}
            Ok(true) => return Mark::Later,
            Err(why) => return Mark::failed(&why),
        }
        let Ok(event) = self.events.take() else { return Mark::Later };
        match self.driver.record(self.device, event, stream) {
            Ok(()) => Mark::Event(event),
            Err(why) => {
                self.events.recycle(event);
                Mark::failed(&why)
            }
        }
    }

    /// Whether all work before an event is done. A query that fails counts as no.
    pub(super) fn is_done(&self, event: Event) -> bool {
        self.driver.is_done(self.device, event).unwrap_or(false)
    }

    /// Keeps an event for reuse.
    pub(super) fn recycle(&mut self, event: Event) {
        self.events.recycle(event);
    }

    /// Destroys the events kept for reuse.
    pub(super) fn close(&mut self) {
        self.events.close();
    }
}
