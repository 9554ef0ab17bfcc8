//! The automatic mode: the reserve that finds itself.
//!
//! ```text
//!            safe point        safe point        safe point
//!   ──┬───────────┬─────────────────┬─────────────────┬──▶
//!     │ interval  │   interval      │   interval      │      demand.rs: scratch by level; reads, where told
//!     └───────────┴──▶ forecast.rs: one for each kind of work (label)
//!                            └──▶ balance.rs: what moves before the coming run, if that pays
//!                                      └──▶ migrate.rs
//! ```
//!
//! Resident is what lives at a safe point; scratch is what comes and goes between two. Nothing moves anywhere else than at a safe
//! point, nothing is withheld before something has overflowed, and where everything fits nothing is done at all. Thresholds are those of
//! [`balance`]: a move has to gain more, in bytes over the link during the run to come, than it and the moves that did not pay have cost.

use std::collections::HashMap;

use super::{Heap, Moved};
use crate::core::balance::{self, Candidate, Decision, Outlook};
use crate::core::placement::GranuleId;
use crate::core::{Demand, Forecast, Phase, Tier, show_size};
use crate::error::Error;

/// Levels of scratch are told apart by this many granules.
const BUCKET: u64 = 4;
/// Kinds of work that are remembered. A label beyond them takes the place of all: work without a kind of its own.
const MOST_LABELS: usize = 64;

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
    pub(super) label: u64,
    /// Whether there has been a safe point: what was before is loading, and no work to learn from.
    begun: bool,
    /// Bytes read of resident blocks in this interval, by address; empty where nobody tells.
    read: HashMap<u64, u64>,
    forecasts: HashMap<u64, Forecast>,
    /// The placement before and after the last move, while the work lasts that it was made for.
    last_move: Option<(Placed, Placed)>,
}

impl Automatic {
    pub(super) fn new(on: bool, granule: u64) -> Automatic {
        Automatic {
            on,
            interval: 0,
            demand: Demand::new(BUCKET * granule),
            label: 0,
            begun: false,
            read: HashMap::new(),
            forecasts: HashMap::new(),
            last_move: None,
        }
    }
}

impl Heap {
    /// Turns the automatic mode on or off. Turned on, it begins to learn anew; what lies where stays as it is.
    pub fn set_automatic(&mut self, on: bool) {
        if on && !self.automatic.on {
            let interval = self.automatic.interval.wrapping_add(1);
            self.automatic = Automatic { interval, ..Automatic::new(true, self.granule) };
        }
        self.automatic.on = on;
    }

    /// Tells the automatic mode that work reads `bytes` of the block that holds `address`. Where nothing is told of an interval,
    /// every resident block counts as read once.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn touch(&mut self, address: u64, bytes: u64) -> Result<(), Error> {
        let start = self.extent(address)?.0;
        if self.automatic.on {
            *self.automatic.read.entry(start).or_default() += bytes;
        }
        Ok(())
    }

    /// A safe point: nobody launches work until this returns, and `label` says which kind of work comes next. In the automatic mode
    /// memory may move now. O(1) as long as everything has found dedicated memory; otherwise O(blocks + granules) and what the moves take.
    ///
    /// # Errors
    /// The driver's. What has moved stays moved, and everything stays usable.
    pub fn safe_point(&mut self, label: u64) -> Result<Moved, Error> {
        if !self.automatic.on {
            return Ok(Moved::default());
        }
        self.stats.safe_points += 1;
        let label = if self.automatic.forecasts.len() < MOST_LABELS || self.automatic.forecasts.contains_key(&label) {
            label
        } else {
            0
        };
        self.end_interval(label);
        let moved = self.rebalance();
        self.automatic.interval = self.automatic.interval.wrapping_add(1);
        self.automatic.demand.clear();
        moved
    }

    /// Learns from the interval that ends here.
    fn end_interval(&mut self, next: u64) {
        let slack = self.shared_scratch();
        let automatic = &mut self.automatic;
        let read = std::mem::take(&mut automatic.read);
        if std::mem::replace(&mut automatic.begun, true) {
            let bucket = (BUCKET * self.granule) as f64;
            let peak = automatic.demand.peak();
            let forecast = automatic.forecasts.entry(automatic.label).or_default();
            // What scratch took in both tiers beyond its peak went to fragments.
            let room =
                self.ledger.limit(Tier::Dedicated).saturating_sub(self.stats.tiers[Tier::Dedicated].allocated.current);
            let slack = if slack > 0 { (room + slack).saturating_sub(peak).min(peak / 8) } else { 0 };
            if let Some((before, after)) = automatic.last_move {
                let uses: Vec<f64> = automatic.demand.uses().collect();
                let spill = |room: u64| {
                    let level = (room * self.granule) as f64 / bucket;
                    balance::SCRATCH_TOUCHES * uses.iter().skip(level as usize).sum::<f64>() * bucket
                };
                let saved = (before.shared_reads - after.shared_reads) * self.granule as f64;
                forecast.settle(spill(before.room) - spill(after.room) + saved);
            }
            forecast.learn(&automatic.demand, (!read.is_empty()).then_some(read), slack);
        }
        if next != automatic.label {
            automatic.last_move = None;
            if let Some(forecast) = automatic.forecasts.get_mut(&automatic.label) {
                forecast.end_run();
            }
            automatic.label = next;
        }
    }

    /// Bytes mapped shared that no live block lies in: scratch has fallen there in the interval.
    fn shared_scratch(&self) -> u64 {
        let shared = &self.stats.tiers[Tier::Shared];
        shared.mapped.current.saturating_sub(shared.allocated.current)
    }

    /// Moves what ought to move before the coming run.
    fn rebalance(&mut self) -> Result<Moved, Error> {
        let Some(forecast) = self.automatic.forecasts.get(&self.automatic.label) else { return Ok(Moved::default()) };
        let limit = self.ledger.limit(Tier::Dedicated);
        let allocated = &self.stats.tiers;
        let fits = allocated[Tier::Dedicated].allocated.current
            + forecast.uses().len() as u64 * BUCKET * self.granule
            + forecast.slack()
            <= limit;
        if self.pools.is_capturing() || (fits && allocated[Tier::Shared].allocated.current == 0) {
            return Ok(Moved::default());
        }
        let (candidates, fixed) = self.candidates(forecast);
        let slack = forecast.slack().div_ceil(self.granule) as usize;
        let lowest = forecast.uses().first().copied().unwrap_or(0.0);
        let levels = forecast.uses().iter().flat_map(|uses| std::iter::repeat_n(*uses, BUCKET as usize));
        // Fragments lie between the blocks: their granules are used as often as the levels around them, so the lowest repeat.
        let uses: Vec<f64> = std::iter::repeat_n(lowest, slack).chain(levels).collect();
        let shared_room = self.ledger.limit(Tier::Shared).saturating_sub(self.live_granules(&candidates, Tier::Shared));
        let outlook = Outlook {
            uses: &uses,
            horizon: forecast.horizon(),
            capacity: (limit / self.granule).saturating_sub(fixed),
            shared_room: shared_room / self.granule,
            debt: forecast.debt() / self.granule as f64,
        };
        let decision = balance::decide(&candidates, &outlook);
        if decision.is_empty() {
            log::debug!(
                "device {}: nothing moves before work {}: no move would gain more than it costs",
                self.device,
                self.automatic.label
            );
            return Ok(Moved::default());
        }
        let before = placed(&candidates, &outlook, &Decision::default());
        let after = placed(&candidates, &outlook, &decision);
        self.log_decision(&decision, &outlook);
        self.carry_out(decision, before, after)
    }

    fn carry_out(&mut self, decision: Decision, before: Placed, after: Placed) -> Result<Moved, Error> {
        self.quiesce()?;
        self.strip();
        let cost = decision.cost * self.granule as f64;
        let moved = self.swap(decision.promote, decision.demote)?;
        self.stats.rebalances += 1;
        self.stats.rebalanced_demoted += moved.demoted;
        self.stats.rebalanced_promoted += moved.promoted;
        self.automatic.last_move = Some((before, after));
        if let Some(forecast) = self.automatic.forecasts.get_mut(&self.automatic.label) {
            forecast.settle(-cost);
        }
        let reserve = self.found_reserve(self.ledger.persist).min(after.room * self.granule);
        self.settle(Phase::Active, reserve, self.ledger.persist);
        Ok(moved)
    }

    /// The reserve that the most demanding of all known work asks for, as far as there is dedicated memory.
    pub(super) fn found_reserve(&self, persist: u64) -> u64 {
        let levels = |forecast: &Forecast| forecast.uses().len() as u64 * BUCKET * self.granule + forecast.slack();
        let most = self.automatic.forecasts.values().map(levels).max().unwrap_or(0);
        most.min(self.ledger.capacity[Tier::Dedicated].saturating_sub(persist)) / self.granule * self.granule
    }

    fn log_decision(&self, decision: &Decision, outlook: &Outlook<'_>) {
        let bytes = |granules: f64| show_size((granules * self.granule as f64) as u64);
        log::debug!(
            "device {}: before work {} ({:.0} intervals expected) {} to the shared tier, {} to the dedicated one: costs {} over the link, \
             gains {} more than that",
            self.device,
            self.automatic.label,
            outlook.horizon,
            bytes(decision.demote.len() as f64),
            bytes(decision.promote.len() as f64),
            bytes(decision.cost),
            bytes(decision.gain)
        );
    }

    fn live_granules(&self, candidates: &[Candidate], tier: Tier) -> u64 {
        candidates.iter().filter(|candidate| candidate.tier == tier).count() as u64 * self.granule
    }

    /// The granules that live blocks touch, with how often the coming work reads them; and how many dedicated ones are not to be moved,
    /// because graphs may touch them.
    fn candidates(&self, forecast: &Forecast) -> (Vec<Candidate>, u64) {
        let mut granules: HashMap<GranuleId, (f64, bool)> = HashMap::new();
        let mut fixed = 0;
        let others: Vec<&Forecast> = self
            .automatic
            .forecasts
            .iter()
            .filter_map(|(label, other)| (*label != self.automatic.label).then_some(other))
            .collect();
        for (index, bound) in self.arenas.iter().enumerate() {
            if self.pools.owns(index) {
                fixed += bound.core.backed()[Tier::Dedicated] / self.granule;
                continue;
            }
            for block in bound.core.blocks() {
                let address = bound.base + block.offset;
                let reads = forecast.reads(address, block.size);
                let wanted_later = others.iter().any(|other| other.wants(address));
                for granule in bound.core.granules_of(block.id) {
                    let start = u64::from(granule) * self.granule;
                    let inside = (block.offset + block.size).min(start + self.granule) - block.offset.max(start);
                    let entry = granules.entry(GranuleId { arena: index as u32, granule }).or_default();
                    entry.0 += reads * inside as f64 / self.granule as f64;
                    entry.1 |= wanted_later;
                }
            }
        }
        let candidates = granules.into_iter().filter_map(|(id, (reads, wanted_later))| {
            let tier = self.arenas[id.arena as usize].core.tier_of_granule(id.granule)?;
            Some(Candidate { id, tier, reads, wanted_later })
        });
        (candidates.collect(), fixed)
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
