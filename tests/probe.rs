//! The probe's kernels and clocks on the CUDA driver, over a fake `libcuda.so.1`: the rates come back as the profile has them.

mod fake;

use kitten_bench::probe::{Cuda, measure};
use kitten_sim::Profile;

#[test]
fn the_probe_of_a_card_finds_its_rates() {
    // The driver is found by its name alone, as on a real machine: so this test runs itself again, with a folder to find it in.
    if std::env::var_os("FAKE_CUDA_PROFILE").is_none() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(fake::library(), folder.path().join("libcuda.so.1")).unwrap();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .env("LD_LIBRARY_PATH", folder.path())
            .env("FAKE_CUDA_PROFILE", "nominal-6g")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let given = Profile::builtin("nominal-6g").unwrap();
    let measured = measure(&Cuda::new().unwrap(), "found").unwrap();
    assert!(measured.card.starts_with("simulated nominal-6g, driver for CUDA 13.0") && !measured.product_measured);
    let found = measured.profile;
    for (found, given) in [
        (found.vram_bandwidth, given.vram_bandwidth),
        (found.link_to_device, given.link_to_device),
        (found.link_to_host, given.link_to_host),
        (found.fp16_rate, given.fp16_rate),
    ] {
        assert!((found - given).abs() <= 0.02 * given, "{found} instead of {given}");
    }
}
