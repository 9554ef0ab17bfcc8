//! The statistics of a device: the fields of the C struct by name, and the same figures by tier.

use serde::{Serialize, Serializer};

use crate::abi::stats::GkStats;
use crate::allocator::Look;
use crate::core::{PerTier, Stats, Tier};

use super::device::Description;
use super::write::{ByTier, text_of};

#[derive(Serialize)]
struct Statistics<'a> {
    version: u32,
    phase_name: &'static str,
    reserve_reason: &'a str,
    #[serde(flatten)]
    description: Description<'a>,
    #[serde(flatten)]
    fields: GkStats,
    tiers: ByTier<TierRow>,
}

#[derive(Serialize)]
struct TierRow {
    capacity: u64,
    allocated: u64,
    allocated_peak: u64,
    active: u64,
    active_peak: u64,
    mapped: u64,
    mapped_peak: u64,
    reserved: u64,
    reserved_peak: u64,
    granted: u64,
    usage: u64,
}

impl TierRow {
    fn of(stats: &Stats, tier: Tier) -> TierRow {
        let counted = &stats.tiers[tier];
        TierRow {
            capacity: stats.capacity[tier],
            allocated: counted.allocated.current(),
            allocated_peak: counted.allocated.peak(),
            active: counted.active.current(),
            active_peak: counted.active.peak(),
            mapped: counted.mapped.current(),
            mapped_peak: counted.mapped.peak(),
            reserved: counted.reserved.current(),
            reserved_peak: counted.reserved.peak(),
            granted: stats.granted[tier].budget,
            usage: stats.granted[tier].usage,
        }
    }
}

impl Serialize for GkStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.fields())
    }
}

/// One object.
pub(in crate::abi) fn json(look: &Look) -> String {
    let Look { stats, splits, info, reserve_reason } = look;
    let fields = GkStats::of(stats, splits);
    text_of(&Statistics {
        version: fields.version,
        phase_name: stats.phase.name(),
        reserve_reason,
        description: Description::of(info.as_ref()),
        fields,
        tiers: ByTier(PerTier(Tier::ALL.map(|tier| TierRow::of(stats, tier)))),
    })
}
