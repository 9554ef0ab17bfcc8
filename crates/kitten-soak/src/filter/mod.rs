//! Filters of graph pools as PyTorch passes them: objects laid out as the
//! `std::function<bool(cudaStream_t)>` of the C++ library that PyTorch is built with on this
//! system. `libstdcxx.rs` and `msvc.rs` have the two layouts.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(windows))]
mod libstdcxx;
#[cfg(not(windows))]
pub use libstdcxx::Filter;
#[cfg(windows)]
mod msvc;
#[cfg(windows)]
pub use msvc::Filter;

thread_local! {
    static ACTING: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Sets the actor that acts on this thread from now on.
pub fn act_as(actor: usize) {
    ACTING.set(actor as u64);
}

/// The streams of a capture: its own and one that has joined it, each `u64::MAX` if there is none.
pub type Streams = Arc<[AtomicU64; 2]>;

/// The function in a filter. Each copy of the filter has its own.
#[derive(Clone)]
enum Accepts {
    /// The streams that a capture has when the filter is called.
    Streams(Streams),
    /// The requests of one actor on any stream, as the filter of a `MemPool` in use accepts one
    /// thread.
    Actor(u64),
}

impl Accepts {
    fn accepts(&self, stream: u64) -> bool {
        match self {
            Accepts::Streams(streams) => streams.iter().any(|one| one.load(Ordering::Relaxed) == stream),
            Accepts::Actor(actor) => ACTING.get() == *actor,
        }
    }
}

impl Filter {
    /// Accepts the streams that a capture has when the filter is called.
    pub fn of_streams(streams: &Streams) -> Filter {
        Filter::new(Accepts::Streams(streams.clone()))
    }

    /// Accepts the requests of one actor on any stream.
    pub fn of_actor(actor: usize) -> Filter {
        Filter::new(Accepts::Actor(actor as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_destructions_are_counted() {
        let streams: Streams = Arc::new([AtomicU64::new(16), AtomicU64::new(u64::MAX)]);
        let filter = Filter::of_streams(&streams);
        assert_eq!(Arc::strong_count(&streams), 2);
        let copy = filter.copy();
        assert_eq!(Arc::strong_count(&streams), 3);
        filter.destroy();
        streams[1].store(32, Ordering::Relaxed);
        assert_eq!([16, 32, 48].map(|stream| copy.accepts(stream)), [true, true, false]);
        copy.destroy();
        assert_eq!(Arc::strong_count(&streams), 1);
    }
}
