//! What the operating system grants of a card's memory, as Windows does. The driver creates more
//! than that, and the allocator does not ask for it.

use super::common::{DEFAULT, Filled, GRANULE, KEEP, SHARE, kitten_on, load, machine, reserve, tier_of};
use giant_kitten::{Activation, Allocator, Options, Tier};
use kitten_sim::Gpu;

const DEDICATED: u64 = 64;
const SHARED: u64 = 128;

/// Granules that the device's dedicated tier holds.
fn held(allocator: &Allocator) -> u64 {
    allocator.stats(0).unwrap().tiers[Tier::Dedicated].reserved.current() / GRANULE
}

fn grant(gpu: &Gpu, dedicated: u64, shared: u64) {
    gpu.grant(0, Some([dedicated * GRANULE, shared * GRANULE]));
    crate::answers_grow_old();
}

/// A driver that creates whatever it is asked for, on a system that grants granules. `None` where
/// the driver of this run knows no system that does.
fn overcommitting(dedicated: u64, shared: u64, options: &str) -> Option<(Gpu, Allocator)> {
    let gpu = machine(1, DEDICATED * GRANULE, SHARED * GRANULE);
    gpu.overcommit();
    gpu.grant(0, Some([dedicated * GRANULE, shared * GRANULE]));
    let knows = crate::driver(&gpu).granted(0).unwrap().is_some();
    assert_eq!(knows, crate::KNOWS_GRANTS);
    knows.then(|| (gpu.clone(), kitten_on(&gpu, options)))
}

#[test]
fn no_more_dedicated_memory_is_created_than_is_granted() {
    let Some((gpu, allocator)) = overcommitting(40, 100, "") else { return };
    let blocks = load(&gpu, &allocator, 20, 4);
    let kept = blocks.iter().filter(|block| tier_of(&allocator, block) == KEEP).count();
    assert_eq!((kept, held(&allocator)), (10, 40), "the rest overflows to the shared tier, in our order");
    assert_eq!(gpu.spilled(), 0, "and nothing was left to the driver");
    let stats = allocator.stats(0).unwrap();
    let [dedicated, shared] = Tier::ALL.map(|tier| stats.granted[tier]);
    assert_eq!((dedicated.budget, shared.budget), (40 * GRANULE, 100 * GRANULE));
    blocks.iter().for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
}

#[test]
fn a_driver_that_overcommits_would_have_spilled() {
    let gpu = machine(1, DEDICATED * GRANULE, SHARED * GRANULE);
    gpu.overcommit();
    let driver = crate::driver(&gpu);
    let made: Vec<_> = (0..DEDICATED + 4).map(|_| driver.create(0, Tier::Dedicated, GRANULE).unwrap()).collect();
    assert_eq!(gpu.spilled(), 4 * GRANULE);
    made.into_iter().for_each(|handle| driver.release(0, handle).unwrap());
}

#[test]
fn what_others_in_the_process_use_is_left_to_them() {
    let Some((gpu, allocator)) = overcommitting(40, 100, "") else { return };
    let _others = (0..10).map(|_| gpu.create(0, kitten_sim::Tier::Dedicated, GRANULE).unwrap()).collect::<Vec<_>>();
    load(&gpu, &allocator, 10, 4);
    assert_eq!(held(&allocator), 30 / 4 * 4);
    let (used, free) = gpu.memory_info(0, kitten_sim::Tier::Dedicated).map(|(all, free)| (all - free, free)).unwrap();
    assert!(used <= 40 * GRANULE && free > 0);
    allocator.check().unwrap();
}

#[test]
fn no_more_shared_memory_is_taken_than_is_granted() {
    let Some((gpu, allocator)) = overcommitting(16, 24, "") else { return };
    let mut blocks = Vec::new();
    let why = loop {
        match allocator.malloc((2 * GRANULE) as usize, 0, DEFAULT) {
            Ok(block) => blocks.push(block),
            Err(why) => break why.to_string(),
        }
    };
    let [(_, dedicated), (_, shared)] = gpu.granted(0).unwrap().unwrap();
    assert!(dedicated <= 16 * GRANULE && shared <= 24 * GRANULE, "{dedicated} {shared}");
    assert!(blocks.len() >= 18, "{}", blocks.len());
    assert!(why.contains("out of memory"), "{why}");
    assert_eq!(gpu.spilled(), 0);
    allocator.check().unwrap();
}

#[test]
fn the_headroom_is_left_of_what_is_granted() {
    let Some((gpu, allocator)) = overcommitting(40, 100, "headroom:16MiB") else { return };
    load(&gpu, &allocator, 10, 4);
    assert_eq!(held(&allocator), 32);
}

#[test]
fn headroom_is_given_up_within_what_is_granted() {
    // The CUDA driver leaves 256 MiB on a small card, and a floor of a quarter of that.
    let (granted, headroom, floor) = (300, 128, 32);
    let mut card = machine(1, 320 * GRANULE, 64 * GRANULE).device_profile(0).unwrap();
    card.headroom_bytes = headroom * GRANULE;
    let gpu = Gpu::new(&[card]).unwrap();
    gpu.overcommit();
    grant(&gpu, granted, 64 + headroom);
    if !crate::KNOWS_GRANTS {
        return;
    }
    let options = Options::parse(&format!("shared:{}", 64 * GRANULE)).unwrap();
    let allocator = Allocator::new(options, crate::driver(&gpu)).unwrap();
    let loaded = Filled::new(&gpu, &allocator, (granted - headroom) * GRANULE, 1);
    let more = Filled::new(&gpu, &allocator, 50 * GRANULE, 2);
    assert_eq!((tier_of(&allocator, &loaded), tier_of(&allocator, &more)), (KEEP, KEEP));
    (0..40).for_each(|_| drop(allocator.malloc((2 * GRANULE) as usize, 0, DEFAULT)));
    assert_eq!(held(&allocator), granted - floor);
    assert_eq!(gpu.spilled(), 0);
    [loaded, more].iter().for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
}

#[test]
fn a_budget_that_shrinks_takes_idle_memory_at_the_next_safe_point_and_at_the_next_growth() {
    for grows in [false, true] {
        let Some((gpu, allocator)) = overcommitting(60, 100, "") else { return };
        let kept = Filled::new(&gpu, &allocator, 4 * GRANULE, 1);
        let passing = load(&gpu, &allocator, 10, 4);
        passing.iter().for_each(|block| allocator.free(block.address, 0, DEFAULT).unwrap());
        assert_eq!(held(&allocator), 44);
        grant(&gpu, 20, 100);
        if grows {
            // What was allocated is idle and mapped, and is unmapped when this finds no room.
            let large = Filled::new(&gpu, &allocator, 48 * GRANULE, 2);
            large.check(&gpu);
        } else {
            allocator.safe_point(0, "").unwrap();
        }
        assert!(held(&allocator) <= 20, "{} granules are held", held(&allocator));
        kept.check(&gpu);
        assert_eq!(gpu.spilled(), 0);
        grant(&gpu, 60, 100);
        let again = Filled::new(&gpu, &allocator, 12 * GRANULE, 3);
        assert!(grows || tier_of(&allocator, &again) == KEEP, "what is granted again is used again");
        again.check(&gpu);
        allocator.check().unwrap();
    }
}

#[test]
fn a_budget_that_shrinks_takes_the_reserve_in_stock() {
    let Some((gpu, allocator)) = overcommitting(60, 100, "reserve:32MiB") else { return };
    let block = Filled::new(&gpu, &allocator, 30 * GRANULE, 1);
    assert_eq!(held(&allocator), 46);
    grant(&gpu, 36, 100);
    allocator.safe_point(0, "").unwrap();
    assert_eq!(held(&allocator), 36);
    assert_eq!(tier_of(&allocator, &block), KEEP);
    block.check(&gpu);
    allocator.check().unwrap();
}

#[test]
fn an_action_places_blocks_within_what_is_granted() {
    let Some((gpu, allocator)) = overcommitting(60, 100, "") else { return };
    let blocks = load(&gpu, &allocator, 10, 4);
    grant(&gpu, 30, 100);
    allocator.activate(0, &reserve(6 * GRANULE)).unwrap();
    if crate::MIGRATES {
        assert_eq!(held(&allocator), 30);
        let kept = blocks.iter().filter(|block| tier_of(&allocator, block) == KEEP).count();
        assert_eq!(kept, 6, "24 of 30 granules, beside the reserve");
        let scratch = Filled::new(&gpu, &allocator, 6 * GRANULE, 9);
        assert_eq!(tier_of(&allocator, &scratch), KEEP);
    }
    grant(&gpu, 60, 100);
    allocator.disable(0, Activation::default().order).unwrap();
    assert!(blocks.iter().all(|block| tier_of(&allocator, block) == KEEP));
    blocks.iter().for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
}

#[test]
fn what_can_be_had_is_within_what_is_granted() {
    let Some((gpu, allocator)) = overcommitting(40, 100, "") else { return };
    let found = allocator.look_at(0).unwrap();
    assert_eq!(found.capacity[Tier::Dedicated], 40 * GRANULE);
    assert_eq!(found.granted.unwrap()[Tier::Dedicated].budget, 40 * GRANULE);
    let block = Filled::new(&gpu, &allocator, 4 * GRANULE, 1);
    assert_eq!(allocator.memory_info(0).unwrap().free[Tier::Dedicated], 36 * GRANULE);
    grant(&gpu, 10, 100);
    assert_eq!(allocator.memory_info(0).unwrap().free[Tier::Dedicated], 6 * GRANULE);
    let (map, look) = (allocator.map(0).unwrap(), allocator.look(0).unwrap());
    assert_eq!(map.granted[Tier::Dedicated].budget, 10 * GRANULE);
    assert_eq!(look.stats.granted[Tier::Dedicated].usage, 4 * GRANULE);
    let large = Filled::new(&gpu, &allocator, 8 * GRANULE, 1);
    assert_ne!(tier_of(&allocator, &large), KEEP);
    assert!(!crate::MIGRATES || tier_of(&allocator, &large) == SHARE);
    block.check(&gpu);
}

#[test]
fn a_group_without_a_budget_limits_nothing() {
    // Where the card has no memory of its own, all of it is in one group.
    let Some((gpu, allocator)) = overcommitting(40, 0, "") else { return };
    let blocks = load(&gpu, &allocator, 20, 4);
    assert_eq!(blocks.iter().filter(|block| tier_of(&allocator, block) == SHARE).count(), 10);
    allocator.check().unwrap();
}

#[test]
fn the_automatic_mode_demotes_what_is_beyond_a_budget_that_has_shrunk() {
    let Some((gpu, allocator)) = overcommitting(60, 100, "") else { return };
    let blocks = load(&gpu, &allocator, 10, 4);
    let work = || {
        let scratch = Filled::new(&gpu, &allocator, 4 * GRANULE, 9);
        allocator.free(scratch.address, 0, DEFAULT).unwrap();
        allocator.safe_point(0, "work").unwrap();
    };
    (0..3).for_each(|_| work());
    assert!(blocks.iter().all(|block| tier_of(&allocator, block) == KEEP));
    grant(&gpu, 30, 100);
    (0..3).for_each(|_| work());
    assert!(!crate::MIGRATES || held(&allocator) <= 30, "{} granules are held", held(&allocator));
    blocks.iter().for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
}
