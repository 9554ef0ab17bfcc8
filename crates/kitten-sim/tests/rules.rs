//! The rules of virtual memory management, one by one, and the detector of memory used too early.

use std::sync::Mutex;

use kitten_sim::{Access, CaptureStatus, Completion, Gpu, Profile, Tier, code};

const G: u64 = 2 << 20;

fn gpu() -> Gpu {
    let card = Profile::builtin("nominal-6g").unwrap();
    Gpu::new(&[Profile { dedicated_bytes: 8 * G, shared_bytes: 8 * G, ..card }]).unwrap()
}

fn broken<T: std::fmt::Debug>(result: Result<T, kitten_sim::Error>, code: i32, rule: &str) {
    let why = result.expect_err(rule);
    assert_eq!(why.code, code, "{why}");
    assert!(why.rule.contains(rule), "{why}");
}

fn mapped(gpu: &Gpu, granules: u64) -> u64 {
    let at = gpu.reserve(0, granules * G, G).unwrap();
    for i in 0..granules {
        let handle = gpu.create(0, Tier::Dedicated, G).unwrap();
        gpu.map(0, at + i * G, G, handle).unwrap();
        gpu.release(0, handle).unwrap();
    }
    gpu.set_access(0, at, granules * G).unwrap();
    at
}

#[test]
fn sizes_and_places_are_whole() {
    let gpu = gpu();
    broken(gpu.reserve(0, G + 1, G), code::INVALID_VALUE, "granularity");
    broken(gpu.reserve(0, G, 3 * G), code::INVALID_VALUE, "power of two");
    broken(gpu.create(0, Tier::Shared, 0), code::INVALID_VALUE, "granularity");
    broken(gpu.create(1, Tier::Shared, G), code::INVALID_DEVICE, "no device 1");
    let at = gpu.reserve(0, 4 * G, 64 * G).unwrap();
    assert!(at.is_multiple_of(64 * G));
    let handle = gpu.create(0, Tier::Shared, 2 * G).unwrap();
    broken(gpu.map(0, at, G, handle), code::INVALID_VALUE, "whole backing");
    broken(gpu.map(0, at + 4096, 2 * G, handle), code::INVALID_VALUE, "not at a granule");
    broken(gpu.map(0, at + 3 * G, 2 * G, handle), code::INVALID_VALUE, "one reservation");
    broken(gpu.map(0, at, 2 * G, 999), code::INVALID_VALUE, "unknown");
    gpu.map(0, at + G, 2 * G, handle).unwrap();
    broken(gpu.map(0, at, 2 * G, handle), code::INVALID_VALUE, "overlaps");
    broken(gpu.unmap(0, at + G, G), code::INVALID_VALUE, "whole mappings");
    broken(gpu.unreserve(at, 4 * G), code::INVALID_VALUE, "still mapped");
    broken(gpu.read(at + G, &mut [0]), code::ILLEGAL_ADDRESS, "not mapped with access");
    broken(gpu.set_access(0, at, 4 * G), code::INVALID_VALUE, "whole mappings");
    gpu.set_access(0, at + G, 2 * G).unwrap();
    gpu.read(at + G, &mut [0]).unwrap();
    gpu.unmap(0, at + G, 2 * G).unwrap();
    broken(gpu.unreserve(at, 2 * G), code::INVALID_VALUE, "whole reservation");
    gpu.unreserve(at, 4 * G).unwrap();
    gpu.release(0, handle).unwrap();
    broken(gpu.release(0, handle), code::INVALID_VALUE, "released already");
}

#[test]
fn capacity_is_held_until_the_last_mapping_is_gone() {
    let gpu = gpu();
    let at = mapped(&gpu, 8);
    broken(gpu.create(0, Tier::Dedicated, G), code::OUT_OF_MEMORY, "0 of");
    gpu.unmap(0, at, G).unwrap();
    gpu.create(0, Tier::Dedicated, G).unwrap();
    gpu.set_dedicated_taken(0, 8 * G);
    gpu.unmap(0, at + G, 2 * G).unwrap();
    broken(gpu.create(0, Tier::Dedicated, G), code::OUT_OF_MEMORY, "Dedicated");
}

#[test]
fn one_handle_may_lie_at_two_addresses() {
    let gpu = gpu();
    let at = gpu.reserve(0, 2 * G, G).unwrap();
    let handle = gpu.create(0, Tier::Shared, G).unwrap();
    gpu.map(0, at, G, handle).unwrap();
    gpu.map(0, at + G, G, handle).unwrap();
    gpu.set_access(0, at, 2 * G).unwrap();
    gpu.write(at + 5, b"same").unwrap();
    let mut seen = [0; 4];
    gpu.read(at + G + 5, &mut seen).unwrap();
    assert_eq!(&seen, b"same");
    let (a, b) = (gpu.create_stream().unwrap(), gpu.create_stream().unwrap());
    gpu.launch(a, "read", &[Access::read(at + 4096, 4096)]).unwrap();
    gpu.launch(b, "beside", &[Access::write(at + G, 4096)]).unwrap();
    assert_eq!(gpu.faults(), []);
    gpu.launch(b, "over", &[Access::write(at + G + 8000, 8)]).unwrap();
    assert_eq!(gpu.faults().len(), 1, "the same memory by its other address");
    assert!(gpu.faults()[0].to_string().contains("several addresses"), "{:?}", gpu.faults());
    gpu.copy(0, at + 8192, at + 4096, 8).unwrap();
    assert_eq!(gpu.faults().len(), 1, "the host reads what is only read, and writes elsewhere");
    gpu.copy(0, at + G + 4096, at + 16384, 8).unwrap();
    assert_eq!(gpu.faults().len(), 2, "the host writes what is read");
    gpu.synchronize(0).unwrap();
    gpu.unmap(0, at + G, G).unwrap();
    gpu.launch(a, "read", &[Access::read(at, G)]).unwrap();
    gpu.unmap(0, at, G).unwrap();
    assert_eq!(gpu.faults().len(), 3, "the last address goes under work");
}

#[test]
fn pinned_memory_has_its_own_address_and_stays_there() {
    let card = Profile::builtin("nominal-6g").unwrap();
    let gpu = Gpu::new(&[Profile { dedicated_bytes: 8 * G, shared_bytes: 8 * G, migrates: false, ..card }]).unwrap();
    broken(gpu.create(0, Tier::Shared, G), code::INVALID_VALUE, "pinned");
    broken(gpu.pin(0, 0), code::INVALID_VALUE, "length is 0");
    let at = gpu.pin(0, 3 * G + 1).unwrap();
    assert!(at.is_multiple_of(4096) && !at.is_multiple_of(G), "{at:#x} is at a page but not at a granule");
    assert!(gpu.is_pinned(at) && gpu.is_device_address(at + G));
    gpu.write(at + 2 * G, b"here").unwrap();
    let card = mapped(&gpu, 1);
    gpu.copy(0, card, at + 2 * G, G).unwrap();
    let mut seen = [0; 4];
    gpu.read(card, &mut seen).unwrap();
    assert_eq!(&seen, b"here");
    broken(gpu.unmap(0, at, 3 * G + 4096), code::INVALID_VALUE, "pinned");
    broken(gpu.unpin(at + 4096), code::INVALID_VALUE, "not the start");
    broken(gpu.pin(0, 5 * G), code::OUT_OF_MEMORY, "Shared");
    gpu.launch(0, "use", &[Access::read(at, G)]).unwrap();
    gpu.synchronize(0).unwrap();
    gpu.unpin(at).unwrap();
    assert_eq!(gpu.faults(), []);
    broken(gpu.unpin(at), code::INVALID_VALUE, "not the start");
    broken(gpu.read(at, &mut seen), code::ILLEGAL_ADDRESS, "not mapped");
    assert_eq!(gpu.memory_info(0, Tier::Shared), Ok((8 * G, 8 * G)));
    let again = gpu.pin(0, 8 * G).unwrap();
    gpu.read(again + 2 * G, &mut seen).unwrap();
    assert_eq!(seen, [0; 4], "the old bytes are gone");
    gpu.launch(0, "use", &[Access::read(again, G)]).unwrap();
    gpu.unpin(again).unwrap();
    assert_eq!(gpu.faults().len(), 1, "freed under work that nobody waited for");
}

#[test]
fn a_fault_is_reported_at_once() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let gpu = gpu();
    gpu.tell_faults(|fault| TOLD.lock().unwrap().push(fault.to_string()));
    let at = mapped(&gpu, 1);
    gpu.launch(0, "use", &[Access::read(at, G)]).unwrap();
    assert_eq!(*TOLD.lock().unwrap(), Vec::<String>::new());
    gpu.unmap(0, at, G).unwrap();
    assert_eq!(*TOLD.lock().unwrap(), gpu.faults().iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(gpu.faults().len(), 1);
}

#[test]
fn copies_take_bytes_and_holes_and_new_backing_is_zero() {
    let gpu = gpu();
    let at = mapped(&gpu, 4);
    gpu.write(at + 100, b"here").unwrap();
    gpu.write(at + 2 * G, &vec![9; G as usize]).unwrap();
    gpu.copy(0, at + 2 * G, at, 2 * G).unwrap();
    let mut seen = vec![1; 2 * G as usize];
    gpu.read(at + 2 * G, &mut seen).unwrap();
    assert_eq!(&seen[100..104], b"here");
    assert!(seen[..100].iter().chain(&seen[104..]).all(|byte| *byte == 0), "the old bytes are gone");
    broken(gpu.copy(0, at + G, at, 2 * G), code::INVALID_VALUE, "overlap");
    gpu.unmap(0, at, 4 * G).unwrap();
    let handle = gpu.create(0, Tier::Dedicated, G).unwrap();
    gpu.map(0, at, G, handle).unwrap();
    gpu.set_access(0, at, G).unwrap();
    gpu.read(at, &mut seen[..G as usize]).unwrap();
    assert!(seen[..G as usize].iter().all(|byte| *byte == 0));
}

#[test]
fn late_work_is_late_and_in_order() {
    let gpu = gpu();
    let at = mapped(&gpu, 1);
    let (a, b) = (gpu.create_stream().unwrap(), gpu.create_stream().unwrap());
    gpu.set_completion(Completion::Late);
    let event = gpu.create_event().unwrap();
    gpu.fill(a, at, 8, 1).unwrap();
    gpu.record(event, a).unwrap();
    gpu.wait(b, event).unwrap();
    gpu.fill(b, at, 8, 2).unwrap();
    assert_eq!((gpu.pending(), gpu.query(event)), (2, Ok(false)));
    let mut seen = [7; 1];
    gpu.read(at, &mut seen).unwrap();
    assert_eq!(seen, [0], "nothing has happened yet");
    assert!(gpu.complete_one(99));
    gpu.read(at, &mut seen).unwrap();
    assert_eq!((seen, gpu.query(event)), ([1], Ok(true)), "the second waits for the first");
    gpu.synchronize_stream(b).unwrap();
    gpu.read(at, &mut seen).unwrap();
    assert_eq!((seen, gpu.faults()), ([2], vec![]));
}

#[test]
fn unordered_uses_are_faults_and_ordered_ones_are_not() {
    let gpu = gpu();
    let at = mapped(&gpu, 2);
    let (a, b) = (gpu.create_stream().unwrap(), gpu.create_stream().unwrap());
    let touch = |stream, write| gpu.launch(stream, "touch", &[Access { address: at, bytes: G, write }]).unwrap();
    touch(a, false);
    touch(b, false);
    assert_eq!(gpu.faults().len(), 0, "two readers");
    touch(a, true);
    assert_eq!(gpu.faults().len(), 1, "a writer beside a reader, though all work is done at once");
    gpu.synchronize(0).unwrap();
    touch(b, true);
    assert_eq!(gpu.faults().len(), 1, "ordered by the host");
    gpu.unmap(0, at + G, G).unwrap();
    assert_eq!(gpu.faults().len(), 1, "nobody touches the second granule");
    gpu.unmap(0, at, G).unwrap();
    assert_eq!(gpu.faults().len(), 2, "unmapped under work that nobody waited for");
    assert!(gpu.faults()[1].to_string().contains("cuMemUnmap"));
    broken(gpu.launch(a, "late", &[Access::read(at, 1)]), code::ILLEGAL_ADDRESS, "not mapped");
}

#[test]
fn captures_forbid_waiting() {
    let gpu = gpu();
    let stream = gpu.create_stream().unwrap();
    broken(gpu.begin_capture(0), code::ILLEGAL_STATE, "default stream");
    gpu.begin_capture(stream).unwrap();
    assert_eq!((gpu.is_capturing(stream), gpu.is_capturing(0)), (Ok(true), Ok(false)));
    broken(gpu.synchronize(0), code::STREAM_CAPTURE_UNSUPPORTED, "captured");
    let event = gpu.create_event().unwrap();
    broken(gpu.query(event), code::STREAM_CAPTURE_UNSUPPORTED, "captured");
    let inside = gpu.create_event().unwrap();
    gpu.record(inside, stream).unwrap();
    broken(gpu.query(inside), code::CAPTURED_EVENT, "recorded in a capture");
    let status = || gpu.capture_status(stream).unwrap();
    assert_eq!(status(), CaptureStatus::Invalidated, "by the attempt to wait");
    broken(gpu.launch(stream, "late", &[]), code::STREAM_CAPTURE_INVALIDATED, "spoilt");
    broken(gpu.end_capture(stream), code::STREAM_CAPTURE_INVALIDATED, "spoilt");
    assert_eq!(status(), CaptureStatus::None);
    gpu.begin_capture(stream).unwrap();
    broken(gpu.record_all(0, event), code::STREAM_CAPTURE_UNSUPPORTED, "captured");
    broken(gpu.end_capture(stream), code::STREAM_CAPTURE_INVALIDATED, "spoilt");
    gpu.begin_capture(stream).unwrap();
    assert_eq!(status(), CaptureStatus::Active);
    gpu.end_capture(stream).unwrap();
    gpu.synchronize(0).unwrap();
}

#[test]
fn an_event_behind_all_work_orders_every_stream() {
    let gpu = gpu();
    let at = mapped(&gpu, 1);
    let [a, b] = [(); 2].map(|()| gpu.create_stream().unwrap());
    gpu.set_completion(Completion::Late);
    gpu.launch(a, "first", &[Access::write(at, G)]).unwrap();
    let event = gpu.create_event().unwrap();
    gpu.record_all(0, event).unwrap();
    assert_eq!(gpu.query(event), Ok(false));
    gpu.wait(b, event).unwrap();
    gpu.launch(b, "second", &[Access::write(at, G)]).unwrap();
    assert_eq!(gpu.faults(), []);
    broken(gpu.record_all(1, event), code::INVALID_DEVICE, "no device 1");
    broken(gpu.record_all(0, event + 1), code::INVALID_HANDLE, "no event");
}

#[test]
fn a_call_on_a_destroyed_stream_is_a_fault_where_wanted() {
    let gpu = gpu();
    let named = |stream| broken(gpu.query_stream(stream), code::INVALID_HANDLE, "no stream");
    let stream = gpu.create_stream().unwrap();
    gpu.destroy_stream(stream).unwrap();
    named(stream);
    assert_eq!(gpu.faults(), []);
    gpu.fault_destroyed_streams();
    named(stream);
    named(stream + 16);
    assert_eq!(gpu.faults().len(), 1, "a stream that never was is not one that was destroyed");
    assert!(gpu.faults()[0].to_string().contains("cuStreamQuery names stream"));
    assert_eq!(gpu.create_stream(), Ok(stream));
    gpu.query_stream(stream).unwrap();
    assert_eq!(gpu.faults().len(), 1, "the handle is in use again");
}

#[test]
fn handles_of_destroyed_streams_are_used_again() {
    let gpu = gpu();
    let (a, _b) = (gpu.create_stream().unwrap(), gpu.create_stream().unwrap());
    gpu.destroy_stream(a).unwrap();
    broken(gpu.destroy_stream(a), code::INVALID_HANDLE, "destroyed");
    broken(gpu.destroy_stream(0), code::INVALID_HANDLE, "default stream");
    assert_eq!(gpu.live_streams(), 1);
    assert_eq!(gpu.create_stream(), Ok(a));
}

#[test]
fn a_copy_in_a_stream_is_priced_by_call_and_bytes() {
    let card = Profile::builtin("nominal-6g").unwrap();
    assert_eq!(card.seconds.copy, 0.0, "the files of profiles need not name it");
    let mut priced = card.clone();
    priced.seconds.copy = 20e-6;
    let gpu = Gpu::new(&[card.clone(), priced]).unwrap();
    let (to, stream) = (mapped(&gpu, 1), gpu.create_stream().unwrap());
    let from = gpu.pin(0, G).unwrap();
    let seconds_on = |device| {
        let before = gpu.modelled_seconds();
        gpu.copy_in_stream(device, stream, to, from, G).unwrap();
        gpu.modelled_seconds() - before
    };
    let link = G as f64 / card.link_to_device;
    for (device, expected) in [(0, link), (1, link + 20e-6)] {
        let seconds = seconds_on(device);
        assert!((seconds - expected).abs() < 1e-12, "device {device}: {seconds} instead of {expected}");
    }
    assert_eq!(gpu.calls()["cuMemcpyAsync"], 2);
}

#[test]
fn copies_are_checked_and_timed_where_contents_are_ignored() {
    let gpu = gpu();
    let (from, to) = (mapped(&gpu, 1), mapped(&gpu, 1));
    gpu.write(from, &[1; 16]).unwrap();
    gpu.write(to, &[2; 16]).unwrap();
    gpu.ignore_contents();
    let before = gpu.modelled_seconds();
    gpu.copy(0, to, from, G).unwrap();
    assert!(gpu.modelled_seconds() > before);
    assert_eq!(gpu.difference(to, &[2; 16]), Ok(None));
    broken(gpu.copy(0, to + G, from, G), code::ILLEGAL_ADDRESS, "not mapped with access");
}

#[test]
fn timers_keep_the_time_of_their_record() {
    let gpu = gpu();
    let (event, timers) = (gpu.create_event().unwrap(), [(); 2].map(|()| gpu.create_timer().unwrap()));
    broken(gpu.seconds_between(timers[0], timers[1]), code::INVALID_HANDLE, "never recorded");
    broken(gpu.seconds_between(999, timers[0]), code::INVALID_HANDLE, "no event 999");
    gpu.set_completion(Completion::Late);
    gpu.record(timers[0], 0).unwrap();
    gpu.work(0, "product", &[], 25e12, 1.0).unwrap();
    gpu.record(timers[1], 0).unwrap();
    gpu.record(event, 0).unwrap();
    broken(gpu.seconds_between(timers[0], timers[1]), code::NOT_READY, "not done yet");
    gpu.synchronize(0).unwrap();
    assert_eq!(gpu.seconds_between(timers[0], timers[1]), Ok(1.0));
    broken(gpu.seconds_between(timers[0], event), code::INVALID_HANDLE, "keep no time");
    gpu.destroy_event(timers[1]).unwrap();
    broken(gpu.seconds_between(timers[0], timers[1]), code::INVALID_HANDLE, "no event");
}

#[test]
fn calls_made_to_fail_change_nothing() {
    let gpu = gpu();
    gpu.fail("cuMemCreate", 2, 4242);
    gpu.create(0, Tier::Dedicated, G).unwrap();
    let before = gpu.outstanding();
    broken(gpu.create(0, Tier::Dedicated, G), 4242, "made to fail");
    assert_eq!(gpu.outstanding(), before);
    gpu.create(0, Tier::Dedicated, G).unwrap();
    gpu.fail_from("cuMemCreate", 1, code::OUT_OF_MEMORY);
    for _ in 0..3 {
        assert!(gpu.create(0, Tier::Dedicated, G).is_err());
    }
    gpu.clear_failures();
    gpu.fail_any(1, code::UNKNOWN);
    assert!(gpu.create_event().is_err() && gpu.create_event().is_ok());
    assert_eq!((code::name(2), code::name(4242)), ("CUDA_ERROR_OUT_OF_MEMORY", "unknown"));
    assert!(gpu.modelled_seconds() > 0.0 && gpu.calls()["cuMemCreate"] == 6);
}
