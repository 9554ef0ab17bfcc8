//! Pools: memory that allocations of one kind have for themselves, those of a graph capture or of a
//! program's `MemPool`.
//!
//! A graph replays the addresses that it was captured with, also those of blocks that were freed
//! during the capture. So a pool has arenas of its own, nothing else gets memory from them, and
//! their backing stays, used or not, until the pool is gone.
//!
//! A pool lives as long as it is held: by a capture or a region that began to allocate from it,
//! until that releases it; by a context that is still open; or by a `MemPool` that keeps it on all
//! devices.

use super::memory::Memory;
use super::streams::Streams;
use crate::core::{ArenaId, Class, PoolId, Purpose, StreamId};
use crate::error::Error;

/// One stretch of time in which allocations come from a pool. No two contexts of a process have the
/// same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContextId(pub u64);

/// The context, and its pool, that serves an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// The context.
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
    /// Either; the driver knows which, once an allocation has named its stream.
    Unknown,
}

#[derive(Debug)]
struct Pool {
    id: PoolId,
    /// By class.
    arenas: [ArenaId; Class::ALL.len()],
    /// How many began to allocate from it and have not released it.
    holds: u32,
    /// Whether a `MemPool` keeps it.
    is_kept: bool,
}

#[derive(Debug)]
struct Context {
    serving: Serving,
    kind: ContextKind,
    /// The stream that it is for, until that is captured.
    awaited: Option<StreamId>,
    /// The streams that were captured when they allocated in it, as long as they are. No others are
    /// remembered: a program may destroy them.
    captured: Vec<StreamId>,
    /// Whether any stream is known that it is for, or that has allocated in it.
    is_known: bool,
}

impl Context {
    /// Whether a graph is being captured in it, as far as is known.
    fn is_capturing(&mut self, streams: &Streams) -> bool {
        self.captured.extend(self.awaited.take_if(|stream| streams.is_capturing(*stream)));
        self.captured.retain(|stream| streams.is_capturing(*stream));
        !self.captured.is_empty() || (self.kind != ContextKind::Region && !self.is_known)
    }

    /// Notes that an allocation on `stream` is served. A program may begin a capture of its own in
    /// any context.
    fn note_use(&mut self, stream: StreamId, streams: &Streams) {
        if self.captured.contains(&stream) {
            return;
        }
        match streams.is_captured(stream) {
            Some(true) => self.captured.push(stream),
            Some(false) => {}
            // Unknown: the next allocation asks again.
            None => return,
        }
        self.is_known = true;
    }
}

/// The pools of a device, and the contexts that allocate from them.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: Vec<Pool>,
    contexts: Vec<Context>,
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

    /// The streams that open contexts are for, and those that are captured in them.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.contexts.iter().flat_map(|context| context.captured.iter().chain(&context.awaited).copied())
    }

    /// How many hold a pool, a `MemPool` that keeps it not counted; 0 where it is unknown.
    pub(super) fn holds(&self, id: PoolId) -> u32 {
        self.pools.iter().find(|pool| pool.id == id).map_or(0, |pool| pool.holds)
    }

    fn find(&mut self, id: PoolId) -> Result<&mut Pool, Error> {
        let unknown = || Error::argument(format!("pool ({}, {}) is unknown on this device", id.0, id.1));
        self.pools.iter_mut().find(|pool| pool.id == id).ok_or_else(unknown)
    }

    /// Begins a context, which holds its pool; a new pool is made. `is_kept` says whether a
    /// `MemPool` keeps the pool too; `stream` is the one that the context is for, where it is
    /// known.
    ///
    /// # Errors
    /// The driver's, where addresses for a new pool are refused.
    pub(super) fn begin(
        &mut self,
        memory: &mut Memory,
        serving: Serving,
        kind: ContextKind,
        is_kept: bool,
        stream: Option<StreamId>,
    ) -> Result<(), Error> {
        match self.find(serving.pool) {
            Ok(pool) => pool.holds += 1,
            Err(_) => {
                let arenas = pool_arenas(memory, serving.pool)?;
                self.pools.push(Pool { id: serving.pool, arenas, holds: 1, is_kept });
            }
        }
        self.contexts.push(Context {
            serving,
            kind,
            awaited: stream,
            captured: Vec::new(),
            is_known: stream.is_some(),
        });
        Ok(())
    }

    /// Ends the context that began last to allocate from a pool, and returns it. The pool is held
    /// as before.
    ///
    /// # Errors
    /// A pool without an open context.
    pub(super) fn end(&mut self, memory: &mut Memory, id: PoolId) -> Result<ContextId, Error> {
        let open = self.contexts.iter().rposition(|context| context.serving.pool == id);
        let at = open.ok_or_else(|| {
            Error::argument(format!("nothing allocates from pool ({}, {}) on this device: it has ended", id.0, id.1))
        })?;
        let context = self.contexts.remove(at).serving.context;
        self.remove_unheld(memory, id);
        Ok(context)
    }

    /// Releases one hold on a pool. After the last, the pool is gone once its contexts have ended.
    ///
    /// # Errors
    /// A pool that is unknown, or that everyone has released already.
    pub(super) fn release(&mut self, memory: &mut Memory, id: PoolId) -> Result<(), Error> {
        let pool = self.find(id)?;
        pool.holds = pool.holds.checked_sub(1).ok_or_else(|| {
            Error::argument(format!("pool ({}, {}) has been released by everyone who held it", id.0, id.1))
        })?;
        self.remove_unheld(memory, id);
        Ok(())
    }

    /// Says whether a `MemPool` keeps a pool, if this device knows it. Returns whether the pool is
    /// gone now.
    pub(super) fn set_kept(&mut self, memory: &mut Memory, id: PoolId, is_kept: bool) -> bool {
        let Ok(pool) = self.find(id) else { return false };
        pool.is_kept = is_kept;
        self.remove_unheld(memory, id)
    }

    /// Removes a pool that is no longer held. Returns whether it is gone.
    fn remove_unheld(&mut self, memory: &mut Memory, id: PoolId) -> bool {
        let is_open = self.contexts.iter().any(|context| context.serving.pool == id);
        let is_unheld = |pool: &Pool| pool.id == id && pool.holds == 0 && !pool.is_kept && !is_open;
        let Some(at) = self.pools.iter().position(is_unheld) else { return false };
        let arenas = self.pools.swap_remove(at).arenas;
        arenas.into_iter().for_each(|arena| memory.arenas.set_purpose(arena, Purpose::Vacant));
        true
    }

    /// The arena for an allocation of a context, which is noted to allocate on `stream`. `None`
    /// where the context has ended meanwhile.
    #[cold]
    pub(super) fn arena_for(
        &mut self,
        serving: Serving,
        class: Class,
        stream: StreamId,
        streams: &Streams,
    ) -> Option<ArenaId> {
        let context = self.contexts.iter_mut().find(|context| context.serving == serving)?;
        context.note_use(stream, streams);
        Some(self.find(serving.pool).ok()?.arenas[class as usize])
    }

    /// Whether a graph is being captured on this device, as far as is known. Asks the driver once
    /// for each stream that was captured when it allocated in a context; nothing where no context
    /// is open.
    pub(super) fn is_capturing(&mut self, streams: &Streams) -> bool {
        self.contexts.iter_mut().any(|context| context.is_capturing(streams))
    }

    /// Why nothing can move or be waited for during a capture on `device`, and what to wait for.
    pub(super) fn capture_in_the_way(&mut self, device: usize, streams: &Streams) -> Error {
        let capturing = |context: &mut Context| context.is_capturing(streams).then_some(context.serving.pool);
        let pools: Vec<_> = self.contexts.iter_mut().filter_map(capturing).collect();
        let names: Vec<_> = pools.iter().map(|id| format!("({}, {})", id.0, id.1)).collect();
        Error::refused(format!(
            "a CUDA graph is being captured on device {device} with pool {}, and memory must not move under it: try \
             again when the capture has ended",
            names.join(", ")
        ))
    }
}

/// The arenas of a new pool.
fn pool_arenas(memory: &mut Memory, id: PoolId) -> Result<[ArenaId; Class::ALL.len()], Error> {
    let small = memory.pool_arena(Class::Small, Purpose::Pool(id))?;
    let large = memory.pool_arena(Class::Large, Purpose::Pool(id));
    if large.is_err() {
        memory.arenas.set_purpose(small, Purpose::Vacant);
    }
    Ok([small, large?])
}
