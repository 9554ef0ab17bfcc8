//! Streams by small numbers, the order between them, and the events that tell when work is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::StreamId;
use crate::driver::{self, Driver, Event, Stream};
use crate::error::Error;

/// The raw handle that means "the calling thread's own default stream".
const PER_THREAD: u64 = 2;

/// What distinguishes a stream. The legacy default stream has two handles, and the per-thread handle means another stream in each
/// thread. A destroyed stream's handle may come again for a new stream, which is then taken for the old one,
/// as PyTorch's own allocator does: whoever destroys a stream must have waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The streams one device has met, and its events.
#[derive(Debug)]
pub(super) struct Streams {
    driver: Arc<dyn Driver>,
    device: usize,
    keys: Vec<Key>,
    last: (Key, StreamId),
    /// Events that nothing waits for any more.
    events: Vec<Event>,
}

impl Streams {
    /// The legacy default stream is number 0 from the start.
    pub(super) fn new(driver: Arc<dyn Driver>, device: usize) -> Self {
        let default = Key { raw: 0, thread: 0 };
        Streams { driver, device, keys: vec![default], last: (default, StreamId(0)), events: Vec::new() }
    }

    /// The number of a stream. O(1) for the stream asked for last, O(streams) otherwise.
    #[inline]
    pub(super) fn number(&mut self, stream: Stream) -> Result<StreamId, Error> {
        let key = Key::of(stream);
        if key == self.last.0 {
            return Ok(self.last.1);
        }
        self.number_slowly(key)
    }

    fn number_slowly(&mut self, key: Key) -> Result<StreamId, Error> {
        let index = match self.keys.iter().position(|known| *known == key) {
            Some(index) => index,
            None => {
                self.keys.push(key);
                self.keys.len() - 1
            }
        };
        let id = u16::try_from(index)
            .map_err(|_| Error::Refused(format!("more than {} streams have allocated on one device", u16::MAX)))?;
        self.last = (key, StreamId(id));
        Ok(StreamId(id))
    }

    /// The number of the stream that frees, given the stream that allocated. PyTorch gives the handle of allocation, which, where it
    /// means a thread's own stream, means that of the allocating thread.
    #[inline]
    pub(super) fn number_at_free(&mut self, stream: Stream, owner: StreamId) -> Result<StreamId, Error> {
        if stream.0 == PER_THREAD && self.keys[owner.0 as usize].raw == PER_THREAD {
            return Ok(owner);
        }
        self.number(stream)
    }

    /// The handle by which a stream was first met.
    pub(super) fn raw(&self, id: StreamId) -> u64 {
        self.keys[id.0 as usize].raw
    }

    /// The driver's handle of a stream, if this thread can name it.
    fn handle(&self, id: StreamId) -> Option<Stream> {
        let key = self.keys[id.0 as usize];
        (key.raw != PER_THREAD || key.thread == thread_number()).then_some(Stream(key.raw))
    }

    /// Whether a stream is being captured; one that cannot be asked counts as captured, since it then must not be touched.
    pub(super) fn is_capturing(&self, id: StreamId) -> bool {
        self.handle(id).is_none_or(|stream| self.driver.is_capturing(self.device, stream).unwrap_or(true))
    }

    /// Makes later work on `after` wait for all work now on `before`. Whether that could be done: an event that is recorded in a stream
    /// under capture is the capture's, and orders nothing.
    pub(super) fn order(&mut self, before: StreamId, after: StreamId) -> bool {
        if self.is_capturing(before) {
            return false;
        }
        let (Some(first), Some(second)) = (self.handle(before), self.handle(after)) else { return false };
        let Ok(event) = self.event() else { return false };
        let ordered =
            self.driver.record(self.device, event, first).and_then(|()| self.driver.wait(self.device, second, event));
        self.events.push(event);
        ordered.is_ok()
    }

    /// An event behind all work now on a stream.
    ///
    /// # Errors
    /// The driver's, also where the stream has been destroyed, or is another thread's own.
    pub(super) fn mark(&mut self, id: StreamId) -> driver::Result<Event> {
        let Some(stream) = self.handle(id) else {
            return Err(driver::DriverError {
                call: "cuEventRecord",
                code: driver::INVALID_HANDLE,
                name: "CUDA_ERROR_INVALID_HANDLE".into(),
                detail: "the stream is the own default stream of another thread".into(),
            });
        };
        let event = self.event()?;
        match self.driver.record(self.device, event, stream) {
            Ok(()) => Ok(event),
            Err(why) => {
                self.events.push(event);
                Err(why)
            }
        }
    }

    /// Whether all work before an event is done; a failing question counts as no.
    pub(super) fn is_done(&self, event: Event) -> bool {
        self.driver.is_done(self.device, event).unwrap_or(false)
    }

    /// Takes an event back for later use.
    pub(super) fn recycle(&mut self, event: Event) {
        self.events.push(event);
    }

    fn event(&mut self) -> driver::Result<Event> {
        match self.events.pop() {
            Some(event) => Ok(event),
            None => self.driver.create_event(self.device),
        }
    }

    /// Destroys the events that nothing waits for.
    pub(super) fn close(&mut self) {
        for event in self.events.drain(..) {
            if let Err(why) = driver::insist(|| self.driver.destroy_event(self.device, event)) {
                log::debug!("an event was left behind: {why}");
            }
        }
    }
}
