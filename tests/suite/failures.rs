//! Every driver call of a workload made to fail, at every position: the operation succeeds another way or reports an error, no
//! byte changes, no backing leaks, the invariants hold.

use super::common::{DEFAULT, Filled, kitten_on};
use giant_kitten::core::placement::Order;
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Kitten, Tier};
use kitten_sim::{Gpu, Outstanding, Profile, code};

/// Small granules: there are many calls, and all bytes are looked at after each failure.
const GRANULE: u64 = 1 << 19;
/// More than the limit of small blocks.
const LARGE: u64 = 3 * GRANULE;

/// A workload through every floor, which goes on after whatever fails. Returns how many operations failed.
fn workload(gpu: &Gpu, kitten: &Kitten, other: Stream) -> u32 {
    let mut failed = 0;
    let mut blocks: Vec<Filled> = Vec::new();
    fn attempt<T, E>(failed: &mut u32, result: Result<T, E>) -> Option<T> {
        *failed += u32::from(result.is_err());
        result.ok()
    }
    let allocate = |blocks: &mut Vec<Filled>, failed: &mut u32, bytes: u64, stream: Stream| {
        if let Some(address) = attempt(failed, kitten.malloc(bytes as usize, 0, stream)) {
            let seed = 1 + blocks.len() as u64;
            blocks.push(Filled::at(gpu, address, bytes, seed));
        }
    };
    for i in 0..3 {
        allocate(&mut blocks, &mut failed, LARGE + 4096 * i, DEFAULT);
        allocate(&mut blocks, &mut failed, 3000 * (i + 1), DEFAULT);
    }
    let check = |blocks: &[Filled]| {
        kitten.check().unwrap();
        blocks.iter().for_each(|block| block.check(gpu));
    };
    check(&blocks);
    let activation = Activation { reserve: 2 * LARGE, ..Activation::default() };
    attempt(&mut failed, kitten.activate(0, &activation));
    check(&blocks);
    for _ in 0..2 {
        allocate(&mut blocks, &mut failed, LARGE + GRANULE, other);
    }
    if let Some(block) = blocks.pop() {
        kitten.record_stream(block.address, DEFAULT).unwrap();
        kitten.free(block.address, 0, other).unwrap();
    }
    allocate(&mut blocks, &mut failed, LARGE + GRANULE, DEFAULT);
    attempt(&mut failed, kitten.free_vram(0));
    check(&blocks);
    if let Some(block) = blocks.first() {
        attempt(&mut failed, kitten.move_block(block.address, Tier::Dedicated));
    }
    attempt(&mut failed, kitten.disable(0, Order::default()));
    check(&blocks);
    for block in blocks.split_off(blocks.len() / 2) {
        kitten.free(block.address, 0, DEFAULT).unwrap();
    }
    attempt(&mut failed, kitten.reset());
    check(&blocks);
    allocate(&mut blocks, &mut failed, 2 * LARGE, DEFAULT);
    check(&blocks);
    failed
}

/// Runs the workload with failures armed; `None` where not even the heap could be made.
fn run(arm: impl Fn(&Gpu)) -> (Gpu, u32) {
    let card = Profile::builtin("nominal-6g").unwrap();
    let card = Profile { granularity: GRANULE, dedicated_bytes: 5 * LARGE, shared_bytes: 10 * LARGE, ..card };
    let gpu = Gpu::new(&[card]).unwrap();
    let other = Stream(gpu.create_stream().unwrap());
    let kitten = kitten_on(&gpu, &format!("reserve:{LARGE}"));
    arm(&gpu);
    let failed = workload(&gpu, &kitten, other);
    gpu.clear_failures();
    // With the failures gone, everything works again.
    kitten.disable(0, Order::default()).unwrap();
    kitten.check().unwrap();
    drop(kitten);
    (gpu, failed)
}

fn nothing_left(gpu: &Gpu, what: &str) {
    assert_eq!(gpu.outstanding(), Outstanding::default(), "{what}");
    assert_eq!(gpu.faults(), [], "{what}");
}

#[test]
fn each_call_may_fail_once() {
    let (gpu, failed) = run(|_| {});
    assert_eq!(failed, 0);
    nothing_left(&gpu, "without failures");
    let calls = gpu.total_calls();
    assert!(calls > 100, "the workload makes {calls} calls");
    for nth in 1..=calls {
        let code = if nth % 2 == 0 { code::OUT_OF_MEMORY } else { code::UNKNOWN };
        let (gpu, _) = run(|gpu| gpu.fail_any(nth, code));
        nothing_left(&gpu, &format!("call {nth} failed with {code}"));
    }
}

#[test]
fn pairs_of_calls_may_fail() {
    let calls = run(|_| {}).0.total_calls();
    for first in (1..calls).step_by(5) {
        for gap in [1, 2] {
            let (gpu, _) = run(|gpu| {
                gpu.fail_any(first, 12_345);
                gpu.fail_any(first + gap, code::DEINITIALIZED);
            });
            nothing_left(&gpu, &format!("calls {first} and {} failed", first + gap));
        }
    }
}

#[test]
fn creating_may_fail_from_some_point_on() {
    let creates = run(|_| {}).0.calls()["cuMemCreate"];
    for nth in 1..=creates {
        let (gpu, _) = run(|gpu| gpu.fail_from("cuMemCreate", nth, code::OUT_OF_MEMORY));
        nothing_left(&gpu, &format!("no backing from the {nth}th on"));
    }
}
