//! Everything that returns idle memory to the driver. Nothing that lives moves.

use super::Heap;
use crate::core::{Kept, PerTier, Step, Tier};
use crate::error::Error;

impl Heap {
    /// PyTorch's `empty_cache`: returns idle backing to the driver, beside whatever work runs.
    /// Nothing that lives moves, unless the options say that a reset is a safe point. Does nothing
    /// while a graph is captured, as in PyTorch's own allocator, nor while an action has frozen the
    /// device; a reserve that was found automatically stays in stock as long as anything lives.
    ///
    /// # Errors
    /// The driver's.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.stats.resets += 1;
        self.layout.begin();
        if self.is_capturing() {
            return Ok(());
        }
        if self.automatic.at_resets {
            self.safe_point_of_one_thread()?;
        }
        self.give_back_now()
    }

    /// [`reset`](Heap::reset), by a caller that does not count as one.
    ///
    /// # Errors
    /// The driver's.
    pub fn give_back_now(&mut self) -> Result<(), Error> {
        if self.state.is_frozen_by_action() || self.is_capturing() {
            return Ok(());
        }
        match self.quiesce() {
            Err(Error::Driver(why)) if why.is_capture() => return Ok(()),
            waited => waited?,
        }
        if self.state.is_frozen() && self.stats.blocks.active_count() == 0 {
            // Nothing lives that a reserve found automatically could be kept from. A reserve that
            // was given is kept from what comes.
            let Kept { reserve, persist } = self.memory.ledger().kept;
            let reserve = if self.state.is_opened_by_work() { reserve } else { 0 };
            self.enter(Step::Drain, Kept { reserve, persist });
        }
        self.give_back();
        Ok(())
    }

    /// [`give_back_now`](Heap::give_back_now), where nothing was allocated or freed since the last
    /// call, something is idle, no action has frozen the device, and the default stream is not at
    /// work. Other streams are not asked, since they may have been destroyed: the device is waited
    /// for.
    ///
    /// # Errors
    /// The driver's.
    pub fn give_back_if_idle(&mut self) -> Result<(), Error> {
        let allocated = &self.stats.blocks.allocated;
        let seen = Some((allocated.total(), allocated.taken()));
        let is_quiet = std::mem::replace(&mut self.at_last_look, seen) == seen;
        let used = self.stats.tiers[Tier::Dedicated].allocated.current();
        let idle = self.memory.backing.held(Tier::Dedicated).saturating_sub(used);
        let is_to_stay = self.memory.arenas.is_empty()
            || self.state.is_frozen_by_action()
            || idle <= self.memory.ledger().kept.reserve
            || self.pools.any_open();
        if !is_quiet || is_to_stay || self.streams.is_default_busy() {
            return Ok(());
        }
        self.give_back_now()
    }

    /// Returns idle backing to the driver, except the reserve and the working room; to the stock
    /// alone while an action has frozen the device. The device must have been waited for.
    pub(super) fn give_back(&mut self) {
        if self.stats.tiers[Tier::Shared].allocated.current() == 0 {
            // Nothing is left to copy ahead.
            self.drop_ring();
        }
        self.strip();
        if !self.state.is_frozen_by_action() {
            let keep = PerTier::new(self.memory.ledger().kept.reserve, self.memory.working_room());
            self.memory.trim(keep);
            self.memory.withhold_headroom();
        }
        self.note();
    }

    /// Keeps to what the operating system grants: where more is held, everything idle goes back.
    /// The system is asked at most as often as its answers last, and the device is waited for only
    /// where it has just said that more is held. Returns whether it has, and what lives alone is
    /// more.
    pub(super) fn keep_to_grants(&mut self) -> bool {
        let was_beyond = self.memory.heed_grants();
        if was_beyond && self.quiesce().is_ok() {
            self.strip();
            self.memory.release_beyond_grants();
        }
        self.note();
        was_beyond && self.memory.is_beyond_grants()
    }

    /// Strips idle granules. The gauges see that at once: memory that is unpinned here and pinned
    /// again for the same request counts twice in their totals. The device must be idle.
    pub(super) fn strip(&mut self) {
        self.memory.strip();
        self.note();
    }
}
