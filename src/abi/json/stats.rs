//! The statistics of a device: the fields of the C struct by name, and the same figures by tier.

use serde::{Serialize, Serializer};

use crate::abi::stats::GkStats;
use crate::core::{PerTier, Splits, Stats, Tier};
use crate::driver::DeviceInfo;

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
        }
    }
}

impl Serialize for GkStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.fields())
    }
}

/// One object.
pub(in crate::abi) fn json(
    stats: &Stats,
    splits: &[Splits; 2],
    device: Option<&DeviceInfo>,
    reserve_reason: &str,
) -> String {
    let fields = GkStats::of(stats, splits);
    text_of(&Statistics {
        version: fields.version,
        phase_name: stats.phase.name(),
        reserve_reason,
        description: Description::of(device),
        fields,
        tiers: ByTier(PerTier(Tier::ALL.map(|tier| TierRow::of(stats, tier)))),
    })
}
