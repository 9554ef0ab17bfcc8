//! The program as a user meets it: what it prints, and what it says to wrong inputs.

use assert_cmd::Command;
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
