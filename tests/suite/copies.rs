//! Streams that the allocator creates, copies in them and timers, as every driver must have them.

use std::sync::Arc;

use super::common::{DEFAULT, GRANULE, machine};
use giant_kitten::Tier;
use giant_kitten::driver::{Driver, INVALID_HANDLE, Result, Stream};
use kitten_sim::{Access, Completion, Gpu, code, contents};

/// The length of both ranges: three granules.
const BYTES: u64 = 3 * GRANULE;

/// A driver with a range in each tier, and a stream for copies.
struct Machine {
    gpu: Gpu,
    driver: Arc<dyn Driver>,
    /// Memory of the card, of several mappings.
    card: u64,
    /// Memory of the host: several mappings, or pinned.
    host: u64,
    copies: Stream,
}

impl Machine {
    fn new() -> Machine {
        let gpu = machine(1, 8 * GRANULE, 8 * GRANULE);
        let driver = crate::driver(&gpu);
        driver.device_info(0).unwrap();
        let card = mapped(&*driver, Tier::Dedicated);
        let host = if crate::MIGRATES { mapped(&*driver, Tier::Shared) } else { driver.pin(0, BYTES).unwrap() };
        let copies = driver.create_stream(0).unwrap();
        gpu.write(host, &contents(1, BYTES)).unwrap();
        Machine { gpu, driver, card, host, copies }
    }

    /// Queues a copy of `bytes` from the host's range to the card's, at the same offset of both.
    fn fetch(&self, offset: u64, bytes: u64) -> Result<()> {
        self.driver.copy_in_stream(0, self.card + offset, self.host + offset, bytes, self.copies)
    }

    /// What the card's range has at an offset.
    fn on_the_card(&self, offset: u64, bytes: u64) -> Vec<u8> {
        let mut found = vec![0; bytes as usize];
        self.gpu.read(self.card + offset, &mut found).unwrap();
        found
    }
}

/// A range of granules in a tier.
fn mapped(driver: &dyn Driver, tier: Tier) -> u64 {
    let address = driver.reserve(0, BYTES, GRANULE).unwrap();
    for at in (address..address + BYTES).step_by(GRANULE as usize) {
        let handle = driver.create(0, tier, GRANULE).unwrap();
        driver.map(0, at, GRANULE, handle).unwrap();
        driver.release(0, handle).unwrap();
    }
    driver.set_access(0, address, BYTES).unwrap();
    address
}

/// Has work read the whole of the card's range.
fn read_all(machine: &Machine, stream: Stream) {
    machine.gpu.launch(stream.0, "product", &[Access::read(machine.card, BYTES)]).unwrap();
}

#[test]
fn a_copy_crosses_granules_in_both_directions() {
    let machine = Machine::new();
    let Machine { gpu, driver, card, host, copies } = &machine;
    let (offset, bytes) = (GRANULE - 1000, GRANULE + 3000);
    machine.fetch(offset, bytes).unwrap();
    driver.synchronize(0).unwrap();
    let expected = &contents(1, BYTES)[offset as usize..(offset + bytes) as usize];
    assert_eq!(machine.on_the_card(offset, bytes), expected);
    assert_eq!(machine.on_the_card(0, offset), vec![0; offset as usize], "nothing beside the range changes");
    gpu.write(*card, &contents(2, BYTES)).unwrap();
    driver.copy_in_stream(0, *host, *card, BYTES, *copies).unwrap();
    driver.synchronize(0).unwrap();
    let mut found = vec![0; BYTES as usize];
    gpu.read(*host, &mut found).unwrap();
    assert_eq!((found == contents(2, BYTES), gpu.faults()), (true, vec![]));
}

#[test]
fn a_copy_is_late_and_work_that_waits_for_its_event_finds_the_bytes() {
    let machine = Machine::new();
    let Machine { gpu, driver, copies, .. } = &machine;
    gpu.set_completion(Completion::Late);
    let copied = driver.create_event(0).unwrap();
    machine.fetch(0, BYTES).unwrap();
    driver.record(0, copied, *copies).unwrap();
    driver.wait(0, DEFAULT, copied).unwrap();
    read_all(&machine, DEFAULT);
    assert_eq!((driver.is_done(0, copied), driver.is_idle(0, *copies)), (Ok(false), Ok(false)));
    assert_eq!(machine.on_the_card(0, BYTES), vec![0; BYTES as usize], "the copy's turn has not come");
    driver.synchronize(0).unwrap();
    assert_eq!((driver.is_done(0, copied), driver.is_idle(0, *copies)), (Ok(true), Ok(true)));
    assert!(machine.on_the_card(0, BYTES) == contents(1, BYTES));
    assert_eq!(gpu.faults(), []);
}

#[test]
fn a_wait_that_is_left_out_is_a_fault_and_finds_old_bytes() {
    let machine = Machine::new();
    machine.gpu.set_completion(Completion::Late);
    machine.fetch(0, BYTES).unwrap();
    read_all(&machine, DEFAULT);
    assert_eq!(machine.gpu.faults().len(), 1, "the work does not wait for the copy");
    assert_eq!(machine.on_the_card(0, BYTES), vec![0; BYTES as usize]);
    let fault = machine.gpu.faults()[0].to_string();
    assert!(fault.contains("product") && fault.contains("cuMemcpyAsync"), "{fault}");
}

#[test]
fn a_copy_over_memory_that_work_still_reads_is_a_fault() {
    let machine = Machine::new();
    read_all(&machine, DEFAULT);
    machine.fetch(GRANULE, 512).unwrap();
    assert_eq!(machine.gpu.faults().len(), 1, "the copy does not wait for the work");
}

#[test]
fn memory_under_a_copy_stays_until_the_copy_is_done() {
    let machine = Machine::new();
    let Machine { gpu, driver, card, .. } = &machine;
    machine.fetch(0, BYTES).unwrap();
    driver.unmap(0, *card, BYTES).unwrap();
    assert_eq!(gpu.faults().len(), 1, "nobody has waited for the copy");
}

#[test]
fn a_copy_needs_mapped_ranges_that_do_not_overlap() {
    let machine = Machine::new();
    let Machine { gpu, driver, card, copies, .. } = &machine;
    for (to, from, bytes) in [(*card, *card + GRANULE, BYTES), (*card, *card + 512, 1024)] {
        let why = driver.copy_in_stream(0, to, from, bytes, *copies).unwrap_err();
        assert!([code::ILLEGAL_ADDRESS, code::INVALID_VALUE].contains(&why.code), "{why}");
        assert_eq!(why.call, "cuMemcpyAsync");
    }
    assert_eq!((gpu.pending(), gpu.faults()), (0, vec![]));
}

#[test]
fn a_stream_is_destroyed_without_waiting_and_its_work_goes_on() {
    let machine = Machine::new();
    let Machine { gpu, driver, copies, .. } = &machine;
    let streams = gpu.live_streams();
    gpu.set_completion(Completion::Late);
    let event = driver.create_event(0).unwrap();
    machine.fetch(0, BYTES).unwrap();
    driver.destroy_stream(0, *copies).unwrap();
    assert_eq!((gpu.pending(), gpu.live_streams()), (1, streams - 1), "nothing was waited for");
    driver.synchronize(0).unwrap();
    assert!(machine.on_the_card(0, BYTES) == contents(1, BYTES), "the copy was done all the same");
    let answers = [
        machine.fetch(0, BYTES),
        driver.record(0, event, *copies),
        driver.wait(0, *copies, event),
        driver.is_idle(0, *copies).map(drop),
        driver.is_capturing(0, *copies).map(drop),
        driver.destroy_stream(0, *copies),
        driver.destroy_stream(0, DEFAULT),
    ];
    for (at, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.map_err(|why| why.code), Err(INVALID_HANDLE), "call {at}");
    }
    let faults = gpu.faults();
    assert_eq!(faults.len(), 6, "each call on the destroyed stream: {faults:?}");
    assert!(faults.iter().all(|fault| fault.to_string().contains("destroyed")), "{faults:?}");
}

#[test]
fn timers_tell_the_seconds_of_what_lies_between() {
    let machine = Machine::new();
    let Machine { gpu, driver, copies, .. } = &machine;
    let [from, to] = [(); 2].map(|()| driver.create_timer(0).unwrap());
    driver.record(0, from, *copies).unwrap();
    assert_eq!(driver.seconds_between(0, from, to).unwrap_err().code, INVALID_HANDLE, "one was never recorded");
    gpu.set_completion(Completion::Late);
    machine.fetch(0, BYTES).unwrap();
    driver.record(0, to, *copies).unwrap();
    assert_eq!(driver.seconds_between(0, from, to).unwrap_err().code, code::NOT_READY);
    driver.synchronize(0).unwrap();
    let seconds = driver.seconds_between(0, from, to).unwrap();
    let expected = BYTES as f64 / gpu.device_profile(0).unwrap().link_to_device;
    assert!((seconds / expected - 1.0).abs() < 1e-6, "{seconds} instead of {expected}");
    let plain = driver.create_event(0).unwrap();
    driver.record(0, plain, *copies).unwrap();
    assert_eq!(driver.seconds_between(0, from, plain).unwrap_err().code, INVALID_HANDLE, "an event keeps no time");
}

/// Every one of the calls, and what undoes it.
fn use_all(machine: &Machine) -> Result<()> {
    let driver = &machine.driver;
    let copies = driver.create_stream(0)?;
    let timers = driver.create_timer(0).and_then(|from| {
        let to = driver.create_timer(0);
        let timed = to.and_then(|to| {
            let timed = driver
                .record(0, from, copies)
                .and_then(|()| driver.copy_in_stream(0, machine.card, machine.host, BYTES, copies))
                .and_then(|()| driver.record(0, to, copies))
                .and_then(|()| driver.synchronize(0))
                .and_then(|()| driver.seconds_between(0, from, to));
            timed.and(again(|| driver.destroy_event(0, to)))
        });
        timed.and(again(|| driver.destroy_event(0, from)))
    });
    timers.and(again(|| driver.destroy_stream(0, copies)))
}

/// Makes a call that undoes something, and makes it again if it fails.
fn again(call: impl Fn() -> Result<()>) -> Result<()> {
    call().or_else(|_| call())
}

#[test]
fn each_call_may_fail_and_leaves_nothing_behind() {
    let mut calls = 0;
    for nth in 0.. {
        let machine = Machine::new();
        let (before, streams) = (machine.gpu.outstanding(), machine.gpu.live_streams());
        let made = machine.gpu.total_calls();
        if nth > 0 {
            machine.gpu.fail_any(nth, 12_345);
        }
        let used = use_all(&machine);
        machine.gpu.clear_failures();
        if nth == 0 {
            used.unwrap();
            calls = machine.gpu.total_calls() - made;
        } else if let Err(why) = used {
            assert_eq!(why.code, 12_345, "call {nth}: {why}");
        }
        assert_eq!((machine.gpu.outstanding(), machine.gpu.live_streams()), (before, streams), "call {nth}");
        assert_eq!(machine.gpu.faults(), [], "call {nth}");
        if nth == calls {
            break;
        }
    }
    assert!(calls >= 10, "{calls} calls");
}
