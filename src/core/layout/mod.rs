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
//! [`log`] keeps the requests of a step; [`sequence`] recognises that it comes again; [`plan`] places
//! its blocks; [`cursor`] follows a plan; [`guard`] drops one that misses or does harm.
//!
//! Contents are never at risk: a plan only says which place to try, and the arena gives it away only
//! if it is free. Whatever a plan does not have, or has wrongly, comes out of the free lists as ever.

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

/// Less than this part of what is backed is too little to be given back for a request.
const LITTLE: u64 = 400;
/// So often, at most, idle granules serve what plans have broken up, and so often more for each new
/// plan: it takes a wait for the device.
const MOST_REPAIRS: u32 = 64;
const REPAIRS_OF_A_PLAN: u32 = 4;
/// The same in one step that follows a plan, and in one that does not.
const REPAIRS_OF_A_STEP: (u32, u32) = (8, 2);

/// How large blocks are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// As a plan has it that was learned from earlier steps, where that spares memory.
    #[default]
    Learned,
    /// By the fit alone.
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
    /// The most that was backed while no plan was followed, and the most that lived then, in bytes.
    fit: Held,
    is_tight: bool,
    /// Whether there was ever a plan.
    has_planned: bool,
    /// How often idle granules may still serve what plans have broken up.
    repairs: u32,
}

/// What the arena held, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    backed: u64,
    live: u64,
}

/// What is known of the step under way.
#[derive(Clone, Copy, Debug, Default)]
struct StepState {
    /// The sequence whose plan is followed, and where it is.
    follows: Option<(usize, Cursor)>,
    /// The sequence whose plan was followed first.
    followed: Option<usize>,
    has_begun: bool,
    was_dropped: bool,
    /// The bytes that live before the request that is being served, and the most that have lived.
    live: u64,
    most_live: u64,
    /// How often idle granules have served what plans have broken up.
    repairs: u32,
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
            fit: Held::default(),
            is_tight: false,
            has_planned: false,
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
        self.fit = Held::default();
        self.has_planned = false;
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
            self.step.was_dropped = true;
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
            self.step.was_dropped = true;
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

    /// A request makes an arena grow to `backed` bytes, while `live` bytes of large blocks live and
    /// `idle` bytes of its backing are touched by none. Returns whether these should serve it first,
    /// because plans have laid out what is in their way, and it would be more than the arena ever
    /// had. A plan that needs more than the free lists have needed for as much is given up.
    pub fn repairs(&mut self, arena: ArenaId, backed: u64, live: u64, idle: impl FnOnce() -> u64) -> bool {
        let is_watched = self.target.is_some_and(|(target, _)| target == arena);
        if !is_watched || !self.has_planned || backed <= self.fit.backed {
            return false;
        }
        let (following, not) = REPAIRS_OF_A_STEP;
        let most = if self.step.followed.is_some() { following } else { not };
        if self.repairs > 0 && self.step.repairs < most && idle() * LITTLE >= backed {
            self.repairs -= 1;
            self.step.repairs += 1;
            return true;
        }
        if live <= self.fit.live
            && let Some((sequence, plan)) = self.step.followed.and_then(|at| self.sequences.get_mut(at))
        {
            self.step.follows = None;
            sequence.guard.wait(sequence.seen);
            *plan = None;
        }
        self.fit.backed = backed;
        false
    }

    /// A step ends and another begins. Learns from the one that ends, and plans the next of its
    /// kind. `live` is as for [`see`](Learned::see). Returns how many bytes the arena needs for all
    /// plans, where one is new and what is idle beyond that should be given back. O(requests), or
    /// where something is planned, O(requests² + blocks) at most.
    #[cold]
    pub fn turn(&mut self, arena: &Arena, granule: u64) -> Option<u64> {
        self.judge(arena);
        let learned = self.learn();
        self.begin_step();
        let planned = learned.filter(|at| self.plan(*at, arena, granule));
        let is_planned = self.sequences.iter().any(|(_, plan)| plan.is_some());
        self.quiet += 1;
        if !is_planned && self.quiet > if self.is_tight { QUIET_AND_TIGHT } else { QUIET } {
            self.is_awake = false;
        }
        planned?;
        let needed = self.sequences.iter().filter_map(|(_, plan)| Some(plan.as_ref()?.granules * granule)).max()?;
        let backed = arena.backed()[Tier::Dedicated];
        (needed + worth(backed, granule) < backed).then_some(needed)
    }

    fn begin_step(&mut self) {
        self.steps += 1;
        self.step = StepState::default();
        (self.others, self.told) = (0, false);
        self.log.restart();
    }

    /// What the step shows of the plan that it has followed.
    fn judge(&mut self, arena: &Arena) {
        let Some(followed) = self.step.followed else {
            self.fit.backed = self.fit.backed.max(arena.backed()[Tier::Dedicated]);
            self.fit.live = self.fit.live.max(self.step.most_live);
            return;
        };
        let (sequence, plan) = &mut self.sequences[followed];
        if plan.is_some() && sequence.guard.judge(self.step.was_dropped, sequence.seen) {
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
        ((grew || plan.is_none()) && sequence.guard.may_plan(sequence.seen)).then_some(at)
    }

    /// Plans a sequence around what lives now. Returns whether it has a new plan.
    fn plan(&mut self, at: usize, arena: &Arena, granule: u64) -> bool {
        let obstacles = obstacles(arena);
        let fixed: u64 = obstacles.iter().map(|(from, to)| to - from).sum();
        let live = self.sequences.iter().map(|(sequence, _)| sequence.most_live).max().unwrap_or(0);
        let needed = (fixed + live) * ALIGNMENT;
        // Steps that only a plan has served so far are measured by the waste of those before.
        let most = (self.fit.backed as f64 * (needed as f64 / self.fit.live.max(1) as f64).max(1.0)) as u64;
        let worth = worth(most, granule);
        self.is_tight = needed + worth >= most;
        if self.is_tight {
            return false;
        }
        let (sequence, plan) = &mut self.sequences[at];
        sequence.guard.planned(sequence.seen);
        let new = Plan::new(sequence, &obstacles, granule).filter(|plan| plan.granules * granule + worth < most);
        if new.is_none() {
            sequence.guard.wait(sequence.seen);
        }
        let is_new = new.is_some();
        if is_new {
            *plan = new;
            self.has_planned = true;
            self.repairs = (self.repairs + REPAIRS_OF_A_PLAN).min(MOST_REPAIRS);
        }
        is_new
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
