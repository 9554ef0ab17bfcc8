//! A learned layout: work repeats, so the large blocks of a step go where a plan has put them.
//!
//! ```text
//!   step      │ requests │ requests │ requests │ requests ▶
//!              log ───────▶ sequence ─▶ plan ───▶ cursor       the first two are learned from,
//!   marks      ▲ where a step begins            └ guard        the others take their blocks where
//!                                                              the plan wants them
//! ```
//!
//! The parts, each with its own data: [`marks`] finds where a step begins where nobody says so;
//! [`log`] keeps the requests of a step; [`sequence`] recognises that it comes again; [`plan`]
//! places its blocks; [`cursor`] follows a plan; [`guard`] drops one that misses or does harm.
//!
//! Contents are never at risk: a plan only says which place to try, and the arena gives it away
//! only if it is free. Whatever a plan does not have, or has wrongly, comes out of the free lists
//! as ever.

mod cursor;
mod guard;
mod log;
mod marks;
mod plan;
mod sequence;

use self::cursor::{Cursor, Plan};
use self::log::Log;
use self::marks::Marks;
use self::sequence::{FEWEST, Sequence};
use super::arena::{Arena, Near, StreamId};
use super::place::ArenaId;
use super::size::{ALIGNMENT, BlockSize};
use super::tier::Tier;

/// How many kinds of steps are known at once.
const MOST_SEQUENCES: usize = 16;
/// A plan has to save this part of what is backed.
const WORTH: u64 = 256;
/// And so many granules.
const WORTH_GRANULES: u64 = 8;
/// After so many steps in which nothing grew and nothing was planned, nobody watches any more.
const QUIET: u32 = 64;
/// The same where the free lists waste too little for a plan to be worth it.
const QUIET_AND_TIGHT: u32 = 4;
/// After so many requests of another arena or stream, and more than of its own, that is watched.
const OTHERS: u32 = 512;

/// What is idle is given back once so many times as many steps in a row as there are sequences have
/// followed plans to their ends.
const CALM: u32 = 2;
/// Less than this part of what is backed is too little to be given back for a request.
const LITTLE: u64 = 200;
/// So often, at most, idle granules serve what plans have broken up: it takes a wait for the device
/// and the calls for each granule. So many requests allow one more.
const MOST_REPAIRS: u32 = 64;
const REQUESTS_OF_A_REPAIR: u32 = 512;

/// How large blocks are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// As a plan has it that was learned from earlier steps, where that spares memory.
    Learned,
    /// By the fit alone.
    #[default]
    Fit,
}

impl Layout {
    /// Parses `learned` or `fit`.
    ///
    /// # Errors
    /// Any other text, which is named.
    pub fn parse(text: &str) -> Result<Layout, String> {
        match text {
            "learned" => Ok(Layout::Learned),
            "fit" => Ok(Layout::Fit),
            _ => Err(format!("{text} is neither learned nor fit")),
        }
    }
}

/// The learned layout of the large blocks of one arena and stream.
#[derive(Debug)]
pub struct Learned {
    is_on: bool,
    is_awake: bool,
    target: Option<(ArenaId, StreamId)>,
    /// Requests of other arenas and streams since the step began.
    others: u32,
    /// The number of the request that is being served.
    number: u32,
    /// Somebody has said that a step begins.
    told: bool,
    log: Log,
    marks: Marks,
    sequences: Vec<(Sequence, Option<Plan>)>,
    step: StepState,
    /// How many steps have ended.
    steps: u64,
    /// Steps since something grew.
    quiet: u32,
    /// The most that was ever backed, in bytes.
    most_backed: u64,
    /// The most that was backed in steps that followed no plan, and the most that lived then, in
    /// bytes.
    fit: Held,
    is_tight: bool,
    /// How many steps in a row have followed plans to their ends.
    calm: u32,
    /// Whether a plan is new since what is idle was given back.
    has_new_plan: bool,
    /// Whether a plan was ever followed.
    has_laid: bool,
    /// Whether what is idle was ever given back.
    has_stripped: bool,
    /// Requests since they last allowed a repair.
    requests: u32,
    /// How often idle granules may still serve what plans have broken up.
    repairs: u32,
}

/// What the arena held, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    backed: u64,
    live: u64,
}

impl Held {
    /// What the free lists would need for so many live bytes, judged by the most that they have
    /// had.
    fn needs(self, live: u64) -> u64 {
        (self.backed as f64 * (live as f64 / self.live.max(1) as f64).max(1.0)) as u64
    }
}

/// What is known of the step under way.
#[derive(Clone, Copy, Debug, Default)]
struct StepState {
    /// The sequence whose plan is followed, and where it is.
    follows: Option<(usize, Cursor)>,
    /// The sequence whose plan was followed first.
    followed: Option<usize>,
    has_begun: bool,
    has_failed: bool,
    /// Idle granules have served what plans have broken up, so the fit did with less than it would.
    was_repaired: bool,
    /// The bytes that live before the request that is being served, and the most that have lived.
    live: u64,
    most_live: u64,
}

impl Learned {
    /// Nothing learned yet.
    pub fn new(layout: Layout) -> Learned {
        Learned {
            is_on: layout == Layout::Learned,
            is_awake: false,
            target: None,
            others: 0,
            number: 0,
            told: false,
            log: Log::default(),
            marks: Marks::new(0),
            sequences: Vec::new(),
            step: StepState::default(),
            steps: 0,
            quiet: 0,
            most_backed: 0,
            fit: Held::default(),
            is_tight: false,
            calm: 0,
            has_new_plan: false,
            has_laid: false,
            has_stripped: false,
            requests: 0,
            repairs: MOST_REPAIRS,
        }
    }

    /// Whether requests for large blocks have to be reported.
    #[inline]
    pub fn is_awake(&self) -> bool {
        self.is_awake
    }

    /// A request for a large block grows its arena: it is watched from now on. `live` is how many
    /// bytes of large blocks live.
    pub fn grew(&mut self, arena: ArenaId, stream: StreamId, live: u64) {
        self.quiet = 0;
        if self.is_awake || !self.is_on {
            return;
        }
        self.is_awake = true;
        self.log.make_room();
        self.log.spoil();
        if self.target.is_none() {
            self.aim((arena, stream), live);
        }
    }

    fn aim(&mut self, target: (ArenaId, StreamId), live: u64) {
        self.target = Some(target);
        self.marks = Marks::new(live);
        self.sequences.clear();
        (self.most_backed, self.fit) = (0, Held::default());
        self.calm = 0;
        (self.has_new_plan, self.has_laid, self.has_stripped) = (false, false, false);
        self.begin_step();
        self.log.spoil();
    }

    /// Forgets everything: what lives has another place now.
    pub fn forget(&mut self) {
        if let Some(target) = self.target {
            self.aim(target, 0);
            self.target = None;
            self.is_awake = false;
        }
    }

    /// Somebody says that a step begins.
    #[inline]
    pub fn begin(&mut self) {
        self.told = true;
    }

    /// A large block is requested of an arena, for a stream, while `live` bytes of large blocks
    /// live. Where a step begins with it, [`turn`](Learned::turn) comes first, and
    /// [`place`](Learned::place) next.
    #[inline]
    pub fn see(&mut self, arena: ArenaId, stream: StreamId, live: u64) -> Seen {
        if self.target != Some((arena, stream)) {
            return self.see_other(arena, stream, live);
        }
        self.step.live = live;
        let begins = self.marks.see(live);
        if begins || self.told { Seen::Begins } else { Seen::Goes }
    }

    #[cold]
    fn see_other(&mut self, arena: ArenaId, stream: StreamId, live: u64) -> Seen {
        self.others += 1;
        let own = self.log.requests().map_or(0, <[_]>::len) as u32;
        if self.target.is_none() || (self.others > OTHERS && self.others > own) {
            self.aim((arena, stream), live);
        }
        Seen::Other
    }

    /// Where the block of a request should go, and where to look for that place. The request is
    /// noted, whatever comes of it.
    #[inline]
    pub fn place(&mut self, size: BlockSize) -> Option<(u64, &mut Near)> {
        let units = (size.rounded() / ALIGNMENT) as u32;
        self.step.most_live = self.step.most_live.max(self.step.live + size.rounded());
        self.number = self.log.add(units);
        if self.number == 0 {
            self.overflow();
        }
        if !self.step.has_begun {
            self.choose(units);
        }
        let (sequence, cursor) = self.step.follows.as_mut()?;
        let (_, Some(plan)) = &mut self.sequences[*sequence] else { return None };
        let found = cursor.next(plan, units);
        if found.is_none() && cursor.tally.miss() {
            self.step.has_failed = true;
            self.step.follows = None;
            return None;
        }
        found
    }

    /// Chooses the plan for a step, by its first request.
    #[cold]
    fn choose(&mut self, units: u32) {
        self.step.has_begun = true;
        let plans = self.sequences.iter().enumerate();
        let fitting = plans.filter_map(|(at, (sequence, plan))| {
            let differs = plan.as_ref()?.begins_with(units)?;
            Some((differs, std::cmp::Reverse(sequence.last), at))
        });
        if let Some((_, _, at)) = fitting.min() {
            self.has_laid = true;
            self.step.follows = Some((at, Cursor::default()));
            self.step.followed = Some(at);
        }
    }

    /// More requests than a step has: none begins here as far as can be seen.
    #[cold]
    fn overflow(&mut self) {
        self.quiet += 1;
        if self.quiet > QUIET_AND_TIGHT && self.sequences.iter().all(|(_, plan)| plan.is_none()) {
            self.is_awake = false;
        }
        self.log.restart();
        self.log.spoil();
    }

    /// The place that [`place`](Learned::place) returned was not free.
    #[cold]
    pub fn missed(&mut self) {
        if let Some((_, cursor)) = &mut self.step.follows
            && cursor.tally.miss()
        {
            self.step.has_failed = true;
            self.step.follows = None;
        }
    }

    /// The number of the request that is being served, for its block; 0 where it has none.
    #[inline]
    pub fn take_number(&mut self) -> u32 {
        std::mem::take(&mut self.number)
    }

    /// The block of a request was freed.
    #[inline]
    pub fn freed(&mut self, number: u32) {
        self.log.free(number);
    }

    /// Whether a place in a plan may be backed, so that its arena has so many bytes: as long as
    /// others may still come by the fit, only within what it ever had.
    pub fn may_back(&self, backed: u64) -> bool {
        self.has_stripped || backed <= self.most_backed
    }

    /// A request makes an arena grow to `backed` bytes, while `live` bytes of large blocks live and
    /// `idle` bytes of its backing are touched by none. Returns whether these should serve it
    /// first, because plans have laid out what is in their way, and it would be more than the arena
    /// ever had.
    pub fn repairs(&mut self, arena: ArenaId, backed: u64, live: u64, idle: impl FnOnce() -> u64) -> bool {
        let is_watched = self.target.is_some_and(|(target, _)| target == arena);
        if !is_watched || !self.has_laid || backed <= self.most_backed {
            return false;
        }
        let is_idle = idle() * LITTLE >= backed;
        if self.repairs > 0 && is_idle {
            self.repairs -= 1;
            self.step.was_repaired = true;
            self.step.has_failed |= live <= self.fit.live;
            return true;
        }
        self.most_backed = backed;
        false
    }

    /// A step ends and another begins. Learns from the one that ends, and plans the next of its
    /// kind. Returns how many bytes the arena needs for all plans, once all work follows some and
    /// what is idle beyond that should be given back. O(requests), or where something is planned,
    /// O(requests² + blocks) at most.
    #[cold]
    pub fn turn(&mut self, arena: &Arena, granule: u64) -> Option<u64> {
        self.judge(arena.backed()[Tier::Dedicated], granule);
        let learned = self.learn();
        let was_repaired = self.step.was_repaired;
        self.begin_step();
        if let Some(at) = learned {
            self.plan(at, arena, granule, was_repaired);
        }
        let plans = self.sequences.iter().filter_map(|(_, plan)| plan.as_ref());
        let needed = plans.clone().map(|plan| plan.granules * granule).max().unwrap_or(0);
        let is_planned = plans.count() > 0;
        self.quiet += 1;
        if !is_planned && self.quiet > if self.is_tight { QUIET_AND_TIGHT } else { QUIET } {
            self.is_awake = false;
        }
        let backed = arena.backed()[Tier::Dedicated];
        let kinds = self.sequences.iter().filter(|(sequence, _)| sequence.seen > 1).count() as u32;
        let is_settled = kinds > 0 && self.calm >= CALM * kinds;
        if !self.has_new_plan || !is_settled || needed + worth(backed, granule) >= backed {
            return None;
        }
        (self.has_new_plan, self.has_stripped) = (false, true);
        Some(needed)
    }

    fn begin_step(&mut self) {
        self.steps += 1;
        self.requests += self.log.requests().map_or(log::MOST, <[_]>::len) as u32;
        self.repairs = (self.repairs + self.requests / REQUESTS_OF_A_REPAIR).min(MOST_REPAIRS);
        self.requests %= REQUESTS_OF_A_REPAIR;
        self.step = StepState::default();
        (self.others, self.told) = (0, false);
        self.log.restart();
    }

    /// What the step shows of the plan that it has followed.
    fn judge(&mut self, backed: u64, granule: u64) {
        self.most_backed = self.most_backed.max(backed);
        let is_calm = self.step.follows.is_some() && !self.step.has_failed;
        self.calm = if is_calm { self.calm + 1 } else { 0 };
        let Some(followed) = self.step.followed else {
            if !self.step.was_repaired {
                self.fit.backed = self.fit.backed.max(backed);
                self.fit.live = self.fit.live.max(self.step.most_live);
            }
            return;
        };
        let most = self.fit.needs(self.step.most_live);
        let (sequence, plan) = &mut self.sequences[followed];
        let gives_up = sequence.guard.judge(self.step.has_failed, sequence.seen);
        if backed > most + worth(most, granule) {
            sequence.guard.wait(sequence.seen);
            *plan = None;
        } else if gives_up {
            *plan = None;
        }
    }

    /// Learns the sequence of the step that ends. Returns which it is, where it is worth planning
    /// anew.
    fn learn(&mut self) -> Option<usize> {
        let requests = self.log.requests().filter(|requests| requests.len() >= FEWEST)?;
        let (live, now) = (self.log.most_live(), self.steps);
        let Some(at) = self.sequences.iter().position(|(sequence, _)| sequence.is_like(requests)) else {
            let new = (Sequence::new(requests, live, now), None);
            if self.sequences.len() == MOST_SEQUENCES {
                let oldest = (0..MOST_SEQUENCES).min_by_key(|at| self.sequences[*at].0.last)?;
                self.sequences[oldest] = new;
            } else {
                self.sequences.push(new);
            }
            return None;
        };
        let (sequence, plan) = &mut self.sequences[at];
        let grew = sequence.note(requests, live, now);
        let has_missed = |(followed, cursor): (usize, Cursor)| followed == at && cursor.tally.has_missed();
        let has_failed =
            (self.step.has_failed && self.step.followed == Some(at)) || self.step.follows.is_some_and(has_missed);
        ((grew || has_failed || plan.is_none()) && sequence.guard.may_plan(sequence.seen)).then_some(at)
    }

    /// Plans a sequence around what lives now.
    fn plan(&mut self, at: usize, arena: &Arena, granule: u64, was_repaired: bool) {
        let obstacles = obstacles(arena);
        let fixed: u64 = obstacles.iter().map(|(from, to)| to - from).sum();
        let live = self.sequences.iter().map(|(sequence, _)| sequence.most_live).max().unwrap_or(0);
        let needed = (fixed + live) * ALIGNMENT;
        // Steps that only a plan has served so far are measured by the waste of those before.
        let most = self.fit.needs(needed);
        let worth = if was_repaired { 0 } else { worth(most, granule) };
        self.is_tight = needed + worth >= most && !was_repaired;
        if self.is_tight {
            return;
        }
        let (sequence, plan) = &mut self.sequences[at];
        sequence.guard.planned(sequence.seen);
        let new = Plan::new(sequence, &obstacles, granule).filter(|plan| plan.granules * granule + worth < most);
        if new.is_none() {
            sequence.guard.wait(sequence.seen);
        }
        if new.is_some() {
            *plan = new;
            self.has_new_plan = true;
        }
    }
}

/// What a request is to the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Of another arena or stream.
    Other,
    /// Part of the step under way.
    Goes,
    /// The first of a step.
    Begins,
}

/// What a plan has to save, in bytes.
fn worth(backed: u64, granule: u64) -> u64 {
    (backed / WORTH).max(WORTH_GRANULES * granule)
}

/// The blocks in an arena as stretches that do not touch, in units.
fn obstacles(arena: &Arena) -> Vec<(u64, u64)> {
    let mut obstacles: Vec<(u64, u64)> = Vec::new();
    for block in arena.blocks() {
        let (from, to) = (block.offset / ALIGNMENT, (block.offset + block.size) / ALIGNMENT);
        match obstacles.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => obstacles.push((from, to)),
        }
    }
    obstacles
}

#[cfg(test)]
mod tests;
