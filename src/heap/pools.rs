//! Pools: memory that allocations of one kind have for themselves, those of a graph capture or of a program's `MemPool`.
//!
//! A graph replays the addresses it was captured with, also those of blocks that were freed during the capture. So a pool
//! has arenas of its own, nothing else gets memory from them, and their backing stays, used or not, until the pool is
//! gone.
//!
//! A pool lives as long as somebody holds it: a capture or a program's region that began to allocate from it, until it
//! releases it; a context that is still open; or a `MemPool` that keeps it on all devices.

use super::{FIRST_OF_POOLS, Heap};
use crate::core::{Class, StreamId};
use crate::driver::Stream;
use crate::error::Error;

/// The name PyTorch gives a pool (`MempoolId_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(pub u64, pub u64);

/// One stretch of time in which allocations come from a pool. No two contexts of a process have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContextId(pub u64);

/// The context, and its pool, that serves an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Which context.
    pub context: ContextId,
    /// The pool it allocates from.
    pub pool: PoolId,
}

/// What a context is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextKind {
    /// A program allocates from a pool of its own. Nothing is captured, and nothing has to wait.
    Region,
    /// A graph is captured.
    Capture,
    /// One of the two; the driver knows, once an allocation has named its stream.
    Unknown,
}

#[derive(Debug)]
struct Pool {
    id: PoolId,
    arenas: [usize; 2],
    /// How many began to allocate from it and have not released it.
    holds: u32,
    /// Whether a `MemPool` keeps it.
    is_kept: bool,
}

#[derive(Debug)]
struct Context {
    serving: Serving,
    kind: ContextKind,
    /// The stream that it is of, and those that have allocated in it.
    streams: Vec<StreamId>,
}

/// The pools of a device, and the contexts that allocate from them.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: Vec<Pool>,
    contexts: Vec<Context>,
    /// Pairs of arenas of pools that are gone; they serve again once their last block is gone.
    released: Vec<[usize; 2]>,
}

impl Pools {
    /// How many pools there are.
    pub(super) fn len(&self) -> usize {
        self.pools.len()
    }

    /// Whether any context is open.
    pub(super) fn any_open(&self) -> bool {
        !self.contexts.is_empty()
    }

    /// Whether an arena belongs to a pool.
    pub(super) fn owns(&self, index: usize) -> bool {
        index >= FIRST_OF_POOLS && self.pools.iter().any(|pool| pool.arenas.contains(&index))
    }

    /// The pool that an arena belongs to.
    pub(super) fn of_arena(&self, index: usize) -> Option<PoolId> {
        self.pools.iter().find(|pool| pool.arenas.contains(&index)).map(|pool| pool.id)
    }

    /// The streams that have allocated in open contexts.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.contexts.iter().flat_map(|context| context.streams.iter().copied())
    }

    fn find(&mut self, id: PoolId) -> Result<&mut Pool, Error> {
        let unknown = || Error::Argument(format!("pool ({}, {}) is unknown on this device", id.0, id.1));
        self.pools.iter_mut().find(|pool| pool.id == id).ok_or_else(unknown)
    }

    /// Forgets a pool that nobody holds any more: whether it is gone.
    fn forget_unheld(&mut self, id: PoolId) -> bool {
        let is_open = self.contexts.iter().any(|context| context.serving.pool == id);
        let unheld = |pool: &Pool| pool.id == id && pool.holds == 0 && !pool.is_kept && !is_open;
        let Some(at) = self.pools.iter().position(unheld) else { return false };
        self.released.push(self.pools.swap_remove(at).arenas);
        true
    }
}

impl Heap {
    /// A context begins to allocate from a pool, which is made if it is new, and holds it. `is_kept` says whether a
    /// `MemPool` keeps the pool besides; `stream` is the one that the context is of, where it is known.
    ///
    /// # Errors
    /// The driver's, where addresses for a new pool are refused.
    pub fn begin_pool(
        &mut self,
        serving: Serving,
        kind: ContextKind,
        is_kept: bool,
        stream: Option<Stream>,
    ) -> Result<(), Error> {
        let streams = stream.map(|stream| self.stream_number(stream)).transpose()?.into_iter().collect();
        match self.pools.find(serving.pool) {
            Ok(pool) => pool.holds += 1,
            Err(_) => {
                let arenas = self.pool_arenas()?;
                self.pools.pools.push(Pool { id: serving.pool, arenas, holds: 1, is_kept });
            }
        }
        self.pools.contexts.push(Context { serving, kind, streams });
        Ok(())
    }

    /// Arenas for a new pool: those of one that is gone, or new ones.
    fn pool_arenas(&mut self) -> Result<[usize; 2], Error> {
        let is_empty = |pair: &[usize; 2]| {
            let mut arenas = (0..self.arenas.len()).filter(|index| pair.contains(&self.owner_of(*index)));
            arenas.all(|index| self.arenas[index].core.live_blocks() == 0)
        };
        match self.pools.released.iter().position(is_empty) {
            Some(at) => Ok(self.pools.released.swap_remove(at)),
            None => Ok([self.add_arena(Class::Small)?, self.add_arena(Class::Large)?]),
        }
    }

    /// Ends the context that began last to allocate from a pool, and names it. The pool is held as before.
    ///
    /// # Errors
    /// A pool without an open context.
    pub fn end_pool(&mut self, id: PoolId) -> Result<ContextId, Error> {
        let open = self.pools.contexts.iter().rposition(|context| context.serving.pool == id);
        let at = open.ok_or_else(|| {
            Error::Argument(format!("nothing allocates from pool ({}, {}) on this device: it has ended", id.0, id.1))
        })?;
        let context = self.pools.contexts.remove(at).serving.context;
        self.pools.forget_unheld(id);
        Ok(context)
    }

    /// One who held a pool releases it. With the last of them the pool is gone, once its contexts have ended.
    ///
    /// # Errors
    /// A pool that is unknown, or released by all already.
    pub fn release_pool(&mut self, id: PoolId) -> Result<(), Error> {
        let pool = self.pools.find(id)?;
        pool.holds = pool.holds.checked_sub(1).ok_or_else(|| {
            Error::Argument(format!("pool ({}, {}) has been released by all that held it", id.0, id.1))
        })?;
        self.pools.forget_unheld(id);
        Ok(())
    }

    /// A `MemPool` keeps a pool, if this device knows it.
    pub fn keep_pool(&mut self, id: PoolId) {
        if let Ok(pool) = self.pools.find(id) {
            pool.is_kept = true;
        }
    }

    /// The `MemPool` that kept a pool is gone: what is idle in the pool goes back to the driver, unless somebody else
    /// holds it.
    ///
    /// # Errors
    /// While a graph is captured; the driver's. The pool is gone all the same, and a later reset gives its memory back.
    pub fn drop_pool(&mut self, id: PoolId) -> Result<(), Error> {
        let Ok(pool) = self.pools.find(id) else { return Ok(()) };
        pool.is_kept = false;
        if self.pools.forget_unheld(id) {
            self.quiesce()?;
            self.give_back();
        }
        Ok(())
    }

    /// How many hold a pool, a `MemPool` that keeps it aside. 0 where it is unknown.
    pub fn pool_holds(&self, id: PoolId) -> u32 {
        self.pools.pools.iter().find(|pool| pool.id == id).map_or(0, |pool| pool.holds)
    }

    /// The arena for an allocation of a context, which is seen to allocate on `stream`. `None` where the context has ended
    /// meanwhile.
    #[cold]
    pub(super) fn pool_arena(&mut self, serving: Serving, class: usize, stream: StreamId) -> Option<usize> {
        let mut contexts = self.pools.contexts.iter_mut();
        let context = contexts.find(|context| context.serving == serving)?;
        if !context.streams.contains(&stream) {
            context.streams.push(stream);
        }
        Some(self.pools.find(serving.pool).ok()?.arenas[class])
    }

    /// Whether a graph is being captured on this device, as far as is known. Asks the driver once for each stream that has
    /// allocated in a context; nothing where no context is open.
    pub(super) fn is_capturing(&self) -> bool {
        self.pools.contexts.iter().any(|context| match context.kind {
            // A program may begin a capture of its own inside.
            ContextKind::Region => context.streams.iter().any(|stream| self.streams.is_captured(*stream) == Some(true)),
            ContextKind::Capture | ContextKind::Unknown if context.streams.is_empty() => true,
            ContextKind::Capture | ContextKind::Unknown => {
                context.streams.iter().any(|stream| self.streams.is_capturing(*stream))
            }
        })
    }

    /// Why nothing can move or be waited for during a capture, with what it waits for.
    pub(super) fn capture_in_the_way(&self) -> Error {
        let pools: Vec<_> = self.pools.contexts.iter().filter(|context| context.kind != ContextKind::Region).collect();
        let names: Vec<_> =
            pools.iter().map(|context| context.serving.pool).map(|id| format!("({}, {})", id.0, id.1)).collect();
        Error::Refused(format!(
            "a CUDA graph is being captured on device {} with pool {}, and memory must not move under it: try again when \
             the capture has ended",
            self.device,
            names.join(", ")
        ))
    }
}
