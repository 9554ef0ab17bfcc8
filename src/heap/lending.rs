//! What the coming work lends, as the automatic mode weighs it: which granules hold its weights,
//! how long the work between them takes, and how long a ring they want.

use std::collections::HashMap;

use super::ahead::{Ahead, CopyAhead, Kind, slot_bytes};
use super::memory::Memory;
use crate::core::ahead::Use;
use crate::core::balance::{Candidate, Decision, Outlook, placed};
use crate::core::policy::{Lending, Lent, Turn};
use crate::core::{GranuleId, Tier};

/// A ring's length, in largest weights. One is copied while one is read, and a quarter more keeps
/// the link busy between them.
const WEIGHTS: f64 = 2.25;
/// The part of dedicated memory that a ring may take: a quarter, or a half where the user says how
/// long it is.
const MOST_OF_DEDICATED: u64 = 4;
const MOST_OF_DEDICATED_IF_GIVEN: u64 = 2;
/// What a ring must gain, in pass lengths, before one is made.
const WORTH_IT: f64 = 0.01;
/// The least passes that are expected of work in its first run, and of work that has not been timed
/// with its weights copied. How long its runs are or how often its kernels read a weight in place
/// is not known yet, so copying is tried early, and what serves it best is moved once.
const LEAST_RUN: f64 = 32.0;
/// A block holds one weight if the weight fills so much of it.
const FILLS: f64 = 0.9;

/// A choice between reading in place and copying ahead.
pub(super) struct Weighed {
    pub(super) decision: Decision,
    /// The ring that goes with it. Bytes.
    pub(super) ring: u64,
    /// The candidates that cost nothing in the shared tier.
    pub(super) lendable: Vec<bool>,
}

/// The weights of a kind that may be copied.
fn weights(kind: &Kind) -> impl Iterator<Item = &Use> {
    kind.order.uses().iter().filter(|known| known.is_worth_copying())
}

/// The ring that a kind of work wants; 0 where nothing of it can be copied. Bytes, whole granules.
fn wanted_ring(memory: &Memory, mode: CopyAhead, kind: &Kind) -> u64 {
    let largest = weights(kind).map(|known| slot_bytes(known.bytes)).max().unwrap_or(0);
    let (bytes, part) = match mode {
        CopyAhead::Off => return 0,
        CopyAhead::Auto => ((largest as f64 * WEIGHTS) as u64, MOST_OF_DEDICATED),
        CopyAhead::Ring(bytes) => (bytes, MOST_OF_DEDICATED_IF_GIVEN),
    };
    let granule = memory.granule();
    let most = memory.ledger().capacity[Tier::Dedicated] / part / granule * granule;
    let ring = bytes.div_ceil(granule).saturating_mul(granule).min(most);
    if largest == 0 || ring < largest { 0 } else { ring }
}

/// The longest ring that any work wants whose order is known and whose weights live; 0 where none
/// wants one. Bytes, whole granules.
pub(super) fn longest_ring(memory: &Memory, ahead: &Ahead) -> u64 {
    let lives = |known: &Use| memory.arenas.locate(known.address).is_ok();
    let rings = ahead.kinds().filter(|kind| kind.refused.is_none() && weights(kind).any(lives));
    rings.map(|kind| wanted_ring(memory, ahead.mode(), kind)).max().unwrap_or(0)
}

/// What a kind of work lends of the candidates through a ring of `ring` bytes.
fn lending(
    memory: &Memory,
    candidates: &[Candidate],
    outlook: &Outlook<'_>,
    kind: &Kind,
    ring: u64,
    link: f64,
) -> Lending {
    let granule = memory.granule();
    let index: HashMap<GranuleId, usize> =
        candidates.iter().enumerate().map(|(index, candidate)| (candidate.id, index)).collect();
    let known: HashMap<u64, u64> = weights(kind).map(|known| (known.address, known.bytes)).collect();
    let mut lendable = vec![true; candidates.len()];
    let mut touched = vec![false; candidates.len()];
    let mut parts: HashMap<u64, Vec<(usize, u64)>> = HashMap::new();
    for (arena, bound) in memory.arenas.iter().filter(|(arena, _)| !memory.arenas.is_pools(*arena)) {
        for block in bound.core.blocks() {
            let address = bound.base() + block.offset;
            let is_weight = known.get(&address).is_some_and(|bytes| *bytes as f64 >= FILLS * block.size as f64);
            for (number, bytes) in bound.core.shares_of(block.id) {
                let Some(index) = index.get(&GranuleId { arena, granule: number }) else { continue };
                touched[*index] = true;
                lendable[*index] &= is_weight;
                if is_weight {
                    parts.entry(address).or_default().push((*index, bytes));
                }
            }
        }
    }
    lendable.iter_mut().zip(touched).for_each(|(is_lendable, is_touched)| *is_lendable &= is_touched);
    let all: u64 = known.values().sum();
    let untimed = untimed_seconds(candidates, outlook, kind, all, granule, link);
    let turns = weights(kind).map(|known| Turn {
        slot: slot_bytes(known.bytes),
        seconds: known.seconds.unwrap_or(untimed * known.bytes as f64 / all.max(1) as f64),
        parts: parts.remove(&known.address).unwrap_or_default(),
    });
    let is_timed = kind.trial.is_over();
    Lending { granule, ring, link, head: kind.head, turns: turns.collect(), is_timed, lendable }
}

/// Seconds of computation of a pass whose work was not timed weight by weight: those of a pass that
/// read everything in place, less what crossed the link at least.
fn untimed_seconds(
    candidates: &[Candidate],
    outlook: &Outlook<'_>,
    kind: &Kind,
    all: u64,
    granule: u64,
    link: f64,
) -> f64 {
    let Some(in_place) = kind.in_place else { return all as f64 / link };
    let now = placed(candidates, outlook, &Decision::default(), &vec![false; candidates.len()]);
    let crossed = (now.shared_reads + outlook.spilled(now.room)) * granule as f64;
    (in_place - crossed / link).max(0.1 * in_place)
}

/// What one interval costs without a ring, once a decision is carried out, where each weight is
/// read so often over the link.
fn cost_in_place(candidates: &[Candidate], outlook: &Outlook<'_>, decision: &Decision, reread: f64) -> f64 {
    let placed = placed(candidates, outlook, decision, &vec![false; candidates.len()]);
    reread * placed.shared_reads + outlook.spilled(placed.room)
}

/// Weighs a ring where nothing can move: it takes what residents leave of dedicated memory.
pub(super) fn weigh_ring(
    memory: &Memory,
    ahead: &Ahead,
    kind: &str,
    candidates: &[Candidate],
    outlook: &Outlook<'_>,
) -> Weighed {
    let without = Weighed { decision: Decision::default(), ring: 0, lendable: vec![false; candidates.len()] };
    let Some(kind) = ahead.kind(kind).filter(|kind| kind.refused.is_none()) else { return without };
    let (ring, granule, link) = (wanted_ring(memory, ahead.mode(), kind), memory.granule(), ahead.link());
    let beside = Outlook { capacity: outlook.capacity.saturating_sub(ring / granule), ..*outlook };
    let now: Vec<bool> = candidates.iter().map(|candidate| candidate.tier == Tier::Shared).collect();
    let dedicated = now.iter().filter(|is_shared| !**is_shared).count() as u64;
    if ring == 0 || dedicated > beside.capacity {
        return without;
    }
    let lending = lending(memory, candidates, outlook, kind, ring, link);
    let in_place = cost_in_place(candidates, outlook, &Decision::default(), kind.trial.reread(link));
    let margin = if memory.staged() > 0 { 0.0 } else { WORTH_IT * lending.granules() };
    let pays = lending.cost(candidates, &beside, &now) + margin < in_place;
    let is_told = matches!(ahead.mode(), CopyAhead::Ring(_));
    if pays || is_told { Weighed { ring, lendable: lending.lendable, ..without } } else { without }
}

/// Weighs a decision that goes without a ring, made for `outlook`, against one that copies ahead.
/// `has_run` says whether a run of this kind of work has ended before.
pub(super) fn weigh(
    memory: &Memory,
    ahead: &Ahead,
    kind: &str,
    candidates: &[Candidate],
    outlook: &Outlook<'_>,
    has_run: bool,
    plain: Decision,
) -> Weighed {
    let nothing_lent = vec![false; candidates.len()];
    let in_place = |decision| Weighed { decision, ring: 0, lendable: nothing_lent.clone() };
    let Some(kind) = ahead.kind(kind).filter(|kind| kind.refused.is_none()) else { return in_place(plain) };
    let ring = wanted_ring(memory, ahead.mode(), kind);
    if ring == 0 {
        return in_place(plain);
    }
    let (granule, link) = (memory.granule(), ahead.link());
    let reread = kind.trial.reread(link);
    let in_place_after = |decision: &Decision| cost_in_place(candidates, outlook, decision, reread);
    let lending = lending(memory, candidates, outlook, kind, ring, link);
    let is_known = kind.trial.is_over() && has_run;
    let horizon = if is_known { outlook.horizon } else { outlook.horizon.max(LEAST_RUN) };
    let beside = Outlook { capacity: outlook.capacity.saturating_sub(ring / granule), horizon, ..*outlook };
    let now: Vec<bool> = candidates.iter().map(|candidate| candidate.tier == Tier::Shared).collect();
    let dedicated = now.iter().filter(|is_shared| !**is_shared).count() as u64;
    let has_room = dedicated <= beside.capacity;
    let without_moves = in_place_after(&Decision::default());
    // What it costs to do nothing: with the ring where there is one, or room for one.
    let is_told = matches!(ahead.mode(), CopyAhead::Ring(_));
    let cost_now = if has_room { lending.cost(candidates, &beside, &now) } else { without_moves };
    let Lent { decision, cost } = lending.decide(candidates, &beside, (has_room || !is_told).then_some(cost_now));
    if decision.is_empty() && !has_room {
        return in_place(plain);
    }
    if is_told {
        return Weighed { decision, ring, lendable: lending.lendable };
    }
    let net = |cost: f64, decision: &Decision| horizon * (without_moves - cost) - decision.cost;
    let plainly = net(in_place_after(&plain), &plain);
    let lent = net(cost, &decision);
    let margin = if memory.staged() > 0 { 0.0 } else { WORTH_IT * horizon * lending.granules() };
    log::debug!(
        "device {}: copying ahead gains {lent:.0} granules over the link, reading in place {plainly:.0}",
        memory.device()
    );
    if lent > plainly + margin { Weighed { decision, ring, lendable: lending.lendable } } else { in_place(plain) }
}
