//! What is counted, for everybody who watches.

use super::tier::{PerTier, Tier};

/// A quantity in bytes: now, and at most since the last reset of the peaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// Now.
    pub current: u64,
    /// The most since the peaks were last reset.
    pub peak: u64,
}

impl Gauge {
    /// Adds to it. O(1).
    #[inline]
    pub fn add(&mut self, bytes: u64) {
        self.current += bytes;
        self.peak = self.peak.max(self.current);
    }

    /// Takes from it. O(1).
    #[inline]
    pub fn sub(&mut self, bytes: u64) {
        self.current -= bytes;
    }

    /// Sets it.
    pub fn set(&mut self, bytes: u64) {
        self.current = bytes;
        self.peak = self.peak.max(bytes);
    }

    /// Forgets the peak.
    pub fn reset_peak(&mut self) {
        self.peak = self.current;
    }
}

/// The gauges of one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierStats {
    /// Bytes of live blocks, rounded up to 512 each.
    pub allocated: Gauge,
    /// The same, and blocks given back that still wait for work on other streams.
    pub active: Gauge,
    /// Bytes of backing mapped at arena addresses.
    pub mapped: Gauge,
    /// Bytes of backing held from the driver: mapped, in the stock, and as working room.
    pub reserved: Gauge,
}

/// Which part of its life a device is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Nothing activated yet: blocks take dedicated memory first come, first served, less the reserve.
    #[default]
    Loading = 0,
    /// Activated: placed, frozen, the reserve handed out first.
    Active = 1,
    /// Placed without reserve and thawed.
    Disabled = 2,
    /// Everything moved to the shared tier.
    Freed = 3,
}

impl Phase {
    /// The phase's name, as users meet it everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Loading => "loading",
            Phase::Active => "active",
            Phase::Disabled => "disabled",
            Phase::Freed => "freed",
        }
    }
}

/// Everything that is counted on one device. Bytes, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The gauges of each tier.
    pub tiers: PerTier<TierStats>,
    /// What may be backed in each tier, at most.
    pub capacity: PerTier<u64>,
    /// Bytes asked for by the live blocks, before rounding.
    pub requested: Gauge,
    /// Which part of its life the device is in.
    pub phase: Phase,
    /// The reserve in force.
    pub reserve: u64,
    /// Dedicated bytes of live scratch: what of the reserve, and beyond it, is in use. The peak is the high-water mark.
    pub reserve_used: Gauge,
    /// Persist in force.
    pub persist: u64,
    /// Blocks given out, without those of size 0.
    pub mallocs: u64,
    /// Blocks given back.
    pub frees: u64,
    /// Requests for 0 bytes.
    pub zero_mallocs: u64,
    /// Requests that neither tier could satisfy.
    pub out_of_memory: u64,
    /// Requests satisfied only after idle backing was taken back.
    pub retries: u64,
    /// Calls of `reset` (PyTorch's `empty_cache`).
    pub resets: u64,
    /// Granules that changed tier.
    pub migrations: u64,
    /// Bytes of them.
    pub migrated_bytes: u64,
    /// Blocks that lay in the shared tier from their first byte.
    pub fell_to_shared: u64,
    /// Bytes of them.
    pub fell_to_shared_bytes: u64,
    /// Live blocks.
    pub live_blocks: u64,
    /// Blocks given back that still wait for work on other streams.
    pub retired_blocks: u64,
}

impl Stats {
    /// A block came to life, all of it in one tier. O(1).
    #[inline]
    pub(crate) fn allocate(&mut self, tier: Tier, bytes: u64, requested: u64, scratch: bool) {
        self.mallocs += 1;
        self.live_blocks += 1;
        self.requested.add(requested);
        let stats = &mut self.tiers[tier];
        stats.allocated.add(bytes);
        stats.active.add(bytes);
        if scratch && tier == Tier::Dedicated {
            self.reserve_used.add(bytes);
        }
    }

    /// A part of a block, in one tier, was given back; with `retired` its bytes stay active. O(1).
    #[inline]
    pub(crate) fn free_part(&mut self, tier: Tier, bytes: u64, scratch: bool, retired: bool) {
        let stats = &mut self.tiers[tier];
        stats.allocated.sub(bytes);
        if !retired {
            stats.active.sub(bytes);
        }
        if scratch && tier == Tier::Dedicated {
            self.reserve_used.sub(bytes);
        }
    }

    /// A block was given back, besides what is said of its parts. O(1).
    #[inline]
    pub(crate) fn free(&mut self, requested: u64) {
        self.frees += 1;
        self.live_blocks -= 1;
        self.requested.sub(requested);
    }

    /// Forgets all peaks.
    pub fn reset_peaks(&mut self) {
        for tier in Tier::ALL {
            let stats = &mut self.tiers[tier];
            for gauge in [&mut stats.allocated, &mut stats.active, &mut stats.mapped, &mut stats.reserved] {
                gauge.reset_peak();
            }
        }
        self.requested.reset_peak();
        self.reserve_used.reset_peak();
    }

    /// Forgets what was counted since the beginning; what is true now stays.
    pub fn reset_accumulated(&mut self) {
        for count in [
            &mut self.mallocs,
            &mut self.frees,
            &mut self.zero_mallocs,
            &mut self.out_of_memory,
            &mut self.retries,
            &mut self.resets,
            &mut self.migrations,
            &mut self.migrated_bytes,
            &mut self.fell_to_shared,
            &mut self.fell_to_shared_bytes,
        ] {
            *count = 0;
        }
    }
}
