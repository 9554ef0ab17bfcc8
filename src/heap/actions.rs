//! Everything that moves live memory: the actions of users, and safe points. Nothing else does.
//!
//! Each takes the device to a state ([`Step`]), and each first waits for the device. What must hold
//! while it runs is the caller's word; what is checked of it is in `work.rs`, and for whom which
//! holds is told in `docs/safety.md`.

use super::given::Given;
use super::memory::{Move, Moved};
use super::placing::{self, Pins};
use super::{Heap, automatic};
use crate::core::placement::{self, Order, SortBy};
use crate::core::policy::{Opening, Spill};
use crate::core::{Activation, GranuleId, Kept, PerTier, Phase, Reserve, Step, Tier, show_size};
use crate::error::Error;
use crate::sync::this_thread;

impl Heap {
    /// Activates: model blocks first, then the others, each in the activation's order, into what is
    /// dedicated less reserve less persist; then freezes. New blocks get the reserve first. An
    /// automatic reserve begins with what past work has asked for, and goes on to follow it. Beside
    /// a given one, weights are copied ahead where their order is known.
    ///
    /// Where the driver's shared memory is pinned nothing moves, and everything else is done: new
    /// blocks get the reserve first, as far as live ones leave it. [`Moved::stayed`] reports what
    /// should lie elsewhere. The same holds for all actions.
    ///
    /// # Errors
    /// Where reserve and persist are more than there is, or the rest does not fit the shared tier:
    /// nothing has moved then. While a graph is captured. The driver's: what had moved stays moved,
    /// everything stays usable, and the state is the old one.
    pub fn activate(&mut self, activation: &Activation) -> Result<Moved, Error> {
        self.memory.see_free();
        let kept = self.kept(activation.reserve, activation.persist);
        self.budget_beside(kept)?;
        let is_automatic = activation.reserve == Reserve::Auto;
        let ring = if is_automatic { 0 } else { self.ring_beside(kept) };
        let moved = self.place_beside(activation.order, kept, ring)?;
        self.enter(Step::Activate { automatic: is_automatic }, kept);
        self.given = Given::new(activation.order);
        self.make_ring_beside(ring, kept);
        Ok(moved)
    }

    /// Places everything anew with all of the dedicated tier, without reserve or persist, and
    /// thaws.
    ///
    /// # Errors
    /// As for [`activate`](Heap::activate).
    pub fn disable(&mut self, order: Order) -> Result<Moved, Error> {
        self.memory.see_free();
        let ledger = &self.memory.ledger();
        let budget = ledger.obtainable();
        let moved = self.place(order, budget, Pins::Kept)?;
        self.enter(Step::Disable, Kept::default());
        Ok(moved)
    }

    /// Moves everything to the shared tier and returns all dedicated memory to the driver. Every
    /// block stays usable. Blocks that are pinned to the dedicated tier move too, and come back
    /// with the next placement.
    ///
    /// # Errors
    /// Where not everything fits the shared tier: nothing has moved then. Otherwise as for
    /// [`activate`](Heap::activate).
    pub fn free_vram(&mut self) -> Result<Moved, Error> {
        let moved = self.place(Order::default(), 0, Pins::Overridden)?;
        self.enter(Step::FreeVram, Kept::default());
        self.memory.trim(PerTier::new(0, u64::MAX));
        self.note();
        Ok(moved)
    }

    /// Returns to loading: thaws, strips idle backing, and keeps `reserve` and `persist` from what
    /// is allocated until the next action. Nothing moves.
    ///
    /// # Errors
    /// Where reserve and persist are more than there is; while a graph is captured; the driver's.
    /// Nothing has changed then.
    pub fn begin_loading(&mut self, reserve: Reserve, persist: u64) -> Result<(), Error> {
        let kept = self.kept(reserve, persist);
        self.memory.ledger().resident_budget(kept).map_err(Error::argument)?;
        self.quiesce()?;
        self.drop_ring();
        self.strip();
        self.enter(Step::BeginLoading, kept);
        Ok(())
    }

    /// Moves the block that holds `address` to a tier, with the small blocks that share its
    /// granules.
    ///
    /// # Errors
    /// An address in no live block; a tier without room; a driver whose shared memory is pinned,
    /// where nothing can move; while a graph is captured; the driver's.
    pub fn move_block(&mut self, address: u64, tier: Tier) -> Result<Moved, Error> {
        let start = self.extent(address)?.0;
        self.note_threads();
        self.quiesce()?;
        let (arena, block) = self.memory.arenas.locate(start)?;
        let core = &self.memory.arenas[arena].core;
        let is_elsewhere = |granule: &u32| core.tier_of_granule(*granule).is_some_and(|lies| lies != tier);
        let granules = core.granules_of(block).filter(is_elsewhere);
        let moves: Vec<Move> = granules.map(|granule| (GranuleId { arena, granule }, tier)).collect();
        let needed = moves.len() as u64 * self.memory.granule();
        if needed > 0 && self.memory.is_pinned() {
            return Err(Error::Immovable { bytes: core.extent(block).1 });
        }
        self.memory.heed_grants();
        if needed > self.memory.room(tier) {
            self.strip();
        }
        let room = self.memory.room(tier);
        if needed > room {
            return Err(Error::refused(format!(
                "the block needs {} more of the {tier} tier, which has {} left: free something there first",
                show_size(needed),
                show_size(room)
            )));
        }
        self.automatic.forget_standstills();
        let moved = self.migrate(moves);
        self.memory.fill_stock();
        self.note();
        moved
    }

    /// A safe point: nobody launches work until this returns, and `kind` names the work that comes
    /// next, in any words that are the same for the same work ("" where nobody knows). In the
    /// automatic mode memory may move now.
    ///
    /// The word is checked as far as possible: nothing moves this time where another thread has
    /// used the device since the last safe point or is at work, where a graph is captured, or where
    /// a stream is at work after the device was waited for.
    /// [`Stats::abstained`](crate::core::Stats::abstained) counts that, and
    /// [`reserve_reason`](Heap::reserve_reason) tells why.
    ///
    /// O(levels of scratch) as long as everything has found dedicated memory, and where nothing has
    /// changed since nothing moved; otherwise O(blocks + granules), and what the moves take.
    ///
    /// # Errors
    /// The driver's. What has moved stays moved, and everything stays usable.
    pub fn safe_point(&mut self, kind: &str) -> Result<Moved, Error> {
        let is_beyond = self.keep_to_grants();
        self.layout.begin();
        let slack = self.automatic.slack(&self.memory, &self.stats);
        let learner = &mut self.automatic.learner;
        learner.end_interval(kind, slack, self.stats.blocks.active());
        let is_on = self.state.is_automatic();
        self.stats.safe_points += u64::from(is_on);
        let moved = match is_on {
            true if is_beyond && !self.memory.is_pinned() => self.retreat(),
            true => self.rebalance(),
            false => self.adjust_ring(),
        };
        self.witness.begin_interval(this_thread());
        let arenas = &self.memory.arenas;
        let blocks = self.stats.blocks.count.current();
        self.automatic.learner.begin_interval(blocks, |address| arenas.locate_inside(address).is_ok());
        moved
    }

    /// A reset as a safe point, for programs that have used the device from one thread alone.
    ///
    /// # Errors
    /// As for [`safe_point`](Heap::safe_point).
    pub(super) fn safe_point_of_one_thread(&mut self) -> Result<(), Error> {
        if self.witness.several() {
            let why = self.automatic.refuse_resets();
            log::warn!("device {}: {why}", self.memory.device());
            return Ok(());
        }
        let kind = self.automatic.learner.kind().to_owned();
        self.safe_point(&kind).map(drop)
    }

    /// Moves what should move before the coming run, if that pays and nobody is seen at work.
    fn rebalance(&mut self) -> Result<Moved, Error> {
        let Some(choice) = self.automatic.choose(&self.memory, &self.stats, &self.ahead) else {
            return Ok(Moved::default());
        };
        if self.abstains() {
            return Ok(Moved::default());
        }
        self.automatic.set_remark(None);
        log::debug!("device {}: {}", self.memory.device(), choice.why);
        self.strip();
        if choice.ring < self.memory.staged() {
            self.drop_ring();
        }
        if self.memory.is_pinned() {
            // Residents cannot move, so there is only the ring of copies. What is learned all the
            // same is the next activation's reserve.
            self.make_ring(choice.ring);
            return Ok(Moved::default());
        }
        let moved = self.migrate(automatic::moves(&self.memory, &choice))?;
        self.make_ring(choice.ring);
        self.count_rebalance(moved);
        let room = choice.after.room * self.memory.granule();
        self.automatic.carried_out(choice, moved, self.memory.granule());
        let Kept { reserve, persist } = self.kept(Reserve::Auto, self.memory.ledger().kept.persist);
        self.enter(Step::Rebalance, Kept { reserve: reserve.min(room), persist });
        Ok(moved)
    }

    /// Whether nothing may move at a safe point, because somebody is seen at work; notes why.
    pub(super) fn abstains(&mut self) -> bool {
        let Some(why) = self.unquiet() else { return false };
        let work = self.automatic.learner.work();
        log::debug!("device {}: nothing moves before {work}: {why}", self.memory.device());
        self.stats.abstained += 1;
        self.automatic.set_abstained(&why);
        true
    }

    /// Places everything within what the operating system grants by now, the most read first. It
    /// does not ask whether that pays: the system moves memory otherwise, and not the least read.
    /// Where the shared tier cannot hold the rest, everything stays.
    fn retreat(&mut self) -> Result<Moved, Error> {
        if self.abstains() {
            return Ok(Moved::default());
        }
        let kept = self.memory.ledger().kept;
        let budget = self.memory.ledger().resident_budget(kept).map_err(Error::argument)?;
        let placed = self.place(Order { sort_by: SortBy::Reads, ..Order::default() }, budget, Pins::Kept);
        let Some(moved) = self.rebalanced(placed)? else { return Ok(Moved::default()) };
        self.automatic.forget_move();
        self.memory.release_beyond_grants();
        self.note();
        Ok(moved)
    }

    /// Counts what a safe point has placed anew; `None` where the shared tier could not hold the
    /// rest, so that nothing has moved. Notes why.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn rebalanced(&mut self, placed: Result<Moved, Error>) -> Result<Option<Moved>, Error> {
        match placed {
            Err(Error::Refused(why)) => {
                self.automatic.set_abstained(&why);
                Ok(None)
            }
            placed => {
                let moved = placed?;
                self.count_rebalance(moved);
                Ok(Some(moved))
            }
        }
    }

    fn count_rebalance(&mut self, moved: Moved) {
        self.stats.rebalances += 1;
        self.stats.rebalanced_demoted += moved.demoted;
        self.stats.rebalanced_promoted += moved.promoted;
    }

    /// What an activation keeps: with an automatic reserve, what the most demanding of all known
    /// work asks for.
    fn kept(&self, reserve: Reserve, persist: u64) -> Kept {
        let reserve = reserve.fixed().unwrap_or_else(|| self.automatic.reserve(&self.memory, persist));
        Kept { reserve, persist }
    }

    /// Waits, strips idle backing, and moves every granule that a block touches to where the plan
    /// wants it, with `budget` bytes dedicated.
    pub(super) fn place(&mut self, order: Order, budget: u64, pins: Pins) -> Result<Moved, Error> {
        self.note_threads();
        self.quiesce()?;
        self.drop_ring();
        self.strip();
        self.keep_to_grants();
        let granule = self.memory.granule();
        let mut residents = placing::residents(&self.memory, &self.automatic.learner, order.sort_by);
        self.stats.stayed = 0;
        if pins == Pins::Overridden {
            residents.iter_mut().for_each(|resident| resident.pin = None);
        }
        if self.memory.is_pinned() {
            self.stats.stayed = placing::unmovable(&self.memory, residents, order, budget / granule * granule);
            return Ok(Moved { stayed: self.stats.stayed, ..Moved::default() });
        }
        let plan = placement::plan(residents, order, budget / granule);
        self.migrate(placing::moves(&self.memory, &plan)?)
    }

    /// Moves granules and counts what moved. The device must be idle.
    fn migrate(&mut self, moves: Vec<Move>) -> Result<Moved, Error> {
        let (moved, result) = self.memory.migrate(moves);
        self.ahead.placed_anew();
        let bytes = moved.promoted + moved.demoted;
        self.stats.migrations += bytes / self.memory.granule();
        self.stats.migrated_bytes += bytes;
        self.recount();
        self.note();
        result.map(|()| moved)
    }

    /// Takes the device to the state after a step. Whoever takes it there says where loading ends
    /// and where everything belongs, so what an earlier run has shown is over.
    pub(super) fn enter(&mut self, step: Step, kept: Kept) {
        let Some(state) = self.state.after(step) else {
            log::error!("device {}: {step:?} is no step from {:?}", self.memory.device(), self.state.phase());
            return;
        };
        self.state = state;
        self.layout.forget();
        if step != Step::Rebalance {
            // The high-water mark of scratch begins anew.
            self.stats.reserve_used = Default::default();
        }
        if matches!(step, Step::Activate { .. } | Step::Disable | Step::FreeVram) {
            self.automatic.forget_move();
        }
        self.spill = Spill::default();
        let gone = self.stats.blocks.allocated.taken();
        let opens = state.phase() == Phase::Loading && kept.reserve > 0;
        self.opening = opens.then(|| Opening::new(kept.reserve, None, gone));
        // What lives now is no scratch.
        self.stats.reserve_used.set(0);
        self.memory.arenas.clear_scratch();
        self.memory.keep(kept, state.is_frozen(), self.automatic.returning);
        self.note();
    }
}
