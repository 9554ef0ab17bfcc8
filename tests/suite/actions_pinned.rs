//! The actions where shared memory is pinned. Existing blocks do not move, and errors say so; new
//! blocks go where they should.

use super::common::{
    DEFAULT, Filled, GRANULE, KEEP, ORIGINALS_LAYOUTS, Random, SHARE, kitten_on, load, machine, originals_blocks,
    reserve, setup, tier_of,
};
use giant_kitten::Order;
use giant_kitten::driver::{Rung, Stream};
use giant_kitten::{Activation, Allocator, Error, Moved, Phase, PoolId, Reserve, Tier};
use kitten_sim::{Access, Completion, Gpu, Outstanding};

#[test]
fn a_model_that_overflows_runs() {
    let (gpu, allocator) = setup(8 * GRANULE, 32 * GRANULE, "");
    allocator.open(0).unwrap();
    let info = allocator.device_info(0).unwrap().unwrap();
    assert_eq!((info.rung, info.refused.is_empty()), (Rung::Pinned, false), "{info:?}");
    let blocks = load(&gpu, &allocator, 6, 3);
    let small: Vec<_> = (0..50).map(|i| Filled::new(&gpu, &allocator, 700 * (i + 1), 100 + i)).collect();
    let tiers: Vec<_> = blocks.iter().map(|block| tier_of(&allocator, block)).collect();
    assert_eq!(tiers, [KEEP, KEEP, SHARE, SHARE, SHARE, SHARE]);
    for block in blocks.iter().chain(&small) {
        block.check(&gpu);
        let inside = block.address + block.bytes - 1;
        assert_eq!(allocator.extent(inside).unwrap().0, block.address);
        gpu.launch(0, "use", &[Access::write(block.address, block.bytes)]).unwrap();
    }
    let stats = allocator.stats(0).unwrap();
    assert!(!stats.migrates && stats.fell_to_shared >= 4);
    assert_eq!(stats.tiers[Tier::Shared].mapped.current(), stats.tiers[Tier::Shared].reserved.current());
    allocator.check().unwrap();
    blocks.iter().chain(&small).for_each(|block| allocator.free(block.address, 0, DEFAULT).unwrap());
    assert!(allocator.free(blocks[5].address, 0, DEFAULT).is_err(), "freed twice");
    allocator.reset().unwrap();
    assert_eq!(
        gpu.memory_info(0, kitten_sim::Tier::Shared).map(|(all, free)| all - free),
        Ok(0),
        "returned as a whole"
    );
    allocator.check().unwrap();
}

#[test]
fn every_action_leaves_blocks_where_they_are_and_says_so() {
    let (gpu, allocator) = setup(16 * GRANULE, 32 * GRANULE, "");
    let blocks = load(&gpu, &allocator, 6, 4);
    for block in &blocks[4..] {
        allocator.mark(block.address, true).unwrap();
    }
    let before: Vec<_> = blocks.iter().map(|block| tier_of(&allocator, block)).collect();
    assert_eq!(before, [KEEP, KEEP, KEEP, KEEP, SHARE, SHARE]);
    let stayed = |granules: u64| Ok(Moved { stayed: granules * GRANULE, ..Moved::default() });
    // Two blocks of the model should have the places of two others: four blocks are in the wrong
    // tier.
    assert_eq!(allocator.activate(0, &reserve(0)), stayed(16));
    // With a reserve of four granules, only one of the others has a place.
    assert_eq!(allocator.activate(0, &reserve(4 * GRANULE)), stayed(20));
    assert_eq!(
        allocator.activate(0, &Activation { order: Order { ignore_model: true, ..Order::default() }, ..reserve(0) }),
        stayed(0)
    );
    assert_eq!(allocator.disable(0, Order::default()), stayed(16));
    assert_eq!(allocator.free_vram(0), stayed(16));
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.phase, stats.stayed, stats.migrations), (Phase::Freed, 16 * GRANULE, 0));
    let why = allocator.move_block(blocks[0].address, Tier::Shared).unwrap_err();
    assert!(matches!(why, Error::Immovable { bytes } if bytes == 4 * GRANULE) && why.to_string().contains("pinned"));
    assert_eq!(allocator.move_block(blocks[0].address, Tier::Dedicated), Ok(Moved::default()), "it is there");
    assert_eq!(blocks.iter().map(|block| tier_of(&allocator, block)).collect::<Vec<_>>(), before);
    blocks.iter().for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
}

#[test]
fn an_impossible_reserve_is_refused_as_elsewhere() {
    let (_gpu, allocator) = setup(16 * GRANULE, 32 * GRANULE, "");
    let why = allocator.activate(0, &reserve(17 * GRANULE)).unwrap_err();
    assert!(matches!(why, Error::Argument(_)), "{why}");
    assert!(allocator.begin_loading(0, Reserve::Fixed(17 * GRANULE), 0).is_err());
    assert_eq!(allocator.stats(0).unwrap().phase, Phase::Loading);
}

#[test]
fn the_reserve_is_kept_while_loading_and_handed_out_first() {
    let (gpu, allocator) = setup(16 * GRANULE, 64 * GRANULE, &format!("reserve:{}", 6 * GRANULE));
    let weights = load(&gpu, &allocator, 8, 2);
    let dedicated = |blocks: &[Filled]| blocks.iter().filter(|block| tier_of(&allocator, block) == KEEP).count();
    assert_eq!(dedicated(&weights), 5);
    assert_eq!(allocator.activate(0, &allocator.options().activation), Ok(Moved::default()), "nothing has moved");
    let passing = load(&gpu, &allocator, 6, 2);
    assert_eq!(dedicated(&passing), 3, "the reserve, then shared memory");
    // Free dedicated memory is used before free shared memory.
    passing.iter().for_each(|block| allocator.free(block.address, 0, DEFAULT).unwrap());
    let again = load(&gpu, &allocator, 3, 2);
    assert_eq!(dedicated(&again), 3);
    assert_eq!(allocator.stats(0).unwrap().reserve_used.peak(), 6 * GRANULE);
    weights.iter().chain(&again).for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
}

/// The Python package's way: all blocks out, and back in the order of the claims, while the reserve
/// is kept.
fn out_and_back(gpu: &Gpu, allocator: &Allocator, blocks: &mut [Filled], activation: &Activation) {
    allocator.begin_loading(0, activation.reserve, activation.persist).unwrap();
    let claims = allocator.claims(0, activation.order).unwrap();
    assert_eq!(claims.len(), blocks.len());
    for block in &*blocks {
        block.check(gpu);
        allocator.free(block.address, 0, DEFAULT).unwrap();
    }
    allocator.begin_loading(0, activation.reserve, activation.persist).unwrap();
    let before = blocks.to_vec();
    for claim in claims {
        let at = before.iter().position(|block| block.address == claim.address).unwrap();
        assert!(before[at].bytes <= claim.size && claim.stream == 0 && claim.used_on.is_empty());
        blocks[at] = Filled::new(gpu, allocator, before[at].bytes, before[at].seed);
        allocator.mark(blocks[at].address, claim.model).unwrap();
    }
}

#[test]
fn out_and_back_is_the_originals_layout() {
    for (kept, sort_reversed, ignore_model, expected) in ORIGINALS_LAYOUTS {
        let (gpu, allocator) = setup(16 * GRANULE, 32 * GRANULE, "");
        let mut blocks = originals_blocks(&gpu, &allocator);
        let order = Order { sort_reversed, ignore_model, ..Order::default() };
        let activation = Activation { order, ..reserve(kept * GRANULE) };
        out_and_back(&gpu, &allocator, &mut blocks, &activation);
        assert_eq!(allocator.activate(0, &activation).unwrap().stayed, 0, "{activation:?}");
        assert_eq!(blocks.map(|block| tier_of(&allocator, &block)), expected, "{activation:?}");
        let scratch: Vec<_> = (0..kept).map(|i| Filled::new(&gpu, &allocator, GRANULE + 512, 50 + i)).collect();
        let room = kept * GRANULE / (GRANULE + 512);
        assert!(scratch.iter().take(room as usize).all(|block| tier_of(&allocator, block) == KEEP), "{activation:?}");
        blocks.iter().chain(&scratch).for_each(|block| block.check(&gpu));
        allocator.check().unwrap();
    }
}

#[test]
fn out_of_memory_reports_both_tiers_and_idle_memory_is_reclaimed_first() {
    let (gpu, allocator) = setup(4 * GRANULE, 8 * GRANULE, "");
    let blocks = load(&gpu, &allocator, 12, 1);
    let why = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap_err();
    let text = why.to_string();
    assert!(matches!(why, Error::OutOfMemory(_)));
    for part in ["dedicated: 8.00 MiB", "shared: 16.00 MiB", "GPU 0"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    for block in &blocks[4..] {
        allocator.free(block.address, 0, DEFAULT).unwrap();
    }
    // The free memory lies in several pinned arenas, none of which is long enough by itself.
    let large = Filled::new(&gpu, &allocator, 8 * GRANULE, 50);
    assert_eq!((tier_of(&allocator, &large), allocator.stats(0).unwrap().retries), (SHARE, 1));
    blocks[..4].iter().chain([&large]).for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
}

#[test]
fn memory_pinned_by_another_program_is_done_without() {
    let (gpu, allocator) = setup(4 * GRANULE, 64 * GRANULE, "");
    let _first = Filled::new(&gpu, &allocator, 4 * GRANULE, 1);
    // Another program pins most of it. An arena longer than the block cannot be obtained.
    let others = gpu.pin(0, 61 * GRANULE).unwrap();
    let block = Filled::new(&gpu, &allocator, 2 * GRANULE, 2);
    assert_eq!(tier_of(&allocator, &block), SHARE);
    let why = allocator.malloc(2 * GRANULE as usize, 0, DEFAULT).unwrap_err();
    assert!(why.to_string().contains("cuMemHostAlloc"), "{why}");
    gpu.unpin(others).unwrap();
    Filled::new(&gpu, &allocator, 2 * GRANULE, 3).check(&gpu);
    block.check(&gpu);
    allocator.check().unwrap();
}

#[test]
fn memory_that_is_freed_for_a_request_and_pinned_again_counts_twice() {
    let (gpu, allocator) = setup(4 * GRANULE, 32 * GRANULE, "");
    let first = Filled::new(&gpu, &allocator, 20 * GRANULE, 1);
    allocator.free(first.address, 0, DEFAULT).unwrap();
    // The pinned arena is idle and too short, and the rest of the tier is too.
    let longer = Filled::new(&gpu, &allocator, 30 * GRANULE, 2);
    longer.check(&gpu);
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.reserved.current(), stats.retries), (30 * GRANULE, 1));
    assert_eq!(stats.reserved.total(), 50 * GRANULE, "20 granules were pinned before, and freed");
    allocator.check().unwrap();
}

#[test]
fn what_is_wanted_in_shared_memory_gets_it() {
    let (gpu, allocator) = setup(16 * GRANULE, 16 * GRANULE, "");
    let address = allocator.malloc_shared(3 * GRANULE as usize, 0, DEFAULT).unwrap();
    let block = Filled::at(&gpu, address, 3 * GRANULE, 1);
    assert_eq!(tier_of(&allocator, &block), SHARE);
    block.check(&gpu);
}

#[test]
fn a_block_on_another_stream_waits_for_its_work() {
    let (gpu, allocator) = setup(2 * GRANULE, 2 * GRANULE, "");
    let other = Stream(gpu.create_stream().unwrap());
    gpu.set_completion(Completion::Late);
    let _full = allocator.malloc(2 * GRANULE as usize, 0, DEFAULT).unwrap();
    let shared = allocator.malloc(2 * GRANULE as usize, 0, DEFAULT).unwrap();
    gpu.launch(0, "use", &[Access::write(shared, 2 * GRANULE)]).unwrap();
    allocator.free(shared, 0, DEFAULT).unwrap();
    assert_eq!(allocator.malloc(2 * GRANULE as usize, 0, other), Ok(shared), "ordered by an event");
    gpu.launch(other.0, "use", &[Access::write(shared, 2 * GRANULE)]).unwrap();
    allocator.record_stream(shared, DEFAULT).unwrap();
    allocator.free(shared, 0, other).unwrap();
    assert_eq!(allocator.stats(0).unwrap().retired_blocks, 1);
    allocator.reset().unwrap();
    assert_eq!((gpu.faults(), allocator.stats(0).unwrap().retired_blocks), (vec![], 0));
    assert_eq!(gpu.memory_info(0, kitten_sim::Tier::Shared), Ok((2 * GRANULE, 2 * GRANULE)));
    allocator.check().unwrap();
}

#[test]
fn a_capture_that_overflows_keeps_its_pinned_memory() {
    let (gpu, allocator) = setup(4 * GRANULE, 32 * GRANULE, "");
    let stream = Stream(gpu.create_stream().unwrap());
    let pool = PoolId(0, 1);
    let weights = load(&gpu, &allocator, 2, 2);
    allocator.begin_pool(0, pool, move |asked| asked == stream).unwrap();
    gpu.begin_capture(stream.0).unwrap();
    let passing = allocator.malloc(2 * GRANULE as usize, 0, stream).unwrap();
    allocator.free(passing, 0, stream).unwrap();
    assert!(allocator.begin_loading(0, Reserve::Fixed(0), 0).unwrap_err().to_string().contains("captured"));
    gpu.end_capture(stream.0).unwrap();
    allocator.end_pool(0, pool).unwrap();
    assert_eq!(allocator.stats(0).unwrap().graph_pools, 1);
    allocator.reset().unwrap();
    allocator.activate(0, &Activation::default()).unwrap();
    allocator.disable(0, Order::default()).unwrap();
    gpu.launch(stream.0, "replay", &[Access::write(passing, 2 * GRANULE)]).unwrap();
    let eager = allocator.malloc(2 * GRANULE as usize, 0, stream).unwrap();
    assert_ne!(eager, passing, "until the pool is released");
    assert_eq!(allocator.claims(0, Order::default()).unwrap().len(), 3, "the pool's blocks are not among the claims");
    allocator.free(eager, 0, stream).unwrap();
    allocator.release_pool(0, pool).unwrap();
    allocator.reset().unwrap();
    assert_eq!(gpu.memory_info(0, kitten_sim::Tier::Shared), Ok((32 * GRANULE, 32 * GRANULE)));
    weights.iter().for_each(|block| block.check(&gpu));
    assert_eq!((gpu.faults(), allocator.stats(0).unwrap().graph_pools), (vec![], 0));
}

#[test]
fn the_automatic_mode_learns_and_moves_nothing() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let mut weights = load(&gpu, &allocator, 14, 2);
    let scratch = |allocator: &Allocator| {
        let tiers = [3, 3, 2].map(|granules| {
            let block = Filled::at(&gpu, allocator.malloc((granules * GRANULE) as usize, 0, DEFAULT).unwrap(), 512, 1);
            (tier_of(allocator, &block), block)
        });
        tiers.map(|(tier, block)| {
            allocator.free(block.address, 0, DEFAULT).unwrap();
            tier
        })
    };
    for _ in 0..4 {
        let calls = gpu.total_calls();
        assert_eq!(allocator.safe_point(0, "unet"), Ok(Moved::default()));
        assert_eq!(gpu.total_calls(), calls, "a safe point makes no driver call");
        assert!(scratch(&allocator).contains(&SHARE));
    }
    allocator.safe_point(0, "unet").unwrap();
    let reason = allocator.reserve_reason(0).unwrap();
    assert!(reason.contains("pinned") && reason.contains("MiB"), "{reason}");
    // The next activation uses the reserve that was learned.
    let automatic = Activation::default();
    out_and_back(&gpu, &allocator, &mut weights, &automatic);
    allocator.activate(0, &automatic).unwrap();
    let found = allocator.stats(0).unwrap().reserve;
    // The peak, to the next granule, and at most a quarter of it for fragments.
    assert!((8 * GRANULE..=11 * GRANULE).contains(&found), "{} granules", found / GRANULE);
    assert_eq!(scratch(&allocator), [KEEP; 3]);
    weights.iter().for_each(|block| block.check(&gpu));
    assert_eq!((gpu.faults(), allocator.check()), (vec![], Ok(())));
}

#[test]
fn any_action_may_follow_any_other() {
    let (gpu, allocator) = setup(16 * GRANULE, 64 * GRANULE, "");
    let mut random = Random(77);
    let mut blocks: Vec<Filled> = Vec::new();
    for step in 0..200 {
        match random.below(8) {
            0 => drop(allocator.activate(0, &reserve(random.below(12) * GRANULE)).unwrap()),
            1 => drop(allocator.disable(0, Order::default()).unwrap()),
            2 => drop(allocator.free_vram(0).unwrap()),
            3 => allocator.begin_loading(0, Reserve::Fixed(random.below(12) * GRANULE), GRANULE).unwrap(),
            4 => allocator.reset().unwrap(),
            _ if blocks.len() > 12 => {
                let block = blocks.swap_remove(random.below(13) as usize);
                block.check(&gpu);
                allocator.free(block.address, 0, DEFAULT).unwrap();
            }
            _ => blocks.push(Filled::new(&gpu, &allocator, 1 + random.below(3 * GRANULE), step)),
        }
        allocator.check().unwrap();
        blocks.iter().for_each(|block| block.check(&gpu));
    }
    assert_eq!(gpu.faults(), []);
}

#[test]
fn two_devices_know_their_own_and_closing_leaves_nothing_behind() {
    let gpu = machine(2, 4 * GRANULE, 16 * GRANULE);
    let allocator = kitten_on(&gpu, "");
    let mut blocks = Vec::new();
    for device in [0, 1, 0, 1, 1, 0] {
        let address = allocator.malloc(3 * GRANULE as usize, device, DEFAULT).unwrap();
        blocks.push((device, Filled::at(&gpu, address, 3 * GRANULE, address)));
    }
    for device in 0..2 {
        let stats = allocator.stats(device).unwrap();
        assert_eq!(stats.tiers[Tier::Shared].allocated.current(), 6 * GRANULE);
    }
    for (device, block) in &blocks {
        block.check(&gpu);
        // PyTorch may name another device.
        allocator.free(block.address, 1 - device, DEFAULT).unwrap();
    }
    allocator.malloc(8 * GRANULE as usize, 1, DEFAULT).unwrap();
    allocator.shutdown();
    drop(allocator);
    assert_eq!((gpu.outstanding(), gpu.faults()), (Outstanding::default(), vec![]));
}
