//! The statistics of a device, and what a device is found to be, as JSON.

use std::fmt::Write;

use crate::abi::stats::GkStats;
use crate::allocator::Found;
use crate::core::Tier::{Dedicated, Shared};
use crate::core::{Splits, Stats};
use crate::driver::DeviceInfo;

use super::text::quoted;

/// The statistics as one JSON object: the fields of [`GkStats`] by name, `phase_name`, how the reserve was found, the device's name, which
/// rung of the ladder its shared tier stands on, and why the better ones do not hold.
pub(in crate::abi) fn json(
    stats: &Stats,
    splits: &[Splits; 2],
    device: Option<&DeviceInfo>,
    reserve_reason: &str,
) -> String {
    let fields = GkStats::of(stats, splits);
    let refused: Vec<_> = device.iter().flat_map(|device| &device.refused).map(|why| quoted(why)).collect();
    let mut text = format!(
        "{{\"version\":{},\"phase_name\":\"{}\",\"reserve_reason\":{},\"device\":{},\"rung\":\"{}\",\"rungs_refused\":[{}]",
        fields.version,
        stats.phase.name(),
        quoted(reserve_reason),
        quoted(device.map_or("", |device| &device.name)),
        device.map_or("", |device| device.rung.name()),
        refused.join(",")
    );
    for (name, value) in fields.fields() {
        let _ = write!(text, ",\"{name}\":{value}");
    }
    text.push('}');
    text
}

/// What a device is found to be, as one JSON object.
pub(in crate::abi) fn device_json(found: &Found) -> String {
    let Found { info, capacity, budget, used, others } = found;
    let refused: Vec<_> = info.refused.iter().map(|why| quoted(why)).collect();
    let mut text = format!(
        "{{\"device\":{},\"rung\":\"{}\",\"rungs_refused\":[{}]",
        quoted(&info.name),
        info.rung.name(),
        refused.join(",")
    );
    for (name, value) in [
        ("dedicated_total", info.dedicated_total),
        ("dedicated_free", info.dedicated_free),
        ("dedicated_capacity", capacity[Dedicated]),
        ("shared_total", info.shared_total),
        ("shared_capacity", capacity[Shared]),
        ("shared_budget", *budget),
        ("shared_used", *used),
        ("shared_others", *others),
    ] {
        let _ = write!(text, ",\"{name}\":{value}");
    }
    text.push('}');
    text
}
