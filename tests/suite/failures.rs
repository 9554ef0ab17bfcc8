//! Makes every driver call of a workload fail, at every position. The operation succeeds another
//! way or reports an error, no byte changes, no backing leaks, and the invariants hold.

use super::common::{DEFAULT, Filled, kitten_on};
use giant_kitten::Order;
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Allocator, Reserve, Returned, Tier};
use kitten_sim::{Access, Completion, Gpu, Outstanding, Profile, code};

/// Small granules: there are many calls, and all bytes are checked after each failure.
const GRANULE: u64 = 1 << 19;
/// More than the limit of small blocks.
const LARGE: u64 = 3 * GRANULE;

/// The failure that is armed.
#[derive(Clone, Copy, PartialEq)]
enum Failure {
    /// A single call fails. Every byte is in place whenever an operation returns.
    Once,
    /// Calls fail until the end. A block whose move was cut short is unreadable until the driver
    /// maps again, and has every byte then.
    Lasting,
}

/// A workload through every layer, which goes on after each failure. Returns the number of
/// operations that failed, and the live blocks.
fn workload(gpu: &Gpu, allocator: &Allocator, other: Stream, failure: Failure) -> (u32, Vec<Filled>) {
    let mut failed = 0;
    let mut blocks: Vec<Filled> = Vec::new();
    fn attempt<T, E>(failed: &mut u32, result: Result<T, E>) -> Option<T> {
        *failed += u32::from(result.is_err());
        result.ok()
    }
    let allocate = |blocks: &mut Vec<Filled>, failed: &mut u32, bytes: u64, stream: Stream| {
        if let Some(address) = attempt(failed, allocator.malloc(bytes as usize, 0, stream)) {
            let seed = 1 + blocks.len() as u64;
            blocks.push(Filled::at(gpu, address, bytes, seed));
        }
    };
    for i in 0..3 {
        allocate(&mut blocks, &mut failed, LARGE + 4096 * i, DEFAULT);
        allocate(&mut blocks, &mut failed, 3000 * (i + 1), DEFAULT);
    }
    let check = |blocks: &[Filled]| {
        allocator.check().unwrap();
        if failure == Failure::Once {
            blocks.iter().for_each(|block| block.check(gpu));
        }
    };
    check(&blocks);
    let activation = Activation { reserve: Reserve::Fixed(2 * LARGE), ..Activation::default() };
    attempt(&mut failed, allocator.activate(0, &activation));
    check(&blocks);
    for _ in 0..2 {
        allocate(&mut blocks, &mut failed, LARGE + GRANULE, other);
    }
    if let Some(block) = blocks.pop() {
        allocator.record_stream(block.address, DEFAULT).unwrap();
        allocator.free(block.address, 0, other).unwrap();
    }
    allocate(&mut blocks, &mut failed, LARGE + GRANULE, DEFAULT);
    attempt(&mut failed, allocator.free_vram(0));
    check(&blocks);
    if let Some(block) = blocks.first() {
        attempt(&mut failed, allocator.move_block(block.address, Tier::Dedicated));
    }
    attempt(&mut failed, allocator.disable(0, Order::default()));
    check(&blocks);
    for block in blocks.split_off(blocks.len() / 2) {
        allocator.free(block.address, 0, DEFAULT).unwrap();
    }
    attempt(&mut failed, allocator.reset());
    check(&blocks);
    allocate(&mut blocks, &mut failed, 2 * LARGE, DEFAULT);
    check(&blocks);
    (failed, blocks)
}

/// Everything goes out and comes back, in more than one batch each way.
fn moving_workload(gpu: &Gpu, allocator: &Allocator, _other: Stream, failure: Failure) -> (u32, Vec<Filled>) {
    let mut failed = 0;
    let mut blocks: Vec<Filled> = Vec::new();
    for seed in 0..6 {
        match allocator.malloc(LARGE as usize, 0, DEFAULT) {
            Ok(address) => blocks.push(Filled::at(gpu, address, LARGE, seed)),
            Err(_) => failed += 1,
        }
    }
    failed += u32::from(allocator.free_vram(0).is_err());
    allocator.check().unwrap();
    // Some of them come back, and then all.
    for bytes in [2 * LARGE, 0] {
        let activation = Activation { reserve: Reserve::Fixed(bytes), ..Activation::default() };
        failed += u32::from(allocator.activate(0, &activation).is_err());
        allocator.check().unwrap();
        if failure == Failure::Once {
            blocks.iter().for_each(|block| block.check(gpu));
        }
    }
    (failed, blocks)
}

/// Work of two kinds in the automatic mode. Its scratch displaces weights and lets them come back.
fn automatic_workload(gpu: &Gpu, allocator: &Allocator, _other: Stream, failure: Failure) -> (u32, Vec<Filled>) {
    let mut failed = 0;
    let mut blocks = Vec::new();
    for seed in 0..3 {
        match allocator.malloc(LARGE as usize, 0, DEFAULT) {
            Ok(address) => blocks.push(Filled::at(gpu, address, LARGE, seed)),
            Err(_) => failed += 1,
        }
    }
    for granules in [2, 2, 4, 2, 4, 2] {
        failed += u32::from(allocator.safe_point(0, &granules.to_string()).is_err());
        allocator.check().unwrap();
        if failure == Failure::Once {
            blocks.iter().for_each(|block: &Filled| block.check(gpu));
        }
        for round in 0..5 {
            match allocator.malloc((granules * LARGE) as usize, 0, DEFAULT) {
                Ok(address) => {
                    if round == 0 {
                        Filled::at(gpu, address, granules * LARGE, 99).check(gpu);
                    }
                    allocator.free(address, 0, DEFAULT).unwrap();
                }
                Err(_) => failed += 1,
            }
        }
        let read = if granules == 2 { &blocks[..] } else { &[] };
        read.iter().for_each(|block| allocator.touch(block.address, 3 * block.bytes).unwrap());
    }
    (failed, blocks)
}

/// Work that always fits if idle granules are stitched together.
fn stitching_workload(gpu: &Gpu, allocator: &Allocator, other: Stream, failure: Failure) -> (u32, Vec<Filled>) {
    let mut failed = 0;
    let mut blocks: Vec<Filled> = Vec::new();
    for seed in 0..12 {
        let bytes = [LARGE, LARGE, LARGE, LARGE, LARGE, 2 * LARGE][seed as usize % 6];
        match allocator.malloc(bytes as usize, 0, if seed % 2 == 0 { DEFAULT } else { other }) {
            Ok(address) => blocks.push(Filled::at(gpu, address, bytes, seed)),
            Err(_) => failed += 1,
        }
        allocator.check().unwrap();
        if failure == Failure::Once && seed % 6 == 5 {
            blocks.iter().for_each(|block| block.check(gpu));
        }
        if seed % 6 >= 4 && blocks.len() > 3 {
            for gone in [blocks.remove(2), blocks.remove(0)] {
                // A failure may hit this call instead. There is no work to wait for then.
                let _ = gpu.launch(DEFAULT.0, "use", &[Access::read(gone.address, gone.bytes)]);
                allocator.free(gone.address, 0, DEFAULT).unwrap();
            }
        }
    }
    (failed, blocks)
}

/// Passes whose weights are copied ahead. What is lent always has the weight's bytes.
fn lending_workload(gpu: &Gpu, allocator: &Allocator, other: Stream, failure: Failure) -> (u32, Vec<Filled>) {
    let mut failed = 0;
    let mut blocks: Vec<Filled> = Vec::new();
    for seed in 0..5 {
        // Where none can move, some are shared from the start, so that there is room for a ring.
        let made = match crate::MIGRATES || seed < 3 {
            true => allocator.malloc(LARGE as usize, 0, DEFAULT),
            false => allocator.malloc_shared(LARGE as usize, 0, DEFAULT),
        };
        match made {
            Ok(address) => blocks.push(Filled::at(gpu, address, LARGE, seed)),
            Err(_) => failed += 1,
        }
    }
    for pass in 0..4 {
        failed += u32::from(allocator.safe_point(0, "pass").is_err());
        failed += u32::from(allocator.begin_pass(0, "pass", other).is_err());
        for block in &mut blocks {
            match allocator.malloc(2 * LARGE as usize, 0, other) {
                Ok(scratch) => allocator.free(scratch, 0, other).unwrap(),
                Err(_) => failed += 1,
            }
            let lent = allocator.lend(0, block.address, block.bytes, other).unwrap();
            let _ = gpu.work(other.0, "product", &[Access::read(lent, block.bytes)], 1e10, 1.0);
            if pass >= 2 && failure == Failure::Once && gpu.synchronize(0).is_ok() {
                block.with_address(lent).check(gpu);
            }
            let mut how = Returned::Read;
            if pass == 3 && gpu.synchronize(0).is_ok() {
                *block = Filled::at(gpu, lent, block.bytes, 50 + block.seed).with_address(block.address);
                how = Returned::Written;
            }
            failed += u32::from(allocator.give_back_weight(0, lent, other, how).is_err());
        }
        allocator.end_pass(0, true).unwrap();
        allocator.check().unwrap();
        let _ = gpu.synchronize(0);
    }
    (failed, blocks)
}

/// A workload. Returns the number of operations that failed, and the blocks that live in the end.
type Work = fn(&Gpu, &Allocator, Stream, Failure) -> (u32, Vec<Filled>);

/// The options of the workload.
fn reserved() -> String {
    format!("reserve:{LARGE}")
}

/// Runs the workload with a single failure armed.
fn run(arm: impl Fn(&Gpu)) -> (Gpu, u32) {
    run_of(workload, &reserved(), Failure::Once, arm)
}

/// Runs the workload with a failure armed that lasts until the end.
fn run_on(arm: impl Fn(&Gpu)) -> (Gpu, u32) {
    run_of(workload, &reserved(), Failure::Lasting, arm)
}

/// A small machine with a second stream, and the allocator on it.
fn machine_for(options: &str) -> (Gpu, Allocator, Stream) {
    let card = Profile::builtin("nominal-6g").unwrap();
    let card = Profile { granularity: GRANULE, dedicated_bytes: 5 * LARGE, shared_bytes: 10 * LARGE, ..card };
    let card = Profile { migrates: crate::MIGRATES, ..card };
    let gpu = Gpu::new(&[card]).unwrap();
    let other = Stream(gpu.create_stream().unwrap());
    let allocator = kitten_on(&gpu, options);
    (gpu, allocator, other)
}

/// Runs a workload with failures armed. Returns the number of operations that failed.
fn run_of(work: Work, options: &str, failure: Failure, arm: impl Fn(&Gpu)) -> (Gpu, u32) {
    let (gpu, allocator, other) = machine_for(options);
    if failure == Failure::Lasting {
        // A heap whose creation failed cannot return its memory while the driver refuses.
        allocator.open(0).unwrap();
    }
    arm(&gpu);
    let (failed, blocks) = work(&gpu, &allocator, other, failure);
    gpu.clear_failures();
    // Without the failures everything works again, and every byte is there.
    allocator.disable(0, Order::default()).unwrap();
    allocator.check().unwrap();
    // Only what could not be written back stays where it was lent.
    let kept = allocator.stats(0).unwrap().kept_slots;
    assert!(kept <= u64::from(failed), "{kept} slots are held after {failed} failures");
    blocks.iter().for_each(|block| block.check(&gpu));
    drop(allocator);
    (gpu, failed)
}

fn nothing_left(gpu: &Gpu, what: &str) {
    assert_eq!(gpu.outstanding(), Outstanding::default(), "{what}");
    assert_eq!(gpu.faults(), [], "{what}");
}

/// Makes each call of a workload fail in turn. Returns the machine as it was left without failures.
fn fail_each(work: Work, options: &str) -> Gpu {
    let run = |arm: &dyn Fn(&Gpu)| run_of(work, options, Failure::Once, arm);
    let (whole, failed) = run(&|gpu| gpu.clear_failures());
    assert_eq!(failed, 0);
    nothing_left(&whole, "without failures");
    for nth in 1..=whole.total_calls() {
        let code = if nth % 2 == 0 { code::OUT_OF_MEMORY } else { code::UNKNOWN };
        let (gpu, _) = run(&|gpu| gpu.fail_any(nth, code));
        nothing_left(&gpu, &format!("call {nth} failed with {code}"));
    }
    whole
}

#[test]
fn each_call_may_fail_once() {
    let calls = fail_each(workload, &reserved()).total_calls();
    assert!(calls > 100, "the workload makes {calls} calls");
}

#[test]
fn each_call_of_the_automatic_mode_may_fail_once() {
    let calls = fail_each(automatic_workload, "").calls();
    assert_eq!(calls.contains_key("cuMemcpyDtoDAsync"), crate::MIGRATES, "blocks move only where they can: {calls:?}");
}

#[test]
fn each_call_of_moving_everything_may_fail_once() {
    let calls = fail_each(moving_workload, "").calls();
    let copies = calls.get("cuMemcpyDtoDAsync").copied().unwrap_or_default();
    assert_eq!(copies > 4, crate::MIGRATES, "expected several batches: {calls:?}");
}

#[test]
fn each_kind_of_call_may_fail_while_everything_moves() {
    let calls = run_of(moving_workload, "", Failure::Lasting, |_| {}).0.calls();
    for (call, count) in calls {
        for nth in (1..=count).step_by(3) {
            let code = if nth % 2 == 0 { code::OUT_OF_MEMORY } else { 12_345 };
            let (gpu, _) = run_of(moving_workload, "", Failure::Lasting, |gpu| gpu.fail_from(call, nth, code));
            nothing_left(&gpu, &format!("{call} fails with {code} from the {nth}th on"));
        }
    }
}

#[test]
fn copies_whose_stream_cannot_be_waited_for_end_before_their_granules_are_used() {
    let (gpu, allocator, other) = machine_for("");
    let blocks: Vec<Filled> = (0..6).map(|seed| Filled::new(&gpu, &allocator, LARGE, seed)).collect();
    gpu.set_completion(Completion::Late);
    gpu.fail_from("cuStreamSynchronize", 1, code::UNKNOWN);
    // Whether anything moves or not, everything may be written afterwards.
    let moved = allocator.free_vram(0);
    for block in &blocks {
        gpu.launch(other.0, "write", &[Access::write(block.address, block.bytes)]).unwrap();
    }
    assert_eq!(gpu.faults(), [], "{moved:?}");
    gpu.clear_failures();
    gpu.synchronize(0).unwrap();
    drop(allocator);
    nothing_left(&gpu, "every wait for a stream failed");
}

#[test]
fn each_call_of_stitching_may_fail_once() {
    let (gpu, allocator, other) = machine_for("");
    stitching_workload(&gpu, &allocator, other, Failure::Once);
    assert!(allocator.stats(0).unwrap().stitched_bytes > 0, "expected stitching");
    fail_each(stitching_workload, "");
}

#[test]
fn each_call_of_copying_ahead_may_fail_once() {
    let (gpu, allocator, other) = machine_for("copy_ahead:3MiB");
    lending_workload(&gpu, &allocator, other, Failure::Once);
    assert!(allocator.stats(0).unwrap().lends > 0, "expected weights to be lent");
    fail_each(lending_workload, "copy_ahead:3MiB");
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
fn each_kind_of_call_may_fail_from_some_point_on() {
    let calls = run(|_| {}).0.calls();
    for call in ["cuMemHostAlloc", "cuMemFreeHost"] {
        assert_eq!(calls.contains_key(call), !crate::MIGRATES, "{call}");
    }
    for (call, count) in calls {
        for nth in 1..=count {
            let code = if nth % 2 == 0 { code::OUT_OF_MEMORY } else { 12_345 };
            let (gpu, _) = run_on(|gpu| gpu.fail_from(call, nth, code));
            nothing_left(&gpu, &format!("{call} fails with {code} from the {nth}th on"));
        }
    }
}

#[test]
fn the_driver_may_be_lost_at_any_call() {
    let calls = run(|_| {}).0.total_calls();
    for nth in (1..=calls).step_by(5) {
        let (gpu, _) = run_on(|gpu| gpu.fail_from("", nth, code::ILLEGAL_ADDRESS));
        nothing_left(&gpu, &format!("everything fails from call {nth} on"));
    }
}
