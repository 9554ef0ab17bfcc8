//! Places: arenas and granules by number, and what an arena is for.

/// An arena of a heap, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ArenaId(pub u32);

/// A granule, by its arena and its number therein.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GranuleId {
    /// The arena.
    pub arena: ArenaId,
    /// The number of the granule in it.
    pub granule: u32,
}

/// The name that PyTorch gives a pool (`MempoolId_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId(pub u64, pub u64);

/// What an arena is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Blocks that are allocated while not frozen.
    Resident,
    /// Blocks that are allocated while frozen.
    Scratch,
    /// Blocks of one pool. A graph may touch them whether they are in use or not, so their backing
    /// stays, and nothing else gets memory from the arena.
    Pool(PoolId),
    /// Nothing: its pool is gone. Blocks of that pool may still live here, and the arena serves
    /// another pool once the last of them is freed.
    Vacant,
}

impl Purpose {
    /// The pool that the arena belongs to.
    pub fn pool(self) -> Option<PoolId> {
        match self {
            Purpose::Pool(id) => Some(id),
            Purpose::Resident | Purpose::Scratch | Purpose::Vacant => None,
        }
    }

    /// Whether blocks that belong to no pool are allocated here.
    pub fn is_general(self) -> bool {
        matches!(self, Purpose::Resident | Purpose::Scratch)
    }

    /// Its name, as the memory map has it.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Resident => "resident",
            Purpose::Scratch => "scratch",
            Purpose::Pool(_) | Purpose::Vacant => "pool",
        }
    }
}
