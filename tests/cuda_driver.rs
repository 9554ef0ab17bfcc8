//! The CUDA driver over fakes of drivers that are old, limited, strange, broken or missing. The
//! allocator works, or says why not.

mod fake;

use std::path::Path;
use std::sync::Arc;

use fake_cuda::Setup;
use giant_kitten::driver::cuda::CudaDriver;
use giant_kitten::driver::{Driver, Event, NOT_READY, NOT_SUPPORTED, Rung, Stream};
use giant_kitten::{Activation, Allocator, Error, Options, Reserve, Tier};
use kitten_sim::{Gpu, Outstanding, Profile, code};

const GRANULE: u64 = 2 << 20;

fn machine(devices: usize) -> Gpu {
    let card = Profile::builtin("nominal-6g").unwrap();
    let card = Profile { dedicated_bytes: 16 * GRANULE, shared_bytes: 32 * GRANULE, ..card };
    Gpu::new(&vec![card; devices]).unwrap()
}

fn allocator(driver: CudaDriver) -> Result<Allocator, Error> {
    Allocator::new(Options::parse("headroom:0,shared:64MiB").unwrap(), Arc::new(driver))
}

/// Blocks that overflow the card, an activation that moves some, and a return of everything.
fn use_it(gpu: &Gpu, allocator: &Allocator) -> Result<(), Error> {
    let blocks = (0..10).map(|_| allocator.malloc(2 * GRANULE as usize, 0, Stream(0))).collect::<Result<Vec<_>, _>>();
    let blocks = blocks?;
    for (at, block) in blocks.iter().enumerate() {
        gpu.write(*block, &[at as u8 + 1; 4096]).unwrap();
    }
    allocator.activate(0, &Activation { reserve: Reserve::Fixed(4 * GRANULE), ..Activation::default() })?;
    let other = Stream(gpu.create_stream().unwrap());
    let scratch = allocator.malloc(GRANULE as usize, 0, other)?;
    allocator.record_stream(scratch, Stream(0))?;
    allocator.free(scratch, 0, other)?;
    allocator.disable(0, Activation::default().order)?;
    for (at, block) in blocks.iter().enumerate() {
        let mut found = [0; 4096];
        gpu.read(*block, &mut found).unwrap();
        assert_eq!(found, [at as u8 + 1; 4096]);
        allocator.free(*block, 0, Stream(0))?;
    }
    allocator.check().map_err(Error::refused)
}

#[test]
fn the_ladder_is_climbed_down() {
    let cases = [
        ("everything", true, true, true, 0, Rung::HostNuma, 0),
        ("a system without nodes", true, true, true, -1, Rung::HostNuma, 0),
        ("a node that is not there", true, true, true, 7, Rung::Host, 1),
        ("no nodes", false, true, false, 0, Rung::Host, 1),
        ("an old driver", false, false, true, 0, Rung::Pinned, 2),
        ("a driver without any of these", false, false, false, 0, Rung::Nothing, 3),
    ];
    for (what, host_numa, host, pinned, numa_node, rung, refused) in cases {
        let gpu = machine(1);
        let setup = Setup { host_numa, host, pinned, numa_node, ..Setup::new(gpu.clone()) };
        let driver = fake::cuda_driver(setup).unwrap();
        let info = driver.device_info(0).unwrap();
        assert_eq!((info.rung, info.refused.len()), (rung, refused), "{what}: {:?}", info.refused);
        assert!(info.refused.iter().all(|why| why.contains("cuMem")), "{:?}", info.refused);
        let names: Vec<_> = info.refused.iter().map(|why| why.split(':').next().unwrap()).collect();
        assert_eq!(names, &["host_numa", "host", "pinned"][..refused], "{what}");
        assert_eq!(gpu.outstanding(), Outstanding::default(), "{what}: a trial leaves nothing behind");
        let allocator = allocator(driver).unwrap();
        match (rung, use_it(&gpu, &allocator)) {
            (Rung::Nothing, Err(Error::OutOfMemory(why))) => assert_eq!(why.limit[Tier::Shared], 0),
            (_, used) => assert_eq!(used, Ok(()), "{what}"),
        }
        allocator.shutdown();
        assert_eq!((gpu.outstanding(), gpu.faults()), (Outstanding::default(), vec![]), "{what}");
    }
}

#[test]
fn a_device_that_has_pinned_memory_elsewhere_does_not_use_it() {
    for (missing, said) in [
        ("cuMemHostAlloc", "cuMemHostAlloc failed"),
        ("cuMemFreeHost", "cuMemFreeHost failed"),
        ("cuMemHostGetDevicePointer", "cuMemHostGetDevicePointer failed"),
    ] {
        let gpu = machine(1);
        let old = Setup { host_numa: false, host: false, ..Setup::new(gpu.clone()) };
        let driver = fake::cuda_driver(Setup { missing: vec![missing.into()], ..old }).unwrap();
        let info = driver.device_info(0).unwrap();
        assert_eq!((info.rung, info.free[Tier::Shared]), (Rung::Nothing, 0), "without {missing}");
        assert!(info.refused[2].starts_with("pinned: ") && info.refused[2].contains(said), "{:?}", info.refused);
    }
}

#[test]
fn any_function_may_be_missing() {
    let all: Vec<_> = fake_cuda::driver::names().collect();
    assert!(all.len() > 30);
    let mut refusals = Vec::new();
    for name in all {
        let gpu = machine(1);
        let setup = Setup { missing: vec![name.into()], ..Setup::new(gpu.clone()) };
        let used = fake::cuda_driver(setup)
            .map_err(Error::from)
            .and_then(allocator)
            .and_then(|allocator| use_it(&gpu, &allocator).inspect(|()| allocator.shutdown()));
        match used {
            Ok(()) => assert_eq!(gpu.outstanding().handles, 0, "without {name}"),
            Err(why) => {
                let text = why.to_string();
                let said = text.contains(name) && text.contains("update the driver");
                assert!(said || matches!(why, Error::OutOfMemory(_)), "without {name}: {text}");
                refusals.push(name);
            }
        }
    }
    let optional =
        ["cuGetErrorName", "cuGetErrorString", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDriverGetVersion"];
    let optional = optional.iter().chain(&["cuDeviceCanAccessPeer", "cuCtxGetCurrent", "cuStreamIsCapturing"]);
    for name in optional.chain(&["cuThreadExchangeStreamCaptureMode", "cuEventQuery"]) {
        assert!(!refusals.contains(name), "it works without {name}");
    }
}

#[test]
fn a_driver_without_copies_in_streams_says_so() {
    for missing in ["cuMemcpyAsync", "cuStreamDestroy", "cuEventElapsedTime"] {
        let gpu = machine(1);
        let setup = Setup { missing: vec![missing.into()], ..Setup::new(gpu.clone()) };
        let driver = fake::cuda_driver(setup).unwrap();
        let stream = driver.create_stream(0).unwrap();
        let memory = driver.pin(0, 2 * GRANULE).unwrap();
        let timers: Vec<Event> = (0..2).map(|_| driver.create_timer(0).unwrap()).collect();
        timers.iter().for_each(|timer| driver.record(0, *timer, stream).unwrap());
        let answers = [
            ("cuMemcpyAsync", driver.copy_in_stream(0, memory, memory + GRANULE, GRANULE, stream)),
            ("cuEventElapsedTime", driver.seconds_between(0, timers[0], timers[1]).map(drop)),
            ("cuStreamDestroy", driver.destroy_stream(0, stream)),
        ];
        for (call, answer) in answers {
            let Err(why) = answer else {
                assert_ne!(call, missing);
                continue;
            };
            assert_eq!((call, why.call, why.code), (missing, missing, NOT_SUPPORTED), "{why}");
            let said = ["CUDA_ERROR_NOT_SUPPORTED", "update the driver"];
            assert!(said.iter().all(|part| why.to_string().contains(part)), "{why}");
        }
    }
}

#[test]
fn an_older_driver_has_an_older_ladder() {
    for (version, host_numa, host, rung) in [
        (12_020, true, false, Rung::HostNuma),
        (11_040, false, false, Rung::Pinned),
        (10_020, false, false, Rung::Pinned),
    ] {
        let gpu = machine(1);
        let setup = Setup { version, host_numa, host, ..Setup::new(gpu.clone()) };
        let driver = fake::cuda_driver(setup).unwrap();
        assert_eq!((driver.version(), driver.device_info(0).unwrap().rung), (Ok(version), rung));
    }
    let before_virtual_memory = Setup { version: 9_000, ..Setup::new(machine(1)) };
    let driver = fake::cuda_driver(before_virtual_memory).unwrap();
    let why = driver.device_info(0).unwrap_err().to_string();
    assert!(why.contains("CUDA 10.2"), "{why}");
}

#[test]
fn unknown_codes_are_errors_with_call_code_and_arguments() {
    let gpu = machine(1);
    let driver = fake::cuda_driver(Setup::new(gpu.clone())).unwrap();
    driver.device_info(0).unwrap();
    gpu.fail("cuMemCreate", 1, 987_654);
    let why = driver.create(0, Tier::Dedicated, GRANULE).unwrap_err();
    assert_eq!((why.code, why.call), (987_654, "cuMemCreate"));
    let text = why.to_string();
    for part in ["cuMemCreate", "987654", "unknown", "size 2097152", "DEVICE 0"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let why = driver.create(0, Tier::Dedicated, 17 * GRANULE).unwrap_err();
    assert!(why.is_out_of_memory() && why.name == "CUDA_ERROR_OUT_OF_MEMORY", "{why}");
}

#[test]
fn every_failing_call_of_the_first_use_is_survived() {
    // Includes the calls that only the CUDA driver makes: contexts, granularities, the trials of
    // the rungs.
    let (mut nth, mut failed) = (0, 0);
    loop {
        nth += 1;
        let gpu = machine(1);
        gpu.fail_any(nth, 12_345);
        let used =
            fake::cuda_driver(Setup::new(gpu.clone())).map_err(Error::from).and_then(allocator).and_then(|allocator| {
                let first = allocator.malloc(512, 0, Stream(0));
                gpu.clear_failures();
                let again = allocator.malloc(512, 0, Stream(0));
                assert!(again.is_ok(), "call {nth}: {again:?}");
                allocator.shutdown();
                first
            });
        failed += u32::from(used.is_err());
        assert_eq!((gpu.outstanding(), gpu.faults()), (Outstanding::default(), vec![]), "call {nth}");
        if gpu.total_calls() < nth {
            break;
        }
    }
    assert!(nth > 20 && failed > 5, "{nth} calls, {failed} times an error");
}

#[test]
fn no_driver_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let not_a_library = folder.path().join("text.so");
    std::fs::write(&not_a_library, "no library").unwrap();
    let of_another_machine = folder.path().join("strange.so");
    let mut bytes = std::fs::read(fake_cuda::built_library()).unwrap();
    let machine = place_of_machine(&bytes);
    bytes[machine..machine + 2].copy_from_slice(&[0xfe, 0xff]);
    std::fs::write(&of_another_machine, bytes).unwrap();
    let empty = folder.path().join("empty.so");
    std::fs::write(&empty, "").unwrap();
    let missing = Path::new("/nonexistent/libcuda.so.1");
    for path in [missing, &not_a_library, &of_another_machine, &empty, folder.path()] {
        let why = CudaDriver::open_library(path).unwrap_err().to_string();
        assert!(why.contains(path.to_str().unwrap()) && why.contains("NVIDIA driver"), "{why}");
        assert!(!why.contains("dlopen failed"), "expected the system's own words: {why}");
    }
}

/// Where a library names the machine that it is for: 0xfffe is none. An ELF file has that at a
/// fixed place, and a PE file in the header that the word at 0x3c leads to.
fn place_of_machine(library: &[u8]) -> usize {
    if library.starts_with(b"\x7fELF") {
        return 18;
    }
    u32::from_le_bytes(library[0x3c..0x40].try_into().unwrap()) as usize + 4
}

/// A library that is not a driver, and the library of a driver that finds no card.
#[test]
#[cfg(unix)]
fn a_driver_of_another_kind_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("int nothing;", "cuInit"),
        ("int cuInit(unsigned flags) { return flags + 100; }", "cuInit failed with unknown (100)"),
    ];
    for (number, (source, said)) in cases.into_iter().enumerate() {
        let (file, library) = (folder.path().join(format!("{number}.c")), folder.path().join(format!("{number}.so")));
        std::fs::write(&file, source).unwrap();
        let built = std::process::Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(&file)
            .status()
            .unwrap();
        assert!(built.success());
        let why = CudaDriver::open_library(&library).unwrap_err().to_string();
        assert!(why.contains(said), "{why}");
    }
}

#[test]
fn a_call_that_is_not_ready_under_pressure_is_out_of_memory() {
    for call in ["cuMemCreate", "cuMemMap", "cuMemSetAccess"] {
        let gpu = machine(1);
        let allocator = allocator(fake::cuda_driver(Setup::new(gpu.clone())).unwrap()).unwrap();
        allocator.malloc(512, 0, Stream(0)).unwrap();
        gpu.fail_from(call, 1, NOT_READY);
        match allocator.malloc(2 * GRANULE as usize, 0, Stream(0)) {
            Err(Error::OutOfMemory(why)) => assert!(why.driver.unwrap().is_out_of_memory(), "{call}"),
            other => panic!("{call}: {other:?}"),
        }
        gpu.clear_failures();
        assert_eq!(use_it(&gpu, &allocator), Ok(()), "{call}");
    }
}

#[test]
fn a_system_that_does_not_tell_what_it_grants_limits_nothing() {
    let missing = |function: &str| Setup { missing: vec![function.into()], ..Setup::new(machine(1)) };
    for (setup, library, said) in [
        (Setup::new(machine(1)), Some("nonexistent.dll"), "nonexistent.dll cannot be loaded"),
        (Setup::new(machine(1)), None, "QueryVideoMemoryInfo failed with DXGI_ERROR_UNSUPPORTED (0x887a0004)"),
        (missing("EnumAdapterByLuid"), None, "EnumAdapterByLuid failed with DXGI_ERROR_NOT_FOUND (0x887a0002)"),
        (missing("cuDeviceGetLuid"), None, "cuDeviceGetLuid failed"),
    ] {
        let gpu = setup.gpu.clone();
        let driver = fake::cuda_driver(setup).unwrap();
        let driver = match library {
            Some(library) => driver.with_graphics(Path::new(library)),
            None => driver,
        };
        if cfg!(windows) {
            let why = driver.granted(0).unwrap_err();
            assert!(why.contains(said), "{why}");
        } else {
            assert_eq!(driver.granted(0), Ok(None), "this system keeps no account");
        }
        let allocator = allocator(driver).unwrap();
        assert_eq!(use_it(&gpu, &allocator), Ok(()), "{said}");
        assert_eq!(allocator.look_at(0).unwrap().granted.is_err(), cfg!(windows));
    }
}

#[test]
fn a_device_that_is_not_there_is_a_sentence() {
    let driver = fake::cuda_driver(Setup::new(machine(2))).unwrap();
    assert_eq!(driver.device_count(), Ok(2));
    let why = driver.device_info(2).unwrap_err().to_string();
    assert!(why.contains("there is no device 2: this machine has 2"), "{why}");
}

#[test]
fn threads_without_a_context_and_with_another_devices() {
    let gpu = machine(2);
    let driver = fake::cuda_driver(Setup::new(gpu.clone())).unwrap();
    let allocator = allocator(driver).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let allocator = &allocator;
            scope.spawn(move || {
                for turn in 0..50 {
                    let device = (thread + turn) % 2;
                    let block = allocator.malloc(GRANULE as usize, device, Stream(0)).unwrap();
                    allocator.free(block, 1 - device, Stream(0)).unwrap();
                    allocator.reset().unwrap();
                }
            });
        }
    });
    allocator.shutdown();
    drop(allocator);
    assert_eq!((gpu.outstanding(), gpu.faults()), (Outstanding::default(), vec![]));
}

#[test]
fn memory_taken_by_another_process_falls_to_the_shared_tier() {
    let gpu = machine(1);
    let allocator = allocator(fake::cuda_driver(Setup::new(gpu.clone())).unwrap()).unwrap();
    allocator.malloc(512, 0, Stream(0)).unwrap();
    gpu.set_dedicated_taken(0, 14 * GRANULE);
    let block = allocator.malloc(4 * GRANULE as usize, 0, Stream(0)).unwrap();
    assert_eq!(allocator.residency(block).unwrap()[Tier::Shared], 4 * GRANULE);
}

#[test]
fn a_driver_that_has_gone_is_quiet() {
    for gone in [code::DEINITIALIZED, code::CONTEXT_IS_DESTROYED, code::INVALID_CONTEXT] {
        let gpu = machine(1);
        let allocator = allocator(fake::cuda_driver(Setup::new(gpu.clone())).unwrap()).unwrap();
        let block = allocator.malloc(4 * GRANULE as usize, 0, Stream(0)).unwrap();
        allocator.record_stream(block, Stream(2)).unwrap();
        gpu.fail_from("", 1, gone);
        allocator.free(block, 0, Stream(0)).unwrap();
        match allocator.reset() {
            Ok(()) => {}
            Err(Error::Driver(why)) => assert!(why.is_gone(), "{why}"),
            Err(why) => panic!("{why}"),
        }
    }
}
