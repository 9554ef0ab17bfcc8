//! The order of streams: a block freed on one stream is not touched on another before its work is
//! done, however late work completes.

use super::common::{DEFAULT, Filled, GRANULE, Random, kitten_on, machine, setup};
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Error, PoolId, Reserve, Tier};
use kitten_sim::{Access, Completion, Gpu, code};

fn use_block(gpu: &Gpu, stream: Stream, address: u64, bytes: u64) {
    gpu.launch(stream.0, "use", &[Access::write(address, bytes)]).unwrap();
}

#[test]
fn the_same_stream_reuses_at_once() {
    let (gpu, allocator) = setup(16 * GRANULE, 16 * GRANULE, "");
    gpu.set_completion(Completion::Late);
    let first = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    use_block(&gpu, DEFAULT, first, GRANULE);
    allocator.free(first, 0, DEFAULT).unwrap();
    let calls = gpu.total_calls();
    assert_eq!(allocator.malloc(GRANULE as usize, 0, Stream(1)), Ok(first), "0 and 1 are one stream");
    assert_eq!(gpu.total_calls(), calls, "without a driver call");
    assert_eq!(gpu.faults(), []);
}

#[test]
fn another_stream_gets_other_memory_while_there_is_some() {
    let (gpu, allocator) = setup(4 * GRANULE, 4 * GRANULE, "");
    let other = Stream(gpu.create_stream().unwrap());
    gpu.set_completion(Completion::Late);
    let first = allocator.malloc(2 * GRANULE as usize, 0, DEFAULT).unwrap();
    use_block(&gpu, DEFAULT, first, 2 * GRANULE);
    allocator.free(first, 0, DEFAULT).unwrap();
    let second = allocator.malloc(2 * GRANULE as usize, 0, other).unwrap();
    assert_ne!(second, first);
    use_block(&gpu, other, second, 2 * GRANULE);
    // The dedicated tier is full, so the first block is taken, ordered by an event.
    let third = allocator.malloc(2 * GRANULE as usize, 0, other).unwrap();
    assert_eq!(third, first);
    assert!(gpu.calls()["cuStreamWaitEvent"] > 0);
    use_block(&gpu, other, third, 2 * GRANULE);
    assert_eq!(gpu.faults(), []);
}

#[test]
fn the_simulated_gpu_catches_reuse_without_order() {
    let (gpu, allocator) = setup(8 * GRANULE, 8 * GRANULE, "");
    let other = Stream(gpu.create_stream().unwrap());
    let block = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    use_block(&gpu, DEFAULT, block, GRANULE);
    use_block(&gpu, other, block, GRANULE);
    assert_eq!(gpu.faults().len(), 1, "a use on a second stream without any order");
}

#[test]
fn a_recorded_block_waits_for_its_other_streams() {
    let (gpu, allocator) = setup(8 * GRANULE, 8 * GRANULE, "");
    let other = Stream(gpu.create_stream().unwrap());
    gpu.set_completion(Completion::Late);
    let block = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    use_block(&gpu, DEFAULT, block, GRANULE);
    let event = gpu.create_event().unwrap();
    gpu.record(event, 0).unwrap();
    gpu.wait(other.0, event).unwrap();
    use_block(&gpu, other, block, GRANULE);
    allocator.record_stream(block + 100, other).unwrap();
    allocator.free(block, 0, DEFAULT).unwrap();
    assert_eq!(allocator.stats(0).unwrap().retired_blocks, 1);
    let second = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    assert_ne!(second, block, "still in use on the other stream");
    use_block(&gpu, DEFAULT, second, GRANULE);
    while gpu.complete_one(0) {}
    let third = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    assert_eq!(third, block);
    use_block(&gpu, DEFAULT, third, GRANULE);
    assert_eq!(gpu.faults(), []);
}

#[test]
fn streams_that_end_out_of_order_hold_up_none_but_their_own_blocks() {
    let (gpu, allocator) = setup(16 * GRANULE, 8 * GRANULE, "");
    let streams = [(); 3].map(|()| Stream(gpu.create_stream().unwrap()));
    // All work before counts: mapping waits for it.
    let blocks = [(); 3].map(|()| allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap());
    let probe = allocator.malloc(1, 0, DEFAULT).unwrap();
    allocator.free(probe, 0, DEFAULT).unwrap();
    gpu.set_completion(Completion::Late);
    for (stream, block) in streams.into_iter().zip(blocks) {
        use_block(&gpu, stream, block, GRANULE);
        allocator.record_stream(block, stream).unwrap();
        allocator.free(block, 0, DEFAULT).unwrap();
    }
    let waiting = || allocator.stats(0).unwrap().retired_blocks;
    let questions = || gpu.calls().get("cuEventQuery").copied().unwrap_or(0);
    assert_eq!(waiting(), 3);
    // The numbers of the streams in the simulator, after that of the default stream.
    for (ended, stream) in [3, 1, 2].into_iter().enumerate() {
        assert!(gpu.complete_one(stream));
        let asked = questions();
        let probe = allocator.malloc(1, 0, DEFAULT).unwrap();
        assert_eq!(waiting(), 2 - ended as u64);
        assert_eq!(questions() - asked, 3 - ended as u64, "one query for each stream that is waited for");
        allocator.free(probe, 0, DEFAULT).unwrap();
    }
    assert_eq!(gpu.faults(), []);
}

#[test]
fn a_stream_under_an_unreported_capture_lends_nothing() {
    let (gpu, allocator) = setup(2 * GRANULE, 0, "");
    let captured = Stream(gpu.create_stream().unwrap());
    gpu.set_completion(Completion::Late);
    let block = allocator.malloc(2 * GRANULE as usize, 0, captured).unwrap();
    use_block(&gpu, captured, block, 2 * GRANULE);
    allocator.free(block, 0, captured).unwrap();
    gpu.begin_capture(captured.0).unwrap();
    let refused = allocator.malloc(2 * GRANULE as usize, 0, DEFAULT);
    assert!(matches!(refused, Err(Error::OutOfMemory(_))), "an event in the capture would order nothing: {refused:?}");
    let ended = gpu.end_capture(captured.0).map_err(|why| why.code);
    assert_eq!(ended, Err(code::STREAM_CAPTURE_INVALIDATED), "the device was waited for");
    assert_eq!(allocator.malloc(2 * GRANULE as usize, 0, DEFAULT), Ok(block));
    use_block(&gpu, DEFAULT, block, 2 * GRANULE);
    assert_eq!(gpu.faults(), []);
}

#[test]
fn a_destroyed_stream_does_not_strand_a_block() {
    let (gpu, allocator) = setup(2 * GRANULE, GRANULE, "");
    let other = Stream(gpu.create_stream().unwrap());
    let block = allocator.malloc(2 * GRANULE as usize, 0, DEFAULT).unwrap();
    allocator.record_stream(block, other).unwrap();
    gpu.destroy_stream(other.0).unwrap();
    allocator.free(block, 0, DEFAULT).unwrap();
    assert_eq!(allocator.stats(0).unwrap().retired_blocks, 1);
    assert_eq!(
        allocator.malloc(2 * GRANULE as usize, 0, DEFAULT),
        Ok(block),
        "the device is synchronized before giving up"
    );
}

#[test]
fn each_thread_has_a_default_stream_of_its_own() {
    let (gpu, allocator) = setup(2 * GRANULE, 0, "");
    let own = Stream(2);
    let block = allocator.malloc(2 * GRANULE as usize, 0, own).unwrap();
    use_block(&gpu, own, block, 2 * GRANULE);
    allocator.free(block, 0, own).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // No other memory is left, and this thread cannot name the other's stream, so the
            // device is synchronized.
            let again = allocator.malloc(2 * GRANULE as usize, 0, own).unwrap();
            assert_eq!(again, block);
            use_block(&gpu, own, again, 2 * GRANULE);
        });
    });
    assert_eq!(gpu.faults(), []);
}

#[test]
fn what_a_capture_allocates_is_its_own_until_release() {
    let (gpu, allocator) = setup(16 * GRANULE, 16 * GRANULE, "");
    let stream = Stream(gpu.create_stream().unwrap());
    let pool = PoolId(7, 0);
    let outside = Filled::new(&gpu, &allocator, GRANULE, 1);
    allocator.begin_pool(0, pool, move |asked| asked == stream).unwrap();
    gpu.begin_capture(stream.0).unwrap();
    let kept = allocator.malloc(GRANULE as usize, 0, stream).unwrap();
    let passing = allocator.malloc(GRANULE as usize, 0, stream).unwrap();
    allocator.free(passing, 0, stream).unwrap();
    assert_eq!(allocator.malloc(GRANULE as usize, 0, stream), Ok(passing), "reused within the capture");
    allocator.free(passing, 0, stream).unwrap();
    let eager = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    assert!(eager != passing && eager != kept);
    for refused in [allocator.free_vram(0).map(drop), allocator.activate(0, &Activation::default()).map(drop)] {
        assert!(matches!(refused, Err(Error::Refused(why)) if why.contains("captured") && why.contains("(7, 0)")));
    }
    assert_eq!(allocator.reset(), Ok(()), "empty_cache does nothing in a capture, and reports no error");
    gpu.end_capture(stream.0).unwrap();
    allocator.end_pool(0, pool).unwrap();

    // Eager code on any stream gets no memory of the pool, and the pool's backing stays where the
    // graph expects it.
    let mine: Vec<_> = (0..4).map(|_| allocator.malloc(GRANULE as usize, 0, stream).unwrap()).collect();
    assert!(!mine.contains(&passing));
    allocator.reset().unwrap();
    allocator.activate(0, &Activation::default()).unwrap();
    gpu.launch(stream.0, "replay", &[Access::write(passing, GRANULE), Access::write(kept, GRANULE)]).unwrap();
    allocator.free_vram(0).unwrap();
    gpu.launch(stream.0, "replay", &[Access::write(passing, GRANULE), Access::write(kept, GRANULE)]).unwrap();
    outside.check(&gpu);

    allocator.free(kept, 0, stream).unwrap();
    allocator.release_pool(0, pool).unwrap();
    assert!(allocator.release_pool(0, pool).is_err(), "once");
    allocator.reset().unwrap();
    assert!(
        gpu.launch(stream.0, "replay", &[Access::write(passing, GRANULE)]).is_err(),
        "the memory is gone with its graph"
    );
    allocator.begin_pool(0, PoolId(8, 0), |_| true).unwrap();
    allocator.end_pool(0, PoolId(8, 0)).unwrap();
    allocator.check().unwrap();
    assert_eq!(gpu.faults(), []);
}

#[test]
fn an_unconfirmed_block_waits_for_the_end_of_a_capture() {
    let (gpu, allocator) = setup(16 * GRANULE, 16 * GRANULE, "");
    let stream = Stream(gpu.create_stream().unwrap());
    let side = Stream(gpu.create_stream().unwrap());
    let block = allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    allocator.record_stream(block, side).unwrap();
    allocator.begin_pool(0, PoolId(1, 1), move |asked| asked == stream).unwrap();
    gpu.begin_capture(stream.0).unwrap();
    let calls = gpu.calls();
    allocator.free(block, 0, DEFAULT).unwrap();
    allocator.malloc(GRANULE as usize, 0, DEFAULT).unwrap();
    for forbidden in ["cuEventRecord", "cuEventQuery", "cuCtxSynchronize"] {
        assert_eq!(gpu.calls().get(forbidden), calls.get(forbidden), "{forbidden} during a capture");
    }
    gpu.end_capture(stream.0).unwrap();
    allocator.end_pool(0, PoolId(1, 1)).unwrap();
    assert_eq!(allocator.malloc(GRANULE as usize, 0, DEFAULT), Ok(block));
}

/// Streams allocate, use, hand over and free in random order, while work completes late and in
/// random order.
#[test]
fn random_streams_never_meet_unordered() {
    for seed in 1..6 {
        let gpu = machine(1, 24 * GRANULE, 64 * GRANULE);
        let allocator = kitten_on(&gpu, "");
        let mut random = Random(seed * 7919);
        let streams: Vec<Stream> =
            (0..4).map(|i| if i == 0 { DEFAULT } else { Stream(gpu.create_stream().unwrap()) }).collect();
        gpu.set_completion(Completion::Late);
        let mut live: Vec<(u64, u64, Stream)> = Vec::new();
        for step in 0..6000 {
            let stream = streams[random.below(4) as usize];
            match random.below(100) {
                0..45 => {
                    let bytes =
                        if random.below(3) == 0 { 1 + random.below(4 * GRANULE) } else { 1 + random.below(8192) };
                    if let Ok(address) = allocator.malloc(bytes as usize, 0, stream) {
                        use_block(&gpu, stream, address, bytes);
                        live.push((address, bytes, stream));
                    }
                }
                45..90 if !live.is_empty() => {
                    let (address, _, stream) = live.swap_remove(random.below(live.len() as u64) as usize);
                    allocator.free(address, 0, stream).unwrap();
                }
                90..96 if !live.is_empty() => {
                    // Hands a block over to another stream as programs do: orders the streams, uses
                    // the block there, and reports the use.
                    let (address, bytes, owner) = live[random.below(live.len() as u64) as usize];
                    let event = gpu.create_event().unwrap();
                    gpu.record(event, owner.0).unwrap();
                    gpu.wait(stream.0, event).unwrap();
                    gpu.launch(stream.0, "elsewhere", &[Access::read(address, bytes)]).unwrap();
                    allocator.record_stream(address, stream).unwrap();
                    gpu.destroy_event(event).unwrap();
                }
                96..99 => {
                    for _ in 0..random.below(20) {
                        gpu.complete_one(random.next());
                    }
                }
                _ if step % 16 == 0 => {
                    let reserve = random.below(10) * GRANULE;
                    let _ = match random.below(3) {
                        0 => allocator
                            .activate(0, &Activation { reserve: Reserve::Fixed(reserve), ..Activation::default() }),
                        1 => allocator.disable(0, giant_kitten::Order::default()),
                        _ => allocator.free_vram(0),
                    };
                }
                _ => {}
            }
            if step % 500 == 0 {
                allocator.check().unwrap();
            }
        }
        assert_eq!(gpu.faults().first(), None, "seed {seed}");
    }
}

/// PyTorch lets any thread empty the cache at any time. Threads that never allocate copy between
/// tensors on streams of their own meanwhile, and others allocate and free. No live block may move.
#[test]
fn empty_cache_beside_the_work_of_other_threads_harms_none() {
    for seed in 1..4 {
        let (gpu, allocator) = setup(40 * GRANULE, 200 * GRANULE, "");
        let blocks: Vec<Filled> = (0..24).map(|at| Filled::new(&gpu, &allocator, 2 * GRANULE, at)).collect();
        let before: Vec<_> = blocks.iter().map(|block| allocator.residency(block.address).unwrap()).collect();
        gpu.set_completion(Completion::Late);
        let (gpu, allocator, blocks) = (&gpu, &allocator, &blocks);
        std::thread::scope(|scope| {
            for worker in 0..2u64 {
                let stream = gpu.create_stream().unwrap();
                scope.spawn(move || {
                    // To the allocator this looks like a thread of C code: it copies a block onto
                    // itself by way of another, and allocates nothing.
                    let mine = &blocks[12 * worker as usize..][..12];
                    for _ in 0..300 {
                        mine.iter().for_each(|block| {
                            gpu.launch(stream, "use", &[Access::write(block.address, block.bytes)]).unwrap();
                        });
                        gpu.synchronize_stream(stream).unwrap();
                    }
                });
            }
            scope.spawn(move || {
                let mut random = Random(seed * 7919);
                for _ in 0..600 {
                    let scratch: Vec<u64> = (0..3)
                        .map(|_| allocator.malloc(1 + random.below(6 * GRANULE) as usize, 0, DEFAULT).unwrap())
                        .collect();
                    scratch.into_iter().for_each(|address| allocator.free(address, 0, DEFAULT).unwrap());
                }
            });
            for _ in 0..200 {
                allocator.reset().unwrap();
            }
        });
        assert_eq!(gpu.faults().first(), None, "seed {seed}");
        blocks.iter().for_each(|block| block.check(gpu));
        let after: Vec<_> = blocks.iter().map(|block| allocator.residency(block.address).unwrap()).collect();
        assert_eq!((before, allocator.stats(0).unwrap().migrations), (after, 0));
        allocator.check().unwrap();
    }
}

#[test]
fn the_simulated_gpu_catches_a_move_beside_work() {
    if !crate::MIGRATES {
        return;
    }
    let (gpu, allocator) = setup(8 * GRANULE, 8 * GRANULE, "");
    let block = Filled::new(&gpu, &allocator, GRANULE, 1);
    gpu.set_completion(Completion::Late);
    let stream = gpu.create_stream().unwrap();
    let mut caught = false;
    let refused = std::sync::atomic::AtomicBool::new(false);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let launch = || gpu.launch(stream, "use", &[Access::write(block.address, GRANULE)]);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if launch().is_err() {
                    refused.store(true, std::sync::atomic::Ordering::Relaxed);
                    break;
                }
            }
        });
        for turn in 0..2000 {
            let tier = [Tier::Shared, Tier::Dedicated][turn % 2];
            let moved = allocator.move_block(block.address, tier);
            caught = !gpu.faults().is_empty() || moved.is_err() || refused.load(std::sync::atomic::Ordering::Relaxed);
            if caught {
                break;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(caught, "a caller that breaks its word is detected");
}

#[test]
fn what_waits_for_a_stream_that_is_gone_does_not_pile_up() {
    let (gpu, allocator) = setup(64 * GRANULE, 0, "");
    for _ in 0..40 {
        let stream = Stream(gpu.create_stream().unwrap());
        let block = allocator.malloc((4 * GRANULE) as usize, 0, DEFAULT).unwrap();
        use_block(&gpu, DEFAULT, block, GRANULE);
        allocator.record_stream(block, stream).unwrap();
        gpu.synchronize_stream(stream.0).unwrap();
        gpu.destroy_stream(stream.0).unwrap();
        allocator.free(block, 0, DEFAULT).unwrap();
    }
    let held = allocator.stats(0).unwrap().reserved.peak();
    assert!(held <= 6 * 4 * GRANULE, "{held} bytes");
    // PyTorch's own allocator records an event there too.
    assert_eq!(gpu.faults().len(), 40, "each stream is named once more, when its block is freed");
    assert!(gpu.faults().iter().all(|fault| fault.to_string().contains("destroyed")), "{:?}", gpu.faults());
}

#[test]
fn a_destroyed_stream_is_never_named_for_the_blocks_that_it_allocated() {
    for has_event_of_all in [true, false] {
        let (gpu, allocator) = setup(8 * GRANULE, 8 * GRANULE, "");
        if !has_event_of_all {
            gpu.fail_from("cuCtxRecordEvent", 1, code::NOT_SUPPORTED);
        }
        let worker = Stream(gpu.create_stream().unwrap());
        gpu.set_completion(Completion::Late);
        let passing = Stream(gpu.create_stream().unwrap());
        let blocks: Vec<_> = (0..8).map(|_| allocator.malloc(GRANULE as usize, 0, passing).unwrap()).collect();
        blocks.iter().for_each(|block| use_block(&gpu, passing, *block, GRANULE));
        gpu.destroy_stream(passing.0).unwrap();
        blocks.iter().for_each(|block| allocator.free(*block, 0, passing).unwrap());
        for stream in [DEFAULT, worker, DEFAULT] {
            for bytes in [GRANULE, 3 * GRANULE] {
                let block = allocator.malloc(bytes as usize, 0, stream).unwrap();
                assert!(blocks.contains(&block), "dedicated memory serves before shared memory");
                use_block(&gpu, stream, block, bytes);
                allocator.free(block, 0, stream).unwrap();
            }
        }
        allocator.safe_point(0, "step").unwrap();
        allocator.reset().unwrap();
        assert_eq!(gpu.faults(), [], "{has_event_of_all}");
    }
}

#[test]
fn streams_of_threads_that_have_ended_are_forgotten() {
    let (gpu, allocator) = setup(1024 * GRANULE, 0, "");
    let own = Stream(2);
    let kept = Filled::new(&gpu, &allocator, GRANULE, 1);
    for number in 0..3000 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let block = allocator.malloc(1 + number, 0, own).unwrap();
                use_block(&gpu, own, block, 512);
                allocator.free(block, 0, own).unwrap();
            });
        });
    }
    kept.check(&gpu);
    allocator.check().unwrap();
    let stats = allocator.stats(0).unwrap();
    assert!(stats.reserved.peak() <= 66 * GRANULE, "{}", stats.reserved.peak());
    assert!(gpu.calls()["cuCtxSynchronize"] < 100, "the device is synchronized only now and then");
    assert_eq!(gpu.faults(), []);
}

#[test]
fn a_fitting_block_that_waited_serves_at_once() {
    for bytes in [4 * GRANULE, GRANULE, GRANULE / 2 + 512, 512 * 1024, 65_536, 512] {
        let (gpu, allocator) = setup(8 * GRANULE, 0, "");
        let other = Stream(gpu.create_stream().unwrap());
        let mut kept: Vec<u64> = std::iter::from_fn(|| allocator.malloc(bytes as usize, 0, DEFAULT).ok()).collect();
        gpu.set_completion(Completion::Late);
        let victim = kept.swap_remove(kept.len() / 2);
        use_block(&gpu, other, victim, bytes);
        allocator.record_stream(victim, other).unwrap();
        allocator.free(victim, 0, DEFAULT).unwrap();
        assert_eq!(allocator.malloc(bytes as usize, 0, DEFAULT), Ok(victim), "{bytes}");
        use_block(&gpu, DEFAULT, victim, bytes);
        assert_eq!(gpu.faults(), []);
    }
}
