//! Pool contexts: which pool serves an allocation while a graph is captured, or inside
//! `use_mem_pool`.
//!
//! Contexts nest as programs nest them. Among those that accept an allocation, the one begun last
//! serves it.

use std::sync::Arc;

use crate::driver::Stream;
use crate::heap::{ContextId, Serving};
use crate::sync::{AtomicU32, Mutex, Ordering};

/// Whether an allocation on a stream belongs to a context. It is called for each allocation while
/// contexts are open.
pub(super) type Filter = Box<dyn Fn(Stream) -> bool + Send + Sync>;

/// An open context.
#[derive(Clone)]
struct Context {
    serving: Serving,
    filter: Arc<Filter>,
    /// The stream, if the context is for a single one.
    stream: Option<Stream>,
}

/// The open contexts of a device, in the order in which they were begun.
#[derive(Default)]
pub(super) struct Contexts {
    /// The number of open contexts. A malloc looks here first, without a lock.
    count: AtomicU32,
    open: Mutex<Arc<Vec<Context>>>,
}

impl Contexts {
    /// Whether any context is open. O(1), without a lock.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// Opens a context. O(contexts).
    pub(super) fn push(&self, serving: Serving, filter: Filter, stream: Option<Stream>) {
        let context = Context { serving, filter: Arc::new(filter), stream };
        self.change(|open| open.push(context));
    }

    /// Closes a context. Does nothing if it is not open. O(contexts).
    pub(super) fn remove(&self, id: ContextId) {
        self.change(|open| open.retain(|context| context.serving.context != id));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Context>)) {
        let mut open = self.open.lock();
        let mut changed = Vec::clone(&open);
        change(&mut changed);
        self.count.store(changed.len() as u32, Ordering::Release);
        let before = std::mem::replace(&mut *open, Arc::new(changed));
        drop(open);
        // A filter is foreign code, its destructor included: no lock is held when it is dropped.
        drop(before);
    }

    /// The innermost context that accepts an allocation on `stream`. Filters are foreign code: no
    /// lock is held while they run. O(contexts).
    pub(super) fn serving(&self, stream: Stream) -> Option<Serving> {
        let open = self.open.lock().clone();
        open.iter().rev().find(|context| (context.filter)(stream)).map(|context| context.serving)
    }

    /// The innermost context that is for this one stream.
    pub(super) fn of_stream(&self, stream: Stream) -> Option<Serving> {
        let open = self.open.lock().clone();
        open.iter().rev().find(|context| context.stream == Some(stream)).map(|context| context.serving)
    }
}
