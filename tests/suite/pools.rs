//! Pools and their contexts: the innermost serves, only a capture stops what waits for the device, and any order of begin, end and
//! release leaves a working allocator.

use super::common::{DEFAULT, Filled, GRANULE, Random, kitten_on, machine, setup};
use giant_kitten::core::history::Recording;
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, ContextKind, Error, Kitten, PoolId, Tier};
use kitten_sim::{Completion, Gpu};

const OUTER: PoolId = PoolId(0, 1);
const INNER: PoolId = PoolId(0, 2);
const GRAPH: PoolId = PoolId(1, 0);

fn region(kitten: &Kitten, device: usize, pool: PoolId) {
    kitten.begin_pool_of_kind(device, pool, ContextKind::Region, |_| true).unwrap();
}

/// Begins to capture a stream as PyTorch does: the filter looks whether the stream is captured.
fn capture(gpu: &Gpu, kitten: &Kitten, stream: Stream, pool: PoolId) {
    let machine = gpu.clone();
    let accepts = move |asked: Stream| asked == stream && machine.is_capturing(asked.0).unwrap_or(false);
    kitten.begin_pool_of_kind(0, pool, ContextKind::Capture, accepts).unwrap();
    gpu.begin_capture(stream.0).unwrap();
}

fn pool_of(kitten: &Kitten, device: usize, address: u64) -> Option<PoolId> {
    let segments = kitten.segments(device).unwrap();
    let holds = |segment: &giant_kitten::Segment| segment.blocks.iter().any(|block| block.address == address);
    segments.iter().find(|segment| holds(segment)).and_then(|segment| segment.pool)
}

fn held(kitten: &Kitten, device: usize) -> u64 {
    kitten.stats(device).unwrap().reserved.current()
}

#[test]
fn the_innermost_context_serves() {
    let (gpu, kitten) = setup(64 * GRANULE, 0, "");
    let stream = Stream(gpu.create_stream().unwrap());
    let served = |stream: Stream, bytes: u64| pool_of(&kitten, 0, kitten.malloc(bytes as usize, 0, stream).unwrap());
    region(&kitten, 0, OUTER);
    assert_eq!(served(DEFAULT, GRANULE), Some(OUTER));
    region(&kitten, 0, INNER);
    assert_eq!((served(DEFAULT, GRANULE), served(DEFAULT, 100)), (Some(INNER), Some(INNER)));
    capture(&gpu, &kitten, stream, GRAPH);
    assert_eq!(
        (served(stream, GRANULE), served(DEFAULT, GRANULE)),
        (Some(GRAPH), Some(INNER)),
        "a capture in a region"
    );
    region(&kitten, 0, OUTER);
    assert_eq!(served(stream, GRANULE), Some(OUTER), "a region in a capture, and a pool twice");
    kitten.end_pool(0, OUTER).unwrap();
    assert_eq!(served(stream, GRANULE), Some(GRAPH));
    gpu.end_capture(stream.0).unwrap();
    kitten.end_pool(0, GRAPH).unwrap();
    kitten.end_pool(0, INNER).unwrap();
    assert_eq!((served(stream, GRANULE), served(DEFAULT, GRANULE)), (Some(OUTER), Some(OUTER)));
    kitten.end_pool(0, OUTER).unwrap();
    assert_eq!(served(DEFAULT, GRANULE), None);
    assert_eq!(kitten.pool_holds(OUTER), 2);
    kitten.check().unwrap();
}

#[test]
fn a_region_stops_nothing() {
    let (gpu, kitten) = setup(64 * GRANULE, 64 * GRANULE, "");
    let other = Stream(gpu.create_stream().unwrap());
    let kept = Filled::new(&gpu, &kitten, 3 * GRANULE, 1);
    region(&kitten, 0, OUTER);
    let inside = Filled::new(&gpu, &kitten, 2 * GRANULE, 2);
    // What waits for another stream is free as soon as that is done.
    gpu.set_completion(Completion::Late);
    kitten.record_stream(kept.address, other).unwrap();
    let passing = kitten.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    kitten.record_stream(passing, other).unwrap();
    kitten.free(passing, 0, DEFAULT).unwrap();
    gpu.set_completion(Completion::Immediate);
    assert_eq!(kitten.malloc(GRANULE as usize, 0, DEFAULT), Ok(passing));
    for action in [kitten.free_vram(0), kitten.activate(0, &Activation::default())] {
        assert!(!matches!(action, Err(Error::Refused(_))), "{action:?}");
    }
    kitten.disable(0, Activation::default().order()).unwrap();
    let idle = kitten.malloc_shared((4 * GRANULE) as usize, 0, DEFAULT).unwrap();
    kitten.free(idle, 0, DEFAULT).unwrap();
    kitten.reset().unwrap();
    kitten.end_pool(0, OUTER).unwrap();
    [kept, inside].iter().for_each(|block| block.check(&gpu));
    kitten.check().unwrap();
    assert_eq!(gpu.faults(), []);
}

#[test]
fn empty_cache_beside_a_region_gives_back_and_beside_a_capture_is_silent() {
    let (gpu, kitten) = setup(64 * GRANULE, 0, "");
    let stream = Stream(gpu.create_stream().unwrap());
    let idle = || kitten.free(kitten.malloc((8 * GRANULE) as usize, 0, DEFAULT).unwrap(), 0, DEFAULT).unwrap();
    idle();
    region(&kitten, 0, OUTER);
    kitten.reset().unwrap();
    assert_eq!(held(&kitten, 0), 0);
    kitten.end_pool(0, OUTER).unwrap();
    idle();
    capture(&gpu, &kitten, stream, GRAPH);
    let before = gpu.calls();
    kitten.reset().unwrap();
    assert_eq!(gpu.calls().get("cuCtxSynchronize"), before.get("cuCtxSynchronize"), "which a capture forbids");
    assert_eq!(held(&kitten, 0), 8 * GRANULE);
    gpu.end_capture(stream.0).unwrap();
    kitten.end_pool(0, GRAPH).unwrap();
    kitten.reset().unwrap();
    assert_eq!(held(&kitten, 0), 0);
    // A capture that no hook told of is in the driver's way.
    idle();
    gpu.begin_capture(stream.0).unwrap();
    kitten.reset().unwrap();
    assert_eq!(held(&kitten, 0), 8 * GRANULE);
    gpu.end_capture(stream.0).unwrap();
}

#[test]
fn a_capture_that_was_given_up_is_in_nobodys_way() {
    let (gpu, kitten) = setup(64 * GRANULE, 0, "");
    let stream = Stream(gpu.create_stream().unwrap());
    capture(&gpu, &kitten, stream, GRAPH);
    let lost = kitten.malloc(GRANULE as usize, 0, stream).unwrap();
    gpu.end_capture(stream.0).unwrap();
    // Its end never comes, and its filter accepts nothing any more.
    kitten.activate(0, &Activation::default()).unwrap();
    kitten.disable(0, Activation::default().order()).unwrap();
    kitten.free(lost, 0, stream).unwrap();
    kitten.release_pool(0, GRAPH).unwrap();
    kitten.reset().unwrap();
    kitten.end_pool(0, GRAPH).unwrap();
    kitten.reset().unwrap();
    assert_eq!(held(&kitten, 0), 0);
}

#[test]
fn a_pool_is_released_before_its_end_and_its_context_serves_on() {
    let (gpu, kitten) = setup(64 * GRANULE, 0, "");
    let served = || pool_of(&kitten, 0, kitten.malloc(GRANULE as usize, 0, DEFAULT).unwrap());
    region(&kitten, 0, OUTER);
    kitten.release_pool(0, OUTER).unwrap();
    assert_eq!(served(), Some(OUTER));
    assert!(matches!(kitten.release_pool(0, OUTER), Err(Error::Argument(_))));
    kitten.end_pool(0, OUTER).unwrap();
    assert!(matches!(kitten.end_pool(0, OUTER), Err(Error::Argument(_))));
    assert!(matches!(kitten.release_pool(0, OUTER), Err(Error::Argument(_))), "it is gone");
    assert_eq!((served(), kitten.stats(0).unwrap().graph_pools), (None, 0));
    assert_eq!(gpu.faults(), []);
}

#[test]
fn any_order_of_calls_leaves_a_working_allocator() {
    for seed in 1..200 {
        let (gpu, kitten) = setup(96 * GRANULE, 32 * GRANULE, "");
        let mut random = Random(seed * 104_729);
        let stream = Stream(gpu.create_stream().unwrap());
        let mut blocks = Vec::new();
        for _ in 0..60 {
            let pool = PoolId(0, random.below(3));
            let _ = match random.below(9) {
                0 => kitten.begin_pool(0, pool, |_| true),
                1 => kitten.begin_pool(0, pool, move |asked| asked == stream),
                2 => kitten.begin_stream_pool(0, stream, pool),
                3 => kitten.end_stream_pool(0, stream),
                4 => kitten.end_pool(0, pool),
                5 => kitten.release_pool(0, pool),
                6 => {
                    kitten.keep_pool(pool);
                    Ok(())
                }
                7 => kitten.drop_pool(pool),
                _ => kitten.reset(),
            };
            for asked in [DEFAULT, stream] {
                blocks.push(kitten.malloc(1 + random.below(70_000) as usize, 0, asked).unwrap());
            }
            if blocks.len() > 20 {
                kitten.free(blocks.swap_remove(random.below(20) as usize), 0, DEFAULT).unwrap();
            }
        }
        kitten.check().unwrap();
        assert_eq!(gpu.faults(), [], "seed {seed}");
    }
}

#[test]
fn a_kept_pool_serves_on_every_device_and_its_end_gives_the_memory_back() {
    let gpu = machine(2, 64 * GRANULE, 0);
    let kitten = kitten_on(&gpu, "");
    kitten.keep_pool(OUTER);
    let mut outliving = Vec::new();
    for device in [1, 0] {
        region(&kitten, device, OUTER);
        let first = kitten.malloc((6 * GRANULE) as usize, device, DEFAULT).unwrap();
        outliving.push(kitten.malloc(GRANULE as usize, device, DEFAULT).unwrap());
        kitten.free(first, device, DEFAULT).unwrap();
        kitten.end_pool(device, OUTER).unwrap();
        kitten.release_pool(device, OUTER).unwrap();
        let eager = kitten.malloc((6 * GRANULE) as usize, device, DEFAULT).unwrap();
        assert_ne!(eager, first, "what is free in the pool is its own");
        kitten.free(eager, device, DEFAULT).unwrap();
        region(&kitten, device, OUTER);
        assert_eq!(kitten.malloc((6 * GRANULE) as usize, device, DEFAULT), Ok(first));
        assert_eq!(pool_of(&kitten, device, first), Some(OUTER));
        assert_eq!(kitten.pool_holds(OUTER), 2);
        kitten.free(first, device, DEFAULT).unwrap();
        kitten.end_pool(device, OUTER).unwrap();
        kitten.release_pool(device, OUTER).unwrap();
    }
    kitten.drop_pool(OUTER).unwrap();
    assert_eq!((held(&kitten, 0), held(&kitten, 1)), (GRANULE, GRANULE), "what outlives the pool, and no more");
    for (device, address) in [1, 0].into_iter().zip(outliving) {
        kitten.free(address, device, DEFAULT).unwrap();
    }
    kitten.reset().unwrap();
    assert_eq!((held(&kitten, 0), held(&kitten, 1)), (0, 0));
}

#[test]
fn a_pool_that_ends_during_a_capture_gives_back_later() {
    let (gpu, kitten) = setup(64 * GRANULE, 0, "");
    let stream = Stream(gpu.create_stream().unwrap());
    kitten.keep_pool(OUTER);
    region(&kitten, 0, OUTER);
    kitten.free(kitten.malloc((6 * GRANULE) as usize, 0, DEFAULT).unwrap(), 0, DEFAULT).unwrap();
    kitten.end_pool(0, OUTER).unwrap();
    kitten.release_pool(0, OUTER).unwrap();
    capture(&gpu, &kitten, stream, GRAPH);
    assert_eq!(kitten.drop_pool(OUTER), Ok(()));
    gpu.end_capture(stream.0).unwrap();
    kitten.end_pool(0, GRAPH).unwrap();
    kitten.reset().unwrap();
    assert_eq!((held(&kitten, 0), kitten.stats(0).unwrap().graph_pools), (0, 1));
}

#[test]
fn questions_begin_nothing() {
    let gpu = machine(2, 64 * GRANULE, 64 * GRANULE);
    let kitten = kitten_on(&gpu, "reserve:64MiB");
    let used = kitten.malloc(1, 1, DEFAULT).unwrap();
    let before = (gpu.outstanding(), gpu.total_calls());
    assert!(!kitten.stats(0).unwrap().in_use && kitten.stats(1).unwrap().in_use);
    assert_eq!(kitten.map(0).unwrap(), Default::default());
    assert!(kitten.segments(0).unwrap().is_empty() && kitten.history(0).unwrap().is_empty());
    assert!(kitten.claims(0, Activation::default().order()).unwrap().is_empty());
    assert_eq!(kitten.device_info(0).unwrap(), None);
    assert!(kitten.reserve_reason(0).unwrap().contains("not in use"));
    kitten.splits(0).unwrap();
    kitten.reset_peaks(0).unwrap();
    kitten.reset_totals(0).unwrap();
    kitten.record(Recording { most: 10, ..Recording::default() });
    kitten.safe_point(0, "").unwrap();
    kitten.set_memory_fraction(0, 0.5).unwrap();
    kitten.begin_work(0).unwrap();
    kitten.end_work(0).unwrap();
    kitten.rest(0).unwrap();
    kitten.vouch(0).unwrap();
    assert_eq!((gpu.outstanding(), gpu.total_calls()), before);
    for refused in [kitten.stats(2).map(drop), kitten.safe_point(2, "").map(drop), kitten.open(2)] {
        assert!(matches!(refused, Err(Error::Argument(why)) if why.contains("no device 2")));
    }
    kitten.open(0).unwrap();
    assert_eq!(kitten.stats(0).unwrap().tiers[Tier::Dedicated].reserved.current(), 64 << 20);
    assert!(kitten.malloc((33 * GRANULE) as usize, 0, DEFAULT).is_ok(), "the fraction holds for the dedicated tier");
    assert!(kitten.stats(0).unwrap().tiers[Tier::Dedicated].mapped.current() <= 32 * GRANULE);
    kitten.free(used, 1, DEFAULT).unwrap();
}
