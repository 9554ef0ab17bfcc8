//! What may be used of a device and of its host, as the user says or as they are found.

use super::Budget;
use crate::core::{PerTier, Tier};
use crate::driver::DeviceInfo;

/// Limits of what a heap may use; `None` where they follow from the device. Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Dedicated memory to use at most; otherwise what is free at the start, less the headroom.
    pub dedicated: Option<u64>,
    /// Free dedicated memory to leave to others; otherwise what the driver says they need.
    pub headroom: Option<u64>,
    /// Shared memory to use at most; otherwise what the host can spare.
    pub shared: Option<u64>,
    /// Size of a granule; otherwise the driver's granularity.
    pub granule: Option<u64>,
}

impl Limits {
    /// Free dedicated memory to leave to others, in bytes.
    pub fn headroom(&self, info: &DeviceInfo) -> u64 {
        self.headroom.unwrap_or(info.headroom)
    }

    /// What each tier of a device may hold at most, in bytes, where all devices together may take
    /// `budget` of the host's memory.
    pub fn capacity(&self, info: &DeviceInfo, budget: u64) -> PerTier<u64> {
        PerTier::from_fn(|tier| match tier {
            Tier::Dedicated => {
                let free = info.free[Tier::Dedicated].saturating_sub(self.headroom(info));
                self.dedicated.unwrap_or(free).min(info.total[Tier::Dedicated])
            }
            Tier::Shared => budget.min(info.total[Tier::Shared]),
        })
    }

    /// What all devices of a process may take of the host's memory, as the first of them finds it.
    pub fn budget(&self, info: &DeviceInfo) -> Budget {
        match self.shared {
            Some(bytes) => Budget::new(bytes),
            None if info.shared_is_the_hosts => {
                Budget::among_processes(info.free[Tier::Shared], info.total[Tier::Shared] / 2)
            }
            None => Budget::new(info.free[Tier::Shared]),
        }
    }
}

/// What can be had of a device's memory. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryInfo {
    /// What may still be taken of each tier.
    pub free: PerTier<u64>,
    /// What each tier has in all for this process.
    pub total: PerTier<u64>,
}
