use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const G: u64 = 2 << 20;
const S0: StreamId = StreamId(0);
const S1: StreamId = StreamId(1);

fn sized(bytes: u64) -> BlockSize {
    BlockSize::of(bytes).unwrap()
}

fn grown(class: Class, granules: u32, tier: Tier) -> Arena {
    let mut arena = Arena::new(64 * G, G, class);
    let growth = arena.plan_growth(sized(u64::from(granules) * G), tier, S0).unwrap();
    arena.grow(growth, tier, S0);
    arena
}

#[test]
fn nothing_can_be_taken_before_something_is_backed() {
    let mut arena = Arena::new(8 * G, G, Class::Large);
    assert_eq!(arena.take(sized(G), Tier::Dedicated, S0), None);
    assert_eq!(arena.plan_growth(sized(9 * G), Tier::Dedicated, S0), None, "longer than the arena");
    arena.check().unwrap();
}

#[test]
fn what_is_free_beside_blocks_cannot_be_given_back() {
    let mut arena = grown(Class::Large, 5, Tier::Dedicated);
    assert_eq!(arena.splits(), (0, 0), "all of it is idle");
    let first = arena.take(sized(G / 2 * 3), Tier::Dedicated, S0).unwrap();
    let second = arena.take(sized(G), Tier::Dedicated, S0).unwrap();
    assert_eq!(arena.splits(), (1, G / 2), "of the third granule; the last two are idle");
    arena.release(first, S1);
    assert_eq!(arena.splits(), (2, G), "and what of the second lies before the second block");
    arena.release(second, S0);
    assert_eq!(arena.splits(), (2, G), "free neighbours of two streams share a granule");
    arena.set_tiers([], S0);
    assert_eq!(arena.splits(), (0, 0), "all of it is idle again");
}

#[test]
fn growth_uses_what_is_free_beside_the_hole() {
    let mut arena = grown(Class::Large, 2, Tier::Dedicated);
    arena.take(sized(3 * G / 2), Tier::Dedicated, S0).unwrap();
    let growth = arena.plan_growth(sized(3 * G / 2), Tier::Dedicated, S0).unwrap();
    assert_eq!((growth.first, growth.count), (2, 1), "half a granule is there already");
    let elsewhere = arena.plan_growth(sized(3 * G / 2), Tier::Shared, S0).unwrap();
    assert_eq!(elsewhere.count, 2, "what is free lies in the other tier");
    let across = arena.plan_growth_across(sized(3 * G / 2), S0).unwrap();
    assert_eq!(across.count, 1, "a block in both tiers uses it");
    let other = arena.plan_growth_across(sized(3 * G / 2), S1).unwrap();
    assert_eq!(other.count, 2, "what is free belongs to another stream");
}

#[test]
fn neighbours_of_both_tiers_make_one_block() {
    // dedicated | shared | shared | dedicated, all free.
    let mut arena = grown(Class::Large, 4, Tier::Dedicated);
    arena.set_tiers([(1, Some(Tier::Shared)), (2, Some(Tier::Shared))], S0);
    assert_eq!(arena.take_across(sized(5 * G), S0), None, "more than there is");
    assert_eq!(arena.take_across(sized(3 * G), S1), None, "another stream's");
    let block = arena.take_across(sized(3 * G), S0).unwrap();
    arena.check().unwrap();
    assert_eq!(arena.residency(block), PerTier::new(G, 2 * G));
    assert_eq!(arena.find(arena.extent(block).0), Some(block));
    arena.release(block, S0);
    arena.check().unwrap();
    // With a granule taken in front, the dedicated one behind is what is left to have.
    let first = arena.take(sized(G), Tier::Dedicated, S0).unwrap();
    assert_eq!(arena.extent(first).0, 0, "the lowest of equals");
    let block = arena.take_across(sized(3 * G / 2), S0).unwrap();
    assert_eq!(arena.extent(block), (5 * G / 2, 3 * G / 2));
    arena.check().unwrap();
    assert_eq!(
        arena.take(sized(3 * G / 2), Tier::Shared, S0).map(|id| arena.extent(id).0),
        Some(G),
        "the rest is free as before"
    );
}

#[test]
fn freed_neighbours_become_one() {
    let mut arena = grown(Class::Large, 3, Tier::Dedicated);
    let blocks: Vec<_> = (0..3).map(|_| arena.take(sized(G), Tier::Dedicated, S0).unwrap()).collect();
    assert_eq!(arena.take(sized(G), Tier::Dedicated, S0), None);
    for i in [0, 2, 1] {
        arena.release(blocks[i], S0);
        arena.check().unwrap();
    }
    let all = arena.take(sized(3 * G), Tier::Dedicated, S0).expect("one block of three granules");
    assert_eq!(arena.extent(all), (0, 3 * G));
}

#[test]
fn small_blocks_are_kept_whole_until_something_needs_them() {
    let mut arena = grown(Class::Small, 1, Tier::Dedicated);
    let take = |arena: &mut Arena, bytes| arena.take(sized(bytes), Tier::Dedicated, S0);
    let (first, second) = (take(&mut arena, 1024).unwrap(), take(&mut arena, 1024).unwrap());
    let at = arena.extent(second).0;
    arena.release(first, S0);
    arena.release(second, S0);
    arena.check().unwrap();
    assert_eq!(take(&mut arena, 1024).map(|id| arena.extent(id).0), Some(at), "the newest of its size, as it was");
    let rest = arena.take(sized(1024), Tier::Dedicated, S1);
    assert_eq!(rest, None, "kept for its own stream");
    assert_eq!(arena.find(at).map(|id| arena.release(id, S0)), Some(()));
    assert!(take(&mut arena, G).is_some(), "merged it is long enough");
    arena.check().unwrap();
    // More at once than the lists hold, their neighbours kept.
    let mut arena = grown(Class::Small, 1, Tier::Dedicated);
    let blocks: Vec<_> = (0..1024).map(|_| take(&mut arena, 512).unwrap()).collect();
    for step in [0, 1] {
        for block in blocks.iter().skip(step).step_by(2) {
            arena.release(*block, S0);
            arena.check().unwrap();
        }
    }
    assert!(take(&mut arena, G).is_some(), "all of it again");
}

#[test]
fn streams_do_not_share_what_is_free_unless_asked() {
    let mut arena = grown(Class::Large, 2, Tier::Dedicated);
    assert_eq!(arena.take(sized(G), Tier::Dedicated, S1), None);
    assert_eq!(arena.take_from_others(sized(G), Tier::Dedicated, S1, |_| false), None);
    let (block, from) = arena.take_from_others(sized(G), Tier::Dedicated, S1, |_| true).unwrap();
    assert_eq!((from, arena.block(block).stream), (S0, S1));
    arena.release(block, S1);
    arena.check().unwrap();
    assert!(arena.take(sized(2 * G), Tier::Dedicated, S0).is_none(), "half of it is behind the other stream's work");
}

#[test]
fn a_block_is_taken_at_a_place_that_is_free_and_nowhere_else() {
    let mut arena = grown(Class::Large, 8, Tier::Dedicated);
    let mut near = Near::default();
    let mut take = |arena: &mut Arena, at, bytes, stream| {
        let taken = arena.take_at(at, sized(bytes), Tier::Dedicated, stream, &mut near);
        arena.check().unwrap();
        taken.inspect(|id| assert_eq!(arena.extent(*id), (at, bytes)))
    };
    let block = take(&mut arena, 2 * G + 512, 2 * G, S0).expect("in the middle of a free node");
    assert_eq!(take(&mut arena, 4 * G, G, S0), None, "its end is in use");
    assert_eq!(take(&mut arena, G, 2 * G, S0), None, "it begins to be in use");
    assert_eq!(take(&mut arena, 5 * G, G, S1), None, "free for another stream");
    assert_eq!(take(&mut arena, 7 * G, 2 * G, S0), None, "half of it has no backing");
    assert_eq!(take(&mut arena, 64 * G, G, S0), None, "beyond the end");
    assert!(take(&mut arena, 0, 2 * G + 512, S0).is_some(), "just what lies before the block");
    arena.release(block, S0);
    assert!(take(&mut arena, 2 * G + 512, 2 * G, S0).is_some(), "the same place again");
    let mut near = Near::default();
    let growth = arena.plan_growth_at(11 * G - 512, sized(2 * G), Tier::Dedicated, S0, &mut near).unwrap();
    assert_eq!((growth.first, growth.count), (10, 3), "in the middle of a hole");
    arena.grow(growth, Tier::Dedicated, S0);
    arena.check().unwrap();
    assert!(take(&mut arena, 11 * G - 512, 2 * G, S0).is_some());
    let growth = arena.plan_growth_at(7 * G, sized(4 * G), Tier::Dedicated, S0, &mut near);
    assert_eq!(growth, None, "its end is in use, so backing would not help");
}

#[test]
fn small_blocks_are_found_by_their_start_alone() {
    let mut arena = grown(Class::Small, 1, Tier::Dedicated);
    let a = arena.take(sized(512), Tier::Dedicated, S0).unwrap();
    let b = arena.take(sized(1024), Tier::Dedicated, S0).unwrap();
    assert_eq!(arena.find(0), Some(a));
    assert_eq!(arena.find(512), Some(b));
    assert_eq!(arena.find(1024), None, "inside a block");
    assert_eq!(arena.find_inside(1024), Some(b));
    assert_eq!(arena.find_inside(1536), None, "free");
    assert_eq!(arena.find(1 << 40), None, "beyond everything");
}

#[test]
fn a_block_in_both_tiers_comes_apart_when_freed() {
    let mut arena = grown(Class::Large, 4, Tier::Dedicated);
    let block = arena.take(sized(4 * G), Tier::Dedicated, S0).unwrap();
    arena.set_tiers([(1, Some(Tier::Shared)), (2, Some(Tier::Shared))], S0);
    arena.check().unwrap();
    let block = arena.find(0).unwrap_or(block);
    assert_eq!(arena.tier(block), None);
    assert_eq!(arena.residency(block), PerTier::new(2 * G, 2 * G));
    arena.release(block, S0);
    arena.check().unwrap();
    assert_eq!(arena.idle_granules(), vec![0, 1, 2, 3]);
    let shared = arena.take(sized(2 * G), Tier::Shared, S0).unwrap();
    assert_eq!(arena.extent(shared), (G, 2 * G));
}

#[test]
fn idle_granules_are_those_nothing_touches() {
    let mut arena = grown(Class::Large, 4, Tier::Dedicated);
    let first = arena.take(sized(3 * G / 2), Tier::Dedicated, S0).unwrap();
    arena.take(sized(3 * G / 2), Tier::Dedicated, S0).unwrap();
    arena.release(first, S0);
    assert_eq!(arena.idle_granules(), vec![0, 3], "granule 1 is half used, granule 2 wholly");
    assert_eq!(arena.idle_runs(Tier::Dedicated), [0..1, 3..4]);
    assert_eq!(arena.idle_runs(Tier::Shared), []);
    arena.set_tiers([(0, None), (3, None)], S0);
    arena.check().unwrap();
    assert_eq!(arena.backed(), PerTier::new(2 * G, 0));
    let growth = arena.plan_growth(sized(3 * G / 2), Tier::Dedicated, S0).unwrap();
    assert_eq!((growth.first, growth.count), (0, 1), "the hole in the middle, with the half granule behind it");
}

#[derive(Clone, Debug)]
enum Action {
    Allocate { size: u64, stream: u16, tier: Tier },
    Free { which: usize, stream: u16 },
    Steal { size: u64, stream: u16 },
    Across { size: u64, stream: u16 },
    At { size: u64, at: u64, near: usize, stream: u16, grows: bool },
    Retire { which: usize },
    Strip,
    Shrink { enough: u32 },
    Flip { seed: u32 },
}

fn actions(class: Class) -> impl Strategy<Value = Action> {
    let size = match class {
        Class::Small => (1..=SMALL_LIMIT / ALIGNMENT).boxed(),
        Class::Large => (SMALL_LIMIT / ALIGNMENT + 1..=20_000).boxed(),
    };
    let (across, at) = (size.clone(), size.clone());
    let tier = prop_oneof![3 => Just(Tier::Dedicated), 1 => Just(Tier::Shared)];
    prop_oneof![
        8 => (size.clone(), 0..3u16, tier).prop_map(|(u, stream, tier)| Action::Allocate { size: u * ALIGNMENT, stream, tier }),
        8 => (any::<usize>(), 0..3u16).prop_map(|(which, stream)| Action::Free { which, stream }),
        1 => (size, 0..3u16).prop_map(|(u, stream)| Action::Steal { size: u * ALIGNMENT, stream }),
        2 => (across, 0..3u16).prop_map(|(u, stream)| Action::Across { size: u * ALIGNMENT, stream }),
        4 => (at, 0..64 * G / ALIGNMENT, any::<usize>(), 0..3u16, any::<bool>()).prop_map(|(u, at, near, stream, grows)| {
            Action::At { size: u * ALIGNMENT, at: at * ALIGNMENT, near, stream, grows }
        }),
        1 => any::<usize>().prop_map(|which| Action::Retire { which }),
        1 => Just(Action::Strip),
        2 => (1..40u32).prop_map(|enough| Action::Shrink { enough }),
        1 => any::<u32>().prop_map(|seed| Action::Flip { seed }),
    ]
}

/// Runs actions beside an oracle that knows only which bytes are taken.
fn against_oracle(class: Class, actions: Vec<Action>) {
    let mut arena = Arena::new(256 * G, G, class);
    let mut taken: BTreeMap<u64, u64> = BTreeMap::new();
    let mut live: Vec<u64> = Vec::new();
    let mut retired: Vec<u64> = Vec::new();
    // Some of them outdated, as in a layout whose surroundings have changed.
    let mut nears = [Near::default(); 16];
    let place = |arena: &Arena, taken: &mut BTreeMap<u64, u64>, id: BlockId, size: u64| {
        let (offset, length) = arena.extent(id);
        assert_eq!(length, size);
        assert!(offset.is_multiple_of(ALIGNMENT));
        let before = taken.range(..offset + size).next_back();
        assert!(before.is_none_or(|(o, s)| o + s <= offset), "{offset:#x}+{size:#x} overlaps {before:?}");
        taken.insert(offset, size);
        offset
    };
    for action in actions {
        match action {
            Action::Allocate { size, stream, tier } => {
                let stream = StreamId(stream);
                let id = arena.take(sized(size), tier, stream).or_else(|| {
                    let growth = arena.plan_growth(sized(size), tier, stream)?;
                    arena.grow(growth, tier, stream);
                    Some(arena.take(sized(size), tier, stream).expect("grown for this very request"))
                });
                if let Some(id) = id {
                    assert_eq!(arena.tier(id), Some(tier));
                    live.push(place(&arena, &mut taken, id, size));
                }
            }
            Action::Steal { size, stream } => {
                if let Some((id, from)) =
                    arena.take_from_others(sized(size), Tier::Dedicated, StreamId(stream), |_| true)
                {
                    assert_ne!(from, StreamId(stream));
                    live.push(place(&arena, &mut taken, id, size));
                }
            }
            Action::Across { size, stream } => {
                let stream = StreamId(stream);
                let id = arena.take_across(sized(size), stream).or_else(|| {
                    let growth = arena.plan_growth_across(sized(size), stream)?;
                    arena.grow(growth, Tier::Shared, stream);
                    Some(arena.take_across(sized(size), stream).expect("grown for this very request"))
                });
                if let Some(id) = id {
                    assert_eq!(arena.block(id).stream, stream);
                    live.push(place(&arena, &mut taken, id, size));
                }
            }
            Action::At { size, at, near, stream, grows } => {
                let (stream, near) = (StreamId(stream), &mut nears[near % 16]);
                while grows && let Some(growth) = arena.plan_growth_at(at, sized(size), Tier::Dedicated, stream, near) {
                    assert!((growth.first..growth.first + growth.count).all(|g| arena.tier_of_granule(g).is_none()));
                    arena.grow(growth, Tier::Dedicated, stream);
                    arena.check().unwrap();
                }
                if let Some(id) = arena.take_at(at, sized(size), Tier::Dedicated, stream, near) {
                    assert_eq!((arena.block(id).stream, arena.tier(id)), (stream, Some(Tier::Dedicated)));
                    assert_eq!(place(&arena, &mut taken, id, size), at);
                    live.push(at);
                }
            }
            Action::Free { which, stream } if !live.is_empty() => {
                let offset = live.swap_remove(which % live.len());
                let id = arena.find(offset).expect("live");
                arena.release(id, StreamId(stream));
                taken.remove(&offset);
                assert_eq!(arena.find(offset), None);
            }
            Action::Retire { which } if !live.is_empty() => {
                let offset = live.swap_remove(which % live.len());
                arena.retire(arena.find(offset).expect("live"));
                assert_eq!(arena.find(offset), None);
                retired.push(offset);
            }
            Action::Strip => {
                let idle = arena.idle_granules();
                for granule in &idle {
                    let start = u64::from(*granule) * G;
                    let touching = taken.range(..start + G).next_back();
                    assert!(touching.is_none_or(|(o, s)| o + s <= start), "granule {granule} is in use");
                }
                arena.set_tiers(idle.into_iter().map(|g| (g, None)), StreamId(0));
            }
            Action::Shrink { enough } => {
                let idle = arena.longest_idle(Tier::Dedicated, enough);
                let runs = arena.idle_runs(Tier::Dedicated);
                let found: u32 = idle.iter().map(|run| run.granules.len() as u32).sum();
                for run in &idle {
                    let is_idle = runs.iter().any(|r| r.start <= run.granules.start && run.granules.end <= r.end);
                    assert!(is_idle, "{run:?} is in none of {runs:?}");
                }
                if !arena.is_free_for_others(StreamId(0)) {
                    let all: u32 = runs.iter().map(|run| run.len() as u32).sum();
                    assert!(found >= enough.min(all), "{found} of {all}");
                }
                let before = arena.backed()[Tier::Dedicated];
                let taken: Vec<_> = idle.into_iter().map(|run| run.last(1 + enough / 4)).collect();
                let bytes = taken.iter().map(|run| run.granules.len() as u64 * G).sum::<u64>();
                taken.into_iter().for_each(|run| arena.shrink(run));
                assert_eq!(arena.backed()[Tier::Dedicated], before - bytes);
            }
            Action::Flip { seed } => {
                let flips: Vec<_> = arena
                    .tiers()
                    .zip(0u32..)
                    .filter(|(_, granule)| (seed >> (granule % 32)) & 1 == 1)
                    .filter_map(|(tier, granule)| Some((granule, Some(Tier::ALL[(tier? as usize + 1) % Tier::COUNT]))))
                    .collect();
                arena.set_tiers(flips, StreamId(0));
            }
            Action::Free { .. } | Action::Retire { .. } => {}
        }
        arena.check().unwrap();
        assert_eq!(arena.live_blocks() as usize, live.len() + retired.len());
        let known: Vec<_> = arena.blocks().map(|b| (b.offset, b.size)).collect();
        assert_eq!(known, taken.iter().map(|(o, s)| (*o, *s)).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn small_arenas_never_overlap(actions in prop::collection::vec(actions(Class::Small), 1..120)) {
        against_oracle(Class::Small, actions);
    }

    #[test]
    fn large_arenas_never_overlap(actions in prop::collection::vec(actions(Class::Large), 1..120)) {
        against_oracle(Class::Large, actions);
    }
}
