//! Passes whose weights are copied ahead: what is read is right to the byte, in every order of
//! completion, and whatever is freed, written, held or skipped meanwhile.

use std::sync::Arc;

use super::careless::{Careless, Omitted};
use super::common::{DEFAULT, Filled, GRANULE, kitten_on, machine, reserve};
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Allocator, Options, Returned, Stats, Tier};
use kitten_sim::{Access, Completion, Gpu, code, contents};

/// Granules of a weight, and of all dedicated memory.
const WEIGHT: u64 = 2;
const CARD: u64 = 40;
/// How many weights there are, and granules of scratch.
const WEIGHTS: u64 = 16;
const SCRATCH: u64 = 12;
/// What work reads of a weight, at its start and at its end.
const SAMPLE: u64 = 4096;
/// Operations of the work on a weight: several times as long as its copy.
const FLOPS: f64 = 2e10;
const KIND: &str = "unet";

/// A program: weights, and a place for what its work has read of each.
struct Program {
    gpu: Gpu,
    allocator: Allocator,
    weights: Vec<Filled>,
    found: u64,
    stream: Stream,
}

impl Program {
    fn new(options: &str) -> Program {
        let gpu = machine(1, CARD * GRANULE, 128 * GRANULE);
        let allocator = kitten_on(&gpu, options);
        Program::on(gpu, allocator)
    }

    fn on(gpu: Gpu, allocator: Allocator) -> Program {
        let stream = Stream(gpu.create_stream().unwrap());
        let weights: Vec<Filled> = (0..WEIGHTS).map(|seed| weight(&gpu, &allocator, seed)).collect();
        let found = allocator.malloc((2 * WEIGHTS * SAMPLE) as usize, 0, DEFAULT).unwrap();
        Program { gpu, allocator, weights, found, stream }
    }

    fn stats(&self) -> Stats {
        self.allocator.stats(0).unwrap()
    }

    /// Work that reads a weight, where it was lent, and scratch beside it.
    fn read(&self, nth: usize, from: u64) {
        let bytes = self.weights[nth].bytes;
        let to = self.found + 2 * nth as u64 * SAMPLE;
        self.gpu.work(self.stream.0, "product", &[Access::read(from, bytes)], FLOPS, 1.0).unwrap();
        for (to, from) in [(to, from), (to + SAMPLE, from + bytes - SAMPLE)] {
            self.gpu.copy_in_stream(0, self.stream.0, to, from, SAMPLE).unwrap();
        }
    }

    /// Lends a weight. Returns where to read it.
    fn lend(&self, nth: usize) -> u64 {
        let Filled { address, bytes, .. } = self.weights[nth];
        self.allocator.lend(0, address, bytes, self.stream).unwrap()
    }

    /// The last weight of which something lies in the shared tier.
    fn last_shared(&self) -> usize {
        let shared = |nth: &usize| self.allocator.residency(self.weights[*nth].address).unwrap()[Tier::Shared];
        (0..self.weights.len()).rfind(|nth| shared(nth) > 0).unwrap()
    }

    /// Lends a weight, reads it and gives it back.
    fn turn(&self, nth: usize, how: Returned) {
        let lent = self.lend(nth);
        self.read(nth, lent);
        self.allocator.give_back_weight(0, lent, self.stream, how).unwrap();
    }

    /// Whether any weight has to be lent in the pass that begins.
    fn begin(&self) -> bool {
        self.gpu.synchronize(0).unwrap();
        self.allocator.safe_point(0, KIND).unwrap();
        self.allocator.begin_pass(0, KIND, self.stream).unwrap().placement > 0
    }

    /// A pass: `turns` in order, each with scratch.
    fn pass(&self, turns: &[usize]) {
        self.begin();
        turns.iter().for_each(|nth| {
            let scratch = self.allocator.malloc((SCRATCH * GRANULE) as usize, 0, self.stream).unwrap();
            self.turn(*nth, Returned::Read);
            self.allocator.free(scratch, 0, self.stream).unwrap();
        });
        self.allocator.end_pass(0, true).unwrap();
    }

    fn whole_pass(&self) {
        self.pass(&(0..WEIGHTS as usize).collect::<Vec<_>>());
        self.check();
    }

    /// Everything was read as it was written, in order, and nothing else has changed.
    fn check(&self) {
        self.gpu.synchronize(0).unwrap();
        assert_eq!(self.gpu.faults(), []);
        self.allocator.check().unwrap();
        for (nth, weight) in self.weights.iter().enumerate() {
            weight.check(&self.gpu);
            let mut found = vec![0; 2 * SAMPLE as usize];
            self.gpu.read(self.found + 2 * nth as u64 * SAMPLE, &mut found).unwrap();
            let expected = [weight.written(0, SAMPLE), weight.written(weight.bytes - SAMPLE, SAMPLE)];
            assert!(found == expected.concat(), "weight {nth}");
        }
    }

    /// Passes until weights are lent.
    fn warmed(options: &str, completion: Completion) -> Program {
        let program = Program::new(options);
        program.gpu.set_completion(completion);
        (0..4).for_each(|_| program.whole_pass());
        program
    }
}

/// A weight. Where none can move, every fourth is allocated in the shared tier, so that there is
/// room for a ring.
fn weight(gpu: &Gpu, allocator: &Allocator, seed: u64) -> Filled {
    let bytes = WEIGHT * GRANULE;
    if crate::MIGRATES || seed % 4 != 3 {
        return Filled::new(gpu, allocator, bytes, seed);
    }
    Filled::at(gpu, allocator.malloc_shared(bytes as usize, 0, DEFAULT).unwrap(), bytes, seed)
}

fn lends_of(program: &Program, work: impl FnOnce(&Program)) -> u64 {
    let before = program.stats().lends;
    work(program);
    program.stats().lends - before
}

#[test]
fn weights_are_copied_ahead_once_their_order_is_known() {
    for completion in [Completion::Immediate, Completion::Late] {
        let program = Program::new("copy_ahead:10MiB");
        program.gpu.set_completion(completion);
        program.whole_pass();
        assert_eq!(program.stats().lends, 0, "the first pass only teaches");
        (0..3).for_each(|_| program.whole_pass());
        let stats = program.stats();
        assert!(stats.staging > 0 && stats.lends > 0, "{stats:#?}");
        let shared: u64 = program
            .weights
            .iter()
            .map(|weight| u64::from(program.allocator.residency(weight.address).unwrap()[Tier::Shared] > 0))
            .sum();
        let lends = lends_of(&program, Program::whole_pass);
        assert_eq!((lends, program.stats().missed_lends), (shared, stats.missed_lends), "each, and none in place");
    }
}

#[test]
fn off_is_off() {
    let program = Program::warmed("copy_ahead:off", Completion::Late);
    assert_eq!((program.stats().lends, program.stats().staging), (0, 0));
    assert!(!program.begin());
}

#[test]
fn where_everything_fits_nothing_is_done() {
    let gpu = machine(1, 80 * GRANULE, 128 * GRANULE);
    let allocator = kitten_on(&gpu, "");
    let weight = Filled::new(&gpu, &allocator, WEIGHT * GRANULE, 1);
    for _ in 0..3 {
        allocator.safe_point(0, KIND).unwrap();
        assert_eq!(allocator.begin_pass(0, KIND, DEFAULT).unwrap(), Default::default());
        allocator.end_pass(0, true).unwrap();
    }
    weight.check(&gpu);
    assert_eq!(allocator.stats(0).unwrap().staging, 0);
}

#[test]
fn an_order_that_changes_is_followed() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    let all: Vec<usize> = (0..WEIGHTS as usize).collect();
    for pass in [
        all.iter().rev().copied().collect::<Vec<_>>(),
        all.iter().copied().filter(|nth| nth % 3 != 0).collect(),
        all.iter().flat_map(|nth| [*nth, *nth]).collect(),
        all.clone(),
        vec![],
        vec![7, 3, 3, 12, 0],
    ] {
        program.pass(&pass);
        program.check();
    }
    program.whole_pass();
}

#[test]
fn what_is_written_in_a_pass_is_written_to_the_weight() {
    let mut program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    program.begin();
    for nth in 0..program.weights.len() {
        let Filled { bytes, .. } = program.weights[nth];
        let lent = program.lend(nth);
        let seed = 100 + nth as u64;
        let source = program.allocator.malloc(bytes as usize, 0, program.stream).unwrap();
        program.gpu.synchronize(0).unwrap();
        program.gpu.write(source, &contents(seed, bytes)).unwrap();
        program.gpu.copy_in_stream(0, program.stream.0, lent, source, bytes).unwrap();
        program.allocator.free(source, 0, program.stream).unwrap();
        program.read(nth, lent);
        program.allocator.give_back_weight(0, lent, program.stream, Returned::Written).unwrap();
        program.weights[nth].seed = seed;
    }
    program.allocator.end_pass(0, true).unwrap();
    program.check();
    program.whole_pass();
    assert!(program.stats().written_back > 0);
}

#[test]
fn what_is_written_between_two_passes_is_seen() {
    let mut program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    for turn in 0..3 {
        for nth in 0..program.weights.len() {
            let weight = program.weights[nth];
            program.weights[nth] = Filled::at(&program.gpu, weight.address, weight.bytes, 200 + turn + weight.seed);
        }
        program.whole_pass();
    }
}

#[test]
fn a_slot_that_is_held_is_not_reused() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    program.begin();
    let mut held = Vec::new();
    for nth in 0..program.weights.len() {
        let lent = program.lend(nth);
        program.read(nth, lent);
        let how = if matches!(nth % 8, 2 | 3 | 6) { Returned::Kept } else { Returned::Read };
        program.allocator.give_back_weight(0, lent, program.stream, how).unwrap();
        if how == Returned::Kept {
            held.push((nth, lent));
        }
    }
    program.allocator.end_pass(0, true).unwrap();
    (0..2).for_each(|_| program.whole_pass());
    for (nth, lent) in &held {
        program.read(*nth, *lent);
    }
    program.check();
    assert!(program.stats().kept_slots > 0);
    for (_, lent) in held {
        program.allocator.give_back_weight(0, lent, program.stream, Returned::Released).unwrap();
    }
    assert_eq!(program.stats().kept_slots, 0);
    program.whole_pass();
}

#[test]
fn a_pass_that_is_cut_short_leaves_everything_right() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    program.begin();
    (0..8).for_each(|nth| program.turn(nth, Returned::Read));
    let lent = program.lend(14);
    program.allocator.end_pass(0, false).unwrap();
    program.whole_pass();
    program.read(14, lent);
    program.allocator.give_back_weight(0, lent, program.stream, Returned::Read).unwrap();
    program.whole_pass();
    assert_eq!(program.stats().kept_slots, 0);
}

#[test]
fn what_nobody_has_waited_for_is_over_before_a_weight_is_written() {
    for completion in [Completion::Late, Completion::Immediate] {
        // A weight that is skipped is written after the pass, or used in it out of turn.
        for out_of_turn in [false, true] {
            let mut program = Program::warmed("copy_ahead:10MiB", completion);
            let skipped = program.last_shared();
            program.begin();
            (0..WEIGHTS as usize).filter(|nth| *nth != skipped).for_each(|nth| program.turn(nth, Returned::Read));
            let Filled { address, bytes, .. } = program.weights[skipped];
            let written = contents(77, bytes);
            let mut at = address;
            if out_of_turn {
                at = program.allocator.lend(0, address, bytes, program.stream).unwrap();
            } else {
                program.allocator.end_pass(0, true).unwrap();
            }
            // SAFETY: the bytes live until the device has been waited for.
            unsafe { program.gpu.upload(program.stream.0, at, written.as_ptr(), bytes) }.unwrap();
            if out_of_turn {
                let how = if at == address { Returned::Read } else { Returned::Written };
                program.read(skipped, at);
                program.allocator.give_back_weight(0, at, program.stream, how).unwrap();
                program.allocator.end_pass(0, true).unwrap();
            } else {
                program.read(skipped, address);
            }
            program.gpu.synchronize(0).unwrap();
            program.weights[skipped].seed = 77;
            program.check();
        }
    }
}

#[test]
fn a_weight_that_is_freed_is_forgotten_and_its_memory_waits_for_the_copies() {
    let mut program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    program.begin();
    (0..4).for_each(|nth| program.turn(nth, Returned::Read));
    for nth in 4..program.weights.len() {
        let old = program.weights[nth];
        program.allocator.record_stream(old.address, program.stream).unwrap();
        program.allocator.free(old.address, 0, DEFAULT).unwrap();
        let address = program.allocator.malloc(old.bytes as usize, 0, DEFAULT).unwrap();
        program.gpu.launch(DEFAULT.0, "filled anew", &[Access::write(address, old.bytes)]).unwrap();
        program.gpu.synchronize(0).unwrap();
        program.weights[nth] = Filled::at(&program.gpu, address, old.bytes, 300 + nth as u64);
        program.turn(nth, Returned::Read);
    }
    program.allocator.end_pass(0, true).unwrap();
    program.check();
    (0..4).for_each(|_| program.whole_pass());
}

#[test]
fn the_weights_of_another_model_are_copied_ahead_too() {
    for stay in [0, 1, 2] {
        for completion in [Completion::Immediate, Completion::Late] {
            let mut program = Program::warmed("shared:160MiB,copy_ahead:10MiB", completion);
            // The work has come to its end before another model is loaded, at other addresses.
            program.gpu.synchronize(0).unwrap();
            let new = (stay as u64..WEIGHTS).map(|seed| weight(&program.gpu, &program.allocator, WEIGHTS + seed));
            let new: Vec<Filled> = new.collect();
            let old: Vec<Filled> = program.weights.splice(stay.., new).collect();
            old.iter().for_each(|weight| program.allocator.free(weight.address, 0, DEFAULT).unwrap());
            // Loading takes all memory for a while, and with it the ring.
            let mut all = Vec::new();
            while let Ok(address) = program.allocator.malloc(GRANULE as usize, 0, DEFAULT) {
                all.push(address);
            }
            assert_eq!(program.stats().staging, 0);
            all.into_iter().for_each(|address| program.allocator.free(address, 0, DEFAULT).unwrap());
            (0..4).for_each(|_| program.whole_pass());
            let lends = lends_of(&program, Program::whole_pass);
            assert!(lends > 0, "{stay} of the weights before stay, {completion:?}: {:?}", program.stats());
        }
    }
}

#[test]
fn a_copy_whose_event_fails_is_waited_for_all_the_same() {
    let mut copied = false;
    for nth in 1..=8 {
        // Weights that were copied before are known to be used on the stream of the copies.
        let program = Program::new("copy_ahead:10MiB");
        program.gpu.set_completion(Completion::Late);
        (0..2).for_each(|_| program.whole_pass());
        program.allocator.safe_point(0, KIND).unwrap();
        program.gpu.fail("cuEventRecord", nth, code::UNKNOWN);
        program.allocator.begin_pass(0, KIND, program.stream).unwrap();
        program.weights.iter().for_each(|weight| program.allocator.free(weight.address, 0, DEFAULT).unwrap());
        let bytes = WEIGHT * GRANULE;
        for _ in 0..WEIGHTS {
            let address = program.allocator.malloc_shared(bytes as usize, 0, DEFAULT).unwrap();
            program.gpu.launch(DEFAULT.0, "filled anew", &[Access::write(address, bytes)]).unwrap();
        }
        program.gpu.clear_failures();
        copied |= program.stats().copied_ahead_bytes > 0;
        program.allocator.end_pass(0, true).unwrap();
        program.gpu.synchronize(0).unwrap();
        assert_eq!(program.gpu.faults(), [], "record {nth}");
        program.allocator.check().unwrap();
    }
    assert!(copied);
}

#[test]
fn a_slot_whose_use_cannot_be_marked_is_free_once_the_device_was_waited_for() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    program.begin();
    program.gpu.fail_from("cuEventRecord", 1, code::UNKNOWN);
    let shared = program.last_shared();
    (0..=shared).for_each(|nth| program.turn(nth, Returned::Read));
    program.allocator.end_pass(0, true).unwrap();
    assert!(program.stats().kept_slots > 0, "{:?}", program.stats());
    program.gpu.clear_failures();
    program.allocator.safe_point(0, KIND).unwrap();
    program.allocator.check().unwrap();
    program.allocator.give_back(0).unwrap();
    assert_eq!(program.stats().kept_slots, 0);
    assert!(lends_of(&program, Program::whole_pass) > 0);
    program.check();
}

#[test]
fn another_stream_reads_in_place() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    let other = Stream(program.gpu.create_stream().unwrap());
    let lends = lends_of(&program, |program| {
        program.begin();
        for nth in 0..program.weights.len() {
            let Filled { address, bytes, .. } = program.weights[nth];
            let lent = program.lend(nth);
            assert_eq!(program.allocator.lend(0, address, bytes, other).unwrap(), address);
            program.gpu.launch(other.0, "the other's work", &[Access::read(address, bytes)]).unwrap();
            program.read(nth, lent);
            // Whoever reads in place gives no slot back.
            program.allocator.give_back_weight(0, address, other, Returned::Read).unwrap();
            program.read(nth, lent);
            program.allocator.give_back_weight(0, lent, program.stream, Returned::Read).unwrap();
        }
        program.allocator.end_pass(0, true).unwrap();
    });
    assert!(lends > 0);
    program.check();
    program.whole_pass();
}

#[test]
fn what_is_lent_when_its_pass_ends_is_given_back_afterwards() {
    for how in [Returned::Read, Returned::Written, Returned::Kept] {
        let mut program = Program::warmed("copy_ahead:10MiB", Completion::Late);
        let shared = program.last_shared();
        program.begin();
        (0..shared).for_each(|nth| program.turn(nth, Returned::Read));
        let Filled { address, bytes, .. } = program.weights[shared];
        let lent: Vec<u64> = (0..2).map(|_| program.lend(shared)).collect();
        assert!(lent[0] == lent[1] && lent[0] != address);
        let is_held = |program: &Program, expected: u64| assert_eq!(program.stats().kept_slots, expected, "{how:?}");
        let written = contents(77, bytes);
        if how == Returned::Written {
            // SAFETY: the bytes live until the device has been waited for.
            unsafe { program.gpu.upload(program.stream.0, lent[0], written.as_ptr(), bytes) }.unwrap();
            program.weights[shared].seed = 77;
        }
        program.read(shared, lent[0]);
        program.allocator.end_pass(0, true).unwrap();
        is_held(&program, 1);
        program.allocator.give_back_weight(0, lent[0], program.stream, how).unwrap();
        is_held(&program, 1);
        program.read(shared, lent[1]);
        program.allocator.give_back_weight(0, lent[1], program.stream, Returned::Read).unwrap();
        if how == Returned::Kept {
            is_held(&program, 1);
            program.allocator.give_back_weight(0, lent[0], program.stream, Returned::Released).unwrap();
        }
        is_held(&program, 0);
        (0..3).for_each(|_| program.whole_pass());
        let lends = lends_of(&program, Program::whole_pass);
        assert!(lends > 0, "{how:?}");
    }
}

#[test]
fn whoever_has_gone_is_given_back_for() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    program.begin();
    let mut kept = Vec::new();
    for nth in 0..program.weights.len() {
        let Filled { address, .. } = program.weights[nth];
        let lent: Vec<u64> = (0..2).map(|_| program.lend(nth)).collect();
        lent.iter().for_each(|lent| program.read(nth, *lent));
        if matches!(nth % 8, 2 | 3 | 6) && lent[0] != address {
            program.allocator.give_back_weight(0, lent[0], program.stream, Returned::Kept).unwrap();
            kept.push((nth, lent[0]));
        }
        // On another stream than the work's, which nobody has waited for.
        program.allocator.give_back_weight(0, address, DEFAULT, Returned::Released).unwrap();
    }
    program.allocator.end_pass(0, false).unwrap();
    assert_eq!(program.stats().kept_slots, kept.len() as u64);
    (0..2).for_each(|_| program.whole_pass());
    kept.iter().for_each(|(nth, lent)| program.read(*nth, *lent));
    program.check();
    kept.iter().for_each(|(_, lent)| {
        program.allocator.give_back_weight(0, *lent, program.stream, Returned::Released).unwrap();
    });
    assert!(!kept.is_empty() && program.stats().kept_slots == 0);
}

#[test]
fn what_is_freed_while_it_is_lent_is_not_written_back() {
    let mut program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    program.begin();
    let shared = program.last_shared();
    (0..shared).for_each(|nth| program.turn(nth, Returned::Read));
    let old = program.weights[shared];
    let lent = program.lend(shared);
    assert_ne!(lent, old.address);
    program.allocator.end_pass(0, false).unwrap();
    program.gpu.synchronize(0).unwrap();
    program.allocator.free(old.address, 0, DEFAULT).unwrap();
    program.weights[shared] = weight(&program.gpu, &program.allocator, 300);
    program.allocator.give_back_weight(0, lent, program.stream, Returned::Written).unwrap();
    assert_eq!((program.stats().kept_slots, program.stats().written_back), (0, 0));
    program.gpu.synchronize(0).unwrap();
    program.weights[shared].check(&program.gpu);
    (0..4).for_each(|_| program.whole_pass());
}

#[test]
fn another_thread_adopts_the_weights_or_reads_in_place_once() {
    for adopts in [false, true] {
        let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
        let lends: Vec<u64> = std::thread::scope(|scope| {
            let passes = || {
                if adopts {
                    program.weights.iter().for_each(|weight| {
                        program.allocator.adopt(0, weight.address, program.stream).unwrap();
                    });
                }
                // Safe points of two threads abstain, so nothing else changes.
                (0..2).map(|_| lends_of(&program, Program::whole_pass)).collect()
            };
            scope.spawn(passes).join().unwrap()
        });
        assert_eq!((lends[0] > 0, lends[1] > 0), (adopts, true), "adopts: {adopts}, {lends:?}");
    }
}

#[test]
fn weights_are_copied_ahead_however_many_threads_and_streams_there_were() {
    let mut program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    let own = program.stream;
    for _ in 0..70 {
        program.stream = Stream(program.gpu.create_stream().unwrap());
        program.allocator.adopt(0, program.weights[0].address, program.stream).unwrap();
    }
    // The last one has used one weight alone.
    program.gpu.synchronize(0).unwrap();
    program.whole_pass();
    assert!(lends_of(&program, Program::whole_pass) > 0);
    program.stream = own;
    program.whole_pass();
    assert!(lends_of(&program, Program::whole_pass) > 0);
}

/// Nothing orders the pass behind a write on another stream, and the pass does not use that weight:
/// its copy would read what is being written.
#[test]
fn a_weight_that_another_stream_writes_is_not_copied_ahead() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    let lends = lends_of(&program, Program::whole_pass);
    let nth = program.last_shared();
    let Filled { address, bytes, .. } = program.weights[nth];
    let other = Stream(program.gpu.create_stream().unwrap());
    program.allocator.record_stream(address, other).unwrap();
    program.gpu.launch(other.0, "written elsewhere", &[Access::write(address, bytes)]).unwrap();
    program.allocator.begin_pass(0, KIND, program.stream).unwrap();
    let others = (0..program.weights.len()).filter(|other| *other != nth);
    others.for_each(|other| program.turn(other, Returned::Read));
    program.allocator.end_pass(0, true).unwrap();
    // Once it was lent again, it is copied again.
    (0..3).for_each(|_| program.whole_pass());
    assert_eq!(lends_of(&program, Program::whole_pass), lends);
}

#[test]
fn a_wait_that_is_left_out_is_noticed() {
    for omitted in [Omitted::Work, Omitted::Copies] {
        let gpu = machine(1, CARD * GRANULE, 128 * GRANULE);
        let options = Options::parse(&format!("headroom:0,copy_ahead:10MiB,shared:{}", 128 * GRANULE)).unwrap();
        let driver = Arc::new(Careless::new(crate::driver(&gpu), omitted));
        let program = Program::on(gpu, Allocator::new(options, driver).unwrap());
        program.gpu.set_completion(Completion::Late);
        let all: Vec<usize> = (0..WEIGHTS as usize).collect();
        for _ in 0..5 {
            program.pass(&all);
            program.gpu.synchronize(0).unwrap();
        }
        assert!(!program.gpu.faults().is_empty(), "{omitted:?}");
    }
}

#[test]
fn the_ring_goes_where_memory_runs_out_and_where_nothing_is_shared() {
    let program = Program::warmed("shared:96MiB,copy_ahead:10MiB", Completion::Late);
    assert!(program.stats().staging > 0);
    let mut all = Vec::new();
    while let Ok(address) = program.allocator.malloc(GRANULE as usize, 0, DEFAULT) {
        all.push(address);
    }
    assert_eq!(program.stats().staging, 0, "nothing is out of memory beside an idle ring");
    all.into_iter().for_each(|address| program.allocator.free(address, 0, DEFAULT).unwrap());
    (0..3).for_each(|_| program.whole_pass());
    assert!(program.stats().staging > 0);
    program.gpu.synchronize(0).unwrap();
    program.weights.iter().for_each(|weight| program.allocator.free(weight.address, 0, DEFAULT).unwrap());
    program.allocator.free(program.found, 0, DEFAULT).unwrap();
    program.allocator.reset().unwrap();
    assert_eq!(program.stats().staging, 0);
    program.allocator.check().unwrap();
}

#[test]
fn beside_a_given_reserve_weights_are_copied_ahead_and_the_reserve_is_whole() {
    let program = Program::new("");
    let staging = || program.stats().staging;
    // Where residents cannot move, the ring is what they and the reserve have left.
    let kept = if crate::MIGRATES { SCRATCH } else { SCRATCH / 2 } * GRANULE;
    program.allocator.activate(0, &reserve(kept)).unwrap();
    assert_eq!(staging(), 0, "no order is known");
    program.gpu.set_completion(Completion::Late);
    (0..3).for_each(|_| program.whole_pass());
    let shared = || program.stats().tiers[Tier::Shared].allocated.current();
    assert!(staging() > 0 && shared() > 0, "{:#?}", program.stats());
    let moved = program.stats().migrated_bytes;
    assert!(lends_of(&program, |program| (0..3).for_each(|_| program.whole_pass())) > 0);
    assert_eq!(program.stats().migrated_bytes, moved, "everything stays where it was put");
    let whole = || {
        let scratch = program.allocator.malloc(kept as usize, 0, DEFAULT).unwrap();
        assert_eq!(program.allocator.residency(scratch).unwrap()[Tier::Shared], 0);
        program.allocator.free(scratch, 0, DEFAULT).unwrap();
    };
    whole();
    // An order is known now: the next activation makes room for the ring itself.
    program.allocator.activate(0, &reserve(kept)).unwrap();
    assert!(staging() > 0);
    whole();
    let moved = program.stats().migrated_bytes;
    assert!(lends_of(&program, |program| (0..2).for_each(|_| program.whole_pass())) > 0);
    assert_eq!(program.stats().migrated_bytes, moved);
    // All of the card is the user's reserve, or nobody's.
    program.allocator.disable(0, Activation::default().order).unwrap();
    assert_eq!(staging(), 0);
    program.whole_pass();
    assert_eq!(staging(), 0);
}

#[test]
fn what_a_stream_has_not_used_is_not_copied_for_it() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    let Filled { address, bytes, .. } = program.weights[3];
    let other = Stream(program.gpu.create_stream().unwrap());
    program.gpu.synchronize(0).unwrap();
    let copied = program.stats().copied_ahead_bytes;
    // Work of the same kind on another stream, whose weights are others, and ours are written.
    program.allocator.begin_pass(0, KIND, other).unwrap();
    assert_eq!(program.stats().copied_ahead_bytes, copied);
    program.gpu.work(program.stream.0, "write", &[Access::write(address, bytes)], FLOPS, 1.0).unwrap();
    program.allocator.end_pass(0, true).unwrap();
    program.gpu.synchronize(0).unwrap();
    assert_eq!(program.gpu.faults(), []);
    // An address is not a weight: another block that lies there by now was lent on no stream.
    for weight in &program.weights {
        program.allocator.free(weight.address, 0, DEFAULT).unwrap();
    }
    program.gpu.synchronize(0).unwrap();
    program.weights.iter().for_each(|weight| drop(program.allocator.malloc(weight.bytes as usize, 0, DEFAULT)));
    program.begin();
    assert_eq!(program.stats().copied_ahead_bytes, copied);
    program.allocator.end_pass(0, false).unwrap();
}

#[test]
fn a_pass_is_its_threads() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    let Filled { address, bytes, .. } = program.weights[3];
    program.begin();
    let (ours, theirs) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let asked = program.allocator.begin_pass(0, "vae", program.stream).unwrap();
            assert_eq!(asked.placement, 0, "it reads in place");
            ours.wait();
            theirs.wait();
            program.allocator.end_pass(0, true).unwrap();
        });
        ours.wait();
        let lends = lends_of(&program, |program| {
            // The ring has no room yet for what comes after these.
            (0..WEIGHTS as usize / 2).for_each(|nth| program.turn(nth, Returned::Read));
            program.allocator.end_pass(0, false).unwrap();
        });
        assert!(lends > 0, "the other thread's pass is not within ours");
        let copied = program.stats().copied_ahead_bytes;
        // Ours is over, whatever the other thread does: nothing more is copied, and we may write.
        program.gpu.work(program.stream.0, "write", &[Access::write(address, bytes)], FLOPS, 1.0).unwrap();
        program.allocator.give_back_weight(0, address, program.stream, Returned::Read).unwrap();
        assert_eq!(program.stats().copied_ahead_bytes, copied);
        theirs.wait();
    });
    program.gpu.synchronize(0).unwrap();
    assert_eq!(program.gpu.faults(), []);
    program.allocator.check().unwrap();
}

#[test]
fn nothing_is_left_behind() {
    let program = Program::warmed("copy_ahead:10MiB", Completion::Late);
    let before = program.gpu.outstanding();
    assert!(before.handles > 0);
    let Program { gpu, allocator, stream, .. } = program;
    drop(allocator);
    gpu.destroy_stream(stream.0).unwrap();
    let left = gpu.outstanding();
    assert_eq!((left.handles, left.reservations, gpu.live_streams()), (0, 0, 0));
}
