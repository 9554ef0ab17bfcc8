//! Pools and their contexts. The innermost context serves, only a capture refuses operations that
//! wait for the device, and any order of begin, end and release leaves a working allocator.

use super::common::{DEFAULT, Filled, GRANULE, Random, kitten_on, machine, setup};
use giant_kitten::driver::Stream;
use giant_kitten::history::Recording;
use giant_kitten::{Activation, Allocator, ContextKind, Error, PoolId, Tier};
use kitten_sim::{Completion, Gpu, code};

const OUTER: PoolId = PoolId(0, 1);
const INNER: PoolId = PoolId(0, 2);
const GRAPH: PoolId = PoolId(1, 0);

fn region(allocator: &Allocator, device: usize, pool: PoolId) {
    allocator.begin_pool_of_kind(device, pool, ContextKind::Region, |_| true).unwrap();
}

/// Begins to capture a stream as PyTorch does: the filter asks whether the stream is being
/// captured.
fn region_on(allocator: &Allocator, device: usize, pool: PoolId, stream: Stream) {
    allocator.begin_pool_of_kind(device, pool, ContextKind::Region, move |asked| asked == stream).unwrap();
}

fn capture(gpu: &Gpu, allocator: &Allocator, stream: Stream, pool: PoolId) {
    let machine = gpu.clone();
    let accepts = move |asked: Stream| asked == stream && machine.is_capturing(asked.0).unwrap_or(false);
    allocator.begin_pool_of_kind(0, pool, ContextKind::Capture, accepts).unwrap();
    gpu.begin_capture(stream.0).unwrap();
}

fn pool_of(allocator: &Allocator, device: usize, address: u64) -> Option<PoolId> {
    let segments = allocator.segments(device).unwrap();
    let holds = |segment: &giant_kitten::Segment| segment.blocks.iter().any(|block| block.address == address);
    segments.iter().find(|segment| holds(segment)).and_then(|segment| segment.pool)
}

fn held(allocator: &Allocator, device: usize) -> u64 {
    allocator.stats(device).unwrap().reserved.current()
}

#[test]
fn the_innermost_context_serves() {
    let (gpu, allocator) = setup(64 * GRANULE, 0, "");
    let stream = Stream(gpu.create_stream().unwrap());
    let served =
        |stream: Stream, bytes: u64| pool_of(&allocator, 0, allocator.malloc(bytes as usize, 0, stream).unwrap());
    region(&allocator, 0, OUTER);
    assert_eq!(served(DEFAULT, GRANULE), Some(OUTER));
    region(&allocator, 0, INNER);
    assert_eq!((served(DEFAULT, GRANULE), served(DEFAULT, 100)), (Some(INNER), Some(INNER)));
    capture(&gpu, &allocator, stream, GRAPH);
    assert_eq!(
        (served(stream, GRANULE), served(DEFAULT, GRANULE)),
        (Some(GRAPH), Some(INNER)),
        "a capture in a region"
    );
    region(&allocator, 0, OUTER);
    assert_eq!(served(stream, GRANULE), Some(OUTER), "a region in a capture, and the same pool twice");
    allocator.end_pool(0, OUTER).unwrap();
    assert_eq!(served(stream, GRANULE), Some(GRAPH));
    gpu.end_capture(stream.0).unwrap();
    allocator.end_pool(0, GRAPH).unwrap();
    allocator.end_pool(0, INNER).unwrap();
    assert_eq!((served(stream, GRANULE), served(DEFAULT, GRANULE)), (Some(OUTER), Some(OUTER)));
    allocator.end_pool(0, OUTER).unwrap();
    assert_eq!(served(DEFAULT, GRANULE), None);
    assert_eq!(allocator.pool_holds(OUTER), 2);
    allocator.check().unwrap();
}

#[test]
fn a_region_stops_nothing() {
    let (gpu, allocator) = setup(64 * GRANULE, 64 * GRANULE, "");
    let other = Stream(gpu.create_stream().unwrap());
    let kept = Filled::new(&gpu, &allocator, 3 * GRANULE, 1);
    region(&allocator, 0, OUTER);
    let inside = Filled::new(&gpu, &allocator, 2 * GRANULE, 2);
    // A block that waits for another stream is free as soon as that work is done.
    gpu.set_completion(Completion::Late);
    allocator.record_stream(kept.address, other).unwrap();
    let passing = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    allocator.record_stream(passing, other).unwrap();
    allocator.free(passing, 0, DEFAULT).unwrap();
    gpu.set_completion(Completion::Immediate);
    assert_eq!(allocator.malloc(GRANULE as usize, 0, DEFAULT), Ok(passing));
    for action in [allocator.free_vram(0), allocator.activate(0, &Activation::default())] {
        assert!(!matches!(action, Err(Error::Refused(_))), "{action:?}");
    }
    allocator.disable(0, Activation::default().order).unwrap();
    let idle = allocator.malloc_shared((4 * GRANULE) as usize, 0, DEFAULT).unwrap();
    allocator.free(idle, 0, DEFAULT).unwrap();
    allocator.reset().unwrap();
    allocator.end_pool(0, OUTER).unwrap();
    [kept, inside].iter().for_each(|block| block.check(&gpu));
    allocator.check().unwrap();
    assert_eq!(gpu.faults(), []);
}

#[test]
fn empty_cache_beside_a_region_gives_back_and_beside_a_capture_is_silent() {
    let (gpu, allocator) = setup(64 * GRANULE, 0, "");
    let stream = Stream(gpu.create_stream().unwrap());
    let idle = || allocator.free(allocator.malloc((8 * GRANULE) as usize, 0, DEFAULT).unwrap(), 0, DEFAULT).unwrap();
    idle();
    region(&allocator, 0, OUTER);
    allocator.reset().unwrap();
    assert_eq!(held(&allocator, 0), 0);
    allocator.end_pool(0, OUTER).unwrap();
    idle();
    capture(&gpu, &allocator, stream, GRAPH);
    let before = gpu.calls();
    allocator.reset().unwrap();
    assert_eq!(gpu.calls().get("cuCtxSynchronize"), before.get("cuCtxSynchronize"), "a capture forbids this call");
    assert_eq!(held(&allocator, 0), 8 * GRANULE);
    gpu.end_capture(stream.0).unwrap();
    allocator.end_pool(0, GRAPH).unwrap();
    allocator.reset().unwrap();
    assert_eq!(held(&allocator, 0), 0);
    // A capture that no hook reported is in the driver's way, and is spoilt by waiting.
    idle();
    gpu.begin_capture(stream.0).unwrap();
    allocator.reset().unwrap();
    assert_eq!(held(&allocator, 0), 8 * GRANULE);
    assert_eq!(gpu.end_capture(stream.0).map_err(|why| why.code), Err(code::STREAM_CAPTURE_INVALIDATED));
}

#[test]
fn a_region_remembers_no_stream_that_may_be_destroyed() {
    let (gpu, allocator) = setup(64 * GRANULE, 64 * GRANULE, "");
    let other = Stream(gpu.create_stream().unwrap());
    region(&allocator, 0, OUTER);
    let passing = Stream(gpu.create_stream().unwrap());
    let block = allocator.malloc(GRANULE as usize, 0, passing).unwrap();
    gpu.destroy_stream(passing.0).unwrap();
    // Everything that asks whether a graph is being captured.
    let waiting = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    allocator.record_stream(waiting, other).unwrap();
    allocator.free(waiting, 0, DEFAULT).unwrap();
    allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    allocator.reset().unwrap();
    allocator.activate(0, &Activation::default()).unwrap();
    allocator.free(block, 0, passing).unwrap();
    allocator.end_pool(0, OUTER).unwrap();
    assert_eq!(gpu.faults(), []);
}

#[test]
fn a_capture_that_a_forbidden_call_has_spoilt_is_in_nobodys_way() {
    let (gpu, allocator) = setup(64 * GRANULE, 0, "");
    let [stream, other] = [(); 2].map(|()| Stream(gpu.create_stream().unwrap()));
    capture(&gpu, &allocator, stream, GRAPH);
    let lost = allocator.malloc(GRANULE as usize, 0, stream).unwrap();
    gpu.synchronize(0).unwrap_err();
    assert_eq!(gpu.end_capture(stream.0).map_err(|why| why.code), Err(code::STREAM_CAPTURE_INVALIDATED));
    // PyTorch 2.11, among others, neither ends the context nor releases the pool then.
    allocator.free(lost, 0, stream).unwrap();
    allocator.reset().unwrap();
    gpu.destroy_stream(stream.0).unwrap();
    for _ in 0..20 {
        let block = allocator.malloc(4 * GRANULE as usize, 0, DEFAULT).unwrap();
        allocator.record_stream(block, other).unwrap();
        allocator.free(block, 0, DEFAULT).unwrap();
    }
    assert!(held(&allocator, 0) <= 6 * GRANULE, "what waited for another stream served again");
    allocator.activate(0, &Activation::default()).unwrap();
    assert_eq!(gpu.faults(), []);
}

#[test]
fn an_abandoned_capture_is_in_nobodys_way() {
    let (gpu, allocator) = setup(64 * GRANULE, 0, "");
    let stream = Stream(gpu.create_stream().unwrap());
    capture(&gpu, &allocator, stream, GRAPH);
    let lost = allocator.malloc(GRANULE as usize, 0, stream).unwrap();
    gpu.end_capture(stream.0).unwrap();
    // The context never ends, and its filter accepts no stream any more.
    allocator.activate(0, &Activation::default()).unwrap();
    allocator.disable(0, Activation::default().order).unwrap();
    allocator.free(lost, 0, stream).unwrap();
    allocator.release_pool(0, GRAPH).unwrap();
    allocator.reset().unwrap();
    allocator.end_pool(0, GRAPH).unwrap();
    allocator.reset().unwrap();
    assert_eq!(held(&allocator, 0), 0);
}

#[test]
fn an_action_during_a_capture_inside_a_region_names_the_regions_pool() {
    let (gpu, allocator) = setup(64 * GRANULE, 64 * GRANULE, "");
    let stream = Stream(gpu.create_stream().unwrap());
    region(&allocator, 0, OUTER);
    allocator.malloc(GRANULE as usize, 0, stream).unwrap();
    region_on(&allocator, 0, INNER, DEFAULT);
    allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    // The program captures by itself: no hook reports it, and its next allocation shows it.
    gpu.begin_capture(stream.0).unwrap();
    allocator.malloc(GRANULE as usize, 0, stream).unwrap();
    let why = allocator.activate(0, &Activation::default()).unwrap_err().to_string();
    assert!(why.contains("with pool (0, 1), and"), "{why}");
    gpu.end_capture(stream.0).unwrap();
    allocator.activate(0, &Activation::default()).unwrap();
    assert_eq!(gpu.faults(), []);
}

#[test]
fn a_pool_is_released_before_its_end_and_its_context_serves_on() {
    let (gpu, allocator) = setup(64 * GRANULE, 0, "");
    let served = || pool_of(&allocator, 0, allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap());
    region(&allocator, 0, OUTER);
    allocator.release_pool(0, OUTER).unwrap();
    assert_eq!(served(), Some(OUTER));
    assert!(matches!(allocator.release_pool(0, OUTER), Err(Error::Argument(_))));
    allocator.end_pool(0, OUTER).unwrap();
    assert!(matches!(allocator.end_pool(0, OUTER), Err(Error::Argument(_))));
    assert!(matches!(allocator.release_pool(0, OUTER), Err(Error::Argument(_))), "the pool is gone");
    assert_eq!((served(), allocator.stats(0).unwrap().graph_pools), (None, 0));
    assert_eq!(gpu.faults(), []);
}

#[test]
fn any_order_of_calls_leaves_a_working_allocator() {
    for seed in 1..200 {
        let (gpu, allocator) = setup(96 * GRANULE, 32 * GRANULE, "");
        let mut random = Random(seed * 104_729);
        let stream = Stream(gpu.create_stream().unwrap());
        let mut blocks = Vec::new();
        for _ in 0..60 {
            let pool = PoolId(0, random.below(3));
            let _ = match random.below(9) {
                0 => allocator.begin_pool(0, pool, |_| true),
                1 => allocator.begin_pool(0, pool, move |asked| asked == stream),
                2 => allocator.begin_stream_pool(0, stream, pool),
                3 => allocator.end_stream_pool(0, stream),
                4 => allocator.end_pool(0, pool),
                5 => allocator.release_pool(0, pool),
                6 => {
                    allocator.keep_pool(pool);
                    Ok(())
                }
                7 => allocator.drop_pool(pool),
                _ => allocator.reset(),
            };
            for asked in [DEFAULT, stream] {
                blocks.push(allocator.malloc(1 + random.below(70_000) as usize, 0, asked).unwrap());
            }
            if blocks.len() > 20 {
                allocator.free(blocks.swap_remove(random.below(20) as usize), 0, DEFAULT).unwrap();
            }
        }
        allocator.check().unwrap();
        assert_eq!(gpu.faults(), [], "seed {seed}");
    }
}

#[test]
fn a_kept_pool_serves_on_every_device_and_its_end_gives_the_memory_back() {
    let gpu = machine(2, 64 * GRANULE, 0);
    let allocator = kitten_on(&gpu, "");
    allocator.keep_pool(OUTER);
    let mut outliving = Vec::new();
    for device in [1, 0] {
        region(&allocator, device, OUTER);
        let first = allocator.malloc((6 * GRANULE) as usize, device, DEFAULT).unwrap();
        outliving.push(allocator.malloc(GRANULE as usize, device, DEFAULT).unwrap());
        allocator.free(first, device, DEFAULT).unwrap();
        allocator.end_pool(device, OUTER).unwrap();
        allocator.release_pool(device, OUTER).unwrap();
        let eager = allocator.malloc((6 * GRANULE) as usize, device, DEFAULT).unwrap();
        assert_ne!(eager, first, "free memory of the pool stays its own");
        allocator.free(eager, device, DEFAULT).unwrap();
        region(&allocator, device, OUTER);
        assert_eq!(allocator.malloc((6 * GRANULE) as usize, device, DEFAULT), Ok(first));
        assert_eq!(pool_of(&allocator, device, first), Some(OUTER));
        assert_eq!(allocator.pool_holds(OUTER), 2);
        allocator.free(first, device, DEFAULT).unwrap();
        allocator.end_pool(device, OUTER).unwrap();
        allocator.release_pool(device, OUTER).unwrap();
    }
    allocator.drop_pool(OUTER).unwrap();
    assert_eq!((held(&allocator, 0), held(&allocator, 1)), (GRANULE, GRANULE), "only blocks that outlive the pool");
    for (device, address) in [1, 0].into_iter().zip(outliving) {
        allocator.free(address, device, DEFAULT).unwrap();
    }
    allocator.reset().unwrap();
    assert_eq!((held(&allocator, 0), held(&allocator, 1)), (0, 0));
}

#[test]
fn a_pool_that_is_kept_twice_ends_with_its_last_keeper() {
    let gpu = machine(2, 64 * GRANULE, 0);
    let allocator = kitten_on(&gpu, "");
    let use_it = |device| {
        region(&allocator, device, OUTER);
        let block = allocator.malloc((6 * GRANULE) as usize, device, DEFAULT).unwrap();
        allocator.free(block, device, DEFAULT).unwrap();
        allocator.end_pool(device, OUTER).unwrap();
        allocator.release_pool(device, OUTER).unwrap();
        block
    };
    // Device 0 meets the pool between the two keepers, and device 1 after both.
    allocator.keep_pool(OUTER);
    let first = use_it(0);
    allocator.keep_pool(OUTER);
    let second = use_it(1);
    assert_eq!(allocator.pool_holds(OUTER), 2);
    allocator.drop_pool(OUTER).unwrap();
    assert_eq!(allocator.pool_holds(OUTER), 1);
    assert_eq!((held(&allocator, 0), held(&allocator, 1)), (6 * GRANULE, 6 * GRANULE));
    assert_eq!((use_it(0), use_it(1)), (first, second), "its memory is still its own");
    allocator.drop_pool(OUTER).unwrap();
    assert_eq!((allocator.pool_holds(OUTER), held(&allocator, 0), held(&allocator, 1)), (0, 0, 0));
    assert_eq!(allocator.drop_pool(OUTER), Ok(()), "a keeper too many is no error");
    assert_eq!(allocator.stats(0).unwrap().graph_pools, 0);
    allocator.check().unwrap();
    assert_eq!(gpu.faults(), []);
}

#[test]
fn a_pool_that_ends_during_a_capture_gives_back_later() {
    let (gpu, allocator) = setup(64 * GRANULE, 0, "");
    let stream = Stream(gpu.create_stream().unwrap());
    allocator.keep_pool(OUTER);
    region(&allocator, 0, OUTER);
    allocator.free(allocator.malloc((6 * GRANULE) as usize, 0, DEFAULT).unwrap(), 0, DEFAULT).unwrap();
    allocator.end_pool(0, OUTER).unwrap();
    allocator.release_pool(0, OUTER).unwrap();
    capture(&gpu, &allocator, stream, GRAPH);
    assert_eq!(allocator.drop_pool(OUTER), Ok(()));
    gpu.end_capture(stream.0).unwrap();
    allocator.end_pool(0, GRAPH).unwrap();
    allocator.reset().unwrap();
    assert_eq!((held(&allocator, 0), allocator.stats(0).unwrap().graph_pools), (0, 1));
}

#[test]
fn questions_begin_nothing() {
    let gpu = machine(2, 64 * GRANULE, 64 * GRANULE);
    let allocator = kitten_on(&gpu, "reserve:64MiB");
    let used = allocator.malloc(1, 1, DEFAULT).unwrap();
    let before = (gpu.outstanding(), gpu.total_calls());
    assert!(!allocator.stats(0).unwrap().in_use && allocator.stats(1).unwrap().in_use);
    assert_eq!(allocator.map(0).unwrap(), Default::default());
    assert!(allocator.segments(0).unwrap().is_empty() && allocator.history(0).unwrap().is_empty());
    assert!(allocator.claims(0, Activation::default().order).unwrap().is_empty());
    assert_eq!(allocator.device_info(0).unwrap(), None);
    assert!(allocator.reserve_reason(0).unwrap().contains("not in use"));
    allocator.figures(0).unwrap();
    allocator.reset_peaks(0).unwrap();
    allocator.reset_totals(0).unwrap();
    allocator.record(Recording { most: 10, ..Recording::default() });
    allocator.safe_point(0, "").unwrap();
    allocator.set_memory_fraction(0, 0.5).unwrap();
    allocator.begin_work(0).unwrap();
    allocator.end_work(0).unwrap();
    allocator.rest(0).unwrap();
    allocator.vouch(0).unwrap();
    assert_eq!((gpu.outstanding(), gpu.total_calls()), before);
    for refused in [allocator.stats(2).map(drop), allocator.safe_point(2, "").map(drop), allocator.open(2)] {
        assert!(matches!(refused, Err(Error::Argument(why)) if why.contains("no device 2")));
    }
    allocator.open(0).unwrap();
    assert_eq!(allocator.stats(0).unwrap().tiers[Tier::Dedicated].reserved.current(), 64 << 20);
    assert!(allocator.malloc((33 * GRANULE) as usize, 0, DEFAULT).is_ok(), "the fraction holds for the dedicated tier");
    assert!(allocator.stats(0).unwrap().tiers[Tier::Dedicated].mapped.current() <= 32 * GRANULE);
    allocator.free(used, 1, DEFAULT).unwrap();
}

/// Eight cards of 141 GB beside 2 TB of host memory, as a machine in a rack has them.
#[test]
#[cfg_attr(windows, ignore = "wine keeps a byte for each page of addresses: more memory than there is")]
fn addresses_last_for_large_machines_with_many_pools() {
    const CARDS: usize = 8;
    let gpu = machine(CARDS, 141_000_000_000 / GRANULE * GRANULE, 2_000_000_000_000 / GRANULE * GRANULE);
    let allocator = kitten_on(&gpu, "");
    for device in 0..CARDS {
        let general = allocator.malloc(GRANULE as usize, device, DEFAULT).unwrap();
        for number in 1..=100 {
            let pool = PoolId(1, number);
            region(&allocator, device, pool);
            let blocks = [100, GRANULE].map(|bytes| allocator.malloc(bytes as usize, device, DEFAULT).unwrap());
            allocator.end_pool(device, pool).unwrap();
            for address in blocks {
                assert_eq!(pool_of(&allocator, device, address), Some(pool));
            }
        }
        assert_eq!(pool_of(&allocator, device, general), None);
        // A block as large as the card fits a pool that comes late.
        if crate::MIGRATES && device + 1 == CARDS {
            region(&allocator, device, PoolId(1, 101));
            allocator.malloc(1 << 30, device, DEFAULT).unwrap();
            allocator.end_pool(device, PoolId(1, 101)).unwrap();
        }
    }
    allocator.check().unwrap();
}
