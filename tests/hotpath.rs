//! The hot path, tested by counting rather than by time: a hit makes no driver call and allocates
//! nothing.

#[path = "suite/common.rs"]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{DEFAULT, GRANULE, MIB, Random, setup};
use giant_kitten::{Activation, Reserve, abi};
use kitten_sim::{Gpu, Profile};

const MIGRATES: bool = true;

fn driver(gpu: &Gpu) -> std::sync::Arc<dyn giant_kitten::driver::Driver> {
    std::sync::Arc::new(giant_kitten::driver::sim::SimDriver::new(gpu.clone()))
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with a count for each thread.
struct Counting;

// SAFETY: every call goes to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_hit_calls_no_driver_and_allocates_nothing() {
    let card = Profile::builtin("nominal-6g").unwrap();
    let gpu = Gpu::new(&[Profile { dedicated_bytes: 64 * GRANULE, shared_bytes: 64 * GRANULE, ..card }]).unwrap();
    let options = giant_kitten::Options::default();
    abi::install(giant_kitten::Allocator::new(options, driver(&gpu)).unwrap());
    let mut live: Vec<(*mut std::ffi::c_void, usize)> = Vec::with_capacity(256);
    let mut round = |random: &mut Random| {
        for _ in 0..20_000 {
            if live.len() < 100 && random.below(2) == 0 {
                let bytes = if random.below(20) == 0 { MIB + 1 } else { 1 + random.below(9000) } as usize;
                live.push((abi::gk_malloc(bytes, 0, std::ptr::null_mut()), bytes));
            } else if !live.is_empty() {
                let (ptr, bytes) = live.swap_remove(random.below(live.len() as u64) as usize);
                abi::gk_free(ptr, bytes, 0, std::ptr::null_mut());
            }
        }
        live.drain(..).for_each(|(ptr, bytes)| abi::gk_free(ptr, bytes, 0, std::ptr::null_mut()));
    };
    round(&mut Random(5));
    let before = (gpu.total_calls(), ALLOCATIONS.get());
    round(&mut Random(5));
    assert_eq!((gpu.total_calls(), ALLOCATIONS.get()), before);
}

#[test]
fn the_frozen_hot_path_calls_no_driver_either() {
    let (gpu, allocator) = setup(32 * GRANULE, 32 * GRANULE, "");
    allocator.malloc(8 * GRANULE as usize, 0, DEFAULT).unwrap();
    allocator.activate(0, &Activation { reserve: Reserve::Fixed(16 * GRANULE), ..Activation::default() }).unwrap();
    let generate = || {
        let blocks =
            [3 * GRANULE, 1000, 5 * GRANULE, 70_000].map(|bytes| allocator.malloc(bytes as usize, 0, DEFAULT).unwrap());
        blocks.into_iter().for_each(|block| allocator.free(block, 0, DEFAULT).unwrap());
    };
    generate();
    let calls = gpu.total_calls();
    (0..100).for_each(|_| generate());
    assert_eq!(gpu.total_calls(), calls);
}
