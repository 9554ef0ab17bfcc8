//! Headroom: dedicated memory that is left to others, and given up before anything overflows.
//!
//! ```text
//!   dedicated  │◀───── capacity ─────▶│◀── withheld ──▶│◀── floor ──▶│  CUDA context, desktop
//!              │◀──────── capacity once given up ─────▶│◀── floor ──▶│
//! ```
//!
//! What is withheld serves kernels that load late. A program that would overflow needs it more, as
//! far as the driver reports it as free. Where there is a shared tier, a floor is kept: a kernel
//! that cannot be loaded ends the program, and a few overflowing weights do not. A headroom that
//! the user has set is never given up, nor is anything where the user has set the capacity, nor
//! while a reserve is kept closed: what overflows then does so because that is wanted.

use super::Memory;
use super::limits::Limits;
use crate::core::Tier;
use crate::driver::DeviceInfo;

/// The share of the headroom that is kept where there is a shared tier: one part in so many.
const FLOOR: u64 = 4;

/// The headroom of one device, in bytes.
#[derive(Debug)]
pub(super) struct Headroom {
    /// What is left to others now.
    withheld: u64,
    /// What is always left to them.
    floor: u64,
    /// What was given up.
    given: u64,
    /// Whether the driver had none of it free when it was asked last.
    is_taken: bool,
}

impl Headroom {
    /// The headroom that limits and device ask for, none of it given up yet, beside a shared tier
    /// of so many bytes.
    pub(super) fn new(limits: &Limits, info: &DeviceInfo, shared: u64) -> Headroom {
        let withheld = limits.headroom(info);
        let floor = match limits.headroom.or(limits.dedicated) {
            Some(_) => withheld,
            None if shared == 0 => 0,
            None => withheld / FLOOR,
        };
        Headroom { withheld, floor, given: 0, is_taken: false }
    }

    /// What is left to others now.
    pub(super) fn withheld(&self) -> u64 {
        self.withheld
    }

    /// What may still be given up.
    fn left(&self) -> u64 {
        if self.is_taken { 0 } else { self.withheld - self.floor }
    }
}

impl Memory {
    /// Gives up headroom for a request that finds no dedicated memory: as much as is missing, or
    /// all that the driver reports as free. Returns whether there is more dedicated memory now.
    /// O(1), and no call to the driver, once nothing is left to give up.
    pub(in crate::heap) fn give_up_headroom(&mut self, bytes: u64) -> bool {
        let left = self.headroom.left();
        let is_closed = self.ledger.kept.reserve > 0 && !self.ledger.reserve_open;
        if left < self.granule || is_closed {
            return false;
        }
        let Ok(free) = self.driver.dedicated_free(self.device) else { return false };
        let promised = self.ledger.capacity[Tier::Dedicated].saturating_sub(self.backing.held(Tier::Dedicated));
        let beyond = free.saturating_sub(promised).saturating_sub(self.headroom.floor);
        let missing = bytes.next_multiple_of(self.granule).saturating_sub(self.unmapped(Tier::Dedicated));
        let given = missing.max(self.granule).min(left).min(beyond) / self.granule * self.granule;
        self.headroom.is_taken = given == 0;
        self.headroom.withheld -= given;
        self.headroom.given += given;
        self.ledger.capacity[Tier::Dedicated] += given;
        self.keep_to_account();
        if given > 0 {
            self.ledger.see_free(self.backing.held(Tier::Dedicated), free);
        }
        given > 0
    }

    /// Withholds again what was given up and is not in use any more.
    pub(in crate::heap) fn withhold_headroom(&mut self) {
        let kept = self.ledger.kept.sum().unwrap_or(u64::MAX);
        let in_use = self.backing.held(Tier::Dedicated).max(kept);
        let unused = self.ledger.capacity[Tier::Dedicated].saturating_sub(in_use);
        let back = self.headroom.given.min(unused);
        self.ledger.capacity[Tier::Dedicated] -= back;
        self.headroom.given -= back;
        self.headroom.withheld += back;
        self.keep_to_account();
        self.headroom.is_taken = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::PerTier;
    use crate::driver::Rung;

    #[test]
    fn only_what_nobody_has_set_is_given_up_and_a_floor_stays_where_work_may_overflow() {
        let info = DeviceInfo {
            name: String::new(),
            granularity: 1,
            total: PerTier::new(1000, 500),
            free: PerTier::new(900, 500),
            headroom: 100,
            shared_is_the_hosts: false,
            rung: Rung::Nothing,
            refused: Vec::new(),
        };
        let left = |limits: Limits, shared| Headroom::new(&limits, &info, shared).left();
        assert_eq!(left(Limits::default(), 0), 100);
        assert_eq!(left(Limits::default(), 500), 75);
        assert_eq!(left(Limits { headroom: Some(60), ..Limits::default() }, 0), 0);
        assert_eq!(left(Limits { dedicated: Some(600), ..Limits::default() }, 0), 0);
    }
}
