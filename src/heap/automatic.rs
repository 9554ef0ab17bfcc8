//! The automatic mode: the reserve that is found from the work.
//!
//! ```text
//!            safe point        safe point        safe point
//!   ──┬───────────┬─────────────────┬─────────────────┬──▶
//!     │ interval  │   interval      │   interval      │   demand: scratch by level; reads
//!     └───────────┴──▶ forecast: one for each kind of work
//!                            └──▶ balance: what moves before the coming run, if that pays
//!                                      └──▶ actions.rs carries it out
//! ```
//!
//! Resident is what lives at a safe point; scratch is what comes and goes between two. Nothing
//! moves anywhere else than at a safe point, nothing is withheld before something has overflowed,
//! and where everything fits nothing is done at all. The thresholds are those of [`balance`]: a
//! move has to gain more, in bytes over the link during the run to come, than it costs, together
//! with the earlier moves that did not pay.

use std::collections::HashMap;

use super::Heap;
use super::ahead::Ahead;
use super::lending::{self, Weighed};
use super::memory::{Memory, Move, Moved};
use crate::core::balance::{self, Candidate, Decision, Outlook, Placed, REMAP, placed};
use crate::core::policy::{Expected, Forecast, Learner, Standstill};
use crate::core::{GranuleId, PerTier, Phase, Stats, Tier, show_size};
use crate::error::Error;

/// Upper bound on the fragmentation allowance, as a fraction of peak scratch. Fragmentation
/// observed across both tiers overestimates that of one tier. Overshooting makes a few weights
/// shared; undershooting makes hot scratch shared.
const MOST_SLACK: f64 = 0.25;

/// Why resets are no safe points any more, although the options say so.
const SEVERAL_THREADS: &str = "safe_points:empty_cache is refused, because more than one thread has used the card: say where \
                               a step begins by safe_point() or follow() instead";

/// The automatic mode of one device.
#[derive(Debug)]
pub(super) struct Automatic {
    pub(super) learner: Learner,
    /// Bytes of shared backing to keep in stock, because what was promoted last will want them
    /// again.
    pub(super) returning: u64,
    /// Whether a reset is a safe point, as the option `safe_points:empty_cache` says.
    pub(super) at_resets: bool,
    /// Why the last safe point that wanted to move something abstained, or what the last action
    /// could not be sure of. Human-readable.
    remark: Option<String>,
    /// What was moved last, and why, human-readable.
    last_decision: Option<String>,
    /// By kind of work, what its last safe point looked at that moved nothing.
    standstills: HashMap<String, Standstill>,
}

/// What should move at a safe point.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    decision: Decision,
    before: Placed,
    /// The placement that it leads to.
    pub(super) after: Placed,
    /// The ring of copies that goes with it, in bytes.
    pub(super) ring: u64,
    /// Why, human-readable.
    pub(super) why: String,
}

impl Automatic {
    pub(super) fn new(at_resets: bool, granule: u64) -> Automatic {
        Automatic {
            learner: Learner::new(granule),
            returning: 0,
            at_resets,
            remark: None,
            last_decision: None,
            standstills: HashMap::new(),
        }
    }

    /// Makes resets no safe points any more, and returns why.
    pub(super) fn refuse_resets(&mut self) -> &'static str {
        self.at_resets = false;
        self.set_abstained(SEVERAL_THREADS);
        SEVERAL_THREADS
    }

    /// Notes why a safe point that wanted to move something abstained.
    pub(super) fn set_abstained(&mut self, why: &str) {
        self.remark = Some(format!("the last safe point moved nothing: {why}"));
    }

    /// Notes what there is to say about the last action or safe point that moved something.
    pub(super) fn set_remark(&mut self, remark: Option<String>) {
        self.remark = remark;
    }

    /// Forgets the last move: an action has placed everything anew.
    pub(super) fn forget_move(&mut self) {
        self.returning = 0;
        self.last_decision = None;
        self.forget_standstills();
        self.learner.forget_move();
    }

    /// Forgets where nothing had to move: something has changed that no count shows.
    pub(super) fn forget_standstills(&mut self) {
        self.standstills.clear();
    }

    /// Bytes that scratch lost to fragments in the interval that ends: what it took in both tiers
    /// beyond its peak, if it had to take any in the shared tier.
    pub(super) fn slack(&self, memory: &Memory, stats: &Stats) -> u64 {
        let allocated = |tier: Tier| stats.tiers[tier].allocated.current();
        // What is mapped shared and holds no live block is where scratch has been.
        let shared = stats.tiers[Tier::Shared].mapped.current().saturating_sub(allocated(Tier::Shared));
        if shared == 0 {
            return 0;
        }
        let room = memory.ledger().limit(Tier::Dedicated).saturating_sub(allocated(Tier::Dedicated));
        let peak = self.learner.peak();
        (room + shared).saturating_sub(peak).min((peak as f64 * MOST_SLACK) as u64)
    }

    /// The reserve that the most demanding of all known work asks for, as far as there is dedicated
    /// memory beside `persist`. Bytes, whole granules.
    pub(super) fn reserve(&self, memory: &Memory, persist: u64) -> u64 {
        let most = memory.ledger().most(Tier::Dedicated).saturating_sub(persist);
        self.learner.reserve().min(most) / memory.granule() * memory.granule()
    }

    /// Chooses what should move before the coming run; `None` where nothing should.
    pub(super) fn choose(&mut self, memory: &Memory, stats: &Stats, ahead: &Ahead) -> Option<Choice> {
        let forecast = self.learner.forecast()?;
        let granule = memory.granule();
        let reach = memory.ledger().reach(Tier::Dedicated) + memory.staged();
        let allocated = |tier: Tier| stats.tiers[tier].allocated.current();
        let scratch = forecast.uses().len() as u64 * granule + forecast.slack();
        let stays = allocated(Tier::Dedicated).saturating_sub(self.learner.passing());
        if stays + scratch <= reach && allocated(Tier::Shared) == 0 {
            return None;
        }
        let now = Standstill {
            blocks: stats.blocks.count.current(),
            outlived: self.learner.outlived(),
            allocated: PerTier::from_fn(allocated),
            reach,
            ring: memory.staged(),
            told: self.learner.changes_told(),
            uses: forecast.uses().to_vec(),
            slack: forecast.slack(),
            horizon: forecast.horizon(),
            debt: forecast.debt(),
            copying: ahead.knowledge(self.learner.kind()),
        };
        if self.standstills.get(self.learner.kind()).is_some_and(|then| then.covers(&now)) {
            return None;
        }
        let (candidates, fixed) = candidates(memory, &self.learner, forecast);
        let uses = forecast.levels(forecast.slack().div_ceil(granule) as usize);
        let shared_room = memory.reach(Tier::Shared).saturating_sub(memory.mapped_for_blocks(Tier::Shared));
        let outlook = Outlook {
            uses: &uses,
            horizon: forecast.horizon(),
            capacity: (reach / granule).saturating_sub(fixed),
            shared_room: shared_room / granule,
            debt: forecast.debt() / granule as f64 + REMAP * memory.idle_granules() as f64,
        };
        let kind = self.learner.kind();
        let Weighed { decision, ring, lendable } = if memory.is_pinned() {
            lending::weigh_ring(memory, ahead, kind, &candidates, &outlook)
        } else {
            let plain = balance::decide(&candidates, &outlook);
            lending::weigh(memory, ahead, kind, &candidates, &outlook, forecast.has_run(), plain)
        };
        let work = self.learner.work();
        if decision.is_empty() && ring == memory.staged() {
            let device = memory.device();
            log::debug!("device {device}: nothing moves before {work}: no move would gain more than it costs");
            self.standstills.insert(kind.to_owned(), now);
            return None;
        }
        let outlook = Outlook { capacity: outlook.capacity.saturating_sub(ring / granule), ..outlook };
        let before = placed(&candidates, &outlook, &Decision::default(), &lendable);
        let after = placed(&candidates, &outlook, &decision, &lendable);
        let why = describe(work, &decision, &outlook, granule, ring);
        Some(Choice { decision, before, after, ring, why })
    }

    /// Notes that a choice was carried out.
    pub(super) fn carried_out(&mut self, choice: Choice, moved: Moved, granule: u64) {
        let cost = choice.decision.cost * granule as f64;
        self.returning = moved.promoted;
        self.learner.note_move(cost, choice.before, choice.after);
        self.last_decision = Some(choice.why);
    }

    fn found(&self, stats: &Stats) -> String {
        match &self.last_decision {
            Some(why) => format!("found: {why}"),
            None if stats.fell_to_shared == 0 => "automatic: everything has fitted so far".into(),
            None if stats.safe_points == 0 => {
                "automatic: something has fallen to the shared tier, and moves at a safe point, which nothing has reported \
                 yet: giant_kitten.follow(model) does"
                    .into()
            }
            None => "automatic: no move would have gained more than it costs so far".into(),
        }
    }
}

/// The moves of a choice, promotions and demotions each in its order. What is idle by now has
/// nothing left to move.
pub(super) fn moves(memory: &Memory, choice: &Choice) -> Vec<Move> {
    let of = |granules: &[GranuleId], from: Tier, to: Tier| -> Vec<Move> {
        let still = granules.iter().filter(|id| memory.arenas.tier_of(**id) == Some(from));
        still.map(|id| (*id, to)).collect()
    };
    let mut moves = of(&choice.decision.promote, Tier::Shared, Tier::Dedicated);
    moves.extend(of(&choice.decision.demote, Tier::Dedicated, Tier::Shared));
    moves
}

/// What live blocks make of one granule.
#[derive(Default)]
struct Touched {
    reads: f64,
    wanted_later: bool,
    is_pinned: bool,
}

/// The granules that live blocks touch, with how often the coming work reads them; and how many
/// dedicated ones must not be moved, because graphs may touch them or a program has pinned what is
/// in them. Where the blocks of the interval that ends pass, they do not count.
fn candidates(memory: &Memory, learner: &Learner, forecast: &Forecast) -> (Vec<Candidate>, u64) {
    // By address, as the blocks are: two of them share a granule at most where they touch.
    let mut granules: Vec<(GranuleId, Touched)> = Vec::new();
    let mut fixed = 0;
    for (arena, bound) in memory.arenas.iter() {
        if memory.arenas.is_pools(arena) {
            fixed += bound.core.backed()[Tier::Dedicated] / memory.granule();
            continue;
        }
        let stays = |born: u32| learner.passing() == 0 || born != learner.interval();
        for block in bound.core.blocks().filter(|block| stays(block.marks.born)) {
            let address = bound.base() + block.offset;
            let Expected { reads, wanted_later } = learner.expected(forecast, address, block.marks.born, block.size);
            for (granule, bytes) in bound.core.shares_of(block.id) {
                let id = GranuleId { arena, granule };
                if granules.last().is_none_or(|(last, _)| *last != id) {
                    granules.push((id, Touched::default()));
                }
                let Some((_, entry)) = granules.last_mut() else { continue };
                entry.reads += reads * bytes as f64 / memory.granule() as f64;
                entry.wanted_later |= wanted_later;
                entry.is_pinned |= block.marks.pin.is_some();
            }
        }
    }
    let mut candidates = Vec::with_capacity(granules.len());
    for (id, Touched { reads, wanted_later, is_pinned }) in granules {
        match memory.arenas.tier_of(id) {
            Some(tier) if is_pinned => fixed += u64::from(tier == Tier::Dedicated),
            Some(tier) => candidates.push(Candidate { id, tier, reads, wanted_later }),
            None => {}
        }
    }
    (candidates, fixed)
}

fn describe(work: &str, decision: &Decision, outlook: &Outlook<'_>, granule: u64, ring: u64) -> String {
    let bytes = |granules: f64| show_size((granules * granule as f64) as u64);
    let ring =
        if ring == 0 { String::new() } else { format!("; its weights are copied ahead through {}", show_size(ring)) };
    if decision.is_empty() {
        return format!("before {work} nothing has to move{ring}");
    }
    let moved = |granules: &[GranuleId], where_to: &str| match granules.len() {
        0 => None,
        count => Some(format!("{} {where_to}", bytes(count as f64))),
    };
    let moved = [
        moved(&decision.demote, "moved to the shared tier to make room"),
        moved(&decision.promote, "came to the dedicated tier"),
    ];
    let passes = outlook.horizon.round();
    let times = if passes > 1.0 { format!(" over the next {passes} times") } else { String::new() };
    format!(
        "before {work}, {}; that is expected to keep {} off the link{times}, beyond what moving costs{ring}",
        moved.into_iter().flatten().collect::<Vec<_>>().join(" and "),
        bytes(decision.gain)
    )
}

impl Heap {
    /// Reports that work reads `bytes` of the block that holds `address`. A block of which nothing
    /// was ever reported counts as read once in every interval; any other, as idle in work that is
    /// not reported to read it.
    ///
    /// # Errors
    /// An address in no live block.
    pub fn touch(&mut self, address: u64, bytes: u64) -> Result<(), Error> {
        let start = self.extent(address)?.0;
        self.automatic.learner.touch(start, bytes);
        Ok(())
    }

    /// How the reserve in force was found, human-readable, and what there is to say about the last
    /// action or safe point.
    pub fn reserve_reason(&self) -> String {
        let remark = self.automatic.remark.as_ref().map(|remark| format!("; {remark}"));
        self.how_reserve_was_found() + &remark.unwrap_or_default()
    }

    fn how_reserve_was_found(&self) -> String {
        let kept = self.memory.ledger().kept;
        if !self.state.is_automatic() {
            return match self.state.phase() {
                Phase::Loading if kept.reserve > 0 => "given, and kept while the model loads".into(),
                Phase::Active => "given".into(),
                Phase::Loading | Phase::Disabled | Phase::Freed => "none is in force".into(),
            };
        }
        if self.memory.is_pinned() && self.stats.fell_to_shared > 0 {
            let ring = match self.memory.staged() {
                0 => String::new(),
                bytes => format!("; weights are copied ahead through {}", show_size(bytes)),
            };
            return format!(
                "automatic: nothing that exists can move on this driver, whose shared memory is pinned; an activation would keep {}{ring}{}",
                show_size(self.automatic.reserve(&self.memory, kept.persist)),
                self.copies_in_words()
            );
        }
        self.automatic.found(&self.stats) + &self.copies_in_words()
    }

    fn copies_in_words(&self) -> String {
        let words = self.ahead.in_words(self.automatic.learner.kind());
        words.map(|words| format!("; {words}")).unwrap_or_default()
    }
}
