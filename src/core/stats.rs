//! Statistics of one device.

use super::phase::Phase;
use super::size::{BlockSize, Class};
use super::tier::{PerTier, Tier};

/// A quantity, in bytes unless said otherwise: now, at most since the last reset of the peaks, and all that was ever added.
///
/// It is kept as two sums that only grow, so that counting a block writes one word, and a second only where the peak rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    added: u64,
    taken: u64,
    peak: u64,
    /// What had been taken when the totals were last reset.
    before: u64,
}

impl Gauge {
    /// How much there is now. O(1).
    #[inline]
    pub fn current(&self) -> u64 {
        self.added - self.taken
    }

    /// The most since the peaks were last reset.
    pub fn peak(&self) -> u64 {
        self.peak
    }

    /// All that was added since the totals were last reset, with what was there then.
    pub fn total(&self) -> u64 {
        self.added - self.before
    }

    /// All that was taken from it since the totals were last reset.
    pub fn taken(&self) -> u64 {
        self.taken - self.before
    }

    /// Adds to it. O(1).
    #[inline]
    pub fn add(&mut self, bytes: u64) {
        self.added += bytes;
        let current = self.current();
        if current > self.peak {
            self.peak = current;
        }
    }

    /// Takes from it. O(1).
    #[inline]
    pub fn sub(&mut self, bytes: u64) {
        self.taken += bytes;
    }

    /// Sets it.
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

/// The gauges of blocks, whichever tier they lie in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Number of live blocks.
    pub count: Gauge,
    /// Their bytes, rounded up to 512 each.
    pub allocated: Gauge,
    /// The bytes asked for, before rounding, of live and of retired blocks: as in PyTorch.
    pub requested: Gauge,
    retired: Retired,
}

/// What [`BlockStats`] knows of retired blocks. While there are none, which is nearly always, the active blocks are the live ones, so
/// that counting a block costs nothing more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Retired {
    count: u64,
    bytes: u64,
    /// The most active blocks, and bytes of them, while any were retired.
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

    /// Its peak.
    pub fn active_count_peak(&self) -> u64 {
        self.count.peak().max(self.retired.active_peak.0)
    }

    /// Their bytes, rounded up to 512 each.
    pub fn active(&self) -> u64 {
        self.allocated.current() + self.retired.bytes
    }

    /// Its peak.
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
    /// Bytes of live blocks, rounded up to 512 each.
    pub allocated: Gauge,
    /// The same, and blocks given back that still wait for work on other streams.
    pub active: Gauge,
    /// Bytes of backing mapped at arena addresses.
    pub mapped: Gauge,
    /// Bytes of backing held from the driver: mapped, in the stock, and as working room.
    pub reserved: Gauge,
}

/// Free space that cannot be given back, since it shares granules with blocks: PyTorch's inactive splits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Splits {
    /// Number of stretches.
    pub count: u64,
    /// Their bytes on such granules.
    pub bytes: u64,
}

/// Everything that is counted on one device. Bytes, unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Whether the device is in use: it has allocated, or was put to use.
    pub in_use: bool,
    /// The gauges of each tier.
    pub tiers: PerTier<TierStats>,
    /// Bytes of a granule.
    pub granule: u64,
    /// What may be backed in each tier, at most.
    pub capacity: PerTier<u64>,
    /// All blocks.
    pub blocks: BlockStats,
    /// The small ones, and the large ones.
    pub classes: [BlockStats; 2],
    /// Bytes of backing held from the driver in both tiers.
    pub reserved: Gauge,
    /// Which part of its life the device is in.
    pub phase: Phase,
    /// The reserve in force.
    pub reserve: u64,
    /// Whether the reserve is found automatically.
    pub automatic: bool,
    /// Safe points at which the automatic mode looked at what there is.
    pub safe_points: u64,
    /// Times that it moved something.
    pub rebalances: u64,
    /// Safe points that wanted to move something and did not, because somebody was seen at work.
    pub abstained: u64,
    /// Bytes that it moved to the shared tier.
    pub rebalanced_demoted: u64,
    /// Bytes that it moved to the dedicated tier.
    pub rebalanced_promoted: u64,
    /// The most scratch at once since the last safe point.
    pub scratch_peak: u64,
    /// Dedicated bytes of live scratch: what of the reserve, and beyond it, is in use. The peak is the high-water mark.
    pub reserve_used: Gauge,
    /// Persist in force.
    pub persist: u64,
    /// Requests for 0 bytes.
    pub zero_mallocs: u64,
    /// Requests that neither tier could satisfy.
    pub out_of_memory: u64,
    /// Requests satisfied only after idle backing was taken back.
    pub retries: u64,
    /// Bytes of idle dedicated granules that were mapped elsewhere because each run of them was too short.
    pub stitched_bytes: u64,
    /// Calls of `reset` (PyTorch's `empty_cache`).
    pub resets: u64,
    /// Granules that changed tier.
    pub migrations: u64,
    /// Bytes of them.
    pub migrated_bytes: u64,
    /// Blocks that lay in the shared tier, all or a part of them, from the first.
    pub fell_to_shared: u64,
    /// Their bytes in the shared tier.
    pub fell_to_shared_bytes: u64,
    /// Blocks given back that still wait for work on other streams.
    pub retired_blocks: u64,
    /// Whether blocks can change tier: not where the driver's shared memory is pinned.
    pub migrates: bool,
    /// Bytes of the blocks that the last action would have moved, and that stay where they are because nothing can.
    pub stayed: u64,
    /// Pools of graph captures that are not released.
    pub graph_pools: u64,
}

impl Stats {
    /// A block came to life, besides what is said of its parts. O(1).
    #[inline]
    pub(crate) fn allocate(&mut self, class: Class, size: BlockSize) {
        self.blocks.add(size);
        self.classes[class as usize].add(size);
    }

    /// A part of a block, in one tier, came to life. O(1).
    #[inline]
    pub(crate) fn allocate_part(&mut self, tier: Tier, bytes: u64, scratch: bool) {
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

    /// A block was given back, besides what is said of its parts; with `retired` it stays active. O(1).
    #[inline]
    pub(crate) fn free(&mut self, class: Class, size: BlockSize, retired: bool) {
        self.blocks.sub(size, retired);
        self.classes[class as usize].sub(size, retired);
    }

    /// A retired block, with these bytes in each tier, is free. O(1).
    pub(crate) fn release(&mut self, class: Class, parts: PerTier<u64>, requested: u64) {
        Tier::ALL.into_iter().for_each(|tier| self.tiers[tier].active.sub(parts[tier]));
        let bytes = parts.iter().sum();
        self.blocks.release(bytes, requested);
        self.classes[class as usize].release(bytes, requested);
    }

    fn blocks(&mut self) -> impl Iterator<Item = &mut BlockStats> {
        std::iter::once(&mut self.blocks).chain(&mut self.classes)
    }

    /// The gauges besides those of blocks.
    fn gauges(&mut self) -> impl Iterator<Item = &mut Gauge> {
        let tiers =
            self.tiers.iter_mut().flat_map(|t| [&mut t.allocated, &mut t.active, &mut t.mapped, &mut t.reserved]);
        tiers.chain([&mut self.reserved, &mut self.reserve_used])
    }

    /// Forgets all peaks.
    pub fn reset_peaks(&mut self) {
        self.gauges().for_each(Gauge::reset_peak);
        self.blocks().for_each(BlockStats::reset_peaks);
    }

    /// Forgets what was counted since the beginning; what is true now stays.
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
