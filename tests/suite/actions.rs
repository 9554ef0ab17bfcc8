//! The actions of the original, on live blocks: where everything lies afterwards, and that contents and addresses stay.

use super::common::{
    DEFAULT, Filled, GRANULE, KEEP, MIB, ORIGINALS_LAYOUTS, SHARE, kitten_on, machine, originals_blocks, reserve,
    setup, tier_of,
};
use giant_kitten::core::placement::Order;
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Error, Phase, Reserve, Tier};
use kitten_sim::{Access, Completion};

#[test]
fn the_layout_after_activate_is_the_originals() {
    for (kept, sort_reversed, ignore_model, expected) in ORIGINALS_LAYOUTS {
        let (gpu, kitten) = setup(16 * GRANULE, 32 * GRANULE, "");
        let blocks = originals_blocks(&gpu, &kitten);
        let activation = Activation { sort_reversed, ignore_model, ..reserve(kept * GRANULE) };
        kitten.activate(0, &activation).unwrap();
        assert_eq!(blocks.map(|block| tier_of(&kitten, &block)), expected, "{activation:?}");
        blocks.iter().for_each(|block| block.check(&gpu));
        let stats = kitten.stats(0).unwrap();
        let resident = stats.tiers[Tier::Dedicated].mapped.current();
        assert!(resident <= (16 - kept) * GRANULE, "the reserve is left alone");
        assert!(
            stats.tiers[Tier::Dedicated].reserved.current() >= resident + kept * GRANULE,
            "and its backing is held"
        );
        kitten.check().unwrap();
    }
}

#[test]
fn the_block_at_the_border_lies_in_both_tiers() {
    let (gpu, kitten) = setup(8 * GRANULE, 32 * GRANULE, "");
    let block = Filled::new(&gpu, &kitten, 8 * GRANULE, 1);
    kitten.activate(0, &reserve(3 * GRANULE)).unwrap();
    let bytes = kitten.residency(block.address).unwrap();
    assert_eq!((bytes[Tier::Dedicated], bytes[Tier::Shared]), (5 * GRANULE, 3 * GRANULE));
    block.check(&gpu);
}

#[test]
fn scratch_gets_the_reserve_before_any_free_shared_block() {
    let (gpu, kitten) = setup(16 * GRANULE, 32 * GRANULE, "");
    let weights: Vec<_> = (0..7).map(|i| Filled::new(&gpu, &kitten, 2 * GRANULE, i)).collect();
    // A first, overflowing generation leaves free shared blocks behind.
    let scratch: Vec<_> = (0..4).map(|i| Filled::new(&gpu, &kitten, 2 * GRANULE, 100 + i)).collect();
    assert_eq!(tier_of(&kitten, &scratch[3]), SHARE);
    scratch.iter().for_each(|block| kitten.free(block.address, 0, DEFAULT).unwrap());
    kitten.activate(0, &reserve(8 * GRANULE)).unwrap();

    let scratch: Vec<_> = (0..5).map(|i| Filled::new(&gpu, &kitten, 2 * GRANULE, 200 + i)).collect();
    let tiers: Vec<_> = scratch.iter().map(|block| tier_of(&kitten, block)).collect();
    assert_eq!(tiers, [KEEP, KEEP, KEEP, KEEP, SHARE], "the reserve first, then shared");
    let stats = kitten.stats(0).unwrap();
    assert_eq!(stats.reserve_used.current(), 8 * GRANULE);
    scratch.iter().chain(&weights).for_each(|block| block.check(&gpu));

    // Freed dedicated scratch is taken again before a free shared block.
    for block in scratch {
        kitten.free(block.address, 0, DEFAULT).unwrap();
    }
    let again = Filled::new(&gpu, &kitten, 2 * GRANULE, 300);
    assert_eq!(tier_of(&kitten, &again), KEEP);
    assert_eq!(kitten.stats(0).unwrap().reserve_used.peak(), 8 * GRANULE);
    // While frozen a freed weight's place serves scratch as well, before shared memory does.
    let dedicated = weights.iter().find(|block| tier_of(&kitten, block) == KEEP).unwrap();
    kitten.free(dedicated.address, 0, DEFAULT).unwrap();
    let more: Vec<_> = (0..4).map(|i| Filled::new(&gpu, &kitten, 2 * GRANULE, 400 + i)).collect();
    assert!(more.iter().all(|block| tier_of(&kitten, block) == KEEP));
    kitten.check().unwrap();
}

#[test]
fn a_block_may_need_what_is_left_of_both_tiers() {
    let (gpu, kitten) = setup(16 * GRANULE, 16 * GRANULE, "");
    let first = Filled::new(&gpu, &kitten, 12 * GRANULE, 1);
    // 4 granules are left here and 15 there, one of 16 being the working room.
    let both = Filled::new(&gpu, &kitten, 18 * GRANULE, 2);
    let tiers = kitten.residency(both.address).unwrap();
    assert_eq!((tiers[Tier::Dedicated], tiers[Tier::Shared]), (4 * GRANULE, 14 * GRANULE));
    let why = kitten.malloc(2 * GRANULE as usize, 0, DEFAULT).unwrap_err();
    assert!(matches!(why, Error::OutOfMemory(_)));
    kitten.check().unwrap();
    kitten.disable(0, Order::default()).unwrap();
    [first, both].iter().for_each(|block| block.check(&gpu));
    kitten.free(both.address, 0, DEFAULT).unwrap();
    Filled::new(&gpu, &kitten, 18 * GRANULE, 3).check(&gpu);
    kitten.check().unwrap();
}

#[test]
fn loading_leaves_the_configured_reserve_alone() {
    let (gpu, kitten) = setup(16 * GRANULE, 32 * GRANULE, &format!("reserve:{}", 6 * GRANULE));
    let weights: Vec<_> = (0..12).map(|i| Filled::new(&gpu, &kitten, GRANULE, i)).collect();
    let dedicated = weights.iter().filter(|block| tier_of(&kitten, block) == KEEP).count();
    assert_eq!(dedicated, 10);
    kitten.activate(0, &Activation::from(kitten.options())).unwrap();
    assert_eq!(kitten.stats(0).unwrap().migrated_bytes, 0, "nothing had to move");
}

#[test]
fn persist_makes_a_smaller_card() {
    let (gpu, kitten) = setup(16 * GRANULE, 32 * GRANULE, "");
    let blocks: Vec<_> = (0..12).map(|i| Filled::new(&gpu, &kitten, GRANULE, i)).collect();
    kitten
        .activate(
            0,
            &Activation { reserve: Reserve::Fixed(4 * GRANULE), persist: 6 * GRANULE, ..Activation::default() },
        )
        .unwrap();
    let stats = kitten.stats(0).unwrap();
    assert_eq!(stats.tiers[Tier::Dedicated].mapped.current(), 6 * GRANULE);
    assert!(stats.tiers[Tier::Dedicated].reserved.current() <= 10 * GRANULE, "persist is not even held");
    let scratch: Vec<_> = (0..6).map(|i| Filled::new(&gpu, &kitten, GRANULE + 512, 50 + i)).collect();
    assert!(kitten.stats(0).unwrap().tiers[Tier::Dedicated].mapped.current() <= 10 * GRANULE);
    kitten.disable(0, Order::default()).unwrap();
    blocks.iter().chain(&scratch).for_each(|block| block.check(&gpu));
    assert_eq!(kitten.stats(0).unwrap().persist, 0, "every action sets it anew");
}

#[test]
fn free_vram_gives_everything_dedicated_back_and_blocks_stay_usable() {
    let (gpu, kitten) = setup(16 * GRANULE, 32 * GRANULE, "");
    let blocks: Vec<_> = (0..14).map(|i| Filled::new(&gpu, &kitten, GRANULE, i)).collect();
    kitten.free_vram(0).unwrap();
    let (capacity, free) = gpu.memory_info(0, kitten_sim::Tier::Dedicated).unwrap();
    assert_eq!(free, capacity);
    assert!(blocks.iter().all(|block| tier_of(&kitten, block) == SHARE));
    blocks.iter().for_each(|block| block.check(&gpu));
    assert_eq!(kitten.stats(0).unwrap().phase, Phase::Freed);
    kitten.disable(0, Order::default()).unwrap();
    assert!(blocks.iter().all(|block| tier_of(&kitten, block) == KEEP));
    blocks.iter().for_each(|block| block.check(&gpu));
}

#[test]
fn any_action_may_follow_any_other() {
    let (gpu, kitten) = setup(16 * GRANULE, 40 * GRANULE, "");
    let mut blocks: Vec<_> = (0..20).map(|i| Filled::new(&gpu, &kitten, GRANULE - 4096 * i, i)).collect();
    blocks.extend((0..40).map(|i| Filled::new(&gpu, &kitten, 1000 * (i + 1), 100 + i)));
    for (i, action) in [0, 0, 1, 1, 2, 2, 0, 2, 1, 0, 1, 2, 1].into_iter().enumerate() {
        match action {
            0 => kitten.activate(0, &reserve(i as u64 % 7 * GRANULE)).unwrap(),
            1 => kitten.disable(0, Order { sort_reversed: i % 2 == 0, ..Order::default() }).unwrap(),
            _ => kitten.free_vram(0).unwrap(),
        };
        kitten.check().unwrap();
        blocks.iter().for_each(|block| block.check(&gpu));
        let block = blocks.swap_remove(i);
        kitten.free(block.address, 0, DEFAULT).unwrap();
        blocks.push(Filled::new(&gpu, &kitten, GRANULE + 512 * i as u64, 1000 + i as u64));
    }
    assert_eq!(gpu.faults(), []);
}

#[test]
fn migration_works_with_both_tiers_full() {
    let (gpu, kitten) = setup(8 * GRANULE, 9 * GRANULE, "");
    // Sixteen granules fill both tiers, save one of working room.
    let blocks: Vec<_> = (0..16).map(|i| Filled::new(&gpu, &kitten, GRANULE, i)).collect();
    assert!(kitten.malloc(GRANULE as usize, 0, DEFAULT).is_err());
    for block in &blocks[8..] {
        kitten.mark(block.address, true).unwrap();
    }
    kitten.activate(0, &reserve(0)).unwrap();
    assert!(blocks[8..].iter().all(|block| tier_of(&kitten, block) == KEEP));
    assert!(blocks[..8].iter().all(|block| tier_of(&kitten, block) == SHARE));
    blocks.iter().for_each(|block| block.check(&gpu));
    kitten.check().unwrap();
}

#[test]
fn frozen_means_nothing_is_released_and_nothing_moves() {
    let (gpu, kitten) = setup(16 * GRANULE, 32 * GRANULE, "");
    let block = Filled::new(&gpu, &kitten, 4 * GRANULE, 1);
    kitten.activate(0, &reserve(4 * GRANULE)).unwrap();
    let scratch = Filled::new(&gpu, &kitten, 3 * GRANULE, 2);
    kitten.free(scratch.address, 0, DEFAULT).unwrap();
    let before = (gpu.outstanding(), kitten.map(0).unwrap());
    let calls = gpu.total_calls();
    kitten.reset().unwrap();
    assert_eq!((gpu.outstanding(), kitten.map(0).unwrap()), before);
    assert_eq!(gpu.total_calls(), calls, "reset is inert");
    kitten.disable(0, Order::default()).unwrap();
    kitten.free(block.address, 0, DEFAULT).unwrap();
    kitten.reset().unwrap();
    assert_eq!(gpu.memory_info(0, kitten_sim::Tier::Dedicated).map(|(c, f)| c - f), Ok(0), "thawed, reset gives back");
}

#[test]
fn what_cannot_fit_moves_nothing_and_says_so() {
    let (gpu, kitten) = setup(16 * GRANULE, 4 * GRANULE, "");
    let blocks: Vec<_> = (0..12).map(|i| Filled::new(&gpu, &kitten, GRANULE, i)).collect();
    let before = kitten.map(0).unwrap();
    for result in [kitten.activate(0, &reserve(10 * GRANULE)), kitten.free_vram(0)] {
        let why = result.unwrap_err().to_string();
        assert!(why.contains("nothing was moved") && why.contains("MiB"), "{why}");
    }
    let why = kitten.activate(0, &reserve(17 * GRANULE)).unwrap_err();
    assert!(matches!(&why, Error::Argument(text) if text.contains("more than")), "{why}");
    assert_eq!(kitten.map(0).unwrap(), before);
    assert_eq!(kitten.stats(0).unwrap().phase, Phase::Loading);
    blocks.iter().for_each(|block| block.check(&gpu));
}

#[test]
fn out_of_memory_tells_the_figures_of_both_tiers() {
    let (_gpu, kitten) = setup(4 * GRANULE, 4 * GRANULE, "");
    for _ in 0..7 {
        kitten.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    }
    let why = kitten.malloc(100 * MIB as usize, 0, DEFAULT).unwrap_err();
    let text = why.to_string();
    assert!(matches!(why, Error::OutOfMemory(_)));
    for part in ["100.00 MiB", "dedicated: 8.00 MiB", "shared: 6.00 MiB", "GPU 0"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    let stats = kitten.stats(0).unwrap();
    assert_eq!((stats.out_of_memory, stats.fell_to_shared), (1, 3));
}

#[test]
fn before_out_of_memory_everything_idle_is_taken_back() {
    let (gpu, kitten) = setup(4 * GRANULE, 5 * GRANULE, "");
    let blocks: Vec<_> = (0..8).map(|i| Filled::new(&gpu, &kitten, GRANULE, i)).collect();
    for block in [1, 5, 7].map(|i| blocks[i]) {
        kitten.free(block.address, 0, DEFAULT).unwrap();
    }
    // One granule is idle in the dedicated tier and two in the shared one, apart from one another: these two serve.
    let large = Filled::new(&gpu, &kitten, 2 * GRANULE, 50);
    assert_eq!(tier_of(&kitten, &large), SHARE);
    large.check(&gpu);
    assert_eq!(kitten.stats(0).unwrap().retries, 1);
    [0, 2, 3, 4, 6].iter().for_each(|i: &usize| blocks[*i].check(&gpu));
    kitten.check().unwrap();
}

#[test]
fn idle_dedicated_memory_is_stitched_before_anything_shared_is_given_out() {
    for frozen in [false, true] {
        let (gpu, kitten) = setup(8 * GRANULE, 16 * GRANULE, "");
        if frozen {
            kitten.activate(0, &reserve(8 * GRANULE)).unwrap();
        }
        let blocks: Vec<_> = (0..8).map(|i| Filled::new(&gpu, &kitten, GRANULE, i)).collect();
        assert!(blocks.iter().all(|block| tier_of(&kitten, block) == KEEP));
        // Idle apart from one another, one of them freed with work in flight that is waited for.
        gpu.set_completion(Completion::Late);
        gpu.launch(DEFAULT.0, "use", &[Access::read(blocks[3].address, GRANULE)]).unwrap();
        for block in [0, 3, 6].map(|i| blocks[i]) {
            kitten.free(block.address, 0, DEFAULT).unwrap();
        }
        let large = Filled::new(&gpu, &kitten, 3 * GRANULE, 50);
        assert!(gpu.faults().is_empty(), "{:?}", gpu.faults());
        assert_eq!(tier_of(&kitten, &large), KEEP);
        let stats = kitten.stats(0).unwrap();
        assert_eq!((stats.stitched_bytes, stats.fell_to_shared, stats.migrations), (3 * GRANULE, 0, 0));
        assert_eq!(stats.tiers[Tier::Dedicated].mapped.peak(), 8 * GRANULE);
        // As much again is not idle: now something shared is given out, and nothing is taken apart for it.
        let more = Filled::new(&gpu, &kitten, 2 * GRANULE, 60);
        assert_eq!(tier_of(&kitten, &more), SHARE);
        assert_eq!(kitten.stats(0).unwrap().stitched_bytes, 3 * GRANULE);
        [1, 2, 4, 5, 7].iter().for_each(|i: &usize| blocks[*i].check(&gpu));
        [large, more].iter().for_each(|block| block.check(&gpu));
        kitten.check().unwrap();
    }
}

#[test]
fn work_that_fits_stays_dedicated_however_it_is_cut() {
    let (gpu, kitten) = setup(12 * GRANULE, 32 * GRANULE, "");
    for _ in 0..8 {
        // A chain as of activations: each block is made while the two before it live, ten granules at most.
        let mut live = std::collections::VecDeque::new();
        for (seed, granules) in [3, 2, 4, 1, 5].into_iter().enumerate() {
            live.push_back(Filled::new(&gpu, &kitten, granules * GRANULE, seed as u64));
            if live.len() > 2 {
                let gone: Filled = live.pop_front().unwrap();
                gone.check(&gpu);
                kitten.free(gone.address, 0, DEFAULT).unwrap();
            }
        }
        live.iter().for_each(|block| kitten.free(block.address, 0, DEFAULT).unwrap());
    }
    let stats = kitten.stats(0).unwrap();
    assert_eq!((stats.fell_to_shared, stats.tiers[Tier::Shared].reserved.peak()), (0, 0));
    assert!(stats.stitched_bytes > 0, "it would not have, as it lay");
    kitten.check().unwrap();
}

#[test]
fn nothing_is_stitched_under_a_capture() {
    let (gpu, kitten) = setup(8 * GRANULE, 16 * GRANULE, "");
    let blocks: Vec<_> = (0..8).map(|i| Filled::new(&gpu, &kitten, GRANULE, i)).collect();
    for block in [0, 3, 6].map(|i| blocks[i]) {
        kitten.free(block.address, 0, DEFAULT).unwrap();
    }
    let stream = Stream(gpu.create_stream().unwrap());
    gpu.begin_capture(stream.0).unwrap();
    let address = kitten.malloc(2 * GRANULE as usize, 0, stream).unwrap();
    gpu.end_capture(stream.0).unwrap();
    assert_eq!(kitten.residency(address).unwrap()[Tier::Shared], 2 * GRANULE);
    assert_eq!(kitten.stats(0).unwrap().stitched_bytes, 0);
    kitten.check().unwrap();
}

#[test]
fn a_block_moves_alone_when_told_to() {
    let (gpu, kitten) = setup(8 * GRANULE, 8 * GRANULE, "");
    let blocks: Vec<_> = (0..4).map(|i| Filled::new(&gpu, &kitten, 2 * GRANULE, i)).collect();
    kitten.move_block(blocks[1].address, Tier::Shared).unwrap();
    assert_eq!(blocks.iter().map(|b| tier_of(&kitten, b)).collect::<Vec<_>>(), [KEEP, SHARE, KEEP, KEEP]);
    kitten.move_block(blocks[1].address + 5, Tier::Dedicated).unwrap();
    assert_eq!(tier_of(&kitten, &blocks[1]), KEEP);
    blocks.iter().for_each(|block| block.check(&gpu));
    for block in &blocks[..3] {
        kitten.move_block(block.address, Tier::Shared).unwrap();
    }
    let why = kitten.move_block(blocks[3].address, Tier::Shared).unwrap_err().to_string();
    assert!(why.contains("2.00 MiB left"), "{why}");
    assert_eq!(tier_of(&kitten, &blocks[3]), KEEP);
    kitten.check().unwrap();
}

#[test]
fn another_process_may_take_the_card() {
    let (gpu, kitten) = setup(8 * GRANULE, 8 * GRANULE, "");
    let first = Filled::new(&gpu, &kitten, GRANULE, 1);
    gpu.set_dedicated_taken(0, 7 * GRANULE);
    let second = Filled::new(&gpu, &kitten, GRANULE, 2);
    assert_eq!((tier_of(&kitten, &first), tier_of(&kitten, &second)), (KEEP, SHARE));
}

#[test]
fn devices_are_apart() {
    let gpu = machine(2, 8 * GRANULE, 8 * GRANULE);
    let kitten = kitten_on(&gpu, "");
    let on = |device| kitten.malloc(GRANULE as usize, device, DEFAULT);
    let (a, b) = (on(0).unwrap(), on(1).unwrap());
    kitten.free_vram(1).unwrap();
    assert_eq!(kitten.residency(a).unwrap()[Tier::Dedicated], GRANULE);
    assert_eq!(kitten.residency(b).unwrap()[Tier::Shared], GRANULE);
    assert!(matches!(on(2), Err(Error::Argument(why)) if why.contains("no device 2")));
    kitten.free(b, 0, DEFAULT).unwrap();
    assert_eq!(kitten.stats(1).unwrap().blocks.count.current(), 0, "found, whatever device is named");
}

#[test]
fn wrong_pointers_change_nothing() {
    let (gpu, kitten) = setup(8 * GRANULE, 8 * GRANULE, "");
    let block = Filled::new(&gpu, &kitten, 1000, 7);
    for address in [1, 0xdead_0000, block.address + 512, block.address + 1, u64::MAX] {
        let result = kitten.free(address, 0, DEFAULT);
        assert_eq!(result, Err(Error::NotAllocated { address }));
    }
    block.check(&gpu);
    kitten.free(block.address, 0, DEFAULT).unwrap();
    assert!(kitten.free(block.address, 0, DEFAULT).is_err(), "twice");
    assert_eq!(kitten.free(0, 0, DEFAULT), Ok(()));
    assert_eq!(kitten.malloc(0, 0, DEFAULT), Ok(0));
    assert!(matches!(kitten.malloc(usize::MAX, 0, DEFAULT), Err(Error::OutOfMemory(_))));
    kitten.check().unwrap();
}

#[test]
fn closing_leaves_nothing_behind() {
    let (gpu, kitten) = setup(16 * GRANULE, 16 * GRANULE, "reserve:8MiB");
    for i in 0..20 {
        Filled::new(&gpu, &kitten, GRANULE - i, i);
    }
    kitten.activate(0, &reserve(4 * GRANULE)).unwrap();
    drop(kitten);
    assert_eq!(gpu.outstanding(), kitten_sim::Outstanding::default());
}
