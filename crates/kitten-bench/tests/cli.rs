//! The program as a user meets it: what it prints, and what it says to wrong inputs.

use assert_cmd::Command;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

fn kitten_bench(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("kitten-bench").unwrap();
    command.args(arguments);
    command
}

fn json(arguments: &[&str]) -> serde_json::Value {
    let output = kitten_bench(arguments).assert().success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

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

#[test]
fn sweep_writes_csv_and_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (csv, plot) = (folder.path().join("s.csv"), folder.path().join("s.svg"));
    kitten_bench(&[
        "sweep",
        "sdvae_dec_1024",
        "--from",
        "0",
        "--to",
        "2GiB",
        "--step",
        "1GiB",
        "--dedicated",
        "1.5GiB",
    ])
    .arg("--csv")
    .arg(&csv)
    .arg("--plot")
    .arg(&plot)
    .assert()
    .success()
    .stdout(contains("best:"));
    let csv = std::fs::read_to_string(csv).unwrap();
    assert!(csv.starts_with("reserve_bytes,seconds"));
    assert_eq!(csv.lines().count(), 4);
    assert!(std::fs::read_to_string(plot).unwrap().contains("</svg>"));
}

#[test]
fn map_draws_a_phase() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.svg");
    kitten_bench(&["map", "sdvae_dec_1024", "--at", "step 1", "--out"]).arg(&out).assert().success();
    assert!(std::fs::read_to_string(out).unwrap().contains("Memory map"));
    kitten_bench(&["map", "sdvae_dec_1024", "--at", "nowhere", "--out", "x.svg"])
        .assert()
        .code(1)
        .stderr(contains("it has load, inputs, step 0"));
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

/// What the page on the automatic reserve promises, on work that fits, that does not, and that has two kinds; the reserves around the
/// best of a sweep.
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
    // Larger ones would slow the UNet, weights of which would be shared from the start.
    for reserve in ["0", "200MiB", "400MiB"] {
        let resident = last_decode(&["reserve", "--reserve", reserve]);
        assert!(resident > 1.4 * ours, "{ours} s, and {resident} s with a reserve of {reserve}");
    }
}

#[test]
fn a_cache_that_grows_is_no_resident() {
    let steady = |policy: &[&str]| {
        let found = json(&[&["replay", "llama3_8b_p2048_d16", "--json", "--policy"], policy].concat());
        found["steady"]["seconds"].as_f64().unwrap()
    };
    let best = ["200MiB", "300MiB", "400MiB"].map(|reserve| steady(&["reserve", "--reserve", reserve]));
    let best = best.into_iter().fold(f64::INFINITY, f64::min);
    assert!(steady(&["auto"]) <= 1.03 * best, "{} s, and {best} s with the best reserve", steady(&["auto"]));
}

#[test]
fn a_plan_says_what_to_use() {
    kitten_bench(&["plan", "sdxl_unet_2048"])
        .assert()
        .success()
        .stdout(contains("does not fit the card, but both tiers").and(contains("Use: GIANT_KITTEN=1")));
    kitten_bench(&["plan", "sd15_unet_512"]).assert().success().stdout(contains("It fits the card"));
    kitten_bench(&["plan", "sdxl_unet_2048", "--dedicated", "1GiB", "--shared", "1GiB"])
        .assert()
        .success()
        .stdout(contains("not even both tiers together").and(contains("a smaller picture")));
    let found = json(&["plan", "sdxl_unet_2048", "--json"]);
    let number = |key: &str| found[key].as_f64().unwrap();
    assert_eq!(found["fits"], "both-tiers");
    assert!(number("limit_seconds") < number("seconds") && number("seconds") < number("first_come_seconds") / 3.0);
}

/// What PyTorch 2.15's own allocator wrote, of four layers and three passes through them, with its history.
#[test]
fn a_snapshot_of_pytorchs_is_work() {
    let snapshot = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshot.pickle");
    let found = json(&["plan", snapshot, "--dedicated", "66MiB", "--json"]);
    assert_eq!((found["fits"].as_str(), found["traffic_only"].as_bool()), (Some("both-tiers"), Some(true)));
    // Four weights of 2048 x 2048 and four biases, in blocks of 512 bytes.
    assert_eq!(found["resident_bytes"], 4 * (2048 * 2048 + 2048) * 4);
    kitten_bench(&["replay", snapshot]).assert().success().stdout(contains("snapshot 0.0"));
}

#[test]
fn the_steady_hot_path_calls_no_driver() {
    let found = json(&["hotpath", "--rounds", "4", "--json"]);
    assert_eq!(found["driver_calls_steady"], 0);
    assert!(found["ns_per_pair"].as_f64().unwrap() > 0.0);
    assert!(found["peers"]["btreemap-best-fit"].as_f64().unwrap() > 0.0);
}

#[test]
fn wrong_inputs_are_answered_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.jsonl");
    std::fs::write(&bad, "not a trace\n").unwrap();
    let bad = bad.to_str().unwrap();
    let pickle = folder.path().join("cut.pickle");
    std::fs::write(&pickle, b"\x80\x04\x95\x10\0\0").unwrap();
    let pickle = pickle.to_str().unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["replay", "nonesuch"], 1, "neither a file nor one of those bundled"),
        (&["replay", bad], 1, "line 1"),
        (&["replay", "sd15_unet_512", "--reserve", "1.6"], 2, "no unit"),
        (&["replay", "sd15_unet_512", "--reserve=-1"], 2, "negative"),
        (&["replay", "sd15_unet_512", "--reserve", "1e30"], 2, "1e30"),
        (&["replay", "sd15_unet_512", "--reserve", "9GiB"], 1, "choose smaller"),
        (&["replay", "sd15_unet_512", "--dedicated", "1MiB"], 1, "less than one granule"),
        (&["replay", "sd15_unet_512", "--profile", "rtx9090"], 1, "nominal-6g"),
        (&["replay", "sd15_unet_512", "--in-place-reread", "0"], 1, "above 0"),
        (&["replay", "sd15_unet_512", "--policy", "magic"], 2, "first-come"),
        (&["sweep", "sd15_unet_512", "--from", "2GiB", "--to", "1GiB", "--step", "1MiB"], 1, "beyond"),
        (&["sweep", "sd15_unet_512", "--from", "0", "--to", "1GiB", "--step", "0"], 1, "--step 0"),
        (&["sweep", "sd15_unet_512", "--from", "0", "--to", "1", "--step", "1", "--plot", "x.bmp"], 1, ".svg or .png"),
        (&["plan", "sd15_unet_512:0"], 1, "0 steps"),
        (&["plan", pickle], 1, "cut off"),
        (&["replay", "sd15_unet_512", "--loop", "0"], 1, "--loop 0"),
        (&["hotpath", bad], 1, "line 1"),
        (&["hotpath", "--rounds", "0"], 1, "measures nothing"),
    ];
    for (arguments, code, said) in cases {
        kitten_bench(arguments).assert().code(*code).stderr(contains(*said));
    }
}

#[test]
fn the_probe_of_the_simulated_gpu_writes_its_profile() {
    let folder = tempfile::tempdir().unwrap();
    let (out, json) = (folder.path().join("out.toml"), folder.path().join("out.json"));
    let (out_path, json_path) = (out.to_str().unwrap(), json.to_str().unwrap());
    kitten_bench(&["probe", "--profile", "nominal-8g", "--name", "found", "-o", out_path, "--json", json_path])
        .assert()
        .success()
        .stdout(contains("(modelled)"));
    let found = kitten_sim::Profile::load(out_path).unwrap();
    assert_eq!((found.name.as_str(), found.vram_bandwidth.round()), ("found", 360e9));
    assert!(std::fs::read_to_string(&json).unwrap().contains("\"copy_both_ways\""));
    kitten_bench(&["probe", "-o", out_path])
        .env("LD_LIBRARY_PATH", "/nonexistent")
        .assert()
        .failure()
        .stderr(contains("is the NVIDIA driver installed?"));
    kitten_bench(&["probe", "--profile", "nonesuch", "-o", out_path]).assert().failure().stderr(contains("nominal-6g"));
}
