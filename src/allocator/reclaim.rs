//! The return of idle memory to the driver.

use super::Allocator;
use crate::error::Error;
use crate::heap::Heap;

impl Allocator {
    /// PyTorch's `empty_cache`, on every device in use. It may be called at any time, next to any
    /// work. Moves no live block, unless the option `safe_points:empty_cache` makes it a safe
    /// point. Does nothing on a device that an action has frozen.
    ///
    /// # Errors
    /// The first device's that fails. The other devices are reset nevertheless.
    pub fn reset(&self) -> Result<(), Error> {
        self.devices.for_each(Heap::reset)
    }

    /// Returns idle memory of a device to the driver, next to whatever work runs. Does nothing
    /// where the device is not in use, is frozen by an action, or a graph is captured.
    ///
    /// # Errors
    /// The driver's.
    pub fn give_back(&self, device: usize) -> Result<(), Error> {
        match self.devices.in_use(device) {
            Ok(Some(mut heap)) => heap.give_back_now(),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// Looks once for idle memory, for a caller that looks now and then. Memory of a device on
    /// which nothing was allocated or freed since the last look goes back to the driver. Nothing
    /// happens on a device that is frozen or seen at work.
    pub fn look_for_idle(&self) {
        for heap in self.devices.heaps() {
            if let Err(why) = heap.lock().give_back_if_idle() {
                log::debug!("idle memory stays cached: {why}");
            }
        }
    }
}
