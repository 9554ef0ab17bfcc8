//! The actions of the original on live blocks: where each block lies afterwards, and that contents
//! and addresses stay.

use super::careless::{Careless, Omitted};
use super::common::{
    DEFAULT, Filled, GRANULE, KEEP, MIB, ORIGINALS_LAYOUTS, SHARE, kitten_on, machine, options_for, originals_blocks,
    reserve, setup, tier_of,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use giant_kitten::driver::Stream;
use giant_kitten::internals::ThreadId;
use giant_kitten::{Activation, Allocator, Error, Moved, Options, Order, Phase, Reserve, Tier};
use kitten_sim::{Access, Completion};

#[test]
fn the_layout_after_activate_is_the_originals() {
    for (kept, sort_reversed, ignore_model, expected) in ORIGINALS_LAYOUTS {
        let (gpu, allocator) = setup(16 * GRANULE, 32 * GRANULE, "");
        let blocks = originals_blocks(&gpu, &allocator);
        let order = Order { sort_reversed, ignore_model, ..Order::default() };
        let activation = Activation { order, ..reserve(kept * GRANULE) };
        allocator.activate(0, &activation).unwrap();
        assert_eq!(blocks.map(|block| tier_of(&allocator, &block)), expected, "{activation:?}");
        blocks.iter().for_each(|block| block.check(&gpu));
        let stats = allocator.stats(0).unwrap();
        let resident = stats.tiers[Tier::Dedicated].mapped.current();
        assert!(resident <= (16 - kept) * GRANULE, "the reserve is kept free");
        assert!(
            stats.tiers[Tier::Dedicated].reserved.current() >= resident + kept * GRANULE,
            "and its backing is held"
        );
        allocator.check().unwrap();
    }
}

#[test]
fn the_block_at_the_border_lies_in_both_tiers() {
    let (gpu, allocator) = setup(8 * GRANULE, 32 * GRANULE, "");
    let block = Filled::new(&gpu, &allocator, 8 * GRANULE, 1);
    allocator.activate(0, &reserve(3 * GRANULE)).unwrap();
    let bytes = allocator.residency(block.address).unwrap();
    assert_eq!((bytes[Tier::Dedicated], bytes[Tier::Shared]), (5 * GRANULE, 3 * GRANULE));
    block.check(&gpu);
}

#[test]
fn scratch_gets_the_reserve_before_any_free_shared_block() {
    let (gpu, allocator) = setup(16 * GRANULE, 32 * GRANULE, "");
    let weights: Vec<_> = (0..7).map(|i| Filled::new(&gpu, &allocator, 2 * GRANULE, i)).collect();
    // A first, overflowing generation leaves free shared blocks behind.
    let scratch: Vec<_> = (0..4).map(|i| Filled::new(&gpu, &allocator, 2 * GRANULE, 100 + i)).collect();
    assert_eq!(tier_of(&allocator, &scratch[3]), SHARE);
    scratch.iter().for_each(|block| allocator.free(block.address, 0, DEFAULT).unwrap());
    allocator.activate(0, &reserve(8 * GRANULE)).unwrap();

    let scratch: Vec<_> = (0..5).map(|i| Filled::new(&gpu, &allocator, 2 * GRANULE, 200 + i)).collect();
    let tiers: Vec<_> = scratch.iter().map(|block| tier_of(&allocator, block)).collect();
    assert_eq!(tiers, [KEEP, KEEP, KEEP, KEEP, SHARE], "the reserve first, then shared");
    let stats = allocator.stats(0).unwrap();
    assert_eq!(stats.reserve_used.current(), 8 * GRANULE);
    scratch.iter().chain(&weights).for_each(|block| block.check(&gpu));

    // Freed dedicated scratch is reused before a free shared block.
    for block in scratch {
        allocator.free(block.address, 0, DEFAULT).unwrap();
    }
    let again = Filled::new(&gpu, &allocator, 2 * GRANULE, 300);
    assert_eq!(tier_of(&allocator, &again), KEEP);
    assert_eq!(allocator.stats(0).unwrap().reserve_used.peak(), 8 * GRANULE);
    // While frozen, the place of a freed weight serves scratch too, before shared memory does.
    let dedicated = weights.iter().find(|block| tier_of(&allocator, block) == KEEP).unwrap();
    allocator.free(dedicated.address, 0, DEFAULT).unwrap();
    let more: Vec<_> = (0..4).map(|i| Filled::new(&gpu, &allocator, 2 * GRANULE, 400 + i)).collect();
    assert!(more.iter().all(|block| tier_of(&allocator, block) == KEEP));
    allocator.check().unwrap();
}

#[test]
fn a_block_may_need_what_is_left_of_both_tiers() {
    let (gpu, allocator) = setup(16 * GRANULE, 16 * GRANULE, "");
    let first = Filled::new(&gpu, &allocator, 12 * GRANULE, 1);
    // 4 granules are left in the dedicated tier and 15 in the shared one, where one of 16 is
    // working room.
    let both = Filled::new(&gpu, &allocator, 18 * GRANULE, 2);
    let tiers = allocator.residency(both.address).unwrap();
    assert_eq!((tiers[Tier::Dedicated], tiers[Tier::Shared]), (4 * GRANULE, 14 * GRANULE));
    let why = allocator.malloc(2 * GRANULE as usize, 0, DEFAULT).unwrap_err();
    assert!(matches!(why, Error::OutOfMemory(_)));
    allocator.check().unwrap();
    allocator.disable(0, Order::default()).unwrap();
    [first, both].iter().for_each(|block| block.check(&gpu));
    allocator.free(both.address, 0, DEFAULT).unwrap();
    Filled::new(&gpu, &allocator, 18 * GRANULE, 3).check(&gpu);
    allocator.check().unwrap();
}

#[test]
fn loading_leaves_the_configured_reserve_alone() {
    let (gpu, allocator) = setup(16 * GRANULE, 32 * GRANULE, &format!("reserve:{}", 6 * GRANULE));
    let weights: Vec<_> = (0..12).map(|i| Filled::new(&gpu, &allocator, GRANULE, i)).collect();
    let dedicated = weights.iter().filter(|block| tier_of(&allocator, block) == KEEP).count();
    assert_eq!(dedicated, 10);
    allocator.activate(0, &allocator.options().activation).unwrap();
    assert_eq!(allocator.stats(0).unwrap().migrated_bytes, 0, "nothing has moved");
}

#[test]
fn persist_makes_a_smaller_card() {
    let (gpu, allocator) = setup(16 * GRANULE, 32 * GRANULE, "");
    let blocks: Vec<_> = (0..12).map(|i| Filled::new(&gpu, &allocator, GRANULE, i)).collect();
    allocator
        .activate(
            0,
            &Activation { reserve: Reserve::Fixed(4 * GRANULE), persist: 6 * GRANULE, ..Activation::default() },
        )
        .unwrap();
    let stats = allocator.stats(0).unwrap();
    assert_eq!(stats.tiers[Tier::Dedicated].mapped.current(), 6 * GRANULE);
    assert!(stats.tiers[Tier::Dedicated].reserved.current() <= 10 * GRANULE, "persist is not even held");
    let scratch: Vec<_> = (0..6).map(|i| Filled::new(&gpu, &allocator, GRANULE + 512, 50 + i)).collect();
    assert!(allocator.stats(0).unwrap().tiers[Tier::Dedicated].mapped.current() <= 10 * GRANULE);
    allocator.disable(0, Order::default()).unwrap();
    blocks.iter().chain(&scratch).for_each(|block| block.check(&gpu));
    assert_eq!(allocator.stats(0).unwrap().persist, 0, "every action sets it anew");
}

#[test]
fn free_vram_gives_everything_dedicated_back_and_blocks_stay_usable() {
    let (gpu, allocator) = setup(16 * GRANULE, 32 * GRANULE, "");
    let blocks: Vec<_> = (0..14).map(|i| Filled::new(&gpu, &allocator, GRANULE, i)).collect();
    allocator.free_vram(0).unwrap();
    let (capacity, free) = gpu.memory_info(0, kitten_sim::Tier::Dedicated).unwrap();
    assert_eq!(free, capacity);
    assert!(blocks.iter().all(|block| tier_of(&allocator, block) == SHARE));
    blocks.iter().for_each(|block| block.check(&gpu));
    assert_eq!(allocator.stats(0).unwrap().phase, Phase::Freed);
    allocator.disable(0, Order::default()).unwrap();
    assert!(blocks.iter().all(|block| tier_of(&allocator, block) == KEEP));
    blocks.iter().for_each(|block| block.check(&gpu));
}

#[test]
fn any_action_may_follow_any_other() {
    let (gpu, allocator) = setup(16 * GRANULE, 40 * GRANULE, "");
    let mut blocks: Vec<_> = (0..20).map(|i| Filled::new(&gpu, &allocator, GRANULE - 4096 * i, i)).collect();
    blocks.extend((0..40).map(|i| Filled::new(&gpu, &allocator, 1000 * (i + 1), 100 + i)));
    for (i, action) in [0, 0, 1, 1, 2, 2, 0, 2, 1, 0, 1, 2, 1].into_iter().enumerate() {
        match action {
            0 => allocator.activate(0, &reserve(i as u64 % 7 * GRANULE)).unwrap(),
            1 => allocator.disable(0, Order { sort_reversed: i % 2 == 0, ..Order::default() }).unwrap(),
            _ => allocator.free_vram(0).unwrap(),
        };
        allocator.check().unwrap();
        blocks.iter().for_each(|block| block.check(&gpu));
        let block = blocks.swap_remove(i);
        allocator.free(block.address, 0, DEFAULT).unwrap();
        blocks.push(Filled::new(&gpu, &allocator, GRANULE + 512 * i as u64, 1000 + i as u64));
    }
    assert_eq!(gpu.faults(), []);
}

#[test]
fn migration_works_with_both_tiers_full() {
    let (gpu, allocator) = setup(8 * GRANULE, 9 * GRANULE, "");
    // Sixteen granules fill both tiers, except one of working room.
    let blocks: Vec<_> = (0..16).map(|i| Filled::new(&gpu, &allocator, GRANULE, i)).collect();
    assert!(allocator.malloc(GRANULE as usize, 0, DEFAULT).is_err());
    for block in &blocks[8..] {
        allocator.mark(block.address, true).unwrap();
    }
    allocator.activate(0, &reserve(0)).unwrap();
    assert!(blocks[8..].iter().all(|block| tier_of(&allocator, block) == KEEP));
    assert!(blocks[..8].iter().all(|block| tier_of(&allocator, block) == SHARE));
    blocks.iter().for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
}

#[test]
fn frozen_means_nothing_is_released_and_nothing_moves() {
    let (gpu, allocator) = setup(16 * GRANULE, 32 * GRANULE, "");
    let block = Filled::new(&gpu, &allocator, 4 * GRANULE, 1);
    allocator.activate(0, &reserve(4 * GRANULE)).unwrap();
    let scratch = Filled::new(&gpu, &allocator, 3 * GRANULE, 2);
    allocator.free(scratch.address, 0, DEFAULT).unwrap();
    let before = (gpu.outstanding(), allocator.map(0).unwrap());
    let calls = gpu.total_calls();
    allocator.reset().unwrap();
    assert_eq!((gpu.outstanding(), allocator.map(0).unwrap()), before);
    assert_eq!(gpu.total_calls(), calls, "reset is inert");
    allocator.disable(0, Order::default()).unwrap();
    allocator.free(block.address, 0, DEFAULT).unwrap();
    allocator.reset().unwrap();
    assert_eq!(
        gpu.memory_info(0, kitten_sim::Tier::Dedicated).map(|(c, f)| c - f),
        Ok(0),
        "reset returns memory once thawed"
    );
}

#[test]
fn what_cannot_fit_moves_nothing_and_says_so() {
    let (gpu, allocator) = setup(16 * GRANULE, 4 * GRANULE, "");
    let blocks: Vec<_> = (0..12).map(|i| Filled::new(&gpu, &allocator, GRANULE, i)).collect();
    let before = allocator.map(0).unwrap();
    for result in [allocator.activate(0, &reserve(10 * GRANULE)), allocator.free_vram(0)] {
        let why = result.unwrap_err().to_string();
        assert!(why.contains("nothing was moved") && why.contains("MiB"), "{why}");
    }
    let why = allocator.activate(0, &reserve(17 * GRANULE)).unwrap_err();
    assert!(matches!(&why, Error::Argument(text) if text.contains("more than")), "{why}");
    assert_eq!(allocator.map(0).unwrap(), before);
    assert_eq!(allocator.stats(0).unwrap().phase, Phase::Loading);
    blocks.iter().for_each(|block| block.check(&gpu));
}

#[test]
fn out_of_memory_reports_the_figures_of_both_tiers() {
    let (_gpu, allocator) = setup(4 * GRANULE, 4 * GRANULE, "");
    for _ in 0..7 {
        allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    }
    let why = allocator.malloc(100 * MIB as usize, 0, DEFAULT).unwrap_err();
    let text = why.to_string();
    assert!(matches!(why, Error::OutOfMemory(_)));
    for part in ["100.00 MiB", "dedicated: 8.00 MiB", "shared: 6.00 MiB", "GPU 0"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.out_of_memory, stats.fell_to_shared), (1, 3));
}

#[test]
fn idle_memory_is_reclaimed_before_out_of_memory() {
    let (gpu, allocator) = setup(4 * GRANULE, 5 * GRANULE, "");
    let blocks: Vec<_> = (0..8).map(|i| Filled::new(&gpu, &allocator, GRANULE, i)).collect();
    for block in [1, 5, 7].map(|i| blocks[i]) {
        allocator.free(block.address, 0, DEFAULT).unwrap();
    }
    // One granule is idle in the dedicated tier, and two that are not adjacent are idle in the
    // shared one. These two serve.
    let large = Filled::new(&gpu, &allocator, 2 * GRANULE, 50);
    assert_eq!(tier_of(&allocator, &large), SHARE);
    large.check(&gpu);
    assert_eq!(allocator.stats(0).unwrap().retries, 1);
    [0, 2, 3, 4, 6].iter().for_each(|i: &usize| blocks[*i].check(&gpu));
    allocator.check().unwrap();
}

#[test]
fn idle_dedicated_memory_is_stitched_before_anything_shared_is_given_out() {
    for frozen in [false, true] {
        let (gpu, allocator) = setup(8 * GRANULE, 16 * GRANULE, "");
        if frozen {
            allocator.activate(0, &reserve(8 * GRANULE)).unwrap();
        }
        let blocks: Vec<_> = (0..8).map(|i| Filled::new(&gpu, &allocator, GRANULE, i)).collect();
        assert!(blocks.iter().all(|block| tier_of(&allocator, block) == KEEP));
        // These granules are idle and not adjacent. One was freed with work in flight that is
        // waited for.
        gpu.set_completion(Completion::Late);
        gpu.launch(DEFAULT.0, "use", &[Access::read(blocks[3].address, GRANULE)]).unwrap();
        for block in [0, 3, 6].map(|i| blocks[i]) {
            allocator.free(block.address, 0, DEFAULT).unwrap();
        }
        let large = Filled::new(&gpu, &allocator, 3 * GRANULE, 50);
        assert!(gpu.faults().is_empty(), "{:?}", gpu.faults());
        assert_eq!(tier_of(&allocator, &large), KEEP);
        let stats = allocator.stats(0).unwrap();
        assert_eq!((stats.stitched_bytes, stats.fell_to_shared, stats.migrations), (3 * GRANULE, 0, 0));
        assert_eq!(stats.tiers[Tier::Dedicated].mapped.peak(), 8 * GRANULE);
        // No dedicated granule is idle any more. The block goes to shared memory, and nothing is
        // stitched.
        let more = Filled::new(&gpu, &allocator, 2 * GRANULE, 60);
        assert_eq!(tier_of(&allocator, &more), SHARE);
        assert_eq!(allocator.stats(0).unwrap().stitched_bytes, 3 * GRANULE);
        [1, 2, 4, 5, 7].iter().for_each(|i: &usize| blocks[*i].check(&gpu));
        [large, more].iter().for_each(|block| block.check(&gpu));
        allocator.check().unwrap();
    }
}

#[test]
fn work_that_fits_stays_dedicated_however_it_is_cut() {
    let (gpu, allocator) = setup(12 * GRANULE, 32 * GRANULE, "");
    for _ in 0..8 {
        // A chain like that of activations: each block is allocated while the two before it live,
        // ten granules at most.
        let mut live = std::collections::VecDeque::new();
        for (seed, granules) in [3, 2, 4, 1, 5].into_iter().enumerate() {
            live.push_back(Filled::new(&gpu, &allocator, granules * GRANULE, seed as u64));
            if live.len() > 2 {
                let gone: Filled = live.pop_front().unwrap();
                gone.check(&gpu);
                allocator.free(gone.address, 0, DEFAULT).unwrap();
            }
        }
        live.iter().for_each(|block| allocator.free(block.address, 0, DEFAULT).unwrap());
    }
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.fell_to_shared, stats.tiers[Tier::Shared].reserved.peak()), (0, 0));
    assert!(stats.stitched_bytes > 0, "without stitching it does not fit");
    allocator.check().unwrap();
}

#[test]
fn nothing_is_stitched_under_a_capture() {
    let (gpu, allocator) = setup(8 * GRANULE, 16 * GRANULE, "");
    let blocks: Vec<_> = (0..8).map(|i| Filled::new(&gpu, &allocator, GRANULE, i)).collect();
    for block in [0, 3, 6].map(|i| blocks[i]) {
        allocator.free(block.address, 0, DEFAULT).unwrap();
    }
    let stream = Stream(gpu.create_stream().unwrap());
    gpu.begin_capture(stream.0).unwrap();
    let address = allocator.malloc(2 * GRANULE as usize, 0, stream).unwrap();
    gpu.end_capture(stream.0).unwrap();
    assert_eq!(allocator.residency(address).unwrap()[Tier::Shared], 2 * GRANULE);
    assert_eq!(allocator.stats(0).unwrap().stitched_bytes, 0);
    allocator.check().unwrap();
}

#[test]
fn a_block_moves_alone_when_told_to() {
    let (gpu, allocator) = setup(8 * GRANULE, 8 * GRANULE, "");
    let blocks: Vec<_> = (0..4).map(|i| Filled::new(&gpu, &allocator, 2 * GRANULE, i)).collect();
    allocator.move_block(blocks[1].address, Tier::Shared).unwrap();
    assert_eq!(blocks.iter().map(|b| tier_of(&allocator, b)).collect::<Vec<_>>(), [KEEP, SHARE, KEEP, KEEP]);
    allocator.move_block(blocks[1].address + 5, Tier::Dedicated).unwrap();
    assert_eq!(tier_of(&allocator, &blocks[1]), KEEP);
    blocks.iter().for_each(|block| block.check(&gpu));
    for block in &blocks[..3] {
        allocator.move_block(block.address, Tier::Shared).unwrap();
    }
    let why = allocator.move_block(blocks[3].address, Tier::Shared).unwrap_err().to_string();
    assert!(why.contains("2.00 MiB left"), "{why}");
    assert_eq!(tier_of(&allocator, &blocks[3]), KEEP);
    allocator.check().unwrap();
}

#[test]
fn another_process_may_take_the_card() {
    let (gpu, allocator) = setup(8 * GRANULE, 8 * GRANULE, "");
    let first = Filled::new(&gpu, &allocator, GRANULE, 1);
    gpu.set_dedicated_taken(0, 7 * GRANULE);
    let second = Filled::new(&gpu, &allocator, GRANULE, 2);
    assert_eq!((tier_of(&allocator, &first), tier_of(&allocator, &second)), (KEEP, SHARE));
}

#[test]
fn devices_are_apart() {
    let gpu = machine(2, 8 * GRANULE, 8 * GRANULE);
    let allocator = kitten_on(&gpu, "");
    let on = |device| allocator.malloc(GRANULE as usize, device, DEFAULT);
    let (a, b) = (on(0).unwrap(), on(1).unwrap());
    allocator.free_vram(1).unwrap();
    assert_eq!(allocator.residency(a).unwrap()[Tier::Dedicated], GRANULE);
    assert_eq!(allocator.residency(b).unwrap()[Tier::Shared], GRANULE);
    assert!(matches!(on(2), Err(Error::Argument(why)) if why.contains("no device 2")));
    allocator.free(b, 0, DEFAULT).unwrap();
    assert_eq!(allocator.stats(1).unwrap().blocks.count.current(), 0, "found although another device is named");
}

/// Some thread that is not this one.
const OTHER: ThreadId = ThreadId(u64::MAX);

type Action = fn(&Allocator, &Filled) -> Result<Moved, Error>;

/// The actions that move live memory, on a block.
const ACTIONS: [Action; 4] = [
    |allocator, _| allocator.activate(0, &reserve(4 * GRANULE)),
    |allocator, _| allocator.free_vram(0),
    |allocator, _| allocator.disable(0, Order::default()),
    |allocator, block| allocator.move_block(block.address, Tier::Shared),
];

#[test]
fn an_action_waits_for_the_pieces_of_work_of_other_threads() {
    let (gpu, allocator) = setup(16 * GRANULE, 16 * GRANULE, "");
    let block = Filled::new(&gpu, &allocator, GRANULE, 1);
    for act in ACTIONS {
        let is_over = AtomicBool::new(false);
        allocator.begin_work_of(0, OTHER).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The heap is free for others while the action waits.
                block.check(&gpu);
                std::thread::sleep(Duration::from_millis(20));
                is_over.store(true, Ordering::SeqCst);
                allocator.end_work_of(0, OTHER).unwrap();
            });
            act(&allocator, &block).unwrap();
            assert!(is_over.load(Ordering::SeqCst));
        });
        block.check(&gpu);
    }
    allocator.begin_work(0).unwrap();
    allocator.free_vram(0).unwrap();
    allocator.end_work(0).unwrap();
    assert_eq!(tier_of(&allocator, &block), SHARE, "its own piece of work is not waited for");
}

#[test]
fn an_action_is_refused_where_another_thread_stays_at_work() {
    let gpu = machine(1, 16 * GRANULE, 16 * GRANULE);
    let options = Options { patience: Duration::from_millis(5), ..options_for(&gpu, "") };
    let allocator = Allocator::new(options, crate::driver(&gpu)).unwrap();
    let block = Filled::new(&gpu, &allocator, GRANULE, 1);
    allocator.begin_work_of(0, OTHER).unwrap();
    for act in ACTIONS {
        let why = act(&allocator, &block).unwrap_err().to_string();
        assert!(why.contains("nothing was moved: another thread has been inside a piece of work on device 0"), "{why}");
    }
    assert_eq!((tier_of(&allocator, &block), allocator.stats(0).unwrap().phase), (KEEP, Phase::Loading));
    allocator.end_work_of(0, OTHER).unwrap();
    assert!(ACTIONS.iter().all(|act| act(&allocator, &block).is_ok()));
}

#[test]
fn an_action_says_what_it_cannot_be_sure_of() {
    let (gpu, allocator) = setup(16 * GRANULE, 16 * GRANULE, "");
    let block = Filled::new(&gpu, &allocator, GRANULE, 1);
    for act in ACTIONS {
        allocator.safe_point(0, "").unwrap();
        act(&allocator, &block).unwrap();
        assert!(!allocator.reserve_reason(0).unwrap().contains("relies on the caller"), "nobody else was seen");
        std::thread::scope(|scope| {
            let beside = || allocator.free(allocator.malloc(1, 0, DEFAULT).unwrap(), 0, DEFAULT).unwrap();
            scope.spawn(beside).join().unwrap();
        });
        act(&allocator, &block).unwrap();
        let why = allocator.reserve_reason(0).unwrap();
        assert!(why.contains("relies on the caller that the other threads"), "{why}");
    }
}

#[test]
fn wrong_pointers_change_nothing() {
    let (gpu, allocator) = setup(8 * GRANULE, 8 * GRANULE, "");
    let block = Filled::new(&gpu, &allocator, 1000, 7);
    for address in [1, 0xdead_0000, block.address + 512, block.address + 1, u64::MAX] {
        let result = allocator.free(address, 0, DEFAULT);
        assert_eq!(result, Err(Error::NotAllocated { address }));
    }
    block.check(&gpu);
    allocator.free(block.address, 0, DEFAULT).unwrap();
    assert!(allocator.free(block.address, 0, DEFAULT).is_err(), "twice");
    assert_eq!(allocator.free(0, 0, DEFAULT), Ok(()));
    assert_eq!(allocator.malloc(0, 0, DEFAULT), Ok(0));
    assert!(matches!(allocator.malloc(usize::MAX, 0, DEFAULT), Err(Error::OutOfMemory(_))));
    allocator.check().unwrap();
}

#[test]
fn closing_leaves_nothing_behind() {
    let (gpu, allocator) = setup(16 * GRANULE, 16 * GRANULE, "reserve:8MiB");
    for i in 0..20 {
        Filled::new(&gpu, &allocator, GRANULE - i, i);
    }
    allocator.activate(0, &reserve(4 * GRANULE)).unwrap();
    drop(allocator);
    assert_eq!(gpu.outstanding(), kitten_sim::Outstanding::default());
}

#[test]
fn many_granules_move_in_batches_and_keep_their_contents() {
    let (gpu, allocator) = setup(40 * GRANULE, 70 * GRANULE, "");
    // Blocks of one to three granules, in arenas of which every third block is gone.
    let mut blocks: Vec<_> =
        (0..36).map(|i| Filled::new(&gpu, &allocator, (1 + i % 3) * GRANULE - 512 * i, i)).collect();
    let mut index = 0;
    blocks.retain(|block| {
        index += 1;
        let stays = index % 3 != 0;
        (!stays).then(|| allocator.free(block.address, 0, DEFAULT).unwrap());
        stays
    });
    gpu.set_completion(Completion::Late);
    let mut moved = 0;
    for round in 0..3 {
        let there = allocator.free_vram(0).unwrap();
        let back = allocator.activate(0, &reserve(round * 5 * GRANULE)).unwrap();
        moved += there.demoted + back.promoted;
        allocator.check().unwrap();
        blocks.iter().for_each(|block| block.check(&gpu));
    }
    assert!(moved > 100 * GRANULE, "{moved}");
    assert_eq!(gpu.faults(), []);
}

#[test]
fn a_copy_of_a_granule_that_is_not_waited_for_is_noticed() {
    let gpu = machine(1, 16 * GRANULE, 32 * GRANULE);
    let driver = Arc::new(Careless::new(crate::driver(&gpu), Omitted::Host));
    let allocator = Allocator::new(Options::parse("headroom:0").unwrap(), driver).unwrap();
    let _blocks: Vec<_> = (0..16).map(|i| Filled::new(&gpu, &allocator, GRANULE, i)).collect();
    gpu.set_completion(Completion::Late);
    let _ = allocator.activate(0, &reserve(8 * GRANULE));
    assert!(!gpu.faults().is_empty());
}

#[test]
fn moves_keep_the_link_busy() {
    const COUNT: u64 = 100;
    let (gpu, allocator) = setup(COUNT * GRANULE, 2 * COUNT * GRANULE, "");
    let block = Filled::new(&gpu, &allocator, COUNT * GRANULE, 1);
    allocator.free_vram(0).unwrap();
    let card = gpu.device_profile(0).unwrap();
    let before = gpu.modelled_clock();
    let moved = allocator.move_block(block.address, Tier::Dedicated).unwrap();
    let seconds = gpu.modelled_clock() - before;
    assert_eq!(moved.promoted, COUNT * GRANULE);
    let alone = moved.promoted as f64 / card.link_to_device;
    assert!(alone > 0.9 * seconds, "{alone} s over the link alone, {seconds} s in all");
    // The calls alone, one after the other, would take most of that time as well.
    let calls = COUNT as f64 * (card.seconds.create_dedicated + 2.0 * card.seconds.map);
    assert!(calls > 0.5 * alone, "{calls} s");
    block.check(&gpu);
}
