//! The automatic mode: the reserve is found without options, and it pays.

use super::common::{DEFAULT, Filled, GRANULE, Random, kitten_on, load, machine, setup, tier_of};
use giant_kitten::{Activation, Allocator, Phase, Reserve, Tier};
use kitten_sim::Gpu;

const UNET: &str = "unet";
const VAE: &str = "vae";

/// Bytes over the link in one interval: scratch is written and read, weights are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traffic {
    scratch: u64,
    weights: u64,
}

/// One interval of work: `rounds` rounds of scratch of `sizes` granules, all live at once, and one
/// read of the weights.
fn work(allocator: &Allocator, weights: &[Filled], sizes: &[u64], rounds: u64) -> Traffic {
    let mut traffic = Traffic::default();
    for _ in 0..rounds {
        let scratch: Vec<u64> =
            sizes.iter().map(|granules| allocator.malloc((granules * GRANULE) as usize, 0, DEFAULT).unwrap()).collect();
        for address in scratch {
            traffic.scratch += 2 * allocator.residency(address).unwrap()[Tier::Shared];
            allocator.free(address, 0, DEFAULT).unwrap();
        }
    }
    for block in weights {
        traffic.weights += allocator.residency(block.address).unwrap()[Tier::Shared];
        allocator.touch(block.address, block.bytes).unwrap();
    }
    traffic
}

fn all_as_they_were(gpu: &Gpu, allocator: &Allocator, blocks: &[Filled]) {
    allocator.check().unwrap();
    blocks.iter().for_each(|block| block.check(gpu));
    assert_eq!(gpu.faults(), []);
}

#[test]
fn the_reserve_finds_itself() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "reserve:auto");
    let weights = load(&gpu, &allocator, 14, 2);
    allocator.safe_point(0, UNET).unwrap();
    let first = work(&allocator, &weights, &[3, 3, 2], 10);
    assert!(first.scratch > 0, "28 of 32 granules are weights, and 8 are wanted");
    let moved = allocator.safe_point(0, UNET).unwrap();
    let lacking = 4 * GRANULE..=5 * GRANULE;
    assert!(
        lacking.contains(&moved.demoted) && moved.promoted == 0,
        "the missing room, and at most fragments: {moved:?}"
    );
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.phase, stats.reserve, stats.rebalances), (Phase::Active, 4 * GRANULE + moved.demoted, 1));
    assert!(stats.automatic);
    for _ in 0..5 {
        let step = work(&allocator, &weights, &[3, 3, 2], 10);
        assert_eq!(step, Traffic { scratch: 0, weights: moved.demoted });
        assert_eq!(allocator.safe_point(0, UNET).unwrap(), Default::default());
    }
    all_as_they_were(&gpu, &allocator, &weights);
}

#[test]
fn the_reserve_is_found_without_being_told_of_reads() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let weights = load(&gpu, &allocator, 14, 2);
    for _ in 0..2 {
        allocator.safe_point(0, "").unwrap();
        work(&allocator, &[], &[4, 4], 10);
    }
    allocator.safe_point(0, "").unwrap();
    assert_eq!(work(&allocator, &[], &[4, 4], 10), Traffic::default());
    all_as_they_were(&gpu, &allocator, &weights);
}

#[test]
fn a_reset_moves_nothing_unless_a_program_of_one_thread_opts_in() {
    for (options, moves) in [("", false), ("safe_points:empty_cache", true)] {
        let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, options);
        let weights = load(&gpu, &allocator, 14, 2);
        for _ in 0..2 {
            allocator.reset().unwrap();
            work(&allocator, &[], &[4, 4], 10);
        }
        allocator.reset().unwrap();
        assert_eq!(allocator.stats(0).unwrap().migrations > 0, moves, "{options}");
        assert_eq!(work(&allocator, &[], &[4, 4], 10) == Traffic::default(), moves, "{options}");
        all_as_they_were(&gpu, &allocator, &weights);
    }
}

#[test]
fn resets_are_no_safe_points_once_a_second_thread_is_seen() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "safe_points:empty_cache");
    let weights = load(&gpu, &allocator, 14, 2);
    std::thread::scope(|scope| scope.spawn(|| work(&allocator, &[], &[1], 1)).join().unwrap());
    for _ in 0..4 {
        allocator.reset().unwrap();
        work(&allocator, &[], &[4, 4], 10);
    }
    assert_eq!(allocator.stats(0).unwrap().migrations, 0);
    let why = allocator.reserve_reason(0).unwrap();
    assert!(why.contains("safe_points:empty_cache is refused") && why.contains("more than one thread"), "{why}");
    all_as_they_were(&gpu, &allocator, &weights);
}

/// One interval of work after which something should move.
fn wanting(allocator: &Allocator, weights: &[Filled]) {
    allocator.safe_point(0, UNET).unwrap();
    work(allocator, weights, &[4, 4], 10);
}

#[test]
fn a_safe_point_abstains_where_another_thread_is_seen() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let weights = load(&gpu, &allocator, 14, 2);
    let beside = |done: fn(&Allocator)| std::thread::scope(|scope| scope.spawn(|| done(&allocator)).join().unwrap());
    let one = |allocator: &Allocator| allocator.free(allocator.malloc(1, 0, DEFAULT).unwrap(), 0, DEFAULT).unwrap();
    wanting(&allocator, &weights);
    beside(one);
    assert_eq!(allocator.safe_point(0, UNET).unwrap(), Default::default(), "it has allocated");
    work(&allocator, &weights, &[4, 4], 10);
    beside(|allocator| assert_eq!(allocator.safe_point(0, UNET), Ok(Default::default())));
    work(&allocator, &weights, &[4, 4], 10);
    assert_eq!(
        allocator.safe_point(0, UNET).unwrap(),
        Default::default(),
        "the caller of a safe point goes on to work"
    );
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.abstained, stats.migrations), (3, 0));
    let why = allocator.reserve_reason(0).unwrap();
    assert!(why.contains("moved nothing: another thread has used the card"), "{why}");

    work(&allocator, &weights, &[4, 4], 10);
    beside(|allocator| {
        allocator.free(allocator.malloc(1, 0, DEFAULT).unwrap(), 0, DEFAULT).unwrap();
        allocator.rest(0).unwrap();
    });
    assert_ne!(
        allocator.safe_point(0, UNET).unwrap(),
        Default::default(),
        "the thread has reported that it is at rest"
    );
    assert!(!allocator.reserve_reason(0).unwrap().contains("moved nothing"));
    all_as_they_were(&gpu, &allocator, &weights);
}

#[test]
fn a_thread_inside_a_piece_of_work_is_waited_for_and_others_are_vouched_for() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let weights = load(&gpu, &allocator, 14, 2);
    let (begun, end) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        let at_work = scope.spawn(|| {
            allocator.begin_work(0).unwrap();
            begun.wait();
            end.wait();
            allocator.end_work(0).unwrap();
        });
        begun.wait();
        for _ in 0..3 {
            wanting(&allocator, &weights);
            allocator.vouch(0).unwrap();
            assert_eq!(allocator.safe_point(0, UNET).unwrap(), Default::default(), "it may launch without allocating");
        }
        end.wait();
        at_work.join().unwrap();
    });
    work(&allocator, &weights, &[4, 4], 10);
    std::thread::scope(|scope| scope.spawn(|| work(&allocator, &[], &[1], 1)).join().unwrap());
    allocator.vouch(0).unwrap();
    assert_ne!(
        allocator.safe_point(0, UNET).unwrap(),
        Default::default(),
        "the threads of autograd, between two steps"
    );
    all_as_they_were(&gpu, &allocator, &weights);
}

#[test]
fn a_thread_at_work_since_before_the_first_use_is_waited_for() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let allocator = &allocator;
    std::thread::scope(|scope| {
        let (go_on, asked) = std::sync::mpsc::channel();
        let (done, reached) = std::sync::mpsc::channel();
        scope.spawn(move || {
            // Pieces of work nest. One of the three ends before anyone uses the device.
            (0..3).for_each(|_| allocator.begin_work(0).unwrap());
            for () in asked {
                allocator.end_work(0).unwrap();
                done.send(()).unwrap();
            }
        });
        let end_one = || {
            go_on.send(()).unwrap();
            reached.recv().unwrap();
        };
        end_one();
        assert!(!allocator.stats(0).unwrap().in_use, "the device is not put to use");
        let weights = load(&gpu, allocator, 14, 2);
        for pieces in [2, 1] {
            wanting(allocator, &weights);
            allocator.vouch(0).unwrap();
            assert_eq!(allocator.safe_point(0, UNET).unwrap(), Default::default(), "{pieces} go on");
            assert!(allocator.reserve_reason(0).unwrap().contains("moved nothing"));
            end_one();
        }
        work(allocator, &weights, &[4, 4], 10);
        allocator.vouch(0).unwrap();
        assert_ne!(allocator.safe_point(0, UNET).unwrap(), Default::default(), "all have ended");
        all_as_they_were(&gpu, allocator, &weights);
        drop(go_on);
    });
}

#[test]
fn with_the_last_block_the_reserve_goes_and_what_was_learned_stays() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let weights = load(&gpu, &allocator, 14, 2);
    for _ in 0..3 {
        allocator.safe_point(0, "").unwrap();
        work(&allocator, &[], &[4, 4], 10);
    }
    let held = || allocator.stats(0).unwrap().tiers[Tier::Dedicated].reserved.current();
    allocator.safe_point(0, "").unwrap();
    allocator.reset().unwrap();
    assert!(allocator.stats(0).unwrap().reserve >= 8 * GRANULE && held() == 32 * GRANULE);
    weights.iter().for_each(|block| allocator.free(block.address, 0, DEFAULT).unwrap());
    allocator.reset().unwrap();
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.phase, stats.reserve, stats.automatic), (Phase::Loading, 0, true));
    assert_eq!(held(), 0, "another program can have the whole card");
    let weights = load(&gpu, &allocator, 14, 2);
    for _ in 0..2 {
        allocator.safe_point(0, "").unwrap();
        work(&allocator, &[], &[4, 4], 10);
    }
    allocator.safe_point(0, "").unwrap();
    assert_eq!(work(&allocator, &[], &[4, 4], 10), Traffic::default(), "the reserve is found again");
    all_as_they_were(&gpu, &allocator, &weights);
}

#[test]
fn where_everything_fits_nothing_is_done() {
    let (gpu, allocator) = setup(64 * GRANULE, 64 * GRANULE, "");
    let weights = load(&gpu, &allocator, 14, 2);
    for interval in 0..4 {
        let calls = gpu.total_calls();
        assert_eq!(allocator.safe_point(0, UNET).unwrap(), Default::default());
        assert_eq!(gpu.total_calls(), calls, "a safe point with nothing to do makes no driver call");
        assert_eq!(work(&allocator, &weights, &[3, 3, 2], 3), Traffic::default(), "interval {interval}");
    }
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.phase, stats.reserve, stats.migrations), (Phase::Loading, 0, 0));
}

#[test]
fn a_fixed_reserve_is_obeyed() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "reserve:6MiB");
    let weights = load(&gpu, &allocator, 14, 2);
    for _ in 0..3 {
        allocator.safe_point(0, UNET).unwrap();
        work(&allocator, &weights, &[3, 3, 2], 10);
    }
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.reserve, stats.rebalances, stats.automatic), (3 * GRANULE, 0, false));
    allocator.activate(0, &Activation { reserve: Reserve::Fixed(5 * GRANULE), ..Activation::default() }).unwrap();
    allocator.safe_point(0, UNET).unwrap();
    assert_eq!(allocator.stats(0).unwrap().reserve, 5 * GRANULE);
    assert_eq!(allocator.stats(0).unwrap().rebalances, 0);
}

#[test]
fn an_action_ends_the_automatic_mode_and_an_automatic_activation_begins_it_again() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let weights = load(&gpu, &allocator, 14, 2);
    let automatic = || allocator.stats(0).unwrap().automatic;
    assert!(automatic());
    allocator.disable(0, Activation::default().order).unwrap();
    assert!(!automatic());
    allocator.activate(0, &Activation::default()).unwrap();
    assert!(automatic());
    allocator.free_vram(0).unwrap();
    assert!(!automatic());
    allocator.activate(0, &Activation::default()).unwrap();
    assert!(weights.iter().all(|block| tier_of(&allocator, block) == Some(Tier::Dedicated)));
    all_as_they_were(&gpu, &allocator, &weights);
}

#[test]
fn each_kind_of_work_finds_its_own() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let unet = load(&gpu, &allocator, 12, 2);
    let vae: Vec<_> = (0..2).map(|seed| Filled::new(&gpu, &allocator, 2 * GRANULE, 100 + seed)).collect();
    let mut last = Vec::new();
    for generation in 0..4 {
        last.clear();
        for _ in 0..8 {
            allocator.safe_point(0, UNET).unwrap();
            last.push(work(&allocator, &unet, &[2, 2], 6));
        }
        allocator.safe_point(0, VAE).unwrap();
        last.push(work(&allocator, &vae, &[10, 10], 6));
        all_as_they_were(&gpu, &allocator, &unet);
        assert!(generation > 0 || last[8].scratch > 0, "the first time cannot be known in advance");
    }
    assert!(last[..8].iter().all(|step| *step == Traffic::default()), "the UNet is back: {last:?}");
    assert_eq!(last[8].scratch, 0, "the idle UNet has made room");
    let before = allocator.stats(0).unwrap();
    assert_ne!(allocator.safe_point(0, UNET).unwrap(), Default::default());
    let after = allocator.stats(0).unwrap();
    assert!(after.rebalances > before.rebalances && after.reserve_used.current() == 0);
    assert_eq!(after.reserve_used.peak(), before.reserve_used.peak(), "placing anew keeps the high-water mark");
    assert!(after.reserve_used.peak() >= 20 * GRANULE);
    all_as_they_were(&gpu, &allocator, &vae);
}

/// The traffic over the link of many intervals, with the bytes moved before each.
fn traffic(
    options: &str,
    weights: u64,
    intervals: u64,
    mut interval: impl FnMut(&Allocator, &[Filled], u64) -> (u64, Traffic),
) -> Vec<(u64, u64)> {
    let gpu = machine(1, 32 * GRANULE, 256 * GRANULE);
    let allocator = kitten_on(&gpu, options);
    let weights = load(&gpu, &allocator, weights, 2);
    let mut kind = 0;
    let found = (0..intervals)
        .map(|i| {
            let moved = allocator.safe_point(0, &kind.to_string()).unwrap();
            let (next, traffic) = interval(&allocator, &weights, i);
            kind = next;
            (traffic.scratch + traffic.weights, moved.demoted + moved.promoted)
        })
        .collect();
    all_as_they_were(&gpu, &allocator, &weights);
    found
}

/// Moves must not follow work that changes all the time.
#[test]
fn nothing_thrashes() {
    const INTERVALS: u64 = 200;
    type Adversary = fn(&Allocator, &[Filled], u64) -> (u64, Traffic);
    let adversaries: [(&str, u64, Adversary); 6] = [
        ("alternating resolutions", 13, |allocator, weights, i| {
            (0, work(allocator, weights, if i % 2 == 0 { &[2, 2] } else { &[6, 6] }, 4))
        }),
        ("alternating resolutions, reported", 13, |allocator, weights, i| {
            (1 + (i + 1) % 2, work(allocator, weights, if i % 2 == 0 { &[2, 2] } else { &[6, 6] }, 4))
        }),
        ("random sizes", 13, |allocator, weights, i| {
            let mut random = Random(i + 1);
            let sizes: Vec<u64> = (0..3).map(|_| 1 + random.below(8)).collect();
            (random.below(3), work(allocator, weights, &sizes, 1 + random.below(4)))
        }),
        ("two models in turn", 24, |allocator, weights, i| {
            let half = weights.len() / 2;
            let of = if i % 2 == 0 { &weights[..half] } else { &weights[half..] };
            (1 + (i + 1) % 2, work(allocator, of, &[1, 1], 2))
        }),
        ("scratch used once", 15, |allocator, weights, i| (0, work(allocator, weights, &[1 + i % 9], 1))),
        ("a phase that never comes again", 13, |allocator, weights, i| (i, work(allocator, weights, &[8, 4], 3))),
    ];
    for (name, weights, adversary) in adversaries {
        let ours = traffic("reserve:auto", weights, INTERVALS, adversary);
        let first_come = traffic("reserve:0", weights, INTERVALS, adversary);
        let total = |of: &[(u64, u64)]| of.iter().map(|(link, moved)| link + moved).sum::<u64>();
        assert!(
            total(&ours) as f64 <= 1.05 * total(&first_come) as f64,
            "{name}: {} granules over the link, {} first come",
            total(&ours) / GRANULE,
            total(&first_come) / GRANULE
        );
        let late = &ours[INTERVALS as usize / 2..];
        let moved: u64 = late.iter().map(|(_, moved)| moved).sum();
        assert!(moved as f64 <= 0.05 * total(&first_come) as f64, "{name}: {} granules moved late", moved / GRANULE);
    }
}

#[test]
fn a_growing_cache_is_followed_without_thrashing() {
    let (gpu, allocator) = setup(32 * GRANULE, 256 * GRANULE, "");
    let weights = load(&gpu, &allocator, 10, 2);
    let mut cache: Vec<Filled> = Vec::new();
    let mut moved = 0;
    for token in 0..60 {
        let step = allocator.safe_point(0, UNET).unwrap();
        moved += step.demoted + step.promoted;
        work(&allocator, &weights, &[1, 1], 4);
        cache.iter().for_each(|block| allocator.touch(block.address, block.bytes).unwrap());
        cache.push(Filled::new(&gpu, &allocator, GRANULE, 1000 + token));
    }
    // Once there is no room, the block that comes dedicated in each interval displaces another: 52
    // granules in the end.
    assert!(moved <= 60 * GRANULE, "{} granules moved", moved / GRANULE);
    all_as_they_were(&gpu, &allocator, &weights);
    all_as_they_were(&gpu, &allocator, &cache);
}

#[test]
fn nothing_moves_during_a_capture() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let weights = load(&gpu, &allocator, 14, 2);
    for _ in 0..2 {
        allocator.safe_point(0, UNET).unwrap();
        work(&allocator, &weights, &[4, 4], 10);
    }
    let pool = giant_kitten::PoolId(0, 1);
    allocator.begin_pool(0, pool, |_| false).unwrap();
    work(&allocator, &weights, &[9, 9], 10);
    assert_eq!(allocator.safe_point(0, UNET).unwrap(), Default::default());
    assert_eq!(allocator.stats(0).unwrap().abstained, 1);
    assert!(allocator.reserve_reason(0).unwrap().contains("a CUDA graph is being captured"));
    allocator.reset().unwrap();
    allocator.end_pool(0, pool).unwrap();
    allocator.release_pool(0, pool).unwrap();
    all_as_they_were(&gpu, &allocator, &weights);
}

#[test]
fn wrong_addresses_are_refused() {
    let (_gpu, allocator) = setup(32 * GRANULE, 32 * GRANULE, "");
    assert!(allocator.touch(12345, 1).is_err());
    assert!(allocator.safe_point(9, "").unwrap_err().to_string().contains("no device 9"));
}

#[test]
fn what_a_program_has_put_somewhere_stays_there() {
    let (gpu, allocator) = setup(32 * GRANULE, 128 * GRANULE, "");
    let weights = load(&gpu, &allocator, 14, 2);
    for (number, tier) in [(0, Tier::Shared), (1, Tier::Dedicated)] {
        allocator.move_block(weights[number].address, tier).unwrap();
        allocator.pin_to(weights[number].address, Some(tier)).unwrap();
    }
    let stays = |what: &str| {
        assert_eq!(tier_of(&allocator, &weights[0]), Some(Tier::Shared), "{what}");
        assert_eq!(tier_of(&allocator, &weights[1]), Some(Tier::Dedicated), "{what}");
    };
    for sizes in [&[2, 2][..], &[9, 9], &[1], &[1], &[1]] {
        allocator.safe_point(0, UNET).unwrap();
        work(&allocator, &weights, sizes, 10);
        stays("the automatic mode");
    }
    for reserve in [0, 30 * GRANULE] {
        allocator.activate(0, &Activation { reserve: Reserve::Fixed(reserve), ..Activation::default() }).unwrap();
        stays("an activation");
    }
    allocator.free_vram(0).unwrap();
    assert_eq!(tier_of(&allocator, &weights[1]), Some(Tier::Shared), "free_vram overrides the pin");
    allocator.disable(0, Activation::default().order).unwrap();
    stays("disable after free_vram");
    allocator.pin_to(weights[0].address + 7, None).unwrap();
    assert_eq!(
        (allocator.pin_of(weights[0].address), allocator.pin_of(weights[1].address)),
        (Ok(None), Ok(Some(Tier::Dedicated)))
    );
    allocator.disable(0, Activation::default().order).unwrap();
    assert_eq!(tier_of(&allocator, &weights[0]), Some(Tier::Dedicated), "once it is unpinned");
    allocator.free(weights[1].address, 0, DEFAULT).unwrap();
    assert_eq!(allocator.malloc((2 * GRANULE) as usize, 0, DEFAULT), Ok(weights[1].address));
    assert_eq!(allocator.pin_of(weights[1].address), Ok(None), "or freed");
    all_as_they_were(&gpu, &allocator, &[&weights[..1], &weights[2..]].concat());
}
