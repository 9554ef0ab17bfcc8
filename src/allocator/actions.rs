//! The actions that move live memory on a device, and callers' reports about running work.
//!
//! An action waits until no other thread is inside a piece of work on its device, and says so if
//! that takes long. It holds no lock while it waits, so that the work can go on and end.

use std::time::{Duration, Instant};

use super::Allocator;
use crate::core::placement::Order;
use crate::core::{Activation, Reserve, ThreadId, Tier};
use crate::error::Error;
use crate::heap::{Heap, Moved};
use crate::sync::{pause, this_thread};

/// How long an action waits before it says what it waits for.
const SAYS_AFTER: Duration = Duration::from_secs(1);

impl Allocator {
    /// Places everything on a device anew and freezes it. The caller makes sure that no work is
    /// launched during the call.
    ///
    /// # Errors
    /// A device that does not exist; a reserve and persist beyond the capacity, a graph capture
    /// under way, another thread that stays inside a piece of work, or a shared tier without room
    /// for the rest: nothing has moved then. The driver's:
    /// blocks that had moved stay moved, everything stays usable, and the phase is the old one.
    pub fn activate(&self, device: usize, activation: &Activation) -> Result<Moved, Error> {
        self.act(device, |heap| heap.activate(activation))
    }

    /// Places everything on a device anew, without reserve and persist, and thaws it.
    ///
    /// # Errors
    /// As for [`activate`](Allocator::activate).
    pub fn disable(&self, device: usize, order: Order) -> Result<Moved, Error> {
        self.act(device, |heap| heap.disable(order))
    }

    /// Moves everything on a device to the shared tier and returns its dedicated memory to the
    /// driver.
    ///
    /// # Errors
    /// As for [`activate`](Allocator::activate).
    pub fn free_vram(&self, device: usize) -> Result<Moved, Error> {
        self.act(device, Heap::free_vram)
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
    /// An address in no live block; a tier without room; while a graph is captured, or another
    /// thread stays inside a piece of work; the driver's.
    pub fn move_block(&self, address: u64, tier: Tier) -> Result<Moved, Error> {
        self.once_at_rest(|| {
            self.devices.with_owner(address, |heap| unless_at_work(heap, |heap| heap.move_block(address, tier)))
        })
    }

    /// Acts on a device once no other thread is inside a piece of work there.
    fn act(&self, device: usize, action: impl Fn(&mut Heap) -> Result<Moved, Error>) -> Result<Moved, Error> {
        self.once_at_rest(|| unless_at_work(&mut *self.heap(device)?, &action))
    }

    /// Attempts an action until it finds no other thread at work.
    ///
    /// # Errors
    /// The action's; threads that are at work for longer than the options' patience.
    fn once_at_rest(&self, attempt: impl Fn() -> Result<Attempt, Error>) -> Result<Moved, Error> {
        let begun = Instant::now();
        let mut has_said = false;
        loop {
            let device = match attempt()? {
                Attempt::Done(moved) => return Ok(moved),
                Attempt::AtWork { device } => device,
            };
            let waited = begun.elapsed();
            if waited >= self.options().patience {
                return Err(Error::refused(format!(
                    "nothing was moved: another thread has been inside a piece of work on device {device} for {waited:.0?} \
                     (working(), gk_begin_work, or a pass of a followed module): try again once it has ended"
                )));
            }
            if waited >= SAYS_AFTER && !has_said {
                log::warn!(
                    "device {device}: an action waits until another thread's piece of work has ended (working(), \
                     gk_begin_work, or a pass of a followed module), for at most {:.0?}",
                    self.options().patience
                );
                has_said = true;
            }
            pause();
        }
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

/// What became of an attempt to act.
enum Attempt {
    Done(Moved),
    /// Another thread is inside a piece of work.
    AtWork {
        device: usize,
    },
}

fn unless_at_work(heap: &mut Heap, action: impl FnOnce(&mut Heap) -> Result<Moved, Error>) -> Result<Attempt, Error> {
    if heap.is_other_at_work() {
        return Ok(Attempt::AtWork { device: heap.device() });
    }
    action(heap).map(Attempt::Done)
}
