//! The memory of one device: which backing it holds, and what is mapped where.
//!
//! ```text
//!   arenas    which addresses there are, which blocks lie there, and what for
//!   backing   the handles, those in stock and those mapped; every call that maps or repairs one
//!   limits    what may be used of a device and its host
//!   headroom  dedicated memory left to others, given up before anything overflows
//!   budget    the host's memory, promised once to all devices and processes
//!   granted   what the operating system grants of both tiers
//!   growth    granules get backing
//!   idle      granules lose it
//!   migrate   granules change tier
//!   stitch    idle granules are mapped anew side by side
//!   staging   dedicated memory for copies, mapped twice
//!   pinned    shared memory of drivers that can only pin it
//! ```
//!
//! This floor knows nothing of streams at work, of phases, or of what should lie where: its callers
//! do. Its invariants, which [`Memory::check`] tests: each granule has a handle exactly where it
//! has a tier, the bytes held are those mapped, in stock and stuck, within the capacity, and the
//! heap has taken every change of what is mapped.

mod arenas;
mod backing;
mod budget;
mod granted;
mod growth;
mod headroom;
mod idle;
mod limits;
mod migrate;
mod pinned;
mod staging;
mod stitch;

use std::sync::Arc;

use self::arenas::Arenas;
use self::backing::Backing;
use self::granted::Account;
use self::headroom::Headroom;
use self::staging::{Addresses, Staging};
use crate::core::{
    Arena, ArenaId, BlockId, BlockSize, Class, Kept, Ledger, PerTier, Purpose, StreamId, Tier, show_size,
};
use crate::driver::{self, DeviceInfo, Driver, DriverError, Rung};
use crate::error::{Error, OutOfMemory};

pub(super) use self::arenas::{Bound, Place};
pub use self::budget::Budget;
pub use self::limits::{Limits, MemoryInfo};
pub(super) use self::migrate::Move;
pub use self::migrate::Moved;

/// The number of the first stream. Free space belongs to it after all work is done.
pub(super) const HOME: StreamId = StreamId(0);

/// The addresses that the general arenas of all devices take at most, in bytes, and half as many
/// those of pools: together three quarters of what a process has, since drivers give out 47 bits.
const ADDRESSES: u64 = 1 << 46;

/// What general arenas are for; there is one of each class for each.
const GENERAL: [Purpose; 2] = [Purpose::Resident, Purpose::Scratch];

/// The part of the addresses left for pools that a new arena of one gets: one in so many.
const POOLS_SHARE: u64 = 32;

/// The fewest granules that an arena has addresses for.
const LEAST_GRANULES: u64 = 64;

/// A request on its way to a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// The arena where its block belongs.
    pub(super) arena: ArenaId,
    pub(super) size: BlockSize,
    pub(super) stream: StreamId,
}

/// A change of what is mapped at arena addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Addresses got backing.
    Mapped { address: u64, bytes: u64 },
    /// Addresses lost it.
    Unmapped { address: u64, bytes: u64 },
}

/// The memory of one device.
#[derive(Debug)]
pub(super) struct Memory {
    driver: Arc<dyn Driver>,
    device: usize,
    info: DeviceInfo,
    granule: u64,
    headroom: Headroom,
    pub(super) arenas: Arenas,
    pub(super) backing: Backing,
    ledger: Ledger,
    account: Account,
    /// The addresses that pools may take, in bytes.
    addresses: u64,
    staging: Option<Staging>,
    staging_addresses: Addresses,
    /// What the driver last refused, since [`forget_refusal`](Memory::forget_refusal).
    last_refusal: Option<DriverError>,
    /// What changed since [`take_changes`](Memory::take_changes).
    changes: Vec<Change>,
}

impl Memory {
    /// The memory of a device, with addresses and no backing.
    ///
    /// # Errors
    /// A granule that is invalid; the driver's.
    pub(super) fn new(
        driver: Arc<dyn Driver>,
        device: usize,
        info: DeviceInfo,
        limits: &Limits,
        budget: Arc<Budget>,
    ) -> Result<Memory, Error> {
        let granule = limits.granule.unwrap_or(info.granularity);
        if !granule.is_power_of_two() || granule < info.granularity {
            return Err(Error::argument(format!(
                "a granule of {} is invalid: the driver of {} needs a power of two of at least {}",
                show_size(granule),
                info.name,
                show_size(info.granularity)
            )));
        }
        let capacity = limits.capacity(&info, budget.limit()).map(|bytes| bytes / granule * granule);
        let working = if capacity[Tier::Shared] == 0 || !info.rung.migrates() { 0 } else { granule };
        let devices = driver.device_count().unwrap_or(1).clamp(1, 64) as u64;
        let addresses = ADDRESSES / devices.next_power_of_two();
        // Twice all there is to back, so that holes and growth never lack addresses, as long as all
        // devices can have as much.
        let wanted = (2 * capacity.iter().sum::<u64>()).next_power_of_two();
        let general = (GENERAL.len() * Class::ALL.len()) as u64;
        let length = wanted.min(addresses / general).max(LEAST_GRANULES * granule);
        let mut memory = Memory {
            backing: Backing::new(driver.clone(), device, granule, budget),
            arenas: Arenas::new(length),
            ledger: Ledger { capacity, working, ..Ledger::default() },
            headroom: Headroom::new(limits, &info, capacity[Tier::Shared]),
            account: Account::default(),
            addresses: addresses / 2,
            driver,
            device,
            info,
            granule,
            staging: None,
            staging_addresses: Addresses::default(),
            last_refusal: None,
            changes: Vec::new(),
        };
        for purpose in GENERAL {
            for class in Class::ALL {
                memory.add_arena(class, purpose, length)?;
            }
        }
        memory.heed_grants();
        Ok(memory)
    }

    /// Adds an arena of `length` bytes, or of fewer where so many addresses are not left.
    fn add_arena(&mut self, class: Class, purpose: Purpose, mut length: u64) -> driver::Result<ArenaId> {
        loop {
            match self.driver.reserve(self.device, length, length) {
                Ok(base) => return Ok(self.arenas.add(base, Arena::new(length, self.granule, class), purpose)),
                Err(why) if why.is_out_of_memory() && length > LEAST_GRANULES * self.granule => length /= 2,
                Err(why) => return Err(why),
            }
        }
    }

    /// An arena for a pool: one of a pool that is gone, in which nothing lives any more, or a new
    /// one. The more addresses pools have, the shorter it is: a few large pools and a hundred small
    /// ones find room.
    ///
    /// # Errors
    /// The driver's, where it refuses addresses.
    pub(super) fn pool_arena(&mut self, class: Class, purpose: Purpose) -> Result<ArenaId, Error> {
        if let Some(id) = self.arenas.vacant_of(class) {
            self.arenas.set_purpose(id, purpose);
            return Ok(id);
        }
        let left = self.addresses.saturating_sub(self.arenas.length_of_pools());
        let share = 1 << (left / POOLS_SHARE).max(1).ilog2();
        let length = self.arenas.length().min(share).max(LEAST_GRANULES * self.granule);
        Ok(self.add_arena(class, purpose, length)?)
    }

    /// The device's number.
    pub(super) fn device(&self) -> usize {
        self.device
    }

    /// What the device was found to be when the heap was made.
    pub(super) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// How much of each tier there is, is kept, and may be used.
    #[inline]
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Bytes of a granule.
    pub(super) fn granule(&self) -> u64 {
        self.granule
    }

    /// Waits until the device has done all its work.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn synchronize(&self) -> driver::Result<()> {
        self.driver.synchronize(self.device)
    }

    /// A free block of `tier` in the arena `id` or its pinned ones, of the request's own stream.
    pub(super) fn take(&mut self, request: Request, id: ArenaId, tier: Tier) -> Option<Place> {
        self.take_by(id, tier, |core| core.take(request.size, tier, request.stream))
    }

    /// The same, of another stream that `willing` orders before the request's.
    pub(super) fn take_from_others(
        &mut self,
        request: Request,
        id: ArenaId,
        tier: Tier,
        mut willing: impl FnMut(StreamId) -> bool,
    ) -> Option<Place> {
        self.take_by(id, tier, |core| {
            core.take_from_others(request.size, tier, request.stream, &mut willing).map(|(block, _)| block)
        })
    }

    fn take_by(
        &mut self,
        id: ArenaId,
        tier: Tier,
        mut take: impl FnMut(&mut Arena) -> Option<BlockId>,
    ) -> Option<Place> {
        let is_pinned = self.is_pinned();
        for place in self.arenas.ids() {
            if self.arenas.holds(place, id, tier, is_pinned)
                && let Some(block) = take(&mut self.arenas[place].core)
            {
                return Some((place, block));
            }
        }
        None
    }

    /// Bytes mapped at arena addresses.
    pub(super) fn mapped(&self, tier: Tier) -> u64 {
        self.arenas.mapped(tier)
    }

    /// Bytes that may still be mapped at arena addresses.
    pub(super) fn unmapped(&self, tier: Tier) -> u64 {
        self.ledger.limit(tier).saturating_sub(self.mapped(tier))
    }

    /// Bytes in stock that requests may not have.
    pub(super) fn kept(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Dedicated if self.ledger.reserve_open => 0,
            Tier::Dedicated => self.ledger.kept.reserve,
            Tier::Shared => self.ledger.working,
        }
    }

    /// Shared bytes that migrations need as working room; 0 while nothing is shared, since there is
    /// room for as much then.
    pub(super) fn working_room(&self) -> u64 {
        if self.mapped(Tier::Shared) == 0 { 0 } else { self.ledger.working }
    }

    /// Bytes that may be mapped in a tier at most, with what other devices and processes leave of
    /// the host's memory. Plans go by it.
    pub(super) fn reach(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Dedicated => self.ledger.reach(tier),
            Tier::Shared => {
                let most = self.backing.held(tier).saturating_add(self.backing.left(tier));
                self.ledger.limit(tier).min(most.saturating_sub(self.ledger.working))
            }
        }
    }

    /// Bytes that may still be mapped in a tier, with what others leave of the host's memory.
    pub(super) fn room(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Dedicated => self.unmapped(tier),
            Tier::Shared => self.reach(tier).saturating_sub(self.mapped(tier)),
        }
    }

    /// Sets aside a reserve for the start, which resident blocks may not have.
    pub(super) fn set_aside(&mut self, reserve: u64) {
        self.ledger.kept = Kept { reserve, persist: 0 };
        self.fill_stock();
    }

    /// Sets what resident blocks may not have, and whether scratch may have the reserve. Stock
    /// beyond that is released, except `returning` shared bytes, and the promised stock is filled.
    pub(super) fn keep(&mut self, kept: Kept, reserve_open: bool, returning: u64) {
        self.ledger.kept = kept;
        self.ledger.reserve_open = reserve_open;
        let limit = self.ledger.limit(Tier::Dedicated);
        let dedicated = limit.saturating_sub(self.mapped(Tier::Dedicated));
        self.trim(PerTier::new(dedicated, self.working_room() + returning));
        self.fill_stock();
    }

    /// Fills the stock with what is promised: the part of the reserve that is not handed out, and
    /// the working room. What the driver refuses is missing then, and logged.
    pub(super) fn fill_stock(&mut self) {
        let most = |tier| self.ledger.most(tier);
        let not_persist = most(Tier::Dedicated).saturating_sub(self.ledger.kept.persist);
        let promised = PerTier::new(self.ledger.kept.reserve, self.working_room());
        for (tier, limit) in [(Tier::Dedicated, not_persist), (Tier::Shared, most(Tier::Shared))] {
            if let Err(why) = self.backing.fill(tier, promised[tier], limit) {
                log::warn!(
                    "{} of {tier} memory could be set aside on device {}, not {}: {why}",
                    show_size(self.backing.in_stock(tier)),
                    self.device,
                    show_size(promised[tier])
                );
            }
        }
    }

    /// Forgets what the driver refused: a new request begins.
    pub(super) fn forget_refusal(&mut self) {
        self.last_refusal = None;
    }

    /// Takes what changed in the mappings since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Asks the driver how much dedicated memory others have left, and the system what it grants.
    /// Nothing changes where they do not say.
    pub(super) fn see_free(&mut self) {
        self.heed_grants();
        if let Ok(free) = self.driver.dedicated_free(self.device) {
            self.ledger.see_free(self.backing.held(Tier::Dedicated), free);
        }
    }

    /// What can still be had of each tier, and what there is in all. The driver is asked, so that
    /// what others have taken is not promised. Idle memory that is held counts as taken, as in
    /// PyTorch's own allocator.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn ask_free(&mut self) -> Result<MemoryInfo, Error> {
        self.heed_grants();
        let free = self.driver.dedicated_free(self.device)?;
        self.ledger.see_free(self.backing.held(Tier::Dedicated), free);
        let driver_has = PerTier::new(free.saturating_sub(self.headroom.withheld()), self.backing.left(Tier::Shared));
        let of = |tier: Tier| {
            let not_held = self.ledger.most(tier).saturating_sub(self.backing.held(tier));
            not_held.min(driver_has[tier]) / self.granule * self.granule
        };
        Ok(MemoryInfo { free: PerTier::from_fn(of), total: self.ledger.capacity })
    }

    /// Limits the dedicated tier to a fraction of the card. What is mapped beyond that stays.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn limit_to_fraction(&mut self, fraction: f64) -> Result<(), Error> {
        let total = self.driver.device_info(self.device)?.total[Tier::Dedicated];
        let limit = (total as f64 * fraction) as u64 / self.granule * self.granule;
        self.ledger.fraction_limit = Some(limit);
        Ok(())
    }

    /// The error for a request that neither tier can serve, with the figures.
    pub(super) fn out_of_memory(&self, requested: u64, allocated: PerTier<u64>) -> Error {
        let mut limit = PerTier::from_fn(|tier| self.ledger.reach(tier));
        // What other devices and processes have taken of the host's memory is not to be had.
        let within = self.backing.held(Tier::Shared) + self.backing.left(Tier::Shared);
        limit[Tier::Shared] = limit[Tier::Shared].min(within);
        Error::OutOfMemory(Box::new(OutOfMemory {
            device: self.device,
            requested,
            limit: PerTier::from_fn(|tier| limit[tier].max(self.mapped(tier))),
            mapped: PerTier::from_fn(|tier| self.mapped(tier)),
            allocated,
            elsewhere: self.backing.elsewhere(),
            driver: self.last_refusal.clone(),
        }))
    }

    /// Logs how the shared tier comes about on this device.
    pub(super) fn log_rung(&self) {
        let DeviceInfo { name, rung, refused, .. } = &self.info;
        match rung {
            // A simulated GPU was given none.
            Rung::Nothing if refused.is_empty() => log::info!("device {}, {name}: no shared memory", self.device),
            Rung::Nothing => log::warn!(
                "device {}, {name}, has no shared tier: an allocation that does not fit in its own memory is out of \
                 memory. {}",
                self.device,
                refused.join("; ")
            ),
            rung if refused.is_empty() => {
                log::info!("device {}, {name}: shared memory by {}", self.device, rung.name());
            }
            rung => {
                let better = refused.join("; ");
                log::info!("device {}, {name}: shared memory by {}, because {better}", self.device, rung.name());
            }
        }
    }

    /// Tests the invariants. O(everything).
    ///
    /// # Errors
    /// The first that does not hold, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        self.arenas.check()?;
        if !self.changes.is_empty() {
            return Err(format!("{} changes of mappings are in no history", self.changes.len()));
        }
        for tier in Tier::ALL {
            let held = self.backing.held(tier);
            let known = self.mapped(tier) + self.backing.in_stock(tier) + self.backing.stuck(tier);
            let known = known + if tier == Tier::Dedicated { self.staged() } else { 0 };
            if held != known {
                return Err(format!("{held} bytes are held in {tier}, {known} are accounted for"));
            }
            if held > self.ledger.capacity[tier] {
                return Err(format!("{held} bytes are held in {tier}, beyond its capacity"));
            }
        }
        Ok(())
    }

    /// Returns everything to the driver. Errors are only logged: at the end of a process the driver
    /// may be gone already.
    pub(super) fn close(&mut self) {
        self.unstage();
        self.backing.mend();
        for id in self.arenas.ids() {
            if self.arenas[id].belongs_to().is_some() {
                self.unpin(id);
                continue;
            }
            let all: Vec<u32> = (0..self.arenas[id].handles.len() as u32).collect();
            self.unmap_granules(id, &all);
            let (base, length) = (self.arenas[id].base(), self.arenas[id].core.length());
            if let Err(why) = driver::insist(|| self.driver.unreserve(self.device, base, length)) {
                log::debug!("addresses were left behind: {why}");
            }
        }
        self.backing.close();
        self.arenas.clear();
    }
}

impl Drop for Memory {
    /// Also where the heap is not even made: arenas that were reserved before a failure are
    /// returned.
    fn drop(&mut self) {
        if !self.arenas.is_empty() {
            self.close();
        }
    }
}
