//! The statistics as a versioned C struct and as JSON, both made from one list of fields.

use std::fmt::Write;

use crate::core::{Stats, Tier};
use crate::driver::DeviceInfo;

/// The version of [`GkStats`]. Fields are only ever added at the end; `size` tells how many a caller knows.
pub const STATS_VERSION: u32 = 1;

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $value:expr;)*) => {
        /// Statistics of one device. Bytes, unless said otherwise.
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
            /// The struct for what was counted.
            pub fn of(stats: &Stats) -> GkStats {
                GkStats {
                    size: size_of::<GkStats>() as u32,
                    version: STATS_VERSION,
                    $($name: { let of: fn(&Stats) -> u64 = $value; of(stats) },)*
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
    granule = |s| s.granule;
    /// What the dedicated tier may hold at most.
    dedicated_capacity = |s| s.capacity[Dedicated];
    /// What the shared tier may hold at most.
    shared_capacity = |s| s.capacity[Shared];
    /// Live blocks in the dedicated tier, each rounded up to 512.
    dedicated_allocated = |s| s.tiers[Dedicated].allocated.current();
    /// Its peak.
    dedicated_allocated_peak = |s| s.tiers[Dedicated].allocated.peak();
    /// The same in the shared tier.
    shared_allocated = |s| s.tiers[Shared].allocated.current();
    /// Its peak.
    shared_allocated_peak = |s| s.tiers[Shared].allocated.peak();
    /// Live blocks, and freed ones that wait for other streams, in the dedicated tier.
    dedicated_active = |s| s.tiers[Dedicated].active.current();
    /// Its peak.
    dedicated_active_peak = |s| s.tiers[Dedicated].active.peak();
    /// The same in the shared tier.
    shared_active = |s| s.tiers[Shared].active.current();
    /// Its peak.
    shared_active_peak = |s| s.tiers[Shared].active.peak();
    /// Backing mapped at addresses, in the dedicated tier.
    dedicated_mapped = |s| s.tiers[Dedicated].mapped.current();
    /// Its peak.
    dedicated_mapped_peak = |s| s.tiers[Dedicated].mapped.peak();
    /// The same in the shared tier.
    shared_mapped = |s| s.tiers[Shared].mapped.current();
    /// Its peak.
    shared_mapped_peak = |s| s.tiers[Shared].mapped.peak();
    /// Backing held from the driver, mapped or in stock, in the dedicated tier.
    dedicated_reserved = |s| s.tiers[Dedicated].reserved.current();
    /// Its peak.
    dedicated_reserved_peak = |s| s.tiers[Dedicated].reserved.peak();
    /// The same in the shared tier.
    shared_reserved = |s| s.tiers[Shared].reserved.current();
    /// Its peak.
    shared_reserved_peak = |s| s.tiers[Shared].reserved.peak();
    /// What live blocks and those that wait for other streams asked for, before rounding.
    requested = |s| s.blocks.requested.current();
    /// Its peak.
    requested_peak = |s| s.blocks.requested.peak();
    /// 0 loading, 1 active, 2 disabled, 3 freed.
    phase = |s| s.phase as u64;
    /// The reserve in force.
    reserve = |s| s.reserve;
    /// Dedicated bytes of live scratch.
    reserve_used = |s| s.reserve_used.current();
    /// Its peak: the high-water mark of the reserve.
    reserve_high_water = |s| s.reserve_used.peak();
    /// Persist in force.
    persist = |s| s.persist;
    /// Number of blocks given out.
    mallocs = |s| s.blocks.count.total();
    /// Number of blocks given back.
    frees = |s| s.blocks.count.taken();
    /// Number of requests for 0 bytes.
    zero_mallocs = |s| s.zero_mallocs;
    /// Number of requests that neither tier could satisfy.
    out_of_memory = |s| s.out_of_memory;
    /// Number of requests satisfied only after idle backing was taken back.
    retries = |s| s.retries;
    /// Number of resets (PyTorch's empty_cache).
    resets = |s| s.resets;
    /// Number of granules that changed tier.
    migrations = |s| s.migrations;
    /// Bytes of them.
    migrated_bytes = |s| s.migrated_bytes;
    /// Number of blocks that lay in the shared tier from the start.
    fell_to_shared = |s| s.fell_to_shared;
    /// Bytes of them.
    fell_to_shared_bytes = |s| s.fell_to_shared_bytes;
    /// Number of freed blocks that wait for other streams.
    retired_blocks = |s| s.retired_blocks;
    /// Number of live blocks.
    blocks = |s| s.blocks.count.current();
    /// Its peak.
    blocks_peak = |s| s.blocks.count.peak();
    /// All of them ever, since the totals were reset.
    blocks_total = |s| s.blocks.count.total();
    /// Bytes of live blocks, rounded.
    allocated = |s| s.blocks.allocated.current();
    /// Its peak.
    allocated_peak = |s| s.blocks.allocated.peak();
    /// All of them ever, since the totals were reset.
    allocated_total = |s| s.blocks.allocated.total();
    /// All of them ever, since the totals were reset.
    requested_total = |s| s.blocks.requested.total();
    /// Number of live small blocks.
    small_blocks = |s| s.classes[0].count.current();
    /// Its peak.
    small_blocks_peak = |s| s.classes[0].count.peak();
    /// All of them ever, since the totals were reset.
    small_blocks_total = |s| s.classes[0].count.total();
    /// Bytes of live small blocks, rounded.
    small_allocated = |s| s.classes[0].allocated.current();
    /// Its peak.
    small_allocated_peak = |s| s.classes[0].allocated.peak();
    /// All of them ever, since the totals were reset.
    small_allocated_total = |s| s.classes[0].allocated.total();
    /// Bytes that live small blocks asked for.
    small_requested = |s| s.classes[0].requested.current();
    /// Its peak.
    small_requested_peak = |s| s.classes[0].requested.peak();
    /// All of them ever, since the totals were reset.
    small_requested_total = |s| s.classes[0].requested.total();
    /// Number of live large blocks.
    large_blocks = |s| s.classes[1].count.current();
    /// Its peak.
    large_blocks_peak = |s| s.classes[1].count.peak();
    /// All of them ever, since the totals were reset.
    large_blocks_total = |s| s.classes[1].count.total();
    /// Bytes of live large blocks, rounded.
    large_allocated = |s| s.classes[1].allocated.current();
    /// Its peak.
    large_allocated_peak = |s| s.classes[1].allocated.peak();
    /// All of them ever, since the totals were reset.
    large_allocated_total = |s| s.classes[1].allocated.total();
    /// Bytes that live large blocks asked for.
    large_requested = |s| s.classes[1].requested.current();
    /// Its peak.
    large_requested_peak = |s| s.classes[1].requested.peak();
    /// All of them ever, since the totals were reset.
    large_requested_total = |s| s.classes[1].requested.total();
    /// Backing held from the driver in both tiers.
    reserved = |s| s.reserved.current();
    /// Its peak.
    reserved_peak = |s| s.reserved.peak();
    /// All of it ever, since the totals were reset.
    reserved_total = |s| s.reserved.total();
    /// 1 where the reserve is found automatically.
    automatic = |s| u64::from(s.automatic);
    /// Number of safe points at which the automatic mode looked.
    safe_points = |s| s.safe_points;
    /// Number of times that it moved something.
    rebalances = |s| s.rebalances;
    /// Bytes that it moved to the shared tier.
    rebalanced_demoted = |s| s.rebalanced_demoted;
    /// Bytes that it moved to the dedicated tier.
    rebalanced_promoted = |s| s.rebalanced_promoted;
    /// The most scratch at once since the last safe point.
    scratch_peak = |s| s.scratch_peak;
    /// 1 where blocks can change tier; 0 where the driver's shared memory is pinned, or there is none.
    migrates = |s| u64::from(s.migrates);
    /// Bytes of the blocks that the last action would have moved, and that stay where they are because nothing can.
    stayed = |s| s.stayed;
    /// Number of pools of graph captures that are not released.
    graph_pools = |s| s.graph_pools;
    /// Number of blocks that are live or wait for other streams.
    active_blocks = |s| s.blocks.active_count();
    /// Its peak.
    active_blocks_peak = |s| s.blocks.active_count_peak();
    /// Their bytes, rounded.
    active = |s| s.blocks.active();
    /// Its peak.
    active_peak = |s| s.blocks.active_peak();
    /// Number of small blocks that are live or wait for other streams.
    small_active_blocks = |s| s.classes[0].active_count();
    /// Its peak.
    small_active_blocks_peak = |s| s.classes[0].active_count_peak();
    /// Their bytes, rounded.
    small_active = |s| s.classes[0].active();
    /// Its peak.
    small_active_peak = |s| s.classes[0].active_peak();
    /// Number of large blocks that are live or wait for other streams.
    large_active_blocks = |s| s.classes[1].active_count();
    /// Its peak.
    large_active_blocks_peak = |s| s.classes[1].active_count_peak();
    /// Their bytes, rounded.
    large_active = |s| s.classes[1].active();
    /// Its peak.
    large_active_peak = |s| s.classes[1].active_peak();
    /// Bytes of idle dedicated granules that were mapped elsewhere because each run of them was too short.
    stitched_bytes = |s| s.stitched_bytes;
}

/// The statistics as one JSON object: the fields of [`GkStats`] by name, `phase_name`, how the reserve was found, the device's name, which
/// rung of the ladder its shared tier stands on, and why the better ones do not hold.
pub fn json(stats: &Stats, device: &DeviceInfo, reserve_reason: &str) -> String {
    let fields = GkStats::of(stats);
    let refused: Vec<_> = device.refused.iter().map(|why| quoted(why)).collect();
    let mut text = format!(
        "{{\"version\":{},\"phase_name\":\"{}\",\"reserve_reason\":{},\"device\":{},\"rung\":\"{}\",\"rungs_refused\":[{}]",
        fields.version,
        stats.phase.name(),
        quoted(reserve_reason),
        quoted(&device.name),
        device.rung.name(),
        refused.join(",")
    );
    for (name, value) in fields.fields() {
        let _ = write!(text, ",\"{name}\":{value}");
    }
    text.push('}');
    text
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => drop(write!(quoted, "\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn what_json_forbids_is_escaped() {
        assert_eq!(quoted("a \"b\" \\ c\n\u{1}é"), "\"a \\\"b\\\" \\\\ c\\u000a\\u0001é\"");
    }
}
