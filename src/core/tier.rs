//! The tiers of memory that a GPU can address.

use std::fmt;
use std::ops::{Index, IndexMut};

/// Where the bytes of a granule physically are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    /// The card's own memory (VRAM).
    Dedicated = 0,
    /// Host memory that is mapped into the device's address space and read over the link.
    Shared = 1,
}

impl Tier {
    /// How many tiers there are.
    pub const COUNT: usize = 2;

    /// All tiers, the fastest first.
    pub const ALL: [Tier; Tier::COUNT] = [Tier::Dedicated, Tier::Shared];

    /// The tier's name, as users meet it everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Dedicated => "dedicated",
            Tier::Shared => "shared",
        }
    }

    /// Whether a GPU reads this tier faster than `other`.
    pub fn is_faster_than(self, other: Tier) -> bool {
        self < other
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One value for each tier, indexed by [`Tier`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerTier<T>(pub [T; Tier::COUNT]);

impl<T> PerTier<T> {
    /// The values of the two tiers, `dedicated` first.
    pub const fn new(dedicated: T, shared: T) -> Self {
        PerTier([dedicated, shared])
    }

    /// The value that `of` has for each tier.
    pub fn from_fn(of: impl FnMut(Tier) -> T) -> Self {
        PerTier(Tier::ALL.map(of))
    }

    /// The values, the fastest tier's first.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    /// The values, to be changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        self.0.iter_mut()
    }

    /// The result of `change` on each value.
    pub fn map<U>(self, change: impl FnMut(T) -> U) -> PerTier<U> {
        PerTier(self.0.map(change))
    }
}

impl<T> Index<Tier> for PerTier<T> {
    type Output = T;
    #[inline]
    fn index(&self, tier: Tier) -> &T {
        &self.0[tier as usize]
    }
}

impl<T> IndexMut<Tier> for PerTier<T> {
    #[inline]
    fn index_mut(&mut self, tier: Tier) -> &mut T {
        &mut self.0[tier as usize]
    }
}
