//! The two tiers of memory that a GPU can address.

use std::fmt;
use std::ops::{Index, IndexMut};

/// Where a granule's bytes physically are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    /// The card's own memory (VRAM).
    Dedicated = 0,
    /// Host memory mapped into the device's address space, read over the link.
    Shared = 1,
}

impl Tier {
    /// Both tiers, the faster first.
    pub const ALL: [Tier; 2] = [Tier::Dedicated, Tier::Shared];

    /// The other tier.
    pub fn other(self) -> Tier {
        match self {
            Tier::Dedicated => Tier::Shared,
            Tier::Shared => Tier::Dedicated,
        }
    }

    /// The tier's name, as users meet it everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Dedicated => "dedicated",
            Tier::Shared => "shared",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One value for each tier, indexed by [`Tier`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerTier<T>(pub [T; 2]);

impl<T> PerTier<T> {
    /// The two values, `dedicated` first.
    pub const fn new(dedicated: T, shared: T) -> Self {
        PerTier([dedicated, shared])
    }
}

impl<T> PerTier<T> {
    /// Each tier's.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// The same of each tier's value.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> PerTier<U> {
        PerTier(self.0.map(change))
    }

    /// Each tier's, to be changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.0.iter_mut()
    }
}

impl<T> Index<Tier> for PerTier<T> {
    type Output = T;
    fn index(&self, tier: Tier) -> &T {
        &self.0[tier as usize]
    }
}

impl<T> IndexMut<Tier> for PerTier<T> {
    fn index_mut(&mut self, tier: Tier) -> &mut T {
        &mut self.0[tier as usize]
    }
}
