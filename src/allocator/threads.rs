//! Threads under a model checker. Shuttle runs each scenario in many orders of its threads' steps,
//! both random and adversarial, and prints the order in which one fails.
//!
//!     RUSTFLAGS="--cfg giant_kitten_shuttle" \
//!         cargo test --lib --target-dir target/shuttle allocator::threads

use std::sync::Arc;

use kitten_sim::{Gpu, Profile};
use shuttle::thread;

use super::{Allocator, Options};
use crate::core::{Activation, PoolId, Reserve};
use crate::driver::{Stream, sim::SimDriver};
use crate::error::Error;

const GRANULE: u64 = 1 << 16;
const RUNS: usize = 3000;

fn setup(devices: usize) -> (Gpu, Arc<Allocator>) {
    let card = Profile::builtin("nominal-6g").unwrap();
    let card = Profile { granularity: GRANULE, dedicated_bytes: 8 * GRANULE, shared_bytes: 16 * GRANULE, ..card };
    let gpu = Gpu::new(&vec![card; devices]).unwrap();
    let allocator = Allocator::new(Options::default(), Arc::new(SimDriver::new(gpu.clone()))).unwrap();
    (gpu, Arc::new(allocator))
}

/// Runs a scenario in many orders.
fn explore(scenario: impl Fn() + Send + Sync + 'static + Clone) {
    shuttle::check_random(scenario.clone(), RUNS);
    shuttle::check_pct(scenario, RUNS, 3);
}

fn finish(gpu: &Gpu, allocator: &Allocator) {
    allocator.check().unwrap();
    allocator.shutdown();
    assert_eq!((gpu.outstanding().handles, gpu.outstanding().mappings, gpu.faults()), (0, 0, vec![]));
}

#[test]
fn the_first_use_of_a_device_by_many_threads_makes_one_heap() {
    explore(|| {
        let (gpu, allocator) = setup(2);
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let allocator = allocator.clone();
                thread::spawn(move || allocator.malloc(1000 + number, number % 2, Stream(0)).unwrap())
            })
            .collect();
        let mut blocks: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(blocks.len(), 3, "the threads got different blocks");
        for block in blocks {
            allocator.free(block, 0, Stream(0)).unwrap();
        }
        finish(&gpu, &allocator);
    });
}

#[test]
fn blocks_are_freed_by_other_threads_while_actions_move_them() {
    explore(|| {
        let (gpu, allocator) = setup(1);
        let block = allocator.malloc(3 * GRANULE as usize, 0, Stream(0)).unwrap();
        let other = allocator.clone();
        let freeing = thread::spawn(move || other.free(block, 0, Stream(0)).unwrap());
        let other = allocator.clone();
        let moving = thread::spawn(move || {
            other.activate(0, &Activation { reserve: Reserve::Fixed(6 * GRANULE), ..Activation::default() }).unwrap();
            match other.residency(block) {
                // Its own bytes, or those of the block that has its address by now.
                Ok(bytes) => assert!([3 * GRANULE, 2 * GRANULE].contains(&bytes.iter().sum())),
                Err(why) => assert_eq!(why, Error::NotAllocated { address: block }),
            }
            other.free_vram(0).unwrap();
        });
        let allocating = allocator.malloc(2 * GRANULE as usize, 0, Stream(0)).unwrap();
        freeing.join().unwrap();
        moving.join().unwrap();
        allocator.free(allocating, 0, Stream(0)).unwrap();
        assert_eq!(allocator.stats(0).unwrap().blocks.count.current(), 0);
        finish(&gpu, &allocator);
    });
}

#[test]
fn a_double_free_by_two_threads_is_one_error() {
    explore(|| {
        let (gpu, allocator) = setup(1);
        let block = allocator.malloc(700, 0, Stream(0)).unwrap();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let allocator = allocator.clone();
                thread::spawn(move || allocator.free(block, 0, Stream(0)).is_ok())
            })
            .collect();
        let freed = threads.into_iter().map(|thread| thread.join().unwrap()).filter(|ok| *ok).count();
        assert_eq!(freed, 1);
        finish(&gpu, &allocator);
    });
}

#[test]
fn a_capture_gets_its_pool_and_nobody_else_does() {
    explore(|| {
        let (gpu, allocator) = setup(1);
        let stream = Stream(gpu.create_stream().unwrap());
        let pool = PoolId(0, 1);
        let other = allocator.clone();
        let capturing = thread::spawn(move || {
            other.begin_pool(0, pool, move |asked| asked == stream).unwrap();
            let inside = other.malloc(500, 0, stream).unwrap();
            other.free(inside, 0, stream).unwrap();
            other.end_pool(0, pool).unwrap();
            inside
        });
        let other = allocator.clone();
        let eager = thread::spawn(move || {
            let blocks = [0; 3].map(|_| other.malloc(500, 0, Stream(0)).unwrap());
            blocks.iter().for_each(|block| other.free(*block, 0, Stream(0)).unwrap());
            blocks
        });
        let inside = capturing.join().unwrap();
        assert!(!eager.join().unwrap().contains(&inside), "eager code got the block of a capture");
        let after = allocator.malloc(500, 0, stream).unwrap();
        assert_ne!(after, inside, "until the pool is released");
        allocator.free(after, 0, stream).unwrap();
        allocator.release_pool(0, pool).unwrap();
        finish(&gpu, &allocator);
    });
}

#[test]
fn statistics_and_settings_from_other_threads() {
    explore(|| {
        let (gpu, allocator) = setup(1);
        let other = allocator.clone();
        let watching = thread::spawn(move || {
            for _ in 0..2 {
                let stats = other.stats(0).unwrap();
                assert!(stats.blocks.count.current() <= 1 && stats.blocks.count.peak() <= 1);
                other.reset_peaks(0).unwrap();
                other.set_memory_fraction(0, 0.9).unwrap();
                other.reset().unwrap();
            }
        });
        for _ in 0..2 {
            let block = allocator.malloc(900, 0, Stream(0)).unwrap();
            allocator.free(block, 0, Stream(0)).unwrap();
        }
        watching.join().unwrap();
        finish(&gpu, &allocator);
    });
}
