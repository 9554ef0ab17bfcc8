//! A device: its name, the rung of its shared tier, and the memory that it would have.

use serde::Serialize;

use crate::allocator::Found;
use crate::core::{PerTier, Tier};
use crate::driver::DeviceInfo;

use super::write::text_of;

/// The part of a device that never changes. All of it is empty if the device is not in use.
#[derive(Serialize)]
pub(super) struct Description<'a> {
    /// The device's name.
    device: &'a str,
    /// The rung of the ladder that the shared tier stands on.
    rung: &'static str,
    /// The reason why each better rung does not hold.
    rungs_refused: &'a [String],
}

impl<'a> Description<'a> {
    pub(super) fn of(info: Option<&'a DeviceInfo>) -> Description<'a> {
        match info {
            Some(info) => Description { device: &info.name, rung: info.rung.name(), rungs_refused: &info.refused },
            None => Description { device: "", rung: "", rungs_refused: &[] },
        }
    }
}

#[derive(Serialize)]
struct Device<'a> {
    #[serde(flatten)]
    description: Description<'a>,
    dedicated_total: u64,
    dedicated_free: u64,
    dedicated_capacity: u64,
    shared_total: u64,
    shared_capacity: u64,
    shared_budget: u64,
    shared_used: u64,
    shared_others: u64,
    dedicated_granted: u64,
    dedicated_usage: u64,
    shared_granted: u64,
    shared_usage: u64,
    /// Why the operating system does not tell what it grants; empty where it does, or keeps no
    /// account.
    granted_unknown: &'a str,
}

/// One object.
pub(in crate::abi) fn json(found: &Found) -> String {
    let (granted, unknown) = match &found.granted {
        Ok(granted) => (*granted, ""),
        Err(why) => (PerTier::default(), why.as_str()),
    };
    text_of(&Device {
        description: Description::of(Some(&found.info)),
        dedicated_total: found.info.total[Tier::Dedicated],
        dedicated_free: found.info.free[Tier::Dedicated],
        dedicated_capacity: found.capacity[Tier::Dedicated],
        shared_total: found.info.total[Tier::Shared],
        shared_capacity: found.capacity[Tier::Shared],
        shared_budget: found.budget,
        shared_used: found.used,
        shared_others: found.others,
        dedicated_granted: granted[Tier::Dedicated].budget,
        dedicated_usage: granted[Tier::Dedicated].usage,
        shared_granted: granted[Tier::Shared].budget,
        shared_usage: granted[Tier::Shared].usage,
        granted_unknown: unknown,
    })
}
