//! The statistics as a C struct with a version.

use crate::core::{Splits, Stats, Tier};

/// The version of [`GkStats`]. Fields are only ever added at the end; `size` tells how many a
/// caller knows.
pub const STATS_VERSION: u32 = 1;

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        /// Statistics of one device, in bytes unless a field says otherwise.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct GkStats {
            /// Bytes of this struct that the caller knows; set by the caller.
            pub size: u32,
            /// [`STATS_VERSION`] of the library.
            pub version: u32,
            $($(#[$doc])* pub $name: u64,)*
        }

        impl GkStats {
            /// The figures as the struct. `splits` are those of small and of large blocks.
            pub fn of(stats: &Stats, splits: &[Splits; 2]) -> GkStats {
                GkStats {
                    size: size_of::<GkStats>() as u32,
                    version: STATS_VERSION,
                    $($name: { let of: fn(&Stats, &[Splits; 2]) -> u64 = $value; of(stats, splits) },)*
                }
            }

            /// The names of the fields, with their values.
            pub fn fields(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

use Tier::{Dedicated, Shared};

fields! {
    /// Bytes of a granule.
    granule = |s, _| s.granule;
    /// The most that the dedicated tier may hold.
    dedicated_capacity = |s, _| s.capacity[Dedicated];
    /// The most that the shared tier may hold.
    shared_capacity = |s, _| s.capacity[Shared];
    /// Live blocks in the dedicated tier, each rounded up to 512.
    dedicated_allocated = |s, _| s.tiers[Dedicated].allocated.current();
    /// Its peak.
    dedicated_allocated_peak = |s, _| s.tiers[Dedicated].allocated.peak();
    /// The same in the shared tier.
    shared_allocated = |s, _| s.tiers[Shared].allocated.current();
    /// Its peak.
    shared_allocated_peak = |s, _| s.tiers[Shared].allocated.peak();
    /// Live blocks, and freed ones that wait for other streams, in the dedicated tier.
    dedicated_active = |s, _| s.tiers[Dedicated].active.current();
    /// Its peak.
    dedicated_active_peak = |s, _| s.tiers[Dedicated].active.peak();
    /// The same in the shared tier.
    shared_active = |s, _| s.tiers[Shared].active.current();
    /// Its peak.
    shared_active_peak = |s, _| s.tiers[Shared].active.peak();
    /// Backing mapped at addresses, in the dedicated tier.
    dedicated_mapped = |s, _| s.tiers[Dedicated].mapped.current();
    /// Its peak.
    dedicated_mapped_peak = |s, _| s.tiers[Dedicated].mapped.peak();
    /// The same in the shared tier.
    shared_mapped = |s, _| s.tiers[Shared].mapped.current();
    /// Its peak.
    shared_mapped_peak = |s, _| s.tiers[Shared].mapped.peak();
    /// Backing held from the driver, mapped or in stock, in the dedicated tier.
    dedicated_reserved = |s, _| s.tiers[Dedicated].reserved.current();
    /// Its peak.
    dedicated_reserved_peak = |s, _| s.tiers[Dedicated].reserved.peak();
    /// The same in the shared tier.
    shared_reserved = |s, _| s.tiers[Shared].reserved.current();
    /// Its peak.
    shared_reserved_peak = |s, _| s.tiers[Shared].reserved.peak();
    /// Bytes requested for live blocks and for freed blocks that wait for other streams, before
    /// rounding.
    requested = |s, _| s.blocks.requested.current();
    /// Its peak.
    requested_peak = |s, _| s.blocks.requested.peak();
    /// 0 loading, 1 active, 2 disabled, 3 freed.
    phase = |s, _| s.phase as u64;
    /// The reserve in force.
    reserve = |s, _| s.reserve;
    /// Dedicated bytes of live scratch.
    reserve_used = |s, _| s.reserve_used.current();
    /// Its peak since the last action or reset of peaks: the high-water mark of the reserve.
    reserve_high_water = |s, _| s.reserve_used.peak();
    /// Persist in force.
    persist = |s, _| s.persist;
    /// Number of blocks allocated.
    mallocs = |s, _| s.blocks.count.total();
    /// Number of blocks freed.
    frees = |s, _| s.blocks.count.taken();
    /// Number of requests for 0 bytes.
    zero_mallocs = |s, _| s.zero_mallocs;
    /// Number of requests that neither tier could satisfy.
    out_of_memory = |s, _| s.out_of_memory;
    /// Number of requests satisfied only after the device was waited for.
    retries = |s, _| s.retries;
    /// Number of resets (PyTorch's empty_cache).
    resets = |s, _| s.resets;
    /// Number of granules that changed tier.
    migrations = |s, _| s.migrations;
    /// Bytes of them.
    migrated_bytes = |s, _| s.migrated_bytes;
    /// Number of blocks that were allocated in the shared tier.
    fell_to_shared = |s, _| s.fell_to_shared;
    /// Bytes of them.
    fell_to_shared_bytes = |s, _| s.fell_to_shared_bytes;
    /// Number of freed blocks that wait for other streams.
    retired_blocks = |s, _| s.retired_blocks;
    /// Number of live blocks.
    blocks = |s, _| s.blocks.count.current();
    /// Its peak.
    blocks_peak = |s, _| s.blocks.count.peak();
    /// Their total since the totals were reset.
    blocks_total = |s, _| s.blocks.count.total();
    /// Bytes of live blocks, rounded.
    allocated = |s, _| s.blocks.allocated.current();
    /// Its peak.
    allocated_peak = |s, _| s.blocks.allocated.peak();
    /// Their total since the totals were reset.
    allocated_total = |s, _| s.blocks.allocated.total();
    /// Their total since the totals were reset.
    requested_total = |s, _| s.blocks.requested.total();
    /// Number of live small blocks.
    small_blocks = |s, _| s.classes[0].count.current();
    /// Its peak.
    small_blocks_peak = |s, _| s.classes[0].count.peak();
    /// Their total since the totals were reset.
    small_blocks_total = |s, _| s.classes[0].count.total();
    /// Bytes of live small blocks, rounded.
    small_allocated = |s, _| s.classes[0].allocated.current();
    /// Its peak.
    small_allocated_peak = |s, _| s.classes[0].allocated.peak();
    /// Their total since the totals were reset.
    small_allocated_total = |s, _| s.classes[0].allocated.total();
    /// Bytes requested for live small blocks.
    small_requested = |s, _| s.classes[0].requested.current();
    /// Its peak.
    small_requested_peak = |s, _| s.classes[0].requested.peak();
    /// Their total since the totals were reset.
    small_requested_total = |s, _| s.classes[0].requested.total();
    /// Number of live large blocks.
    large_blocks = |s, _| s.classes[1].count.current();
    /// Its peak.
    large_blocks_peak = |s, _| s.classes[1].count.peak();
    /// Their total since the totals were reset.
    large_blocks_total = |s, _| s.classes[1].count.total();
    /// Bytes of live large blocks, rounded.
    large_allocated = |s, _| s.classes[1].allocated.current();
    /// Its peak.
    large_allocated_peak = |s, _| s.classes[1].allocated.peak();
    /// Their total since the totals were reset.
    large_allocated_total = |s, _| s.classes[1].allocated.total();
    /// Bytes requested for live large blocks.
    large_requested = |s, _| s.classes[1].requested.current();
    /// Its peak.
    large_requested_peak = |s, _| s.classes[1].requested.peak();
    /// Their total since the totals were reset.
    large_requested_total = |s, _| s.classes[1].requested.total();
    /// Backing held from the driver in both tiers.
    reserved = |s, _| s.reserved.current();
    /// Its peak.
    reserved_peak = |s, _| s.reserved.peak();
    /// Its total since the totals were reset.
    reserved_total = |s, _| s.reserved.total();
    /// 1 if the reserve is found automatically.
    automatic = |s, _| u64::from(s.automatic);
    /// Number of safe points at which the automatic mode looked.
    safe_points = |s, _| s.safe_points;
    /// Number of times that it moved something.
    rebalances = |s, _| s.rebalances;
    /// Bytes that it moved to the shared tier.
    rebalanced_demoted = |s, _| s.rebalanced_demoted;
    /// Bytes that it moved to the dedicated tier.
    rebalanced_promoted = |s, _| s.rebalanced_promoted;
    /// The most scratch at once since the last safe point.
    scratch_peak = |s, _| s.scratch_peak;
    /// 1 if blocks can change tier; 0 if the driver's shared memory is pinned, or there is none.
    migrates = |s, _| u64::from(s.migrates);
    /// Bytes of the blocks that the last action should have moved, on a driver that can move none.
    stayed = |s, _| s.stayed;
    /// Number of pools of graph captures that are not released yet.
    graph_pools = |s, _| s.graph_pools;
    /// Number of blocks that are live or wait for other streams.
    active_blocks = |s, _| s.blocks.active_count();
    /// Its peak.
    active_blocks_peak = |s, _| s.blocks.active_count_peak();
    /// Their bytes, rounded.
    active = |s, _| s.blocks.active();
    /// Its peak.
    active_peak = |s, _| s.blocks.active_peak();
    /// Number of small blocks that are live or wait for other streams.
    small_active_blocks = |s, _| s.classes[0].active_count();
    /// Its peak.
    small_active_blocks_peak = |s, _| s.classes[0].active_count_peak();
    /// Their bytes, rounded.
    small_active = |s, _| s.classes[0].active();
    /// Its peak.
    small_active_peak = |s, _| s.classes[0].active_peak();
    /// Number of large blocks that are live or wait for other streams.
    large_active_blocks = |s, _| s.classes[1].active_count();
    /// Its peak.
    large_active_blocks_peak = |s, _| s.classes[1].active_count_peak();
    /// Their bytes, rounded.
    large_active = |s, _| s.classes[1].active();
    /// Its peak.
    large_active_peak = |s, _| s.classes[1].active_peak();
    /// Bytes of idle dedicated granules that were mapped side by side elsewhere, because their runs
    /// were too short.
    stitched_bytes = |s, _| s.stitched_bytes;
    /// Number of free ranges that share granules with small blocks and so cannot be released:
    /// PyTorch's inactive splits.
    small_splits = |_, splits| splits[0].count;
    /// Their bytes on shared granules.
    small_split_bytes = |_, splits| splits[0].bytes;
    /// The same with large blocks.
    large_splits = |_, splits| splits[1].count;
    /// Their bytes on shared granules.
    large_split_bytes = |_, splits| splits[1].bytes;
    /// Number of safe points that moved nothing because work was seen: of another thread, of a
    /// capture, or of a stream that was busy again.
    abstained = |s, _| s.abstained;
    /// 1 if the device is in use; all other figures are 0 otherwise.
    in_use = |s, _| u64::from(s.in_use);
    /// Dedicated bytes of the ring into which weights are copied ahead of their use.
    staging = |s, _| s.staging;
    /// Slots of the ring that somebody holds although their weights were given back.
    kept_slots = |s, _| s.kept_slots;
    /// How often a weight was lent from the ring.
    lends = |s, _| s.lends;
    /// Bytes of those weights.
    lent_bytes = |s, _| s.lent_bytes;
    /// Bytes of the shared tier that were copied ahead.
    copied_ahead_bytes = |s, _| s.copied_ahead_bytes;
    /// How often a weight in the shared tier was called and read in place.
    missed_lends = |s, _| s.missed_lends;
    /// How often a copy was dropped unused.
    dropped_copies = |s, _| s.dropped_copies;
    /// How often a weight was written in the ring and copied back.
    written_back = |s, _| s.written_back;
    /// What the operating system grants this process of dedicated memory, as it was last asked; 0
    /// where it keeps no account.
    dedicated_granted = |s, _| s.granted[Dedicated].budget;
    /// What this process uses of dedicated memory, by the same account.
    dedicated_usage = |s, _| s.granted[Dedicated].usage;
    /// The same grant of shared memory.
    shared_granted = |s, _| s.granted[Shared].budget;
    /// What this process uses of shared memory, by the same account.
    shared_usage = |s, _| s.granted[Shared].usage;
}
