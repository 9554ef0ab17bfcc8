//! The actions that move live memory on a device, and callers' reports about running work.

use super::Allocator;
use crate::core::placement::Order;
use crate::core::{Activation, Reserve, ThreadId, Tier};
use crate::error::Error;
use crate::heap::Moved;
use crate::sync::this_thread;

impl Allocator {
    /// Places everything on a device anew and freezes it. The caller makes sure that no work is
    /// launched during the call.
    ///
    /// # Errors
    /// A device that does not exist; a reserve and persist beyond the capacity, a graph capture
    /// under way, or a shared tier without room for the rest: nothing has moved then. The driver's:
    /// blocks that had moved stay moved, everything stays usable, and the phase is the old one.
    pub fn activate(&self, device: usize, activation: &Activation) -> Result<Moved, Error> {
        self.heap(device)?.activate(activation)
    }

    /// Places everything on a device anew, without reserve and persist, and thaws it.
    ///
    /// # Errors
    /// As for [`activate`](Allocator::activate).
    pub fn disable(&self, device: usize, order: Order) -> Result<Moved, Error> {
        self.heap(device)?.disable(order)
    }

    /// Moves everything on a device to the shared tier and returns its dedicated memory to the
    /// driver.
    ///
    /// # Errors
    /// As for [`activate`](Allocator::activate).
    pub fn free_vram(&self, device: usize) -> Result<Moved, Error> {
        self.heap(device)?.free_vram()
    }

    /// Returns a device to loading, with reserve and persist kept from allocations until the next
    /// action.
    ///
    /// # Errors
    /// A device that does not exist; a reserve and persist beyond the capacity; a graph capture
    /// under way; the driver's. Nothing has changed then.
    pub fn begin_loading(&self, device: usize, reserve: Reserve, persist: u64) -> Result<(), Error> {
        self.heap(device)?.begin_loading(reserve, persist)
    }

    /// Moves the block that holds `address` to a tier, with the small blocks that share its
    /// granules.
    ///
    /// # Errors
    /// An address in no live block; a tier without room; while a graph is captured; the driver's.
    pub fn move_block(&self, address: u64, tier: Tier) -> Result<Moved, Error> {
        self.devices.with_owner(address, |heap| heap.move_block(address, tier))
    }

    /// A safe point of a device: no work is launched until this returns. `kind` names the work that
    /// comes next.
    ///
    /// # Errors
    /// A device that does not exist; the driver's. Blocks that had moved stay moved, and everything
    /// stays usable.
    pub fn safe_point(&self, device: usize, kind: &str) -> Result<Moved, Error> {
        self.devices.in_use(device)?.map_or_else(|| Ok(Moved::default()), |mut heap| heap.safe_point(kind))
    }

    /// Reports to the automatic mode that work reads `bytes` of the block that holds `address`.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn touch(&self, address: u64, bytes: u64) -> Result<(), Error> {
        self.devices.with_owner(address, |heap| heap.touch(address, bytes))
    }

    /// Begins a piece of work of the calling thread on a device. No other thread's safe point moves
    /// anything before it ends.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn begin_work(&self, device: usize) -> Result<(), Error> {
        self.begin_work_of(device, this_thread())
    }

    /// Ends the piece of work that the calling thread began last on a device.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn end_work(&self, device: usize) -> Result<(), Error> {
        self.end_work_of(device, this_thread())
    }

    /// [`begin_work`](Allocator::begin_work) for any thread. A device that is not in use yet stays
    /// so.
    ///
    /// # Errors
    /// A device that does not exist.
    #[doc(hidden)]
    pub fn begin_work_of(&self, device: usize, thread: ThreadId) -> Result<(), Error> {
        self.devices.begin_work(device, thread)
    }

    /// [`end_work`](Allocator::end_work) for any thread.
    ///
    /// # Errors
    /// A device that does not exist.
    #[doc(hidden)]
    pub fn end_work_of(&self, device: usize, thread: ThreadId) -> Result<(), Error> {
        self.devices.end_work(device, thread)
    }

    /// Reports that the calling thread launches nothing on a device until it allocates, frees or
    /// begins a piece of work there again.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn rest(&self, device: usize) -> Result<(), Error> {
        self.devices.in_use(device)?.iter_mut().for_each(|heap| heap.rest());
        Ok(())
    }

    /// Takes the caller's word that no other thread launches work on a device, except threads
    /// inside a piece of work.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn vouch(&self, device: usize) -> Result<(), Error> {
        self.devices.in_use(device)?.iter_mut().for_each(|heap| heap.vouch());
        Ok(())
    }
}
