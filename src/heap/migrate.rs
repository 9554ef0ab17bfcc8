//! Migration: granules change tier, and no address changes.
//!
//! ```text
//!            address of the granule          working address
//!   before   ├─▶ old backing                 ├─▶ (nothing)
//!   1        ├─▶ old backing                 ├─▶ new backing      map, set access
//!   2        ├─▶ old backing  ═══ copy ═══▶  ├─▶ new backing
//!   3        ├─▶ (nothing)                   ├─▶ (nothing)        unmap both
//!   4        ├─▶ new backing                 ├─▶ (nothing)        map, set access; old backing to the stock
//! ```
//!
//! Handles are swapped, not created and released: what a demotion leaves serves the next promotion. One granule of working room in
//! the shared tier is enough to begin with, so it works with both tiers full.
//!
//! A driver call that fails undoes the granule it was for. What cannot even be undone is kept in [`Repairs`] and tried
//! again at the next opportunity: no backing is lost, and no byte.

use std::collections::BTreeMap;

use super::{Bound, Heap, RESIDENT, SCRATCH};
use crate::core::history::Action;
use crate::core::placement::{self, GranuleId, Order, Resident, SortBy};
use crate::core::{Opening, Phase, Reserve, Spill, Tier, show_size};
use crate::driver::{self, Driver, Handle};
use crate::error::Error;

/// What an action moved. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the shared to the dedicated tier.
    pub promoted: u64,
    /// From the dedicated to the shared tier.
    pub demoted: u64,
    /// What ought to have moved and stays where it is, because the driver's shared memory is pinned.
    pub stayed: u64,
}

/// What failing calls left behind.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// Backing mapped where it ought not be.
    stuck: Vec<Stuck>,
    /// Granules whose backing is mapped nowhere, or is mapped and cannot be accessed.
    detached: Vec<Detached>,
    /// Where new backing is mapped while it is filled.
    working: Option<u64>,
    /// All addresses ever reserved for that.
    reserved: Vec<u64>,
}

#[derive(Debug)]
struct Stuck {
    address: u64,
    handles: Vec<Handle>,
    tier: Tier,
}

/// A granule whose backing could not be attached, and why.
#[derive(Debug)]
struct Detached {
    id: GranuleId,
    how: Unattached,
    why: driver::DriverError,
}

/// How such a granule is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unattached {
    /// Mapped nowhere.
    Unmapped,
    /// Mapped, without access.
    Inaccessible,
}

/// Whether a placement leaves blocks alone that a program has put somewhere by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pins {
    Kept,
    Overridden,
}

/// A granule that was not rehoused as it should.
struct Halted {
    /// Whether the new backing is under it all the same, with its contents.
    moved: bool,
    why: Error,
}

impl<E: Into<Error>> From<E> for Halted {
    fn from(why: E) -> Self {
        Halted { moved: false, why: why.into() }
    }
}

impl Repairs {
    /// Bytes of stuck backing.
    pub(super) fn bytes(&self, tier: Tier, granule: u64) -> u64 {
        self.stuck.iter().filter(|stuck| stuck.tier == tier).map(|stuck| stuck.handles.len() as u64 * granule).sum()
    }

    /// Whether every granule is mapped as the arenas say.
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        self.detached.is_empty()
    }

    /// Gives the working addresses back.
    pub(super) fn close(&mut self, driver: &dyn Driver, device: usize, granule: u64) {
        for address in self.reserved.drain(..) {
            if let Err(why) = driver::insist(|| driver.unreserve(device, address, granule)) {
                log::debug!("addresses were left behind: {why}");
            }
        }
    }
}

impl Heap {
    /// Activates: model blocks first, then the others, each in `order`, into what is dedicated less `reserve` less `persist`; then
    /// freezes. New blocks get the reserve first. An automatic reserve begins with what past work has asked for, and goes on to
    /// follow it.
    ///
    /// # Errors
    /// Where reserve and persist are more than there is, or the rest does not fit the shared tier: nothing has moved then. While a
    /// graph is captured. The driver's: what had moved stays moved, everything stays usable, and the state is the old one.
    ///
    /// Where the driver's shared memory is pinned nothing moves, and everything else is done: new blocks get the reserve first, as far as
    /// what lives leaves it. [`Moved::stayed`] tells what ought to lie elsewhere. So for all actions.
    pub fn activate(&mut self, reserve: Reserve, persist: u64, order: Order) -> Result<Moved, Error> {
        let automatic = reserve == Reserve::Auto;
        self.see_free();
        let reserve = reserve.fixed().unwrap_or_else(|| self.found_reserve(persist));
        let budget = self.ledger.resident_budget(reserve, persist).map_err(Error::Argument)?;
        let moved = self.place(order, budget / self.granule, Pins::Kept)?;
        self.set_automatic(automatic);
        self.begin(Phase::Active, reserve, persist);
        Ok(moved)
    }

    /// Places everything anew with all of the dedicated tier, without reserve or persist, and thaws.
    ///
    /// # Errors
    /// As for [`activate`](Heap::activate).
    pub fn disable(&mut self, order: Order) -> Result<Moved, Error> {
        self.see_free();
        let reach = self.ledger.capacity[Tier::Dedicated].saturating_sub(self.ledger.taken);
        let moved = self.place(order, reach / self.granule, Pins::Kept)?;
        self.set_automatic(false);
        self.begin(Phase::Disabled, 0, 0);
        Ok(moved)
    }

    /// Moves everything to the shared tier and gives all dedicated memory back to the driver. Every block stays usable. What is
    /// pinned to the dedicated tier goes too, and comes back with the next placement.
    ///
    /// # Errors
    /// Where not everything fits the shared tier: nothing has moved then. Otherwise as for [`activate`](Heap::activate).
    pub fn free_vram(&mut self) -> Result<Moved, Error> {
        let moved = self.place(Order::default(), 0, Pins::Overridden)?;
        self.set_automatic(false);
        self.begin(Phase::Freed, 0, 0);
        self.stock.trim(Tier::Dedicated, 0);
        self.note();
        Ok(moved)
    }

    /// Goes back to loading: thaws, takes idle backing back, and keeps `reserve` and `persist` from what is allocated until the next action.
    /// Nothing moves.
    ///
    /// # Errors
    /// Where reserve and persist are more than there is; while a graph is captured; the driver's. Nothing has changed then.
    pub fn begin_loading(&mut self, reserve: Reserve, persist: u64) -> Result<(), Error> {
        let reserve = reserve.fixed().unwrap_or_else(|| self.found_reserve(persist));
        self.ledger.resident_budget(reserve, persist).map_err(Error::Argument)?;
        self.quiesce()?;
        self.strip();
        self.begin(Phase::Loading, reserve, persist);
        Ok(())
    }

    /// PyTorch's `empty_cache`: gives idle backing back to the driver, beside whatever work runs. Nothing that lives moves.
    /// Does nothing while a graph is captured, as in PyTorch's own allocator, nor while frozen by an action; a reserve that
    /// was found automatically stays in stock as long as anything lives.
    ///
    /// # Errors
    /// The driver's.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.stats.resets += 1;
        if self.is_capturing() {
            return Ok(());
        }
        if self.automatic.at_resets {
            self.safe_point_of_one_thread()?;
        }
        self.give_back_now()
    }

    /// [`reset`](Heap::reset), by whoever does not count as one.
    ///
    /// # Errors
    /// The driver's.
    pub fn give_back_now(&mut self) -> Result<(), Error> {
        if self.is_frozen_by_action() || self.is_capturing() {
            return Ok(());
        }
        match self.quiesce() {
            Err(Error::Driver(why)) if why.is_capture() => return Ok(()),
            waited => waited?,
        }
        if self.is_frozen() && self.stats.blocks.active_count() == 0 {
            // Nothing lives that a reserve found automatically could be kept from; one that was given is kept from what comes.
            let kept = if self.opened_by_work { self.ledger.reserve } else { 0 };
            self.begin(Phase::Loading, kept, self.ledger.persist);
        }
        self.give_back();
        Ok(())
    }

    /// [`give_back_now`](Heap::give_back_now), where nothing was allocated or freed since the last call, something is idle, nothing
    /// is frozen, and no stream is seen at work.
    ///
    /// # Errors
    /// The driver's.
    pub fn give_back_if_idle(&mut self) -> Result<(), Error> {
        let allocated = &self.stats.blocks.allocated;
        let seen = Some((allocated.total(), allocated.taken()));
        let is_quiet = std::mem::replace(&mut self.at_last_look, seen) == seen;
        let used = self.stats.tiers[Tier::Dedicated].allocated.current();
        let idle = self.stock.held(Tier::Dedicated).saturating_sub(used);
        let is_to_stay = self.arenas.is_empty()
            || self.is_frozen_by_action()
            || idle <= self.ledger.reserve
            || self.pools.any_open();
        if !is_quiet || is_to_stay || self.streams.any_busy() {
            return Ok(());
        }
        self.give_back_now()
    }

    /// Gives idle backing back to the driver, the reserve and the working room excepted; to the stock alone while frozen by an
    /// action. Nothing that lives moves. The device must have been waited for.
    pub(super) fn give_back(&mut self) {
        self.strip();
        if !self.is_frozen_by_action() {
            self.stock.trim(Tier::Dedicated, self.ledger.reserve);
            self.stock.trim(Tier::Shared, self.working_room());
        }
        self.note();
    }

    /// Whether an action froze the device, and neither the automatic mode nor work that opened the reserve by itself.
    fn is_frozen_by_action(&self) -> bool {
        self.is_frozen() && !self.automatic.on && !self.opened_by_work
    }

    /// Moves one block to a tier, with the small blocks that share its granules. `address` may lie inside the block.
    ///
    /// # Errors
    /// An address in no live block; a tier without room; a driver whose shared memory is pinned, where nothing can move; while a graph is
    /// captured; the driver's.
    pub fn move_block(&mut self, address: u64, tier: Tier) -> Result<Moved, Error> {
        let start = self.extent(address)?.0;
        self.quiesce()?;
        let (index, id) = self.locate(start)?;
        let core = &self.arenas[index].core;
        let granules: Vec<_> = core
            .granules_of(id)
            .filter(|granule| core.tier_of_granule(*granule) == Some(tier.other()))
            .map(|granule| GranuleId { arena: index as u32, granule })
            .collect();
        let needed = granules.len() as u64 * self.granule;
        if needed > 0 && self.is_pinned() {
            return Err(Error::Immovable { bytes: core.extent(id).1 });
        }
        let mut room = self.room_in(tier);
        if needed > room {
            self.strip();
            room = self.room_in(tier);
        }
        if needed > room {
            return Err(Error::Refused(format!(
                "the block needs {} more of the {tier} tier, which has {} left: free something there first",
                show_size(needed),
                show_size(room)
            )));
        }
        let (promote, demote) = match tier {
            Tier::Dedicated => (granules, Vec::new()),
            Tier::Shared => (Vec::new(), granules),
        };
        let moved = self.swap(promote, demote);
        self.fill_stock();
        self.note();
        moved
    }

    /// The state after an action: the high-water mark of scratch begins anew.
    pub(super) fn begin(&mut self, phase: Phase, reserve: u64, persist: u64) {
        self.stats.reserve_used = Default::default();
        self.settle(phase, reserve, persist);
    }

    /// The state after a placement, of an action or of the automatic mode.
    pub(super) fn settle(&mut self, phase: Phase, reserve: u64, persist: u64) {
        self.stats.phase = phase;
        // Whoever settles says where loading ends, and where everything belongs.
        self.spill = Spill::default();
        self.opened_by_work = false;
        let gone = self.stats.blocks.allocated.taken();
        self.opening = (phase == Phase::Loading && reserve > 0).then(|| Opening::new(reserve, None, gone));
        // What lives now is no scratch.
        self.stats.reserve_used.set(0);
        let active = phase == Phase::Active;
        self.current = if active { SCRATCH } else { RESIDENT };
        self.ledger.reserve = reserve;
        self.ledger.persist = persist;
        self.ledger.reserve_open = active;
        for bound in &mut self.arenas {
            let blocks: Vec<_> = bound.core.blocks().map(|block| block.id).collect();
            blocks.into_iter().for_each(|id| bound.core.marks_mut(id).scratch = false);
        }
        let limit = self.ledger.limit(Tier::Dedicated);
        self.stock.trim(Tier::Dedicated, limit.saturating_sub(self.mapped(Tier::Dedicated)));
        self.stock.trim(Tier::Shared, self.working_room() + self.automatic.returning);
        self.fill_stock();
        self.note();
    }

    /// Quiesces, strips, and moves every granule that a block touches to where the plan wants it, `budget` of them dedicated.
    fn place(&mut self, order: Order, budget: u64, pins: Pins) -> Result<Moved, Error> {
        self.quiesce()?;
        self.strip();
        self.stats.stayed = 0;
        if self.is_pinned() {
            self.stats.stayed = self.unmovable(order, budget * self.granule);
            return Ok(Moved { stayed: self.stats.stayed, ..Moved::default() });
        }
        let mut residents = self.residents(order.sort_by);
        if pins == Pins::Overridden {
            residents.iter_mut().for_each(|resident| resident.pin = None);
        }
        let plan = placement::plan(residents, order, budget);
        let (needed, limit) = (plan.shared() * self.granule, self.shared_reach());
        if needed > limit {
            return Err(Error::Refused(format!(
                "{} would have to lie in the shared tier, which holds {}: choose a smaller reserve or persist, free something, or \
                 raise the option \"shared\"; nothing was moved",
                show_size(needed),
                show_size(limit)
            )));
        }
        let (mut promote, mut demote) = (Vec::new(), Vec::new());
        for (id, tier) in &plan.tiers {
            if self.arenas[id.arena as usize].core.tier_of_granule(id.granule) == Some(tier.other()) {
                match tier {
                    Tier::Dedicated => promote.push(*id),
                    Tier::Shared => demote.push(*id),
                }
            }
        }
        promote.sort_unstable();
        demote.sort_unstable();
        self.swap(promote, demote)
    }

    /// Everything that wants a place: the blocks, and what else of the pools' granules graphs may touch. What is known of reads is looked
    /// up only where they are sorted by it.
    pub(super) fn residents(&self, sort_by: SortBy) -> Vec<Resident> {
        let mut residents = Vec::new();
        for (index, bound) in self.arenas.iter().enumerate() {
            let arena = index as u32;
            residents.extend(bound.core.blocks().map(|block| {
                let (reads, last_read) = match sort_by {
                    SortBy::Size => (0.0, 0),
                    SortBy::Reads | SortBy::Recency => {
                        self.value(bound.base + block.offset, block.marks.born, block.size)
                    }
                };
                let granules = bound.core.granules_of(block.id);
                let (offset, size, model) = (block.offset, block.size, block.marks.model);
                Resident { arena, offset, granules, size, model, reads, last_read, pin: block.marks.pin }
            }));
            if self.pools.owns(self.owner_of(index)) {
                let idle = bound.core.idle_granules().into_iter();
                residents.extend(idle.map(|granule| Resident {
                    arena,
                    offset: u64::from(granule) * self.granule,
                    granules: granule..granule + 1,
                    size: self.granule,
                    model: false,
                    reads: 0.0,
                    last_read: 0,
                    pin: None,
                }));
            }
        }
        residents
    }

    /// Moves granules in both directions, a demotion's backing serving the next promotion. The device must be quiet.
    pub(super) fn swap(&mut self, promote: Vec<GranuleId>, demote: Vec<GranuleId>) -> Result<Moved, Error> {
        let (mut promote, mut demote) = (promote.into_iter().peekable(), demote.into_iter().peekable());
        let mut changes: BTreeMap<u32, Vec<(u32, Option<Tier>)>> = BTreeMap::new();
        let mut moved = Moved::default();
        let result = loop {
            let next = match (demote.peek(), promote.peek()) {
                (None, None) => break Ok(()),
                (Some(id), _) if self.can_take(Tier::Shared) => (*id, Tier::Shared),
                (_, Some(id)) => (*id, Tier::Dedicated),
                (Some(id), None) => (*id, Tier::Shared),
            };
            let (id, tier) = next;
            let halted = match self.rehouse(id, tier) {
                Ok(()) => None,
                Err(Halted { moved: true, why }) => Some(why),
                Err(Halted { moved: false, why: Error::Driver(why) })
                    if tier == Tier::Dedicated && why.is_out_of_memory() =>
                {
                    // Another program has taken it: what was to be promoted stays where it is.
                    log::warn!("{} stay in the shared tier: {why}", show_size(promote.len() as u64 * self.granule));
                    promote.by_ref().for_each(drop);
                    continue;
                }
                Err(Halted { moved: false, why }) => break Err(why),
            };
            changes.entry(id.arena).or_default().push((id.granule, Some(tier)));
            match tier {
                Tier::Dedicated => {
                    promote.next();
                    moved.promoted += self.granule;
                }
                Tier::Shared => {
                    demote.next();
                    moved.demoted += self.granule;
                }
            }
            if let Some(why) = halted {
                break Err(why);
            }
        };
        for (arena, changes) in changes {
            self.stats.migrations += changes.len() as u64;
            self.stats.migrated_bytes += changes.len() as u64 * self.granule;
            self.arenas[arena as usize].core.set_tiers(changes, Heap::HOME);
        }
        self.recount();
        self.note();
        result.map(|()| moved)
    }

    pub(super) fn can_take(&self, tier: Tier) -> bool {
        let can_hold = self.stock.held(tier) + self.granule <= self.ledger.capacity[tier];
        self.stock.bytes(tier) > 0 || (can_hold && self.stock.left(tier) >= self.granule)
    }

    /// What the shared tier may hold mapped, with what other devices and processes leave of the host's memory. Plans go by it.
    pub(super) fn shared_reach(&self) -> u64 {
        let most = self.stock.held(Tier::Shared).saturating_add(self.stock.left(Tier::Shared));
        self.ledger.limit(Tier::Shared).min(most.saturating_sub(self.ledger.working))
    }

    /// What may still be mapped in a tier, with what others leave of the host's memory.
    fn room_in(&self, tier: Tier) -> u64 {
        match tier {
            Tier::Dedicated => self.unmapped(tier),
            Tier::Shared => self.shared_reach().saturating_sub(self.mapped(tier)),
        }
    }

    /// Bytes mapped in a tier that stay so when everything idle is taken back: what live blocks touch, and all of pools.
    pub(super) fn kept_mapped(&self, tier: Tier) -> u64 {
        let kept = self.arenas.iter().enumerate().map(|(index, bound)| {
            let runs = if self.pools.owns(self.owner_of(index)) { Vec::new() } else { bound.core.idle_runs(tier) };
            bound.core.backed()[tier] - runs.into_iter().map(|run| run.len() as u64 * self.granule).sum::<u64>()
        });
        kept.sum()
    }

    /// Gives one granule backing in another tier, with its contents. The old backing goes to the stock.
    fn rehouse(&mut self, id: GranuleId, tier: Tier) -> Result<(), Halted> {
        let (device, granule) = (self.device, self.granule);
        let old = self.arenas[id.arena as usize].handles[id.granule as usize].ok_or_else(|| {
            Error::Refused(format!("granule {} of arena {} has no backing to move", id.granule, id.arena))
        })?;
        let address = self.address_of(id);
        let working = self.working_address()?;
        let new = self.stock.take(tier, 0, self.ledger.capacity[tier])?.ok_or_else(|| {
            Error::Refused(format!("the {tier} tier has no granule left to move into: free something there first"))
        })?;
        let driver = self.driver.clone();
        let filled = driver.map(device, working, granule, new).and_then(|()| {
            let filled = driver
                .set_access(device, working, granule)
                .and_then(|()| driver.copy(device, working, address, granule));
            let cleared = driver::insist(|| driver.unmap(device, working, granule));
            if cleared.is_err() {
                self.repairs.working = None;
                self.repairs.stuck.push(Stuck { address: working, handles: vec![new], tier });
            }
            filled.and(cleared)
        });
        let is_stuck = self.repairs.stuck.iter().any(|stuck| stuck.address == working);
        if let Err(why) = filled.and_then(|()| driver.unmap(device, address, granule)) {
            if !is_stuck {
                self.stock.put(tier, new);
            }
            return Err(why.into());
        }
        let attached = self.attach(address, new);
        if let Err((Unattached::Unmapped, why)) = attached {
            self.stock.put(tier, new);
            if let Err((how, why)) = self.attach(address, old) {
                self.repairs.detached.push(Detached { id, how, why });
            }
            return Err(why.into());
        }
        self.arenas[id.arena as usize].handles[id.granule as usize] = Some(new);
        self.stock.put(tier.other(), old);
        attached.map_err(|(how, why)| {
            self.repairs.detached.push(Detached { id, how, why: why.clone() });
            Halted { moved: true, why: why.into() }
        })
    }

    /// Maps a handle at an address, accessible; or says how that was left.
    fn attach(&self, address: u64, handle: Handle) -> Result<(), (Unattached, driver::DriverError)> {
        let unmapped = |why| (Unattached::Unmapped, why);
        driver::insist(|| self.driver.map(self.device, address, self.granule, handle)).map_err(unmapped)?;
        self.make_accessible(address).map_err(|why| {
            match driver::insist(|| self.driver.unmap(self.device, address, self.granule)) {
                Ok(()) => (Unattached::Unmapped, why),
                Err(_) => (Unattached::Inaccessible, why),
            }
        })
    }

    fn make_accessible(&self, address: u64) -> driver::Result<()> {
        driver::insist(|| self.driver.set_access(self.device, address, self.granule))
    }

    fn address_of(&self, id: GranuleId) -> u64 {
        self.arenas[id.arena as usize].base + u64::from(id.granule) * self.granule
    }

    fn working_address(&mut self) -> driver::Result<u64> {
        if let Some(address) = self.repairs.working {
            return Ok(address);
        }
        let address = self.driver.reserve(self.device, self.granule, self.granule)?;
        self.repairs.reserved.push(address);
        self.repairs.working = Some(address);
        Ok(address)
    }

    /// Takes the backing of idle granules back to the stock, other than pools'. The device must be quiet. Returns bytes.
    pub(super) fn strip(&mut self) -> u64 {
        let mut stripped = 0;
        for index in 0..self.arenas.len() {
            if self.pools.owns(self.owner_of(index)) {
                continue;
            }
            if self.arenas[index].belongs_to.is_some() {
                stripped += self.unpin_idle(index);
                continue;
            }
            let idle = self.arenas[index].core.idle_granules();
            let gone = self.unmap_granules(index, &idle);
            stripped += gone.len() as u64 * self.granule;
            if !gone.is_empty() {
                let changes = gone.into_iter().map(|granule| (granule, None));
                self.arenas[index].core.set_tiers(changes, Heap::HOME);
            }
        }
        self.note();
        stripped
    }

    /// Unmaps granules, their handles to the stock; returns those for which it worked. The core is told by the caller.
    pub(super) fn unmap_granules(&mut self, index: usize, granules: &[u32]) -> Vec<u32> {
        let (mut gone, mut unmapped) = (Vec::new(), Vec::new());
        let Bound { base, core, handles, .. } = &mut self.arenas[index];
        for run in granules.chunk_by(|a, b| a + 1 == *b) {
            let run: Vec<u32> = run.iter().copied().filter(|granule| handles[*granule as usize].is_some()).collect();
            for run in run.chunk_by(|a, b| a + 1 == *b) {
                let address = *base + u64::from(run[0]) * self.granule;
                if let Err(why) =
                    driver::insist(|| self.driver.unmap(self.device, address, run.len() as u64 * self.granule))
                {
                    log::debug!("idle backing stays where it is: {why}");
                    continue;
                }
                for granule in run {
                    let tier = core.tier_of_granule(*granule);
                    if let (Some(handle), Some(tier)) = (handles[*granule as usize].take(), tier) {
                        self.stock.put(tier, handle);
                    }
                    gone.push(*granule);
                }
                unmapped.push((address, run.len() as u64 * self.granule));
            }
        }
        for (address, bytes) in unmapped {
            self.happened(Action::SegmentUnmap, address, bytes, 0, None);
        }
        gone
    }

    /// Undoes the mapping of a run of handles, which go back to the stock; if even that fails, it is left for later.
    pub(super) fn undo_map(&mut self, address: u64, handles: &[Handle], tier: Tier) {
        if handles.is_empty() {
            return;
        }
        let bytes = handles.len() as u64 * self.granule;
        match driver::insist(|| self.driver.unmap(self.device, address, bytes)) {
            Ok(()) => handles.iter().for_each(|handle| self.stock.put(tier, *handle)),
            Err(why) => {
                log::debug!("{} at {address:#x} could not be unmapped yet: {why}", show_size(bytes));
                self.repairs.stuck.push(Stuck { address, handles: handles.to_vec(), tier });
            }
        }
    }

    /// Tries again what failing calls left undone.
    pub(super) fn mend(&mut self) {
        for stuck in std::mem::take(&mut self.repairs.stuck) {
            self.undo_map(stuck.address, &stuck.handles, stuck.tier);
        }
        for Detached { id, how, .. } in std::mem::take(&mut self.repairs.detached) {
            let address = self.address_of(id);
            let attached = match (how, self.arenas[id.arena as usize].handles[id.granule as usize]) {
                (_, None) => Ok(()),
                (Unattached::Unmapped, Some(handle)) => self.attach(address, handle),
                (Unattached::Inaccessible, Some(_)) => self.make_accessible(address).map_err(|why| (how, why)),
            };
            if let Err((how, why)) = attached {
                log::error!(
                    "granule {} of arena {} has lost its mapping and cannot get it back yet: {why}",
                    id.granule,
                    id.arena
                );
                self.repairs.detached.push(Detached { id, how, why });
            }
        }
    }

    /// Sees to it that every granule is mapped as the arenas say.
    ///
    /// # Errors
    /// The driver's, while one cannot get its mapping back: what is free on it must not be given out, and the blocks on it cannot be used.
    #[cold]
    pub(super) fn make_whole(&mut self) -> Result<(), Error> {
        self.mend();
        match self.repairs.detached.first() {
            None => Ok(()),
            Some(detached) => Err(Error::Driver(detached.why.clone())),
        }
    }

    /// Counts anew what migration changes: the bytes of live blocks in each tier.
    fn recount(&mut self) {
        let mut allocated = crate::core::PerTier::<u64>::default();
        for bound in &self.arenas {
            for block in bound.core.blocks() {
                let bytes = bound.core.residency(block.id);
                for tier in Tier::ALL {
                    allocated[tier] += bytes[tier];
                }
            }
        }
        for tier in Tier::ALL {
            self.stats.tiers[tier].allocated.set(allocated[tier]);
            self.stats.tiers[tier].active.set(allocated[tier]);
        }
        let scratch = self.arenas.iter().flat_map(|bound| {
            let live = bound.core.blocks().filter(|block| block.marks.scratch);
            live.map(|block| bound.core.residency(block.id)[Tier::Dedicated])
        });
        self.stats.reserve_used.set(scratch.sum());
    }
}
