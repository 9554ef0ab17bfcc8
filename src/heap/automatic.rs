//! The automatic mode: the reserve that finds itself.
//!
//! ```text
//!            safe point        safe point        safe point
//!   ──┬───────────┬─────────────────┬─────────────────┬──▶
//!     │ interval  │   interval      │   interval      │      demand.rs: scratch by level; reads, where told
//!     └───────────┴──▶ forecast.rs: one for each kind of work
//!                            └──▶ balance.rs: what moves before the coming run, if that pays
//!                                      └──▶ migrate.rs
//! ```
//!
//! Resident is what lives at a safe point; scratch is what comes and goes between two. Nothing moves anywhere else than at a safe
//! point, nothing is withheld before something has overflowed, and where everything fits nothing is done at all. Thresholds are those of
//! [`balance`]: a move has to gain more, in bytes over the link during the run to come, than it and the moves that did not pay have cost.

use std::collections::HashMap;

use super::{Heap, Moved, Wanted};
use crate::core::balance::{self, Candidate, Decision, Outlook, REMAP};
use crate::core::placement::GranuleId;
use crate::core::{Demand, Forecast, Phase, Reads, Spill, Tier, WORKS, show_size};
use crate::error::Error;
use crate::sync::this_thread;

/// Kinds of work that are remembered. Those beyond them are one kind, without a name.
const MOST_KINDS: usize = 64;

/// Most of what fragments may add to the peak of scratch, as a part of it: what two tiers lose is no measure of what one would. Too
/// much costs a read of a few weights, too little costs what is written and read all the time.
const MOST_SLACK: f64 = 0.25;

/// Why resets are no safe points any more, although the options say so.
const SEVERAL_THREADS: &str = "safe_points:empty_cache is refused, because more than one thread has used the card: say where \
                               a step begins by safe_point() or follow() instead";

/// A placement that was made, and what it was made from, to be held against what then happened.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Placed {
    room: u64,
    shared_reads: f64,
}

/// What the automatic mode knows.
#[derive(Debug)]
pub(super) struct Automatic {
    pub(super) on: bool,
    /// Which interval this is; blocks remember the one they came in.
    pub(super) interval: u32,
    pub(super) demand: Demand,
    /// The kind of work of this interval.
    pub(super) kind: String,
    /// Whether there has been a safe point: what was before is loading, and no work to learn from.
    begun: bool,
    /// Bytes read of blocks in this interval, by address.
    reads: HashMap<u64, u64>,
    /// The interval in which the reads of the block at an address were last told.
    told: HashMap<u64, u32>,
    forecasts: HashMap<String, Forecast>,
    /// Bytes of the blocks that the interval before the last had left at its end, and of those that are no residents because the
    /// coming interval will replace them (a cache that is copied as it grows).
    left: u64,
    passing: u64,
    /// Bytes of shared backing that are kept in stock because what was promoted last will want them again.
    pub(super) returning: u64,
    /// What was moved last, and why, for people.
    last_decision: Option<String>,
    /// The placement before and after the last move, while the work lasts that it was made for.
    last_move: Option<(Placed, Placed)>,
    /// Whether a reset is a safe point, as the option `safe_points:empty_cache` says.
    pub(super) at_resets: bool,
    /// What lived at the last safe point.
    lived: u64,
    /// Why the last safe point that wanted to move something abstained, for people.
    abstained: Option<String>,
}

impl Automatic {
    pub(super) fn new(on: bool, at_resets: bool, granule: u64) -> Automatic {
        Automatic {
            on,
            interval: 0,
            demand: Demand::new(granule),
            kind: String::new(),
            begun: false,
            reads: HashMap::new(),
            told: HashMap::new(),
            forecasts: HashMap::new(),
            left: 0,
            passing: 0,
            returning: 0,
            last_decision: None,
            last_move: None,
            at_resets,
            lived: 0,
            abstained: None,
        }
    }

    /// Whether anybody has told of the reads of the block at `address`, which came to life in the interval `born`.
    fn was_told(&self, address: u64, born: u32) -> bool {
        self.told.get(&address).is_some_and(|interval| *interval >= born)
    }

    /// The coming work, for people.
    fn work(&self) -> &str {
        if self.kind.is_empty() { "the next work" } else { &self.kind }
    }
}

impl Heap {
    /// Turns the automatic mode on or off. What lies where stays as it is, and it learns also while it is off.
    pub fn set_automatic(&mut self, on: bool) {
        self.automatic.on = on;
        self.automatic.returning = 0;
        self.automatic.last_move = None;
        self.automatic.last_decision = None;
    }

    /// Tells the automatic mode that work reads `bytes` of the block that holds `address`. A block of which nobody has told anything
    /// counts as read once in every interval; one of which somebody has, as idle in work that is not said to read it.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn touch(&mut self, address: u64, bytes: u64) -> Result<(), Error> {
        let start = self.extent(address)?.0;
        *self.automatic.reads.entry(start).or_default() += bytes;
        self.automatic.told.insert(start, self.automatic.interval);
        Ok(())
    }

    /// A safe point: nobody launches work until this returns, and `kind` names the work that comes next, in any words that are
    /// the same for the same work ("" where nobody knows). In the automatic mode memory may move now.
    ///
    /// The word is checked as far as it can be: nothing moves this time where another thread has used the device since the
    /// last safe point or is at work, where a graph is captured, or where a stream is at work after the device was waited for.
    /// [`Stats::abstained`](crate::core::Stats::abstained) counts that, and the reserve's reason says it.
    ///
    /// O(levels of scratch) as long as everything has found dedicated memory; otherwise O(blocks + granules), and what the moves take.
    ///
    /// # Errors
    /// The driver's. What has moved stays moved, and everything stays usable.
    pub fn safe_point(&mut self, kind: &str) -> Result<Moved, Error> {
        let forecasts = &self.automatic.forecasts;
        let known = forecasts.len() < MOST_KINDS || forecasts.contains_key(kind);
        self.end_interval(if known { kind } else { "" });
        self.automatic.passing = 0;
        self.automatic.lived = self.stats.blocks.active();
        self.stats.safe_points += u64::from(self.automatic.on);
        let moved = if self.automatic.on { self.rebalance() } else { Ok(Moved::default()) };
        self.witness.begin_interval(this_thread());
        self.streams.begin_interval();
        self.automatic.interval = self.automatic.interval.wrapping_add(1);
        self.automatic.demand.begin(self.automatic.passing);
        if self.automatic.told.len() as u64 > 2 * self.stats.blocks.count.current() + 1024 {
            let told = std::mem::take(&mut self.automatic.told);
            self.automatic.told = told.into_iter().filter(|(address, _)| self.extent(*address).is_ok()).collect();
        }
        moved
    }

    /// Learns from the interval that ends here.
    fn end_interval(&mut self, next: &str) {
        let slack = self.slack();
        let automatic = &mut self.automatic;
        let reads = Reads { bytes: std::mem::take(&mut automatic.reads), interval: automatic.interval };
        automatic.demand.end();
        if std::mem::replace(&mut automatic.begun, true) {
            let forecast = automatic.forecasts.entry(automatic.kind.clone()).or_default();
            if let Some((before, after)) = automatic.last_move {
                let spill = |room: u64| balance::SCRATCH_TOUCHES * automatic.demand.above(room * self.granule);
                let saved = (before.shared_reads - after.shared_reads) * self.granule as f64;
                forecast.settle(spill(before.room) - spill(after.room) + saved);
            }
            forecast.learn(&automatic.demand, reads, slack);
        }
        if next != automatic.kind {
            automatic.last_move = None;
            if let Some(forecast) = automatic.forecasts.get_mut(&automatic.kind) {
                forecast.end_run();
            }
            next.clone_into(&mut automatic.kind);
        }
    }

    /// Bytes that scratch lost to fragments in the interval that ends: what it took in both tiers beyond its peak, if it had to take
    /// any in the shared tier.
    fn slack(&self) -> u64 {
        let allocated = |tier: Tier| self.stats.tiers[tier].allocated.current();
        // What is mapped shared and holds no live block is what scratch fell to.
        let shared = self.stats.tiers[Tier::Shared].mapped.current().saturating_sub(allocated(Tier::Shared));
        if shared == 0 {
            return 0;
        }
        let room = self.ledger.limit(Tier::Dedicated).saturating_sub(allocated(Tier::Dedicated));
        let peak = self.automatic.demand.peak();
        (room + shared).saturating_sub(peak).min((peak as f64 * MOST_SLACK) as u64)
    }

    /// Moves what ought to move before the coming run.
    fn rebalance(&mut self) -> Result<Moved, Error> {
        if self.is_pinned() {
            // What is resident cannot move. The reserve that is learned all the same is the next activation's.
            return Ok(Moved::default());
        }
        let left_before = std::mem::take(&mut self.automatic.left);
        let Some(forecast) = self.automatic.forecasts.get(&self.automatic.kind) else { return Ok(Moved::default()) };
        let limit = self.ledger.reach(Tier::Dedicated);
        let allocated = &self.stats.tiers;
        let fits = allocated[Tier::Dedicated].allocated.current()
            + forecast.uses().len() as u64 * self.granule
            + forecast.slack()
            <= limit;
        if fits && allocated[Tier::Shared].allocated.current() == 0 {
            return Ok(Moved::default());
        }
        let left = self.left_by(self.automatic.interval);
        // What the interval before had left is mostly gone by now: so will this be.
        let passes = 2 * self.left_by(self.automatic.interval.wrapping_sub(1)) < left_before;
        let (candidates, fixed) = self.candidates(forecast, passes);
        let uses = forecast.levels(forecast.slack().div_ceil(self.granule) as usize);
        let shared_room = self.shared_reach().saturating_sub(self.kept_mapped(Tier::Shared));
        let outlook = Outlook {
            uses: &uses,
            horizon: forecast.horizon(),
            capacity: (limit / self.granule).saturating_sub(fixed),
            shared_room: shared_room / self.granule,
            debt: forecast.debt() / self.granule as f64 + REMAP * self.idle_granules() as f64,
        };
        self.automatic.left = left;
        self.automatic.passing = if passes { left } else { 0 };
        let decision = balance::decide(&candidates, &outlook);
        if decision.is_empty() {
            log::debug!(
                "device {}: nothing moves before {}: no move would gain more than it costs",
                self.device,
                self.automatic.work()
            );
            return Ok(Moved::default());
        }
        if let Some(why) = self.unquiet() {
            log::debug!("device {}: nothing moves before {}: {why}", self.device, self.automatic.work());
            self.stats.abstained += 1;
            self.automatic.abstained = Some(why);
            return Ok(Moved::default());
        }
        self.automatic.abstained = None;
        let before = placed(&candidates, &outlook, &Decision::default());
        let after = placed(&candidates, &outlook, &decision);
        let why = self.describe(&decision, &outlook);
        log::debug!("device {}: {why}", self.device);
        let moved = self.carry_out(decision, before, after)?;
        self.automatic.last_decision = Some(why);
        Ok(moved)
    }

    /// What the allocator sees of work that goes on beside a safe point, in words; `None` where it sees none. Waits for the
    /// device.
    fn unquiet(&mut self) -> Option<String> {
        if self.is_capturing() {
            return Some("a CUDA graph is being captured".into());
        }
        if self.witness.others(this_thread()) {
            return Some("another thread has used the card since the last safe point".into());
        }
        match self.quiesce() {
            Err(why) => Some(why.to_string()),
            Ok(()) => self.streams.busy().map(|stream| format!("stream {stream:#x} is at work again")),
        }
    }

    /// Begins a piece of work of the calling thread, which may launch without allocating: no other thread's safe point moves
    /// anything before it ends.
    pub fn begin_work(&mut self) {
        self.witness.begin_work(this_thread());
    }

    /// Ends the piece of work that the calling thread began last.
    pub fn end_work(&mut self) {
        self.witness.end_work(this_thread());
    }

    /// The calling thread is at rest: it launches nothing before it allocates, frees or begins a piece of work again.
    pub fn rest(&mut self) {
        self.witness.rest(this_thread());
    }

    /// The caller's word that all other threads are at rest, those inside a piece of work excepted.
    pub fn vouch(&mut self) {
        self.witness.vouch(this_thread());
    }

    /// A reset as a safe point, for programs that have used the device from one thread alone.
    ///
    /// # Errors
    /// As for [`safe_point`](Heap::safe_point).
    pub(super) fn safe_point_of_one_thread(&mut self) -> Result<(), Error> {
        if self.witness.several() {
            self.automatic.at_resets = false;
            self.automatic.abstained = Some(SEVERAL_THREADS.into());
            log::warn!("device {}: {SEVERAL_THREADS}", self.device);
            return Ok(());
        }
        let kind = self.automatic.kind.clone();
        self.safe_point(&kind).map(drop)
    }

    fn carry_out(&mut self, decision: Decision, before: Placed, after: Placed) -> Result<Moved, Error> {
        self.strip();
        // What waited for other streams is free by now, and has nothing left to move.
        let of = |granules: Vec<GranuleId>, tier: Tier| -> Vec<GranuleId> {
            let tier_of = |id: &GranuleId| self.arenas[id.arena as usize].core.tier_of_granule(id.granule);
            granules.into_iter().filter(|id| tier_of(id) == Some(tier)).collect()
        };
        let (promote, demote) = (of(decision.promote, Tier::Shared), of(decision.demote, Tier::Dedicated));
        let cost = decision.cost * self.granule as f64;
        let moved = self.swap(promote, demote)?;
        self.automatic.returning = moved.promoted;
        self.stats.rebalances += 1;
        self.stats.rebalanced_demoted += moved.demoted;
        self.stats.rebalanced_promoted += moved.promoted;
        self.automatic.last_move = Some((before, after));
        if let Some(forecast) = self.automatic.forecasts.get_mut(&self.automatic.kind) {
            forecast.settle(-cost);
        }
        let reserve = self.found_reserve(self.ledger.persist).min(after.room * self.granule);
        self.settle(Phase::Active, reserve, self.ledger.persist);
        Ok(moved)
    }

    /// The reserve that the most demanding of all known work asks for, as far as there is dedicated memory.
    pub(super) fn found_reserve(&self, persist: u64) -> u64 {
        let levels = |forecast: &Forecast| forecast.uses().len() as u64 * self.granule + forecast.slack();
        let most = self.automatic.forecasts.values().map(levels).max().unwrap_or(0);
        most.min(self.ledger.capacity[Tier::Dedicated].saturating_sub(persist)) / self.granule * self.granule
    }

    /// What this run would have wanted from its start: as the work has shown between safe points, or where nobody told of any, as
    /// what comes and goes shows by itself.
    pub fn wanted(&self) -> Wanted {
        let capacity = self.ledger.capacity[Tier::Dedicated];
        let (reserve, resident) = if self.automatic.begun {
            (self.found_reserve(self.ledger.persist), self.automatic.lived)
        } else {
            let scratch = self.steady.scratch();
            // What fragments add, as in a forecast, at a guess: nobody has told where a step ends.
            ((scratch + scratch / 32).next_multiple_of(self.granule).min(capacity), self.steady.resident())
        };
        if resident + reserve <= capacity {
            return Wanted { capacity, reserve: 0, resident, spill: Spill::default() };
        }
        // What lives now, if that is still what stays; otherwise what lived when the program had begun to work.
        let is_what_stays = |sizes: &Vec<u64>| sizes.iter().sum::<u64>().abs_diff(resident) <= resident / 5;
        let sizes = Some(self.sizes()).filter(is_what_stays).or_else(|| Some(self.lived.clone()).filter(is_what_stays));
        let spill = sizes.map_or_else(Spill::default, |sizes| Spill::of(sizes, capacity - reserve));
        Wanted { capacity, reserve, resident, spill }
    }

    /// The sizes of the blocks that live and are no scratch, as far as anybody knows; those of pools aside.
    pub(super) fn sizes(&self) -> Vec<u64> {
        let arenas = self.arenas.iter().enumerate().filter(|(index, _)| !self.pools.owns(self.owner_of(*index)));
        let blocks = arenas.flat_map(|(_, bound)| bound.core.blocks()).filter(|block| !block.marks.scratch);
        blocks.map(|block| block.size).collect()
    }

    /// Whether so much has come and gone that the program has done more than load.
    pub fn has_worked(&self) -> bool {
        self.stats.blocks.allocated.taken() >= WORKS
    }

    /// What to say at the end of a program whose work has overflowed, because nothing was kept for it; `None` where nothing is to be
    /// said.
    pub fn advice(&self) -> Option<String> {
        let (wanted, room) = (self.wanted(), self.ledger.capacity[Tier::Dedicated]);
        let lay_shared = self.automatic.demand.above(room) as u64;
        let was_left_alone = self.stats.phase == Phase::Loading && self.ledger.reserve == 0;
        if !was_left_alone || self.stats.fell_to_shared == 0 || wanted.reserve == 0 || lay_shared == 0 {
            return None;
        }
        Some(format!(
            "{} that this program worked with lay in host memory on {}, since its weights came first; a reserve would have kept \
             that on the card: GIANT_KITTEN=reserve:{}MiB, or reserve:remembered, or giant_kitten.follow(model)",
            show_size(lay_shared),
            self.info.name,
            wanted.reserve >> 20
        ))
    }

    /// How often each byte of a block is read in an interval, on average over all work, and the last interval that is known to have
    /// read it.
    pub(super) fn value(&self, address: u64, born: u32, bytes: u64) -> (f64, u32) {
        if !self.automatic.was_told(address, born) {
            return (1.0, self.automatic.interval);
        }
        let (mut intervals, mut reads, mut last) = (0, 0.0, 0);
        for forecast in self.automatic.forecasts.values() {
            intervals += forecast.intervals();
            if let Some(read) = forecast.reads(address, born).filter(|read| *read > 0) {
                reads += read as f64 * forecast.intervals() as f64;
                last = last.max(forecast.last_told());
            }
        }
        (reads / (intervals.max(1) * bytes.max(1)) as f64, last)
    }

    /// How the reserve in force was found, for people.
    pub fn reserve_reason(&self) -> String {
        if !self.automatic.on {
            return match self.stats.phase {
                Phase::Loading if self.ledger.reserve > 0 => "given, and kept while the model loads".into(),
                Phase::Active => "given".into(),
                Phase::Loading | Phase::Disabled | Phase::Freed => "none is in force".into(),
            };
        }
        if self.is_pinned() && self.stats.fell_to_shared > 0 {
            return format!(
                "automatic: nothing that exists can move on this driver, whose shared memory is pinned; an activation would keep {}",
                show_size(self.found_reserve(self.ledger.persist))
            );
        }
        let abstained = self.automatic.abstained.as_ref();
        let abstained = abstained.map(|why| format!("; the last safe point moved nothing: {why}")).unwrap_or_default();
        self.reserve_found() + &abstained
    }

    fn reserve_found(&self) -> String {
        match &self.automatic.last_decision {
            Some(why) => format!("found: {why}"),
            None if self.stats.fell_to_shared == 0 => "automatic: everything has fitted so far".into(),
            None if self.stats.safe_points == 0 => {
                "automatic: something has fallen to the shared tier, and is looked at from the second safe point on"
                    .into()
            }
            None => "automatic: no move would have gained more than it costs so far".into(),
        }
    }

    fn describe(&self, decision: &Decision, outlook: &Outlook<'_>) -> String {
        let bytes = |granules: f64| show_size((granules * self.granule as f64) as u64);
        format!(
            "before {} ({:.0} more expected) {} to the shared tier, {} to the dedicated one: costs {} over the link, gains {} more than \
             that",
            self.automatic.work(),
            outlook.horizon,
            bytes(decision.demote.len() as f64),
            bytes(decision.promote.len() as f64),
            bytes(decision.cost),
            bytes(decision.gain)
        )
    }

    /// Bytes of the live blocks that came to life in an interval.
    fn left_by(&self, interval: u32) -> u64 {
        let blocks = self.arenas.iter().flat_map(|bound| bound.core.blocks());
        blocks.filter(|block| block.marks.born == interval).map(|block| block.size).sum()
    }

    /// Granules that a move would strip first.
    fn idle_granules(&self) -> usize {
        let arenas = self.arenas.iter().enumerate().filter(|(index, _)| !self.pools.owns(*index));
        arenas.map(|(_, bound)| bound.core.idle_granules().len()).sum()
    }

    /// The granules that live blocks touch, with how often the coming work reads them; and how many dedicated ones are not to be moved,
    /// because graphs may touch them, or a program has put what is in them there.
    fn candidates(&self, forecast: &Forecast, passes: bool) -> (Vec<Candidate>, u64) {
        let mut granules: HashMap<GranuleId, (f64, bool, bool)> = HashMap::new();
        let mut fixed = 0;
        let others: Vec<&Forecast> = self
            .automatic
            .forecasts
            .iter()
            .filter_map(|(kind, other)| (*kind != self.automatic.kind).then_some(other))
            .collect();
        for (index, bound) in self.arenas.iter().enumerate() {
            if self.pools.owns(index) {
                fixed += bound.core.backed()[Tier::Dedicated] / self.granule;
                continue;
            }
            let stays = |born: u32| !passes || born != self.automatic.interval;
            for block in bound.core.blocks().filter(|block| stays(block.marks.born)) {
                let address = bound.base + block.offset;
                let born = block.marks.born;
                let known = forecast.reads(address, born).map(|bytes| bytes as f64 / block.size as f64);
                let reads = known.unwrap_or(if self.automatic.was_told(address, born) { 0.0 } else { 1.0 });
                let wanted_later = others.iter().any(|other| other.reads(address, born).is_some_and(|bytes| bytes > 0));
                for granule in bound.core.granules_of(block.id) {
                    let start = u64::from(granule) * self.granule;
                    let inside = (block.offset + block.size).min(start + self.granule) - block.offset.max(start);
                    let entry = granules.entry(GranuleId { arena: index as u32, granule }).or_default();
                    entry.0 += reads * inside as f64 / self.granule as f64;
                    entry.1 |= wanted_later;
                    entry.2 |= block.marks.pin.is_some();
                }
            }
        }
        let mut candidates = Vec::with_capacity(granules.len());
        for (id, (reads, wanted_later, is_pinned)) in granules {
            match self.arenas[id.arena as usize].core.tier_of_granule(id.granule) {
                Some(tier) if is_pinned => fixed += u64::from(tier == Tier::Dedicated),
                Some(tier) => candidates.push(Candidate { id, tier, reads, wanted_later }),
                None => {}
            }
        }
        (candidates, fixed)
    }
}

/// What a decision makes of the present placement.
fn placed(candidates: &[Candidate], outlook: &Outlook<'_>, decision: &Decision) -> Placed {
    let mut shared_reads = 0.0;
    let mut dedicated = 0;
    let moved: std::collections::HashSet<&GranuleId> = decision.demote.iter().chain(&decision.promote).collect();
    for candidate in candidates {
        let tier = if moved.contains(&candidate.id) { candidate.tier.other() } else { candidate.tier };
        match tier {
            Tier::Dedicated => dedicated += 1,
            Tier::Shared => shared_reads += candidate.reads,
        }
    }
    Placed { room: outlook.capacity.saturating_sub(dedicated), shared_reads }
}
