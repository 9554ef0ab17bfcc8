//! A run that reports no steps, and the next one, which knows what the first would have wanted.

use super::common::{DEFAULT, Filled, GRANULE, kitten_on, load, machine};
use giant_kitten::{Allocator, Options, Phase, Tier, Wanted};
use kitten_sim::Gpu;

fn run_of(gpu: &Gpu, wanted: Option<Wanted>) -> Allocator {
    let shared = gpu.device_profile(0).unwrap().shared_bytes;
    let options = Options::parse(&format!("headroom:0,shared:{shared},reserve:remembered")).unwrap();
    Allocator::new(Options { remember: false, remembered: wanted, ..options }, crate::driver(gpu)).unwrap()
}

/// Runs steps with scratch of these granules. Returns the shared bytes of scratch in each.
fn steps(allocator: &Allocator, count: u64, sizes: &[u64]) -> Vec<u64> {
    (0..count)
        .map(|_| {
            let scratch: Vec<u64> =
                sizes.iter().map(|size| allocator.malloc((size * GRANULE) as usize, 0, DEFAULT).unwrap()).collect();
            let shared = scratch.iter().map(|address| allocator.residency(*address).unwrap()[Tier::Shared]).sum();
            scratch.into_iter().for_each(|address| allocator.free(address, 0, DEFAULT).unwrap());
            shared
        })
        .collect()
}

#[test]
fn the_second_run_is_right_from_its_first_step_and_moves_nothing() {
    let gpu = machine(1, 32 * GRANULE, 128 * GRANULE);
    let first = run_of(&gpu, None);
    load(&gpu, &first, 14, 2);
    assert!(steps(&first, 3, &[4, 4]).into_iter().all(|shared| shared > 0), "the first run cannot know");
    let wanted = first.wanted(0).unwrap().unwrap();
    assert_eq!((wanted.resident, wanted.capacity), (28 * GRANULE, 32 * GRANULE));
    assert!((8 * GRANULE..=9 * GRANULE).contains(&wanted.reserve), "{wanted:?}");
    drop(first);

    let second = run_of(&gpu, Some(wanted));
    let weights = load(&gpu, &second, 14, 2);
    assert_eq!(second.stats(0).unwrap().phase, Phase::Loading);
    assert_eq!(steps(&second, 3, &[4, 4]), [0, 0, 0]);
    let stats = second.stats(0).unwrap();
    assert_eq!((stats.phase, stats.migrations, stats.reserve), (Phase::Active, 0, wanted.reserve));
    let again = second.wanted(0).unwrap().unwrap();
    assert_eq!(again, wanted, "the second run wants the same");
    weights.iter().for_each(|block| block.check(&gpu));
    second.check().unwrap();
    drop(second);

    // A smaller model than the remembered one, whose weights never reach that size.
    let smaller = run_of(&gpu, Some(Wanted { resident: 100 * GRANULE, ..wanted }));
    load(&gpu, &smaller, 12, 2);
    let late = steps(&smaller, 20, &[4, 4]).pop();
    assert_eq!(
        (late, smaller.stats(0).unwrap().phase),
        (Some(0), Phase::Active),
        "freed bytes show the end of loading, too"
    );
}

#[test]
fn the_end_of_a_program_counts_for_nothing() {
    let gpu = machine(1, 32 * GRANULE, 128 * GRANULE);
    let allocator = run_of(&gpu, None);
    let weights = load(&gpu, &allocator, 14, 2);
    for sizes in [&[4, 4], &[5, 4]] {
        steps(&allocator, 6, sizes);
    }
    let before = allocator.wanted(0).unwrap();
    assert!(before.unwrap().spill.above == 2 * GRANULE, "{before:?}");
    weights.iter().for_each(|block| allocator.free(block.address, 0, DEFAULT).unwrap());
    assert_eq!(allocator.wanted(0).unwrap(), before);
}

#[test]
fn what_fits_wants_no_reserve_and_says_nothing() {
    let gpu = machine(1, 64 * GRANULE, 64 * GRANULE);
    let allocator = kitten_on(&gpu, "");
    load(&gpu, &allocator, 14, 2);
    steps(&allocator, 3, &[4, 4]);
    assert_eq!((allocator.wanted(0).unwrap().unwrap().reserve, allocator.farewell()), (0, vec![]));
}

#[test]
fn a_program_that_overflowed_says_so_once_in_one_line() {
    let gpu = machine(1, 32 * GRANULE, 128 * GRANULE);
    let allocator = kitten_on(&gpu, "");
    load(&gpu, &allocator, 14, 2);
    steps(&allocator, 3, &[4, 4]);
    let lines = allocator.farewell();
    assert_eq!(lines.len(), 1);
    for part in ["lay in host memory", "GIANT_KITTEN=reserve:", "reserve:remembered", "follow(model)"] {
        assert!(lines[0].contains(part) && !lines[0].contains('\n'), "{lines:?}");
    }
    // Programs that have placed blocks by hand get no advice.
    allocator.activate(0, &Default::default()).ok();
    assert_eq!(allocator.farewell(), [""; 0]);
}

#[test]
fn a_fixed_reserve_is_opened_by_work_where_nobody_activates() {
    let gpu = machine(1, 96 * GRANULE, 256 * GRANULE);
    let allocator = kitten_on(&gpu, "reserve:16MiB");
    let weights = load(&gpu, &allocator, 50, 2);
    assert_eq!(allocator.stats(0).unwrap().phase, Phase::Loading);
    let shared = steps(&allocator, 20, &[4, 4]);
    assert!(shared[0] > 0 && shared[19] == 0, "{shared:?}");
    assert_eq!(allocator.stats(0).unwrap().migrations, 0);
    weights.iter().for_each(|block: &Filled| block.check(&gpu));
    allocator.check().unwrap();
    // No action has frozen the device. Idle memory is returned, and the next model finds the
    // reserve kept again.
    weights.iter().for_each(|block| allocator.free(block.address, 0, DEFAULT).unwrap());
    allocator.reset().unwrap();
    let stats = allocator.stats(0).unwrap();
    assert_eq!((stats.phase, stats.reserve), (Phase::Loading, 8 * GRANULE));
    assert_eq!(stats.tiers[Tier::Dedicated].reserved.current(), 8 * GRANULE);
    load(&gpu, &allocator, 50, 2);
    assert!(steps(&allocator, 20, &[4, 4])[19] == 0);
    allocator.check().unwrap();
}

#[test]
fn a_remembered_reserve_is_no_reason_to_run_out_of_memory() {
    let gpu = machine(1, 64 * GRANULE, 0);
    let wanted = Wanted {
        capacity: 64 * GRANULE,
        reserve: 40 * GRANULE,
        resident: 100 * GRANULE,
        spill: giant_kitten::Spill::default(),
    };
    let allocator = run_of(&gpu, Some(wanted));
    load(&gpu, &allocator, 30, 2);
    assert_eq!(allocator.stats(0).unwrap().phase, Phase::Active, "the reserve opens because no other memory is left");
    assert!(allocator.malloc((5 * GRANULE) as usize, 0, DEFAULT).is_err(), "4 are left");
    allocator.check().unwrap();
}
