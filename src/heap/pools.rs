//! The pools of graph captures: what a capture allocates is its own until its pool is released.
//!
//! A graph replays the addresses it was captured with, also those of blocks that were freed during the capture. So a pool has
//! arenas of its own, eager code gets nothing of them, and their backing stays, used or not, until the release.

use super::{FIRST_OF_POOLS, Heap};
use crate::core::Class;
use crate::error::Error;

/// The name PyTorch gives a pool (`MempoolId_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(pub u64, pub u64);

#[derive(Debug)]
struct Pool {
    id: PoolId,
    arenas: [usize; 2],
    captures: u32,
    holds: u32,
}

/// The pools of a device.
#[derive(Debug, Default)]
pub(super) struct Pools {
    pools: Vec<Pool>,
    /// Pairs of arenas of released pools; they serve again once their last block is gone.
    released: Vec<[usize; 2]>,
}

impl Pools {
    /// How many pools are not released.
    pub(super) fn len(&self) -> usize {
        self.pools.len()
    }

    /// Whether any capture is under way.
    pub(super) fn is_capturing(&self) -> bool {
        self.pools.iter().any(|pool| pool.captures > 0)
    }

    /// Whether an arena belongs to a pool that is not released.
    pub(super) fn owns(&self, index: usize) -> bool {
        index >= FIRST_OF_POOLS && self.pools.iter().any(|pool| pool.arenas.contains(&index))
    }

    /// The pool that an arena belongs to.
    pub(super) fn of_arena(&self, index: usize) -> Option<PoolId> {
        self.pools.iter().find(|pool| pool.arenas.contains(&index)).map(|pool| pool.id)
    }

    fn find(&mut self, id: PoolId) -> Result<&mut Pool, Error> {
        let unknown = || Error::Argument(format!("no graph pool ({}, {}) was begun on this device", id.0, id.1));
        self.pools.iter_mut().find(|pool| pool.id == id).ok_or_else(unknown)
    }
}

impl Heap {
    /// A capture begins to allocate from a pool, which is made if it is new.
    ///
    /// # Errors
    /// The driver's, where addresses for a new pool are refused.
    pub fn begin_pool(&mut self, id: PoolId) -> Result<(), Error> {
        if let Ok(pool) = self.pools.find(id) {
            pool.captures += 1;
            pool.holds += 1;
            return Ok(());
        }
        let is_empty = |pair: &[usize; 2]| {
            let mut arenas = (0..self.arenas.len()).filter(|index| pair.contains(&self.owner_of(*index)));
            arenas.all(|index| self.arenas[index].core.live_blocks() == 0)
        };
        let reusable = self.pools.released.iter().position(is_empty);
        let pair = match reusable {
            Some(at) => self.pools.released.swap_remove(at),
            None => [self.add_arena(Class::Small)?, self.add_arena(Class::Large)?],
        };
        self.pools.pools.push(Pool { id, arenas: pair, captures: 1, holds: 1 });
        Ok(())
    }

    /// A capture ends to allocate from a pool.
    ///
    /// # Errors
    /// A pool that was never begun, or whose captures have all ended.
    pub fn end_pool(&mut self, id: PoolId) -> Result<(), Error> {
        let pool = self.pools.find(id)?;
        pool.captures = pool.captures.checked_sub(1).ok_or_else(|| {
            Error::Argument(format!("the captures of graph pool ({}, {}) have all ended already", id.0, id.1))
        })?;
        Ok(())
    }

    /// A graph that used a pool is gone. With the last of them the pool's memory is free again.
    ///
    /// # Errors
    /// A pool that was never begun, or is released already.
    pub fn release_pool(&mut self, id: PoolId) -> Result<(), Error> {
        let pool = self.pools.find(id)?;
        pool.holds -= 1;
        if pool.holds == 0 {
            let pair = pool.arenas;
            self.pools.pools.retain(|pool| pool.id != id);
            self.pools.released.push(pair);
        }
        Ok(())
    }

    /// How many hold a pool: captures and whoever else began to allocate from it, less those that released it. 0 where it is not known.
    pub fn pool_holds(&self, id: PoolId) -> u32 {
        self.pools.pools.iter().find(|pool| pool.id == id).map_or(0, |pool| pool.holds)
    }

    pub(super) fn pool_arena(&mut self, id: PoolId, class: usize) -> Result<usize, Error> {
        Ok(self.pools.find(id)?.arenas[class])
    }
}
