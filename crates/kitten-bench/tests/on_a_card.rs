//! kitten-bench on a card, over a fake `libcuda.so.1`: the real program and the real CUDA driver,
//! found by name as on a real machine. The fake's clock has the model's times, so each measurement
//! must find them.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Output};

use kitten_bench::card::check::check;
use kitten_bench::card::probe::measure;
use kitten_bench::card::{Card, Cuda};
use kitten_bench::replay::{Policy, Setup, replay_on};
use kitten_bench::show::report;
use kitten_bench::work;
use kitten_sim::Profile;

/// Runs one test of this file again, in a process whose driver is the fake one. Returns whether
/// that is this process.
fn in_a_process_with_the_fake(test: &str) -> bool {
    if std::env::var_os("FAKE_CUDA_PROFILE").is_some() {
        return true;
    }
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(fake_cuda::built_library(), folder.path().join("libcuda.so.1")).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env("FAKE_CUDA_PROFILE", "nominal-6g")
        .status()
        .unwrap();
    assert!(status.success(), "{test}");
    false
}

fn close(what: &str, found: f64, given: f64) {
    assert!((found - given).abs() <= 0.02 * given, "{what}: {found} instead of {given}");
}

#[test]
fn the_probe_finds_the_rates_of_the_card() {
    if !in_a_process_with_the_fake("the_probe_finds_the_rates_of_the_card") {
        return;
    }
    let given = Profile::builtin("nominal-6g").unwrap();
    let (measured, found) = measure(&Cuda::new(0).unwrap(), "found").unwrap();
    assert!(measured.card.starts_with("simulated nominal-6g, driver for CUDA 13.0"));
    assert!(!measured.product_measured && !measured.real && measured.unmapping.sound, "{measured:#?}");
    close("vram_bandwidth", found.vram_bandwidth, given.vram_bandwidth);
    close("link_to_device", found.link_to_device, given.link_to_device);
    close("link_to_host", found.link_to_host, given.link_to_host);
    close("fp16_rate", found.fp16_rate, given.fp16_rate);
}

#[test]
fn the_allocator_is_right_on_the_card() {
    if in_a_process_with_the_fake("the_allocator_is_right_on_the_card") {
        let checked = check(&Cuda::new(0).unwrap(), |_| Ok(())).unwrap();
        assert!(checked.is_good(), "{checked:#?}");
    }
}

#[test]
fn a_replay_takes_the_card_as_long_as_the_model_says() {
    if !in_a_process_with_the_fake("a_replay_takes_the_card_as_long_as_the_model_says") {
        return;
    }
    let card = Cuda::new(0).unwrap();
    let profile =
        Profile { dedicated_bytes: 2 << 30, shared_bytes: 4 << 30, ..Profile::builtin("nominal-6g").unwrap() };
    for (policy, reserve) in [(Policy::FirstCome, 0), (Policy::Reserve, 600 << 20)] {
        let setup = Setup::new(profile.clone(), policy).with_reserve(reserve);
        let mut trace = work::open(&["sd15_unet_1024".into()], 1).unwrap();
        let outcome = replay_on(&card, &mut *trace, &setup).unwrap();
        assert_eq!((outcome.oom, outcome.card), (None, card.name()));
        assert_eq!(outcome.dedicated_bytes, 2 << 30, "the budget, not the card");
        // The first step waits for memory, which the model of a step leaves out.
        let step = outcome.steady.unwrap();
        assert!(step.link_bytes > 0, "it should overflow");
        close(&step.name, step.card_seconds.unwrap(), step.seconds);
    }
}

/// Runs the script for a machine with a GPU, with the binaries of this build, on the fake driver.
fn gpu_check(folder: &Path, out: &Path) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new("bash")
        .arg(root.join("scripts/gpu-check"))
        .arg(out)
        .arg(folder)
        .env("LD_LIBRARY_PATH", folder)
        .env("FAKE_CUDA_PROFILE", "nominal-6g")
        .env("GPU_CHECK_TRACES", "sdvae_dec_1024")
        .env("GPU_CHECK_WITHOUT_TORCH", "1")
        .output()
        .unwrap()
}

#[test]
fn the_gpu_check_writes_its_page() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kitten-bench"), folder.path().join("kitten-bench")).unwrap();
    std::os::unix::fs::symlink(fake_cuda::built_library(), folder.path().join("libcuda.so.1")).unwrap();
    let out = folder.path().join("out");
    let output = gpu_check(folder.path(), &out);
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let page = std::fs::read_to_string(out.join(report::PAGE)).unwrap();
    for part in [
        "# GPU check: simulated nominal-6g",
        "Not a real card",
        "## The allocator",
        "## The card",
        "an event is enough",
        "## Traces replayed",
        "sdvae_dec_1024",
        "first-come",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("**fails**") && !page.contains("measured s/step"), "{page}");
    for file in ["check.json", "probe.json", "profile.toml", "machine.txt", report::PLOT] {
        assert!(out.join(file).exists(), "{file}: {told}");
    }
}
