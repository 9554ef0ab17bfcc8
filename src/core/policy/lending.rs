//! Lending: which granules are shared where weights are copied ahead of their use.
//!
//! A granule that holds only weights which the coming work lends costs nothing in the shared tier
//! as long as the link has time left: its copy hides behind the work. So scratch gets all of its
//! levels, and what has to be shared for them is spread over the pass
//! ([`pace`](crate::core::ahead)). All costs are in the unit of [`balance`](super::balance): a
//! granule over the link.

use super::balance::{Candidate, Decision, MOVE, Outlook, best_prefix};
use crate::core::ahead::{self, Chunk, Work};
use crate::core::tier::Tier;

/// The part of the link's time that copies may take before each more of them costs its bytes.
const HIDDEN: f64 = 0.9;

/// What a move must gain, as a part of what can cross the link in the passes that it serves. It
/// keeps a placement that is nearly right from being mended before every pass.
const WORTH_IT: f64 = 0.01;

/// How much of a granule an interval reads at most where it is read sparsely, such as one of an
/// embedding.
const SPARSE: f64 = 0.25;

/// The least bytes of neighbouring granules that are shared together, unless that is more than a
/// quarter of what is shared. Weights at their borders lie in two such runs, so shorter ones would
/// make more weights cross the link in parts.
const RUN: u64 = 4 << 20;

/// One weight's turn in a pass of the coming work.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turn {
    /// The bytes that its slot takes in the ring.
    pub slot: u64,
    /// Seconds of computation from here to the next one.
    pub seconds: f64,
    /// The candidates that it lies in, by their index, each with its bytes there, in order.
    pub parts: Vec<(usize, u64)>,
}

/// What the coming work lends.
#[derive(Clone, Debug, Default)]
pub struct Lending {
    /// Bytes of a granule.
    pub granule: u64,
    /// Bytes of the ring.
    pub ring: u64,
    /// The link's rate, in bytes per second.
    pub link: f64,
    /// Seconds of computation before the first weight.
    pub head: f64,
    /// The weights in the order of their use.
    pub turns: Vec<Turn>,
    /// Whether the seconds were measured, and are no estimate.
    pub is_timed: bool,
    /// For each candidate, whether it holds nothing but those weights.
    pub lendable: Vec<bool>,
}

/// A decision, and what one interval costs with it.
#[derive(Clone, Debug, Default)]
pub struct Lent {
    /// What moves.
    pub decision: Decision,
    /// What an interval costs once it has moved, in granules over the link.
    pub cost: f64,
}

impl Lending {
    /// Seconds of computation in a pass.
    pub fn seconds(&self) -> f64 {
        self.head + self.turns.iter().map(|turn| turn.seconds).sum::<f64>()
    }

    /// Granules that cross the link while a pass computes.
    pub fn granules(&self) -> f64 {
        self.granules_in(self.seconds())
    }

    /// The granules over the link that small gains are measured against: those of a pass's time, or
    /// of all weights where that is only estimated.
    fn scale(&self) -> f64 {
        let weights: u64 = self.turns.iter().map(|turn| turn.slot).sum();
        if self.is_timed { self.granules() } else { weights as f64 / self.granule as f64 }
    }

    /// Granules that cross the link in so many seconds.
    fn granules_in(&self, seconds: f64) -> f64 {
        seconds * self.link / self.granule as f64
    }

    /// What one interval costs with some candidates in the shared tier: the time that the work
    /// waits for copies, what is read in place, and what scratch finds no room for.
    pub fn cost(&self, candidates: &[Candidate], outlook: &Outlook<'_>, is_shared: &[bool]) -> f64 {
        let head = Work { slot: 0, link: 0, seconds: self.head };
        let works = self.turns.iter().map(|turn| {
            let link: u64 = turn.parts.iter().filter(|(index, _)| is_shared[*index]).map(|(_, bytes)| bytes).sum();
            Work { slot: if link > 0 { turn.slot } else { 0 }, link, seconds: turn.seconds }
        });
        let pass: Vec<Work> = std::iter::once(head).chain(works).collect();
        let waits = ahead::seconds(&pass, self.ring, self.link) - self.seconds();
        let in_place = (0..candidates.len()).filter(|index| is_shared[*index] && !self.lendable[*index]);
        let in_place: f64 = in_place.map(|index| candidates[index].reads).sum();
        let dedicated = is_shared.iter().filter(|is_shared| !**is_shared).count() as u64;
        self.granules_in(waits.max(0.0)) + in_place + outlook.spilled(outlook.capacity.saturating_sub(dedicated))
    }

    /// Decides what moves before a run, where doing nothing costs `cost_now` in each interval; or
    /// what has to move in any case, where that is impossible. O(n log n) in the candidates.
    ///
    /// Two placements are weighed: the best one, and the one nearest to what lies where now. The
    /// latter pays where short runs of several kinds of work take turns.
    pub fn decide(&self, candidates: &[Candidate], outlook: &Outlook<'_>, cost_now: Option<f64>) -> Lent {
        let best = self.target(candidates, outlook);
        let least = self.nearest(candidates, &best);
        let [best, least] = [best, least].map(|target| self.reach(candidates, outlook, cost_now, &target));
        let total = |lent: &Lent| outlook.horizon * lent.cost + lent.decision.cost;
        if least.cost.is_finite() && total(&least) < total(&best) { least } else { best }
    }

    /// What moves for a placement to be reached, if that pays.
    fn reach(
        &self,
        candidates: &[Candidate],
        outlook: &Outlook<'_>,
        cost_now: Option<f64>,
        is_shared: &[bool],
    ) -> Lent {
        let (mut demote, mut promote, mut price) = (Vec::new(), Vec::new(), 0.0);
        for (candidate, is_shared) in candidates.iter().zip(is_shared) {
            match (candidate.tier, is_shared) {
                (Tier::Dedicated, true) => {
                    demote.push(candidate.id);
                    price += candidate.price_of_leaving();
                }
                (Tier::Shared, false) => {
                    promote.push(candidate.id);
                    price += MOVE;
                }
                _ => {}
            }
        }
        let nothing = Lent { decision: Decision::default(), cost: cost_now.unwrap_or(f64::INFINITY) };
        if demote.len() as u64 > outlook.shared_room + promote.len() as u64 {
            return nothing;
        }
        let cost = self.cost(candidates, outlook, is_shared);
        let gain = cost_now.map_or(0.0, |now| outlook.horizon * (now - cost) - price);
        let least_gain = outlook.debt.max(0.0) + WORTH_IT * outlook.horizon * self.scale();
        let pays = cost_now.is_none() || gain > least_gain;
        if !pays || (demote.is_empty() && promote.is_empty()) {
            return nothing;
        }
        Lent { decision: Decision { demote, promote, gain, cost: price }, cost }
    }

    /// Which candidates the shared tier should hold.
    fn target(&self, candidates: &[Candidate], outlook: &Outlook<'_>) -> Vec<bool> {
        // In the order in which they give way: those that are read sparsely or not at all; then
        // weights that are lent; then the others. Equal ones that are shared already come first.
        let rank = |index: usize| match (self.lendable[index], candidates[index].reads < SPARSE) {
            (false, true) => 0,
            (true, _) => 1,
            (false, false) => 2,
        };
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by(|a, b| {
            let (x, y) = (&candidates[*a], &candidates[*b]);
            let reads = if rank(*a) == 1 { std::cmp::Ordering::Equal } else { x.reads.total_cmp(&y.reads) };
            let dedicated = (x.tier == Tier::Dedicated).cmp(&(y.tier == Tier::Dedicated));
            let by_rank = rank(*a).cmp(&rank(*b)).then(reads).then(dedicated);
            by_rank.then(x.wanted_later.cmp(&y.wanted_later)).then(y.id.cmp(&x.id))
        });
        let hidden = HIDDEN * self.granules();
        let mut lent = 0.0;
        let costs: Vec<f64> = order
            .iter()
            .map(|index| match rank(*index) {
                1 => {
                    lent += 1.0;
                    if lent <= hidden { 0.0 } else { 1.0 }
                }
                _ => candidates[*index].reads,
            })
            .collect();
        let gives_way = how_many(&costs, outlook);
        let mut is_shared = vec![false; candidates.len()];
        let chosen = &order[..gives_way];
        chosen.iter().filter(|index| rank(**index) != 1).for_each(|index| is_shared[*index] = true);
        let lent = chosen.iter().filter(|index| rank(**index) == 1).count() as u64;
        self.spread(candidates, lent, |_| true, &mut is_shared);
        is_shared
    }

    /// The placement that shares as much as a target and is reached with the fewest moves.
    fn nearest(&self, candidates: &[Candidate], target: &[bool]) -> Vec<bool> {
        let is_lent = |index: usize| self.lendable[index];
        let is_now = |index: usize| candidates[index].tier == Tier::Shared;
        let lent = |is: &dyn Fn(usize) -> bool| (0..candidates.len()).filter(|i| is_lent(*i) && is(*i)).count() as u64;
        let (wanted, now) = (lent(&|index| target[index]), lent(&is_now));
        let stays = |index: usize| is_lent(index) && is_now(index) && wanted >= now;
        let mut is_shared: Vec<bool> =
            (0..candidates.len()).map(|index| if is_lent(index) { stays(index) } else { target[index] }).collect();
        if wanted >= now {
            self.spread(candidates, wanted - now, |index| !is_now(index), &mut is_shared);
        } else {
            self.spread(candidates, wanted, is_now, &mut is_shared);
        }
        is_shared
    }

    /// Spreads `count` granules of what is lent and may be shared over the pass.
    fn spread(&self, candidates: &[Candidate], count: u64, may_be: impl Fn(usize) -> bool, is_shared: &mut [bool]) {
        let (all, least) = (self.seconds(), RUN.min(count * self.granule / 4));
        let mut first_use = vec![f64::INFINITY; candidates.len()];
        let mut begins = vec![false; candidates.len()];
        let mut before = self.head;
        for turn in &self.turns {
            let when = if all > 0.0 { before / all } else { 0.0 };
            turn.parts.iter().for_each(|(index, _)| first_use[*index] = first_use[*index].min(when));
            turn.parts.first().into_iter().for_each(|(index, _)| begins[*index] = true);
            before += turn.seconds;
        }
        let mut by_address: Vec<usize> =
            (0..candidates.len()).filter(|index| self.lendable[*index] && may_be(*index)).collect();
        by_address.sort_by_key(|index| candidates[*index].id);
        let mut runs: Vec<(f64, Vec<usize>)> = Vec::new();
        for index in by_address {
            let id = candidates[index].id;
            let goes_on = runs.last().is_some_and(|(_, run)| {
                let last = candidates[run[run.len() - 1]].id;
                let is_long = run.len() as u64 * self.granule >= least;
                last.arena == id.arena && last.granule + 1 == id.granule && !(is_long && begins[index])
            });
            match runs.last_mut() {
                Some((when, run)) if goes_on => {
                    *when = when.min(first_use[index]);
                    run.push(index);
                }
                _ => runs.push((first_use[index], vec![index])),
            }
        }
        runs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let bytes = |run: &[usize]| run.len() as u64 * self.granule;
        let chunks: Vec<Chunk> = runs.iter().map(|(when, run)| Chunk { bytes: bytes(run), when: *when }).collect();
        let chosen = ahead::choose(&chunks, count * self.granule);
        for ((_, run), _) in runs.iter().zip(chosen).filter(|(_, is_chosen)| *is_chosen) {
            run.iter().for_each(|index| is_shared[*index] = true);
        }
    }
}

/// How many of a row of candidates give way to scratch, each at its cost.
fn how_many(costs: &[f64], outlook: &Outlook<'_>) -> usize {
    let all = costs.len() as u64;
    let forced = all.saturating_sub(outlook.capacity) as usize;
    let levels = outlook.capacity.saturating_sub(all)..;
    let row = costs[forced..].iter().zip(levels).map(|(cost, level)| (outlook.level(level) - cost, 0.0));
    forced + best_prefix(row).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{ArenaId, GranuleId};

    const G: u64 = 4 << 20;

    fn candidate(granule: u32, tier: Tier, reads: f64) -> Candidate {
        Candidate { id: GranuleId { arena: ArenaId(0), granule }, tier, reads, wanted_later: false }
    }

    /// A pass of weights of two granules each.
    fn pass(weights: usize) -> Lending {
        let turn =
            |weight: usize| Turn { slot: 2 * G, seconds: 1.0, parts: vec![(2 * weight, G), (2 * weight + 1, G)] };
        Lending {
            granule: G,
            ring: 5 * G,
            link: 2.0 * G as f64,
            head: 0.0,
            is_timed: true,
            turns: (0..weights).map(turn).collect(),
            lendable: vec![true; 2 * weights],
        }
    }

    #[test]
    fn scratch_gets_all_its_levels_and_what_is_shared_is_spread() {
        let lending = pass(10);
        let candidates: Vec<_> = (0..20).map(|granule| candidate(granule, Tier::Dedicated, 1.0)).collect();
        let outlook = Outlook { uses: &[0.6; 6], horizon: 8.0, capacity: 20, shared_room: 100, debt: 0.0 };
        let now = lending.cost(&candidates, &outlook, &[false; 20]);
        assert!((now - 6.0 * 1.2).abs() < 1e-9, "six levels find no room");
        let Lent { decision, cost } = lending.decide(&candidates, &outlook, Some(now));
        assert_eq!((decision.demote.len(), decision.promote.len(), cost), (6, 0, 0.0));
        let mut granules: Vec<u32> = decision.demote.iter().map(|id| id.granule).collect();
        granules.sort_unstable();
        assert!(granules[0] >= 2, "the head is dedicated: {granules:?}");
        assert!(granules.chunks(2).all(|pair| pair[0] % 2 == 0 && pair[0] + 1 == pair[1]), "whole weights");
        assert!(granules.chunks(2).collect::<Vec<_>>().windows(2).all(|two| two[1][0] - two[0][0] > 2), "spread");
    }

    #[test]
    fn what_is_shared_at_the_end_of_a_pass_is_worth_spreading() {
        let lending = pass(10);
        let tier = |granule| if granule >= 14 { Tier::Shared } else { Tier::Dedicated };
        let candidates: Vec<_> = (0..20).map(|granule| candidate(granule, tier(granule), 1.0)).collect();
        let is_shared: Vec<bool> = candidates.iter().map(|candidate| candidate.tier == Tier::Shared).collect();
        let slow = Lending { link: 1.0 * G as f64, ..lending };
        let run = |horizon| Outlook { uses: &[], horizon, capacity: 14, shared_room: 100, debt: 0.0 };
        let now = slow.cost(&candidates, &run(1.0), &is_shared);
        assert!(now > 0.0, "copies of the last three cannot all hide");
        let long = slow.decide(&candidates, &run(32.0), Some(now));
        assert!(long.cost < now && long.decision.demote.len() == long.decision.promote.len(), "{long:?}");
        assert!(slow.decide(&candidates, &run(1.0), Some(now)).decision.is_empty(), "not for one interval");
    }

    #[test]
    fn idle_granules_go_first_and_what_fits_stays() {
        let mut lending = pass(2);
        lending.lendable.push(false);
        let mut candidates: Vec<_> = (0..4).map(|granule| candidate(granule, Tier::Dedicated, 1.0)).collect();
        candidates.push(candidate(9, Tier::Dedicated, 0.0));
        let outlook = Outlook { uses: &[1.0], horizon: 8.0, capacity: 5, shared_room: 9, debt: 0.0 };
        let now = lending.cost(&candidates, &outlook, &[false; 5]);
        let decision = lending.decide(&candidates, &outlook, Some(now)).decision;
        assert_eq!(decision.demote.iter().map(|id| id.granule).collect::<Vec<_>>(), [9]);
        let roomy = Outlook { capacity: 6, ..outlook };
        assert!(lending.decide(&candidates, &roomy, Some(0.0)).decision.is_empty());
    }

    #[test]
    fn a_link_without_time_left_is_not_free() {
        let lending = Lending { link: 0.1 * G as f64, ..pass(4) };
        let candidates: Vec<_> = (0..8).map(|granule| candidate(granule, Tier::Dedicated, 1.0)).collect();
        let outlook = Outlook { uses: &[0.4; 4], horizon: 99.0, capacity: 8, shared_room: 9, debt: 0.0 };
        let now = lending.cost(&candidates, &outlook, &[false; 8]);
        assert!(lending.decide(&candidates, &outlook, Some(now)).decision.is_empty(), "0.8 a level, 1 a granule");
    }

    #[test]
    fn little_is_moved_for_a_short_run() {
        let lending = pass(10);
        let tier = |granule: u32| if granule >= 16 { Tier::Shared } else { Tier::Dedicated };
        let candidates: Vec<_> = (0..20).map(|granule| candidate(granule, tier(granule), 1.0)).collect();
        let is_shared: Vec<bool> = candidates.iter().map(|candidate| candidate.tier == Tier::Shared).collect();
        // Four lie shared at the end, and there is room for fourteen.
        let outlook = |horizon| Outlook { uses: &[4.0; 6], horizon, capacity: 20, shared_room: 100, debt: 0.0 };
        let decide = |horizon| {
            let now = lending.cost(&candidates, &outlook(horizon), &is_shared);
            let Lent { decision, cost } = lending.decide(&candidates, &outlook(horizon), Some(now));
            assert!(cost < now);
            decision
        };
        let short = decide(1.0);
        assert_eq!((short.demote.len(), short.promote.len()), (2, 0));
        let long = decide(32.0);
        assert!(long.cost >= short.cost && long.demote.len() == long.promote.len() + 2, "{long:?}");
    }

    #[test]
    fn what_is_read_sparsely_gives_way_before_weights_cross_the_link() {
        let mut lending = pass(10);
        lending.lendable.extend([false; 2]);
        let candidates: Vec<_> =
            (0..22).map(|granule| candidate(granule, Tier::Dedicated, if granule < 20 { 1.0 } else { 0.1 })).collect();
        let outlook = Outlook { uses: &[1.0; 2], horizon: 8.0, capacity: 22, shared_room: 100, debt: 0.0 };
        let now = lending.cost(&candidates, &outlook, &[false; 22]);
        let decision = lending.decide(&candidates, &outlook, Some(now)).decision;
        let mut granules: Vec<u32> = decision.demote.iter().map(|id| id.granule).collect();
        granules.sort_unstable();
        assert_eq!(granules, [20, 21]);
    }
}
