//! Pools of graph captures and of programs, on all devices.

use super::Allocator;
use super::contexts::Filter;
use crate::core::PoolId;
use crate::driver::Stream;
use crate::error::Error;
use crate::heap::{ContextId, ContextKind, Serving};
use crate::sync::{AtomicUsize, Mutex, Ordering};

/// The pools that are used on any device.
#[derive(Default)]
pub(super) struct Pools {
    /// The number of pool contexts ever begun.
    contexts_begun: AtomicUsize,
    /// The pools that `MemPool`s keep, once for each `MemPool`.
    kept: Mutex<Vec<PoolId>>,
}

impl Allocator {
    /// Begins a context in which every allocation whose stream `filter` accepts comes from a pool,
    /// as in a graph capture.
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub fn begin_pool(
        &self,
        device: usize,
        pool: PoolId,
        filter: impl Fn(Stream) -> bool + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.begin_context(device, pool, ContextKind::Unknown, Box::new(filter), None)
    }

    /// [`begin_pool`](Allocator::begin_pool) for a caller that knows the purpose of the context.
    ///
    /// # Errors
    /// As for [`begin_pool`](Allocator::begin_pool).
    pub fn begin_pool_of_kind(
        &self,
        device: usize,
        pool: PoolId,
        kind: ContextKind,
        filter: impl Fn(Stream) -> bool + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.begin_context(device, pool, kind, Box::new(filter), None)
    }

    /// The same for the capture of one stream, until
    /// [`end_stream_pool`](Allocator::end_stream_pool).
    ///
    /// # Errors
    /// As for [`begin_pool`](Allocator::begin_pool).
    pub fn begin_stream_pool(&self, device: usize, stream: Stream, pool: PoolId) -> Result<(), Error> {
        let filter: Filter = Box::new(move |other| other == stream);
        self.begin_context(device, pool, ContextKind::Unknown, filter, Some(stream))
    }

    fn begin_context(
        &self,
        device: usize,
        pool: PoolId,
        kind: ContextKind,
        filter: Filter,
        stream: Option<Stream>,
    ) -> Result<(), Error> {
        let context = ContextId(self.pools.contexts_begun.fetch_add(1, Ordering::Relaxed) as u64);
        let serving = Serving { context, pool };
        let is_kept = self.pools.kept.lock().contains(&pool);
        self.heap(device)?.begin_pool(serving, kind, is_kept, stream)?;
        self.devices.get(device)?.contexts.push(serving, filter, stream);
        Ok(())
    }

    /// Ends the context that was begun last with a pool.
    ///
    /// # Errors
    /// A pool that no open context allocates from.
    pub fn end_pool(&self, device: usize, pool: PoolId) -> Result<(), Error> {
        let ended = self.heap(device)?.end_pool(pool)?;
        self.devices.get(device)?.contexts.remove(ended);
        Ok(())
    }

    /// Ends the context that was begun last with a stream.
    ///
    /// # Errors
    /// A stream without such a context.
    pub fn end_stream_pool(&self, device: usize, stream: Stream) -> Result<(), Error> {
        match self.devices.get(device)?.contexts.of_stream(stream) {
            Some(serving) => self.end_pool(device, serving.pool),
            None => Err(Error::argument(format!("no pool context is open on stream {:#x}", stream.0))),
        }
    }

    /// Releases one hold on a pool, such as that of a graph that began to allocate from it. A
    /// context of the pool that is still open goes on to serve, and the pool is gone when it ends.
    ///
    /// # Errors
    /// A pool that is unknown, or has no holds left.
    pub fn release_pool(&self, device: usize, pool: PoolId) -> Result<(), Error> {
        self.heap(device)?.release_pool(pool)
    }

    /// A `MemPool` keeps a pool on all devices, from its first use there.
    pub fn keep_pool(&self, pool: PoolId) {
        self.pools.kept.lock().push(pool);
        self.devices.heaps().for_each(|heap| heap.lock().keep_pool(pool));
    }

    /// A `MemPool` that kept a pool is gone. After the last one, idle memory of the pool is
    /// returned to the driver.
    ///
    /// # Errors
    /// The first device's that fails. The pool is gone nevertheless.
    pub fn drop_pool(&self, pool: PoolId) -> Result<(), Error> {
        let mut kept = self.pools.kept.lock();
        if let Some(at) = kept.iter().position(|known| *known == pool) {
            kept.swap_remove(at);
        }
        let is_kept = kept.contains(&pool);
        drop(kept);
        if is_kept {
            return Ok(());
        }
        self.devices.for_each(|heap| match heap.drop_pool(pool) {
            // A capture is under way: the next reset returns the memory.
            Err(Error::Refused(_)) => Ok(()),
            done => done,
        })
    }

    /// The number of holds on a pool over all devices. Each `MemPool` that keeps it holds it, and
    /// so does each caller that began to allocate from it and has not released it.
    pub fn pool_holds(&self, pool: PoolId) -> u32 {
        let kept = self.pools.kept.lock().iter().filter(|known| **known == pool).count() as u32;
        let heaps = self.devices.heaps();
        kept + heaps.map(|heap| heap.lock().pool_holds(pool)).sum::<u32>()
    }
}
