//! Statistics of one device.

use super::ledger::Grant;
use super::phase::Phase;
use super::size::{BlockSize, Class};
use super::tier::{PerTier, Tier};

/// A quantity, in bytes unless said otherwise: its current value, its peak, and the total ever
/// added.
///
/// It is two sums that only grow, so that counting a block writes one word, and a second one only
/// where the peak rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    added: u64,
    taken: u64,
    peak: u64,
    /// The sum of what had been taken when the totals were last reset.
    before: u64,
}

impl Gauge {
    /// The current value. O(1).
    #[inline]
    pub fn current(&self) -> u64 {
        self.added - self.taken
    }

    /// The largest value since the peaks were last reset.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// The total added since the totals were last reset, including the value at that time.
    pub fn total(&self) -> u64 {
        self.added - self.before
    }

    /// The total taken since the totals were last reset.
    pub fn taken(&self) -> u64 {
        self.taken - self.before
    }

    /// Adds to the value. O(1).
    #[inline]
    pub fn add(&mut self, bytes: u64) {
        self.added += bytes;
        let current = self.current();
        if current > self.peak {
            self.peak = current;
        }
    }

    /// Takes from the value. O(1).
    #[inline]
    pub fn sub(&mut self, bytes: u64) {
        self.taken += bytes;
    }

    /// Sets the value. O(1).
    pub fn set(&mut self, bytes: u64) {
        let current = self.current();
        self.add(bytes.saturating_sub(current));
        self.sub(current.saturating_sub(bytes));
    }

    fn reset_peak(&mut self) {
        self.peak = self.current();
    }

    fn reset_total(&mut self) {
        self.before = self.taken;
    }
}

/// The gauges of blocks, in whichever tier they lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Number of live blocks.
    pub count: Gauge,
    /// Bytes of live blocks, each rounded up to a multiple of 512.
    pub allocated: Gauge,
    /// The bytes requested, before rounding, of live and of retired blocks, as PyTorch counts them.
    pub requested: Gauge,
    retired: Retired,
}

/// The part of [`BlockStats`] about retired blocks. There are hardly ever any. While there are
/// none, the active blocks are the live ones, so counting a block costs nothing more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Retired {
    count: u64,
    bytes: u64,
    /// The most active blocks, and their most bytes, while any were retired.
    active_peak: (u64, u64),
}

impl BlockStats {
    #[inline]
    fn add(&mut self, size: BlockSize) {
        self.count.add(1);
        self.allocated.add(size.rounded());
        self.requested.add(size.requested());
        if self.retired.count > 0 {
            self.note_active();
        }
    }

    #[inline]
    fn sub(&mut self, size: BlockSize, retired: bool) {
        self.count.sub(1);
        self.allocated.sub(size.rounded());
        if retired {
            self.retired.count += 1;
            self.retired.bytes += size.rounded();
        } else {
            self.requested.sub(size.requested());
        }
    }

    fn release(&mut self, bytes: u64, requested: u64) {
        self.retired.count -= 1;
        self.retired.bytes -= bytes;
        self.requested.sub(requested);
    }

    #[cold]
    fn note_active(&mut self) {
        let (count, bytes) = self.retired.active_peak;
        self.retired.active_peak = (count.max(self.active_count()), bytes.max(self.active()));
    }

    /// Number of blocks that are live or retired.
    pub fn active_count(&self) -> u64 {
        self.count.current() + self.retired.count
    }

    /// The peak of [`active_count`](BlockStats::active_count).
    pub fn active_count_peak(&self) -> u64 {
        self.count.peak().max(self.retired.active_peak.0)
    }

    /// Bytes of blocks that are live or retired, each rounded up to a multiple of 512.
    pub fn active(&self) -> u64 {
        self.allocated.current() + self.retired.bytes
    }

    /// The peak of [`active`](BlockStats::active).
    pub fn active_peak(&self) -> u64 {
        self.allocated.peak().max(self.retired.active_peak.1)
    }

    fn reset_peaks(&mut self) {
        self.gauges().into_iter().for_each(Gauge::reset_peak);
        self.retired.active_peak = (self.active_count(), self.active());
    }

    fn gauges(&mut self) -> [&mut Gauge; 3] {
        [&mut self.count, &mut self.allocated, &mut self.requested]
    }
}

/// The gauges of one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierStats {
    /// Bytes of live blocks, each rounded up to a multiple of 512.
    pub allocated: Gauge,
    /// The same, and freed blocks that still wait for work on other streams.
    pub active: Gauge,
    /// Bytes of backing mapped at arena addresses.
    pub mapped: Gauge,
    /// Bytes of backing held from the driver: mapped, in the stock, or kept as working room.
    pub reserved: Gauge,
}

/// Free space that cannot be returned to the driver, since it shares granules with blocks. PyTorch
/// calls it inactive splits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Splits {
    /// Number of free ranges.
    pub count: u64,
    /// Bytes of them on such granules.
    pub bytes: u64,
}

/// The statistics of one device. Bytes, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Whether the device is in use: it has allocated, or was initialized for use.
    pub in_use: bool,
    /// The gauges of each tier.
    pub tiers: PerTier<TierStats>,
    /// The size of a granule.
    pub granule: u64,
    /// The most that may be backed in each tier.
    pub capacity: PerTier<u64>,
    /// What the operating system was last seen to grant of each tier; nothing where it keeps no
    /// account.
    pub granted: PerTier<Grant>,
    /// All blocks.
    pub blocks: BlockStats,
    /// The small blocks, and the large ones.
    pub classes: [BlockStats; 2],
    /// Bytes of backing held from the driver in both tiers.
    pub reserved: Gauge,
    /// The device's phase.
    pub phase: Phase,
    /// The reserve in force.
    pub reserve: u64,
    /// Whether the reserve is found automatically.
    pub automatic: bool,
    /// Safe points at which the automatic mode looked for something to move.
    pub safe_points: u64,
    /// Times that the automatic mode moved something.
    pub rebalances: u64,
    /// Safe points that wanted to move something and did not, because another thread was seen at
    /// work.
    pub abstained: u64,
    /// Bytes that the automatic mode moved to the shared tier.
    pub rebalanced_demoted: u64,
    /// Bytes that the automatic mode moved to the dedicated tier.
    pub rebalanced_promoted: u64,
    /// The most scratch at once since the last safe point.
    pub scratch_peak: u64,
    /// Dedicated bytes of live scratch, inside the reserve and beyond it. The peak is the
    /// high-water mark.
    pub reserve_used: Gauge,
    /// The persist in force.
    pub persist: u64,
    /// Requests for 0 bytes.
    pub zero_mallocs: u64,
    /// Requests that neither tier could satisfy.
    pub out_of_memory: u64,
    /// Requests satisfied only after idle backing was reclaimed.
    pub retries: u64,
    /// Bytes of idle dedicated granules that were mapped elsewhere because each run of them was too
    /// short.
    pub stitched_bytes: u64,
    /// Calls of `reset` (PyTorch's `empty_cache`).
    pub resets: u64,
    /// Granules that changed tier.
    pub migrations: u64,
    /// Bytes of those granules.
    pub migrated_bytes: u64,
    /// Blocks that lay in the shared tier, in whole or in part, when they were allocated.
    pub fell_to_shared: u64,
    /// Bytes of those blocks in the shared tier.
    pub fell_to_shared_bytes: u64,
    /// Freed blocks that still wait for work on other streams.
    pub retired_blocks: u64,
    /// Whether blocks can change tier. They cannot where the driver's shared memory is pinned.
    pub migrates: bool,
    /// Bytes of the blocks that the last action would have moved, and that stay in place because
    /// nothing can move.
    pub stayed: u64,
    /// Pools of graph captures that are not released.
    pub graph_pools: u64,
    /// Dedicated bytes of the ring into which weights are copied ahead of their use.
    pub staging: u64,
    /// Slots of the ring that somebody holds although their weights were given back.
    pub kept_slots: u64,
    /// How often a weight was lent from the ring.
    pub lends: u64,
    /// Bytes of those weights.
    pub lent_bytes: u64,
    /// Bytes of the shared tier that were copied ahead.
    pub copied_ahead_bytes: u64,
    /// How often a weight in the shared tier was called and read in place.
    pub missed_lends: u64,
    /// How often a copy was dropped unused.
    pub dropped_copies: u64,
    /// How often a weight was written in the ring and copied back.
    pub written_back: u64,
}

impl Stats {
    /// Counts a block that is allocated; [`allocate_part`](Stats::allocate_part) counts its parts.
    /// O(1).
    #[inline]
    pub(crate) fn allocate(&mut self, class: Class, size: BlockSize) {
        self.blocks.add(size);
        self.classes[class as usize].add(size);
    }

    /// Counts the part of a block in one tier that is allocated. O(1).
    #[inline]
    pub(crate) fn allocate_part(&mut self, tier: Tier, bytes: u64, scratch: bool) {
        let stats = &mut self.tiers[tier];
        stats.allocated.add(bytes);
        stats.active.add(bytes);
        if scratch && tier == Tier::Dedicated {
            self.reserve_used.add(bytes);
        }
    }

    /// Counts the part of a block in one tier that is freed. With `retired`, its bytes stay active.
    /// O(1).
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

    /// Counts a block that is freed; [`free_part`](Stats::free_part) counts its parts. With
    /// `retired`, it stays active. O(1).
    #[inline]
    pub(crate) fn free(&mut self, class: Class, size: BlockSize, retired: bool) {
        self.blocks.sub(size, retired);
        self.classes[class as usize].sub(size, retired);
    }

    /// Counts a retired block, with these bytes in each tier, that becomes free. O(1).
    pub(crate) fn release(&mut self, class: Class, parts: PerTier<u64>, requested: u64) {
        Tier::ALL.into_iter().for_each(|tier| self.tiers[tier].active.sub(parts[tier]));
        let bytes = parts.iter().sum();
        self.blocks.release(bytes, requested);
        self.classes[class as usize].release(bytes, requested);
    }

    fn blocks(&mut self) -> impl Iterator<Item = &mut BlockStats> {
        std::iter::once(&mut self.blocks).chain(&mut self.classes)
    }

    /// The gauges other than those of blocks.
    fn gauges(&mut self) -> impl Iterator<Item = &mut Gauge> {
        let tiers =
            self.tiers.iter_mut().flat_map(|t| [&mut t.allocated, &mut t.active, &mut t.mapped, &mut t.reserved]);
        tiers.chain([&mut self.reserved, &mut self.reserve_used])
    }

    /// Resets all peaks to the current values.
    pub fn reset_peaks(&mut self) {
        self.gauges().for_each(Gauge::reset_peak);
        self.blocks().for_each(BlockStats::reset_peaks);
    }

    /// Resets all totals and counters. Current values and peaks stay.
    pub fn reset_totals(&mut self) {
        self.gauges().for_each(Gauge::reset_total);
        self.blocks().flat_map(BlockStats::gauges).for_each(Gauge::reset_total);
        for count in [
            &mut self.zero_mallocs,
            &mut self.out_of_memory,
            &mut self.retries,
            &mut self.stitched_bytes,
            &mut self.resets,
            &mut self.migrations,
            &mut self.migrated_bytes,
            &mut self.fell_to_shared,
            &mut self.fell_to_shared_bytes,
            &mut self.safe_points,
            &mut self.rebalances,
            &mut self.abstained,
            &mut self.rebalanced_demoted,
            &mut self.rebalanced_promoted,
        ] {
            *count = 0;
        }
    }
}
