//! Queries. None of them initializes a device for use.

use std::collections::HashMap;

use super::{Allocator, Found};
use crate::core::history::Who;
use crate::core::placement::Order;
use crate::core::policy::Wanted;
use crate::core::{Splits, Stats};
use crate::driver::DeviceInfo;
use crate::error::Error;
use crate::heap::{Claim, Heap, MemoryInfo, MemoryMap, Segment};

/// The reason of a reserve where there is none.
const UNUSED: &str = "the device is not in use yet";

/// What is told about a device in one answer.
#[derive(Clone, Debug)]
pub struct Look {
    /// The statistics.
    pub stats: Stats,
    /// The free stretches that cannot be unmapped, next to small blocks and next to large ones.
    pub splits: [Splits; 2],
    /// What the device was found to be; `None` where it is not in use.
    pub info: Option<DeviceInfo>,
    /// How the reserve in force was found, human-readable.
    pub reserve_reason: String,
}

impl Default for Look {
    /// A device that is not in use.
    fn default() -> Self {
        Look { stats: Stats::default(), splits: Default::default(), info: None, reserve_reason: UNUSED.into() }
    }
}

impl Allocator {
    /// The settings that the run so far would have wanted of a device from its start; `None` where
    /// the device is not in use.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn wanted(&self, device: usize) -> Result<Option<Wanted>, Error> {
        Ok(self.devices.in_use(device)?.map(|heap| heap.wanted()))
    }

    /// Looks at a device and at the memory that each tier of it would have, without initializing it
    /// for use. The driver creates a context for that time, and nothing else is taken.
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub fn look_at(&self, device: usize) -> Result<Found, Error> {
        self.devices.look_at(device)
    }

    /// The memory of a device that can be obtained now. A device that is not in use is looked at,
    /// as by [`look_at`](Allocator::look_at).
    ///
    /// # Errors
    /// A device that does not exist; the driver's.
    pub fn memory_info(&self, device: usize) -> Result<MemoryInfo, Error> {
        self.devices.memory_info(device)
    }

    /// The live blocks of a device in the order in which an action would let them claim dedicated
    /// memory.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn claims(&self, device: usize, order: Order) -> Result<Vec<Claim>, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Vec::new, |heap| heap.claims(order)))
    }

    /// Everything that is told about a device in one answer, of one moment. O(free ranges of a
    /// granule or more).
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn look(&self, device: usize) -> Result<Look, Error> {
        Ok(match self.devices.in_use(device)? {
            None => Look::default(),
            Some(mut heap) => {
                let (stats, splits) = figures_of(&mut heap);
                let (info, reserve_reason) = (Some(heap.device_info().clone()), heap.reserve_reason());
                Look { stats, splits, info, reserve_reason }
            }
        })
    }

    /// The figures of [`look`](Allocator::look) alone: the statistics of a device and its free
    /// stretches that cannot be unmapped. All zeros where it is not in use.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn figures(&self, device: usize) -> Result<(Stats, [Splits; 2]), Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Default::default, |mut heap| figures_of(&mut heap)))
    }

    /// The statistics of a device; all zeros where it is not in use.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn stats(&self, device: usize) -> Result<Stats, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Stats::default, |heap| heap.stats()))
    }

    /// Resets the peaks of a device to the current values.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn reset_peaks(&self, device: usize) -> Result<(), Error> {
        self.devices.in_use(device)?.iter_mut().for_each(|heap| heap.stats_mut().reset_peaks());
        Ok(())
    }

    /// Resets the totals and counters of a device.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn reset_totals(&self, device: usize) -> Result<(), Error> {
        self.devices.in_use(device)?.iter_mut().for_each(|heap| heap.stats_mut().reset_totals());
        Ok(())
    }

    /// The device as the driver reported it at its first use; `None` where it is not in use.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn device_info(&self, device: usize) -> Result<Option<DeviceInfo>, Error> {
        Ok(self.devices.in_use(device)?.map(|heap| heap.device_info().clone()))
    }

    /// How the reserve in force on a device was found, human-readable.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn reserve_reason(&self, device: usize) -> Result<String, Error> {
        let heap = self.devices.in_use(device)?;
        Ok(heap.map_or_else(|| UNUSED.into(), |heap| heap.reserve_reason()))
    }

    /// The memory map of a device. O(blocks + granules).
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn map(&self, device: usize) -> Result<MemoryMap, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(MemoryMap::default, |heap| heap.map()))
    }

    /// All segments of a device, with their blocks. O(blocks + granules).
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn segments(&self, device: usize) -> Result<Vec<Segment>, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Vec::new, |heap| heap.segments()))
    }

    /// All segments of a device, with the callers that allocated the live blocks, by address.
    /// O(blocks + granules).
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn snapshot(&self, device: usize) -> Result<(Vec<Segment>, HashMap<u64, Who>), Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Default::default, |heap| (heap.segments(), heap.callers())))
    }
}

/// The statistics and splits of one moment, with what the operating system grants now.
fn figures_of(heap: &mut Heap) -> (Stats, [Splits; 2]) {
    heap.see_grants();
    (heap.stats(), heap.splits())
}
