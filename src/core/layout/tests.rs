//! The layout beside the fit: programs of large blocks, run with both.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::core::size::{Class, SMALL_LIMIT};

const G: u64 = 2 << 20;
const ARENA: ArenaId = ArenaId(1);
const STREAM: StreamId = StreamId(0);

/// A block that is allocated, by a name that is free, or one that is freed.
#[derive(Clone, Copy, Debug)]
enum Call {
    Malloc(u32, u64),
    Free(u32),
}

/// An arena and what a heap does with it, without a driver.
struct World {
    arena: Arena,
    layout: Learned,
    blocks: HashMap<u32, u64>,
    live: u64,
    peak_live: u64,
    peak_backed: u64,
    laid: u64,
}

impl World {
    fn new(layout: Layout) -> World {
        World {
            arena: Arena::new(1 << 40, G, Class::Large),
            layout: Learned::new(layout),
            blocks: HashMap::new(),
            live: 0,
            peak_live: 0,
            peak_backed: 0,
            laid: 0,
        }
    }

    fn run(&mut self, calls: &[Call]) {
        for call in calls {
            match *call {
                Call::Malloc(name, bytes) => self.malloc(name, bytes),
                Call::Free(name) => self.free(name),
            }
        }
    }

    fn backed(&self) -> u64 {
        self.arena.backed()[Tier::Dedicated]
    }

    fn strip(&mut self) {
        let idle = self.arena.idle_granules();
        self.arena.set_tiers(idle.into_iter().map(|granule| (granule, None)), STREAM);
    }

    fn malloc(&mut self, name: u32, bytes: u64) {
        let size = BlockSize::of(bytes).unwrap();
        let laid = if self.layout.is_awake() { self.lay(size) } else { None };
        self.laid += u64::from(laid.is_some());
        let block = laid.or_else(|| self.arena.take(size, Tier::Dedicated, STREAM)).unwrap_or_else(|| self.grow(size));
        self.arena.marks_mut(block).request = self.layout.take_number();
        let (offset, bytes) = self.arena.extent(block);
        assert_eq!(self.blocks.insert(name, offset), None);
        self.live += bytes;
        self.peak_live = self.peak_live.max(self.live);
        self.peak_backed = self.peak_backed.max(self.backed());
    }

    fn lay(&mut self, size: BlockSize) -> Option<crate::core::BlockId> {
        if self.layout.see(ARENA, STREAM, self.live) == Seen::Begins && self.layout.turn(&self.arena, G).is_some() {
            self.strip();
        }
        let (offset, near) = self.layout.place(size)?;
        let mut near = *near;
        let near = &mut near;
        while let Some(growth) = self.arena.plan_growth_at(offset, size, Tier::Dedicated, STREAM, near) {
            if !self.layout.may_back(self.backed() + u64::from(growth.count) * G) {
                break;
            }
            if self.strips_first(u64::from(growth.count) * G) {
                continue;
            }
            self.arena.grow(growth, Tier::Dedicated, STREAM);
        }
        let taken = self.arena.take_at(offset, size, Tier::Dedicated, STREAM, near);
        if taken.is_none() {
            self.layout.missed();
        }
        taken
    }

    fn strips_first(&mut self, bytes: u64) -> bool {
        let idle = || self.arena.idle_granules().len() as u64 * G;
        let repairs = self.layout.repairs(ARENA, self.arena.backed()[Tier::Dedicated] + bytes, self.live, idle);
        if repairs {
            self.strip();
        }
        repairs
    }

    fn grow(&mut self, size: BlockSize) -> crate::core::BlockId {
        self.layout.grew(ARENA, STREAM, self.live);
        self.strips_first(size.rounded());
        let growth = self.arena.plan_growth(size, Tier::Dedicated, STREAM).unwrap();
        self.arena.grow(growth, Tier::Dedicated, STREAM);
        self.arena.take(size, Tier::Dedicated, STREAM).unwrap()
    }

    fn free(&mut self, name: u32) {
        let id = self.arena.find(self.blocks.remove(&name).unwrap()).unwrap();
        let number = self.arena.owner(id).1.request;
        self.layout.freed(number);
        self.live -= self.arena.extent(id).1;
        self.arena.release(id, STREAM);
    }

    fn begin_measuring(&mut self) {
        (self.peak_live, self.peak_backed) = (self.live, self.backed());
    }

    fn waste(&self) -> f64 {
        self.peak_backed as f64 / self.peak_live as f64
    }
}

/// A small generator, so that programs are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn model(world: &mut World, weights: u32) {
    let calls: Vec<_> =
        (0..weights).map(|at| Call::Malloc(1_000_000 + at, SMALL_LIMIT + 5_600_000 * u64::from(at % 7 + 1))).collect();
    world.run(&calls);
}

/// A step whose blocks come and go in an order that the fit does badly with, of some length.
fn step(seed: u64, blocks: u32, length: u64) -> Vec<Call> {
    let mut random = Random(seed);
    let (mut calls, mut live) = (Vec::new(), Vec::new());
    for name in 0..blocks {
        let bytes = SMALL_LIMIT + 512 + (1 + random.below(24)) * length * 8192;
        calls.push(Call::Malloc(name, bytes));
        live.push(name);
        while live.len() as u64 > 4 + random.below(16) {
            calls.push(Call::Free(live.swap_remove(random.below(live.len() as u64) as usize)));
        }
    }
    calls.extend(live.into_iter().map(Call::Free));
    calls
}

/// What a program of steps wastes once half of it is done, by the fit and as learned.
fn both(steps: &[Vec<Call>]) -> (f64, f64, u64) {
    let run = |layout| {
        let mut world = World::new(layout);
        model(&mut world, 100);
        for (number, step) in steps.iter().enumerate() {
            if number == steps.len() / 2 {
                world.begin_measuring();
            }
            world.run(step);
        }
        world.arena.check().unwrap();
        world
    };
    let (fit, learned) = (run(Layout::Fit), run(Layout::Learned));
    assert_eq!(fit.laid, 0);
    (fit.waste(), learned.waste(), learned.laid)
}

#[test]
fn steps_that_repeat_are_laid_out() {
    for seed in [3, 5, 7] {
        let steps = vec![step(seed, 300, 512); 20];
        let (fit, learned, laid) = both(&steps);
        assert!(fit > 1.02 && learned < 1.0 + (fit - 1.0) / 2.0, "fit {fit:.4}, learned {learned:.4}, {laid} laid out");
    }
}

#[test]
fn steps_of_several_kinds_and_lengths_are_laid_out() {
    let mut random = Random(11);
    let lengths: Vec<_> = (0..40).map(|_| step(3, 300, 256 + random.below(512))).collect();
    let (fit, learned, laid) = both(&lengths);
    assert!(learned < 1.0 + (fit - 1.0) * 0.75, "lengths: fit {fit:.4}, learned {learned:.4}, {laid} laid out");
    let kinds: Vec<_> = (0..60)
        .map(|_| {
            let kind = random.below(3);
            step(3 + kind, 200 + 50 * kind as u32, 512)
        })
        .collect();
    let (fit, learned, laid) = both(&kinds);
    assert!(learned < 1.0 + (fit - 1.0) / 2.0, "kinds: fit {fit:.4}, learned {learned:.4}, {laid} laid out");
}

#[test]
fn work_that_never_repeats_is_left_to_the_fit() {
    let steps: Vec<_> = (0..40).map(|number| step(100 + number, 300, 512)).collect();
    let (fit, learned, laid) = both(&steps);
    assert!(learned <= fit * 1.0001, "fit {fit:.4}, learned {learned:.4}, {laid} laid out");
}

#[test]
fn nobody_watches_once_nothing_is_to_be_gained() {
    let mut world = World::new(Layout::Learned);
    model(&mut world, 10);
    let tight: Vec<Call> = (0..20).map(|name| Call::Malloc(name, 8 * G)).chain((0..20).map(Call::Free)).collect();
    (0..100).for_each(|_| world.run(&tight));
    assert!(!world.layout.is_awake());
    world.run(&step(3, 300, 512));
    assert!(world.layout.is_awake(), "growth is looked at again");
}

#[derive(Clone, Debug)]
enum Turn {
    Repeat { seed: u64, length: u64 },
    Cut { seed: u64, length: u64, at: u64 },
    Keep { seed: u64 },
    Drop,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let length = || prop_oneof![4 => Just(512u64), 2 => 128..1024u64];
    let turn = prop_oneof![
        12 => (1..4u64, length()).prop_map(|(seed, length)| Turn::Repeat { seed, length }),
        3 => (1..4u64, length(), 1..120u64).prop_map(|(seed, length, at)| Turn::Cut { seed, length, at }),
        2 => (1..4u64).prop_map(|seed| Turn::Keep { seed }),
        1 => Just(Turn::Drop),
    ];
    prop::collection::vec(turn, 4..60)
}

/// Steps that repeat until a plan is followed, and then do something else: they break off and go
/// on with others while their blocks live, leave blocks behind, and free them later.
fn adversarial(turns: &[Turn]) -> Vec<Vec<Call>> {
    let (mut kept, mut next) = (Vec::new(), 10_000u32);
    let renamed = |calls: Vec<Call>, first: u32| -> Vec<Call> {
        calls
            .into_iter()
            .map(|call| match call {
                Call::Malloc(name, bytes) => Call::Malloc(first + name, bytes),
                Call::Free(name) => Call::Free(first + name),
            })
            .collect()
    };
    let mut steps = Vec::new();
    for turn in turns {
        steps.push(match *turn {
            Turn::Repeat { seed, length } => step(seed, 120, length),
            Turn::Cut { seed, length, at } => {
                // Broken off: what lives then lives through another step.
                let mut calls: Vec<Call> = step(seed, 120, length).into_iter().take(at as usize).collect();
                let freed: Vec<u32> = calls
                    .iter()
                    .filter_map(|call| match call {
                        Call::Free(name) => Some(*name),
                        Call::Malloc(..) => None,
                    })
                    .collect();
                let left: Vec<u32> = calls
                    .iter()
                    .filter_map(|call| match call {
                        Call::Malloc(name, _) if !freed.contains(name) => Some(*name),
                        _ => None,
                    })
                    .collect();
                next += 1000;
                calls.extend(renamed(step(seed + 7, 120, length), next));
                calls.extend(left.into_iter().map(Call::Free));
                calls
            }
            Turn::Keep { seed } => {
                next += 1000;
                let mut calls = renamed(step(seed, 120, 512), next);
                if let Some(Call::Free(name)) = calls.pop() {
                    kept.push(name);
                }
                calls
            }
            Turn::Drop => kept.pop().map(Call::Free).into_iter().collect(),
        });
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn adversarial_work_is_never_worse_than_the_fit_by_more_than_a_hundredth(turns in turns()) {
        let run = |layout| {
            let mut world = World::new(layout);
            model(&mut world, 40);
            for step in adversarial(&turns) {
                world.run(&step);
                world.arena.check().unwrap();
            }
            world
        };
        let (fit, learned) = (run(Layout::Fit), run(Layout::Learned));
        let most = fit.peak_backed + fit.peak_backed / 100;
        prop_assert!(learned.peak_backed <= most, "{} granules instead of {}", learned.peak_backed / G, fit.peak_backed / G);
    }
}
