//! Memory that other programs hold. It is not promised, and host memory is promised only once.

use super::common::{DEFAULT, Filled, GRANULE, KEEP, kitten_on, load, machine, reserve, setup, tier_of};
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Allocator, Options, Tier, show_size};
use kitten_sim::Gpu;

#[test]
fn what_others_have_taken_is_not_promised() {
    let (gpu, allocator) = setup(64 * GRANULE, 64 * GRANULE, "");
    let block = Filled::new(&gpu, &allocator, 4 * GRANULE, 1);
    let info = || allocator.memory_info(0).unwrap();
    assert_eq!(info().free[Tier::Dedicated], 60 * GRANULE);
    gpu.set_dedicated_taken(0, 40 * GRANULE);
    assert_eq!((info().free[Tier::Dedicated], info().total[Tier::Dedicated]), (20 * GRANULE, 64 * GRANULE));
    let all = info().free[Tier::Dedicated] + info().free[Tier::Shared];
    if crate::MIGRATES {
        // Except for one granule of working room, all memory that is reported as free can be
        // obtained, also in one piece.
        let cache = allocator.malloc((all - GRANULE) as usize, 0, DEFAULT).unwrap();
        assert_eq!(allocator.residency(cache).unwrap()[Tier::Dedicated], 20 * GRANULE);
        allocator.free(cache, 0, DEFAULT).unwrap();
        allocator.reset().unwrap();
    }
    let refused = allocator.malloc((200 * GRANULE) as usize, 0, DEFAULT).unwrap_err().to_string();
    assert!(
        refused.contains(&format!("{} mapped of {}", show_size(4 * GRANULE), show_size(24 * GRANULE))),
        "{refused}"
    );
    gpu.set_dedicated_taken(0, 0);
    assert_eq!(info().free[Tier::Dedicated], 60 * GRANULE, "free again after it is returned");
    block.check(&gpu);
    allocator.check().unwrap();
}

#[test]
fn an_activation_plans_with_what_others_have_left() {
    let (gpu, allocator) = setup(32 * GRANULE, 64 * GRANULE, "");
    let blocks = load(&gpu, &allocator, 8, 2);
    allocator.free_vram(0).ok();
    gpu.set_dedicated_taken(0, 24 * GRANULE);
    let before = allocator.stats(0).unwrap().tiers[Tier::Dedicated].allocated.current();
    allocator.activate(0, &reserve(2 * GRANULE)).unwrap();
    let stats = allocator.stats(0).unwrap();
    if crate::MIGRATES {
        assert_eq!((before, stats.tiers[Tier::Dedicated].allocated.current()), (0, 6 * GRANULE), "8 less the reserve");
        let scratch = Filled::new(&gpu, &allocator, 2 * GRANULE, 9);
        assert_eq!(tier_of(&allocator, &scratch), KEEP, "the reserve is there");
    }
    blocks.iter().for_each(|block| block.check(&gpu));
    gpu.set_dedicated_taken(0, 0);
    allocator.disable(0, Activation::default().order).unwrap();
    assert!(!crate::MIGRATES || blocks.iter().all(|block| tier_of(&allocator, block) == KEEP));
    allocator.check().unwrap();
}

#[test]
fn the_hosts_memory_is_promised_once_to_all_devices() {
    let gpu = machine(2, 4 * GRANULE, 64 * GRANULE);
    let allocator = kitten_on(&gpu, "shared:64MiB");
    allocator.open(1).unwrap();
    let shared = |device| allocator.memory_info(device).unwrap().free[Tier::Shared];
    assert_eq!((shared(0), shared(1)), (32 * GRANULE, 32 * GRANULE));
    let first = allocator.malloc_shared((20 * GRANULE) as usize, 0, DEFAULT).unwrap();
    let left = shared(1);
    assert!(left <= 12 * GRANULE && left == shared(0), "{left}");
    let second = allocator.malloc((14 * GRANULE) as usize, 1, DEFAULT);
    assert!(second.is_err() || left >= 10 * GRANULE);
    assert!(allocator.malloc((20 * GRANULE) as usize, 1, DEFAULT).is_err(), "4 dedicated and 12 shared are left");
    allocator.free(first, 0, DEFAULT).unwrap();
    allocator.reset().unwrap();
    assert!(allocator.malloc((20 * GRANULE) as usize, 1, DEFAULT).is_ok());
    allocator.check().unwrap();
}

#[test]
fn what_lies_idle_goes_back_in_a_program_that_waits_and_in_no_other() {
    let (gpu, allocator) = setup(32 * GRANULE, 64 * GRANULE, "");
    let held = || allocator.stats(0).unwrap().tiers[Tier::Dedicated].reserved.current();
    let kept = Filled::new(&gpu, &allocator, 2 * GRANULE, 1);
    let scratch = || allocator.free(allocator.malloc((4 * GRANULE) as usize, 0, DEFAULT).unwrap(), 0, DEFAULT).unwrap();
    for _ in 0..3 {
        scratch();
        allocator.look_for_idle();
        assert_eq!(held(), 6 * GRANULE, "it works");
    }
    gpu.set_completion(kitten_sim::Completion::Late);
    gpu.launch(0, "use", &[kitten_sim::Access::write(kept.address, GRANULE)]).unwrap();
    allocator.look_for_idle();
    assert_eq!(held(), 6 * GRANULE, "the card is at work");
    gpu.set_completion(kitten_sim::Completion::Immediate);
    gpu.synchronize(0).unwrap();
    allocator.look_for_idle();
    assert_eq!(held(), 2 * GRANULE);
    let calls = gpu.calls().get("cuCtxSynchronize").copied();
    allocator.look_for_idle();
    assert_eq!(gpu.calls().get("cuCtxSynchronize").copied(), calls, "nothing is idle, so nothing waits for the device");
    allocator.activate(0, &reserve(8 * GRANULE)).unwrap();
    (0..3).for_each(|_| allocator.look_for_idle());
    assert!(held() >= 10 * GRANULE, "frozen: the reserve stays");
    kept.check(&gpu);
    allocator.check().unwrap();
}

#[test]
fn a_look_for_idle_memory_asks_no_stream_that_may_be_gone() {
    let (gpu, allocator) = setup(32 * GRANULE, 64 * GRANULE, "");
    let held = || allocator.stats(0).unwrap().tiers[Tier::Dedicated].reserved.current();
    let asked = || {
        let calls = gpu.calls();
        let of = |call| calls.get(call).copied().unwrap_or(0);
        (of("cuStreamQuery"), of("cuStreamIsCapturing"))
    };
    let kept = Filled::new(&gpu, &allocator, 2 * GRANULE, 1);
    for _ in 0..3 {
        let stream = Stream(gpu.create_stream().unwrap());
        let passing = allocator.malloc((4 * GRANULE) as usize, 0, stream).unwrap();
        allocator.free(passing, 0, stream).unwrap();
        gpu.destroy_stream(stream.0).unwrap();
    }
    let idle = held() - 2 * GRANULE;
    assert!(idle >= 4 * GRANULE);
    allocator.look_for_idle();
    let before = asked();
    allocator.look_for_idle();
    assert_eq!(asked(), (before.0 + 1, before.1), "the default stream, which nobody can destroy");
    assert_eq!(held(), 2 * GRANULE, "the device was waited for, and what was idle has gone");
    kept.check(&gpu);
    allocator.check().unwrap();
    assert_eq!(gpu.faults(), []);
}

#[test]
fn an_action_that_the_hosts_memory_cannot_hold_moves_nothing() {
    let gpu = machine(2, 8 * GRANULE, 64 * GRANULE);
    let allocator = kitten_on(&gpu, "shared:24MiB");
    let elsewhere = allocator.malloc_shared((8 * GRANULE) as usize, 1, DEFAULT).unwrap();
    let blocks = load(&gpu, &allocator, 6, 1);
    let why = match (allocator.free_vram(0), crate::MIGRATES) {
        (Err(why), true) => why.to_string(),
        (Ok(moved), false) if moved.stayed == 6 * GRANULE => return,
        (other, _) => panic!("{other:?}"),
    };
    assert!(why.contains("nothing was moved"), "{why}");
    assert_eq!(allocator.stats(0).unwrap().migrations, 0);
    assert!(blocks.iter().all(|block| tier_of(&allocator, block) == KEEP));
    allocator.free(elsewhere, 1, DEFAULT).unwrap();
    allocator.reset().unwrap();
    allocator.free_vram(0).unwrap();
    assert_eq!(allocator.stats(0).unwrap().migrations, 6);
    blocks.iter().for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
}

#[test]
fn what_a_request_took_before_it_was_served_elsewhere_is_counted() {
    let (gpu, allocator) = setup(8 * GRANULE, 16 * GRANULE, "");
    let shared = allocator.malloc_shared((3 * GRANULE) as usize, 0, DEFAULT).unwrap();
    allocator.free(shared, 0, DEFAULT).unwrap();
    gpu.set_dedicated_taken(0, 6 * GRANULE);
    assert_eq!(allocator.malloc((3 * GRANULE) as usize, 0, DEFAULT), Ok(shared));
    let (capacity, free) = gpu.memory_info(0, kitten_sim::Tier::Dedicated).unwrap();
    let held = allocator.stats(0).unwrap().tiers[Tier::Dedicated].reserved.current();
    assert_eq!(held, capacity - free - 6 * GRANULE, "the memory that the machine has handed out");
    assert_eq!(held, 2 * GRANULE);
}

#[test]
fn a_block_that_finds_no_room_in_the_hosts_memory_stays_whole_where_it_is() {
    if !crate::MIGRATES {
        return;
    }
    let gpu = machine(2, 32 * GRANULE, 64 * GRANULE);
    let allocator = kitten_on(&gpu, "shared:64MiB");
    allocator.malloc_shared((24 * GRANULE) as usize, 1, DEFAULT).unwrap();
    let block = Filled::new(&gpu, &allocator, 16 * GRANULE, 1);
    let refused = allocator.move_block(block.address, Tier::Shared);
    assert!(matches!(refused, Err(giant_kitten::Error::Refused(_))), "{refused:?}");
    assert_eq!((tier_of(&allocator, &block), allocator.stats(0).unwrap().migrations), (KEEP, 0));
    block.check(&gpu);
    allocator.check().unwrap();
}

#[test]
fn what_is_left_to_others_serves_before_anything_overflows_as_far_as_it_is_free() {
    // The CUDA driver leaves 256 MiB on a small card.
    let (headroom, floor) = (128 * GRANULE, 32 * GRANULE);
    let mut card = machine(1, 320 * GRANULE, 64 * GRANULE).device_profile(0).unwrap();
    card.headroom_bytes = headroom;
    let gpu = Gpu::new(&[card]).unwrap();
    let on = |options: &str| {
        let options = Options::parse(&format!("shared:{},{options}", 64 * GRANULE)).unwrap();
        Allocator::new(options, crate::driver(&gpu)).unwrap()
    };
    let allocator = on("");
    let dedicated = || allocator.stats(0).unwrap().capacity[Tier::Dedicated];
    let loaded = Filled::new(&gpu, &allocator, 192 * GRANULE, 1);
    assert_eq!(dedicated(), 192 * GRANULE);
    let more = Filled::new(&gpu, &allocator, 50 * GRANULE, 2);
    assert_eq!((tier_of(&allocator, &more), dedicated()), (KEEP, 242 * GRANULE));
    // Kernels that were loaded late hold the rest of it.
    gpu.set_dedicated_taken(0, 60 * GRANULE);
    let beyond = Filled::new(&gpu, &allocator, 40 * GRANULE, 3);
    let bytes = allocator.residency(beyond.address).unwrap();
    assert!(bytes[Tier::Shared] > 0 && dedicated() <= (320 - 60) * GRANULE - floor.min(18 * GRANULE), "{bytes:?}");
    [loaded, more, beyond].iter().for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
    // It is left to others again once it is not in use.
    gpu.set_dedicated_taken(0, 0);
    [loaded, more, beyond].into_iter().for_each(|block| allocator.free(block.address, 0, DEFAULT).unwrap());
    allocator.reset().unwrap();
    assert_eq!(dedicated(), 192 * GRANULE);
    drop(allocator);
    // What the user has set is nobody's to give up.
    let allocator = on("headroom:256MiB");
    Filled::new(&gpu, &allocator, 160 * GRANULE, 4);
    assert_ne!(tier_of(&allocator, &Filled::new(&gpu, &allocator, 50 * GRANULE, 5)), KEEP);
    allocator.check().unwrap();
    drop(allocator);
    // Without a shared tier the program would be out of memory: no floor is kept.
    let allocator = on("shared:0");
    let all = Filled::new(&gpu, &allocator, 320 * GRANULE, 6);
    assert_eq!(tier_of(&allocator, &all), KEEP);
}
