//! What `replay` finds.

use predicates::str::contains;

use crate::{END, GIB, HEADER, allocs, file, json, kitten_bench, snapshot_of};

#[test]
fn replay_says_what_the_page_promises() {
    let found = json(&["replay", "sdxl_unet_2048", "--reserve", "1450MiB", "--json"]);
    for key in [
        "trace",
        "profile",
        "policy",
        "reserve_bytes",
        "dedicated_bytes",
        "shared_bytes",
        "persist_bytes",
        "peak_live_bytes",
        "peak_mapped_bytes",
        "fragmentation",
        "mallocs",
        "frees",
        "migrated_bytes",
        "steps",
        "steady",
        "oom",
    ] {
        assert!(found.get(key).is_some(), "{key}");
    }
    assert!(found["oom"].is_null());
    assert_eq!(found["steps"].as_array().unwrap().len(), 3);
    let step = &found["steady"];
    let number = |key: &str| step[key].as_f64().unwrap();
    let adds_up = number("compute_seconds") + number("link_bytes") / 13e9;
    assert!((number("seconds") - adds_up).abs() < 1e-6 * adds_up);
    assert!(number("seconds") < 3.25, "placement is worth what the page says: {}", number("seconds"));
    assert!(number("peak_dedicated_bytes") <= found["dedicated_bytes"].as_f64().unwrap());
    assert!(found["fragmentation"].as_f64().unwrap() <= 1.03);
}

#[test]
fn first_come_is_the_reference() {
    let found = json(&["replay", "sdxl_unet_2048", "--policy", "first-come", "--json"]);
    let seconds = found["steady"]["seconds"].as_f64().unwrap();
    assert!((seconds / 11.65 - 1.0).abs() < 0.1, "{seconds}");
}

#[test]
fn a_profile_whose_shared_memory_is_pinned_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pinned.toml");
    let profile = kitten_sim::Profile::builtin("nominal-6g").unwrap();
    std::fs::write(&path, kitten_sim::Profile { migrates: false, ..profile }.to_toml()).unwrap();
    let replayed = |arguments: &[&str]| {
        let found = json(&[&["replay", "sdxl_unet_2048", "--json"], arguments].concat());
        assert!(found["oom"].is_null() && found["migrated_bytes"] == 0, "{found}");
        found["steady"]["seconds"].as_f64().unwrap()
    };
    let pinned = ["--profile", path.to_str().unwrap()];
    let first_come = replayed(&[&pinned[..], &["--policy", "first-come"]].concat());
    let same = replayed(&["--policy", "first-come"]);
    assert!((first_come / same - 1.0).abs() < 0.1, "{first_come} and {same}");
    // Out and back, sorted, is worth as much as moving under stable addresses.
    let sorted = replayed(&[&pinned[..], &["--reserve", "1450MiB"]].concat());
    assert!(sorted < 3.4, "{sorted}");
    // Nothing resident moves at a safe point: it is first-come.
    let automatic = replayed(&[&pinned[..], &["--policy", "auto"]].concat());
    assert!((automatic / first_come - 1.0).abs() < 0.1, "{automatic} and {first_come}");
}

#[test]
fn fragmentation_stays_low() {
    for (trace, limit) in
        [("sd15_unet_512", 1.03), ("sd15_unet_1024", 1.03), ("sdxl_unet_1024", 1.03), ("sdvae_dec_1024", 1.16)]
    {
        let found = json(&["replay", trace, "--dedicated", "24GiB", "--json"]);
        let fragmentation = found["fragmentation"].as_f64().unwrap();
        assert!(fragmentation <= limit, "{trace}: {fragmentation}");
    }
}

#[test]
fn replay_says_what_is_wasted_once_the_work_is_known() {
    let steady = |layout: &str| {
        let arguments = ["replay", "sdvae_dec_1024", "--loop", "10", "--dedicated", "64GiB", "--policy", "first-come"];
        let output = kitten_bench(&arguments).args(["--layout", layout, "--json"]).output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |key: &str| found[key].as_f64().unwrap();
        assert!(of("steady_fragmentation") <= of("fragmentation") * 1.001, "{layout}");
        of("steady_fragmentation")
    };
    let (fit, learned) = (steady("fit"), steady("learned"));
    assert!(learned < 1.0 + (fit - 1.0) / 4.0, "fit {fit}, learned {learned}");
}

#[test]
fn scratch_beyond_the_card_runs_over_the_link() {
    let found = json(&["replay", "sdvae_dec_1024", "--dedicated", "1GiB", "--reserve", "1GiB", "--json"]);
    assert!(found["oom"].is_null());
    assert!(found["steady"]["link_bytes"].as_u64().unwrap() > 0);
    assert!(found["steady"]["peak_dedicated_bytes"].as_u64().unwrap() <= 1 << 30);
}

#[test]
fn out_of_memory_is_a_failure_with_figures() {
    kitten_bench(&["replay", "sdxl_unet_1024", "--dedicated", "1GiB", "--shared", "1GiB", "--json"])
        .assert()
        .code(1)
        .stdout(contains("\"oom\": \"CUDA out of memory. Tried to allocate"))
        .stderr(contains("shared:"));
}

/// The seconds of each generation.
fn generations(found: &serde_json::Value) -> Vec<f64> {
    let mut seconds = Vec::new();
    for step in found["steps"].as_array().unwrap() {
        let generation = step["generation"].as_u64().unwrap() as usize;
        seconds.resize(generation + 1, 0.0);
        seconds[generation] += step["seconds"].as_f64().unwrap();
    }
    seconds
}

fn policy(work: &[&str], policy: &[&str]) -> Vec<f64> {
    let found = json(&[&["replay"], work, &["--json", "--policy"], policy].concat());
    assert!(found["oom"].is_null(), "{work:?} {policy:?}: {}", found["oom"]);
    generations(&found)
}

/// The promise of the page on the automatic reserve, for work that fits, that does not, and that
/// has two kinds. The fixed reserves are those around the best of a sweep.
#[test]
fn the_automatic_reserve_is_as_good_as_the_best_fixed_one() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["sd15_unet_1024", "--loop", "3"], &["0"]),
        (&["sdxl_unet_2048", "--loop", "3"], &["1350MiB", "1400MiB", "1450MiB", "1500MiB"]),
        (&["sdxl_unet_2048", "--loop", "3", "--profile", "nominal-8g"], &["0"]),
        (&["sdxl_unet_1024:10", "sdvae_dec_1024:1", "--loop", "3"], &["600MiB", "800MiB", "1000MiB", "1400MiB"]),
    ];
    for (work, reserves) in cases {
        let first_come = policy(work, &["first-come"]);
        let ours = policy(work, &["auto"]);
        assert!(ours[0] <= 1.005 * first_come[0], "{work:?}: never worse than first-come: {ours:?}, {first_come:?}");
        let fixed = reserves.iter().map(|reserve| policy(work, &["reserve", "--reserve", reserve])[2]);
        let best = fixed.fold(f64::INFINITY, f64::min);
        for later in &ours[1..] {
            assert!(*later <= 1.03 * best, "{work:?}: {ours:?}, the best fixed {best}");
        }
    }
}

/// The seconds of the last decode of a UNet's and a VAE's work.
fn last_decode(policy: &[&str]) -> f64 {
    let work = ["sdxl_unet_1024:10", "sdvae_dec_1024_fp32:1", "--loop", "3"];
    let found = json(&[&["replay"], &work[..], &["--json", "--policy"], policy].concat());
    let steps = found["steps"].as_array().unwrap().iter().rev();
    let decode = steps.into_iter().find(|step| step["name"].as_str().unwrap().contains("vae")).unwrap();
    decode["seconds"].as_f64().unwrap()
}

#[test]
fn an_idle_unet_makes_room_for_a_decode() {
    let ours = last_decode(&["auto"]);
    // Larger reserves would slow the UNet: some of its weights would be shared from the start.
    for reserve in ["0", "200MiB", "400MiB"] {
        let resident = last_decode(&["reserve", "--reserve", reserve]);
        assert!(resident > 1.4 * ours, "{ours} s, and {resident} s with a reserve of {reserve}");
    }
}

#[test]
fn a_cache_that_grows_is_not_resident() {
    let steady = |policy: &[&str]| {
        let found = json(&[&["replay", "llama3_8b_p2048_d16", "--json", "--policy"], policy].concat());
        found["steady"]["seconds"].as_f64().unwrap()
    };
    let best = ["200MiB", "300MiB", "400MiB"].map(|reserve| steady(&["reserve", "--reserve", reserve]));
    let best = best.into_iter().fold(f64::INFINITY, f64::min);
    assert!(steady(&["auto"]) <= 1.03 * best, "{} s, and {best} s with the best reserve", steady(&["auto"]));
}

/// A cache that grows is expected to pass, and holds its memory until it does: a safe point moves
/// what fits, and the rest another time.
#[test]
fn blocks_that_are_expected_to_pass_make_no_safe_point_fail() {
    for dedicated in ["14GiB", "14.2GiB", "14.5GiB"] {
        let arguments = ["replay", "llama3_8b_p2048_d16", "--policy", "auto", "--loop", "4", "--dedicated", dedicated];
        let found = json(&[&arguments[..], &["--json"]].concat());
        assert!(found.is_object() || found.is_array(), "{dedicated}");
    }
}

#[test]
fn a_step_that_allocates_nothing_holds_the_live_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let op = "{\"ev\":\"op\",\"name\":\"aten::mm\",\"reads\":[0],\"read_bytes\":[1024],\"flops\":1e9}\n";
    let step = |name: &str| format!("{{\"ev\":\"phase\",\"name\":\"{name}\"}}\n");
    let resident = [HEADER, &step("load"), &allocs(0..12), &step("step 0"), op, &step("step 1"), op, END].concat();
    let frees: String = (1..12).map(|id| format!("{{\"ev\":\"free\",\"id\":{id}}}\n")).collect();
    // Freed before the only step with operations, in a phase without any.
    let gone = [HEADER, &step("load"), &allocs(0..12), &frees, &step("step 0"), op, END].concat();
    let (resident, gone) = (file(&folder, "resident.jsonl", resident), file(&folder, "gone.jsonl", gone));
    let (large, small) =
        (file(&folder, "large.pickle", snapshot_of(12)), file(&folder, "small.pickle", snapshot_of(4)));
    for work in [&resident, &gone] {
        let found = json(&["plan", work, "--json"]);
        assert_eq!(found["fits"], "both-tiers", "{work}: {found}");
    }
    for snapshot in [&large, &small] {
        kitten_bench(&["plan", snapshot]).assert().code(1).stderr(contains("the snapshot has no work, because"));
    }
    for work in [&resident, &large] {
        let found = json(&["replay", work, "--policy", "first-come", "--json"]);
        assert!(found["peak_shared_bytes"].as_u64().unwrap() > 6 * GIB);
        for step in found["steps"].as_array().unwrap() {
            let peaks = ["peak_dedicated_bytes", "peak_shared_bytes"].map(|key| step[key].as_u64().unwrap());
            assert_eq!(peaks[0] + peaks[1], 12 * GIB, "{step}");
            assert!(peaks[0] >= 5 * GIB, "{step}");
        }
    }
    assert_eq!(json(&["replay", &gone, "--json"])["steps"][0]["peak_shared_bytes"], 0);
}
