//! The program as users see it: its output, and its answers to wrong inputs.

use std::path::Path;

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
fn the_readme_has_what_the_demo_prints() {
    let output = kitten_bench(&[]).assert().success();
    let printed = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(include_str!("../../../README.md").contains(printed.trim()), "{printed}");
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
    kitten_bench(&["map", "sdvae_dec_1024", "--out"]).arg(&out).assert().success();
    assert!(std::fs::read_to_string(&out).unwrap().contains("step "), "the picture names the busiest step");
    let picture = std::fs::read_to_string(&out).unwrap();
    for said in ["Memory map", "50.00 MiB", "weights by module", "decoder.up_blocks"] {
        assert!(picture.contains(said), "{said}");
    }
    let page = folder.path().join("m.html");
    let work = ["map", "sdxl_unet_1024:1", "sdvae_dec_1024:1", "--out"];
    kitten_bench(&work).arg(&page).assert().success();
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(r#""name":"sdxl_unet_1024.up_blocks""#) && page.contains(r#""name":"sdvae_dec_1024""#));
    kitten_bench(&["map", "sdvae_dec_1024", "--at", "nowhere", "--out", "x.svg"])
        .assert()
        .code(1)
        .stderr(contains("it has load, inputs, step 0"));
}

#[test]
fn timeline_draws_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("t.svg");
    kitten_bench(&["timeline", "sd15_unet_512", "--dedicated", "1326MiB", "--out"])
        .arg(&out)
        .assert()
        .success()
        .stdout(contains("are copied ahead in").and(contains("behind the work")));
    kitten_bench(&["timeline", "sd15_unet_512", "--at", "nowhere", "--out", "x.svg"])
        .assert()
        .failure()
        .stderr(contains("no step \"nowhere\"; it has"));
    assert!(std::fs::read_to_string(out).unwrap().contains("What a step does when: sd15_unet_512"));
}

#[test]
fn layout_draws_where_the_blocks_of_a_step_lie() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |layout: &str| {
        let out = folder.path().join(layout).with_extension("svg");
        let arguments =
            ["layout", "sdvae_dec_1024", "--loop", "10", "--dedicated", "64GiB", "--layout", layout, "--out"];
        let assert = kitten_bench(&arguments).arg(&out).assert().success();
        assert!(std::fs::read_to_string(out).unwrap().contains("Where large blocks lie: sdvae_dec_1024"));
        String::from_utf8(assert.get_output().stdout.clone()).unwrap()
    };
    let backed = |words: &str| {
        let percent = words.split_once('(').and_then(|(_, rest)| rest.split_once(" %")).unwrap().0;
        percent.parse::<f64>().unwrap()
    };
    let (fit, learned) = (draw("fit"), draw("learned"));
    assert!(backed(&learned) < backed(&fit) - 5.0, "{learned}{fit}");
    kitten_bench(&["layout", "sd15_unet_512", "--at", "nowhere", "--out", "x.svg"])
        .assert()
        .failure()
        .stderr(contains("no step \"nowhere\"; it has"));
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

#[test]
fn a_plan_names_the_setting_to_use() {
    kitten_bench(&["plan", "sdxl_unet_2048"])
        .assert()
        .success()
        .stdout(contains("does not fit the card, but it fits both tiers").and(contains("Use: GIANT_KITTEN=1")));
    kitten_bench(&["plan", "sd15_unet_512"]).assert().success().stdout(contains("It fits the card"));
    kitten_bench(&["plan", "sdxl_unet_2048", "--dedicated", "1GiB", "--shared", "1GiB"])
        .assert()
        .success()
        .stdout(contains("not even both tiers together").and(contains("a smaller picture")))
        .stdout(contains("The speeds are those of nominal-6g, with other memory"));
    kitten_bench(&["plan", "sd15_unet_512", "--dedicated", "4GiB", "--card", "RTX 4060 8GB"])
        .assert()
        .success()
        .stdout(contains("with other memory").not());
    let found = json(&["plan", "sdxl_unet_2048", "--json"]);
    let number = |key: &str| found[key].as_f64().unwrap();
    assert_eq!(found["fits"], "both-tiers");
    // Weights are copied ahead, so that the work hides them: it takes as long as all dedicated.
    let of_the_limit = number("seconds") / number("limit_seconds");
    assert!((1.0 - 1e-6..1.01).contains(&of_the_limit), "{of_the_limit}");
    assert!(number("seconds") < number("first_come_seconds") / 3.0);
    let in_place = json(&["plan", "sdxl_unet_2048", "--copy-ahead", "off", "--json"]);
    assert!(number("seconds") < in_place["seconds"].as_f64().unwrap());
}

#[test]
fn a_plan_says_what_one_would_do_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let card = kitten_sim::Profile::builtin("nominal-6g").unwrap();
    let slow = kitten_sim::Profile { link_to_device: 1e9, ..card.clone() };
    let profile = file(&folder, "slow.toml", slow.to_toml());
    let found = json(&["plan", "sdxl_unet_1024", "--profile", &profile, "--dedicated", "4GiB", "--json"]);
    let number = |of: &serde_json::Value, key: &str| of[key].as_f64().unwrap();
    let [plain, model, group, sequential] = [0, 1, 2, 3].map(|at| &found["otherwise"][at]);
    for (of, way) in [
        (plain, "plain-pytorch"),
        (model, "model-offload"),
        (group, "group-offload"),
        (sequential, "sequential-offload"),
    ] {
        assert_eq!((of["way"].as_str(), &of["unknown"]), (Some(way), &serde_json::Value::Null));
    }
    assert_eq!(plain["missing_bytes"], number(&found, "peak_live_bytes") - number(&found, "dedicated_bytes"));
    assert_eq!(plain["seconds"], serde_json::Value::Null);
    // On this link all weights take longer than the work does, three times.
    let weights = number(&found, "steps") * number(&found, "resident_bytes");
    let of_the_link = number(group, "link_bytes") / weights;
    assert!((0.99..=1.0).contains(&of_the_link), "all weights, without the inputs: {of_the_link}");
    let seconds = number(group, "link_bytes") / slow.link_to_device;
    assert!((number(group, "seconds") / seconds - 1.0).abs() < 1e-9 && seconds > number(&found, "limit_seconds"));
    let both = number(&found, "limit_seconds") + number(sequential, "link_bytes") / slow.link_to_device;
    assert!((number(sequential, "seconds") / both - 1.0).abs() < 1e-9);

    let fits = kitten_bench(&["plan", "sd15_unet_512"]).output().unwrap();
    assert!(!String::from_utf8(fits.stdout).unwrap().contains("out of memory"));
    // The first fits no tiers that the card has; blocks of it fit the card.
    kitten_bench(&["plan", "flux1dev_1024"]).assert().success().stdout(contains("Or: group offload with streams"));
    kitten_bench(&["plan", "sdxl_lora_1024"])
        .assert()
        .success()
        .stdout(contains("the trace names no module for reads"));
}

/// What the page about kitten-bench shows of a plan is what a plan prints.
#[test]
fn the_page_shows_a_plan_as_it_is_printed() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kitten-bench.md")).unwrap();
    let printed = kitten_bench(&["plan", "sdxl_unet_1024:20", "sdvae_dec_1024:1"]).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(page.contains(&printed), "docs/kitten-bench.md does not show this:\n{printed}");
}

/// A snapshot by PyTorch 2.15's own allocator, of four layers and three passes through them, with
/// its history.
#[test]
fn a_snapshot_of_pytorch_is_work() {
    let snapshot = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshot.pickle");
    let found = json(&["plan", snapshot, "--dedicated", "66MiB", "--json"]);
    assert_eq!((found["fits"].as_str(), found["traffic_only"].as_bool()), (Some("both-tiers"), Some(true)));
    assert_eq!(found["otherwise"][2]["unknown"], "the trace names no modules");
    // Four weights of 2048 x 2048 and four biases, in blocks of 512 bytes.
    assert_eq!(found["resident_bytes"], 4 * (2048 * 2048 + 2048) * 4);
    kitten_bench(&["replay", snapshot]).assert().success().stdout(contains("snapshot 0.0"));
}

#[test]
fn cards_are_found_by_name_and_listed() {
    let found = json(&["replay", "sd15_unet_512", "--card", "nvidia geforce rtx 4060", "--json"]);
    assert_eq!(found["profile"], "RTX 4060 8GB");
    let cards = json(&["cards", "--json"]);
    assert!(cards.as_array().unwrap().iter().all(|card| card["source"].as_str().unwrap().starts_with("NVIDIA's ")));
    kitten_bench(&["cards"]).assert().success().stdout(contains("PCIe 4.0 x8").and(contains("not measured")));
    kitten_bench(&["plan", "sd15_unet_512", "--card", "RTX 3070 Ti"])
        .assert()
        .code(1)
        .stderr(contains("nearest are RTX 4070 Ti").and(contains("kitten-bench cards")));
    kitten_bench(&["plan", "sd15_unet_512", "--card", "4060", "--profile", "nominal-6g"]).assert().code(2);
}

#[test]
fn a_plan_on_several_cards_names_the_smallest_that_will_do() {
    let plan = ["plan", "sdxl_unet_2048", "--cards"];
    kitten_bench(&[plan[0], plan[1], plan[2], "3060 laptop, 4060, 4090"])
        .assert()
        .success()
        .stdout(contains("within 5 % of having everything dedicated: RTX 3060 Laptop 6GB.").and(contains("modelled")));
    let found = json(&[plan[0], plan[1], plan[2], "RTX 2060, RTX 4060", "--json"]);
    assert_eq!(found["smallest"], serde_json::json!(["RTX 2060 6GB"]));
    // The same figures as a plan on the one card.
    for (at, card) in ["RTX 2060", "RTX 4060"].iter().enumerate() {
        assert_eq!(found["plans"][at], json(&["plan", "sdxl_unet_2048", "--card", card, "--json"]), "{card}");
    }
    kitten_bench(&["plan", "nonesuch", "--cards", "all"]).assert().code(1).stderr(contains("neither a file"));
    kitten_bench(&[plan[0], plan[1], plan[2], "4060,"]).assert().code(1).stderr(contains("there is no card \"\""));
}

/// The seconds, or another figure, of a generation of a replay, added up.
fn added(found: &serde_json::Value, generation: u64, key: &str) -> f64 {
    let steps = found["steps"].as_array().unwrap().iter().filter(|step| step["generation"] == generation);
    steps.map(|step| step[key].as_f64().unwrap()).sum()
}

#[test]
fn plan_sweep_and_replay_agree_to_the_digit() {
    let snapshot = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshot.pickle");
    let works: [(&[&str], &[&str], &str); 3] = [
        (&["sdxl_unet_2048"], &["--card", "RTX 2060"], "1200MiB"),
        (&["sdvae_dec_1024", "sd15_unet_512:2"], &["--dedicated", "2GiB"], "512MiB"),
        (&[snapshot], &["--dedicated", "66MiB"], "16MiB"),
    ];
    for (work, on, reserve) in works {
        let run = |command: &str, more: &[&str]| json(&[&[command], work, on, more, &["--json"]].concat());
        let plan = run("plan", &[]);
        let first_come = run("replay", &["--loop", "2", "--policy", "first-come"]);
        let automatic = run("replay", &["--loop", "4", "--policy", "auto"]);
        for (planned, replayed) in [
            ("first_come_seconds", added(&first_come, 1, "seconds")),
            ("first_seconds", added(&automatic, 0, "seconds")),
            ("seconds", added(&automatic, 3, "seconds")),
            ("limit_seconds", added(&first_come, 0, "compute_seconds")),
        ] {
            assert_eq!(plan[planned].as_f64().unwrap(), replayed, "{planned} of {work:?}");
        }
        for key in ["reserve_bytes", "dedicated_bytes", "shared_bytes", "resident_bytes", "peak_live_bytes"] {
            assert_eq!(plan[key], automatic[key], "{key} of {work:?}");
        }
        let sweep = run("sweep", &["--loop", "2", "--from", reserve, "--to", reserve, "--step", "1MiB"]);
        let fixed = run("replay", &["--loop", "2", "--reserve", reserve]);
        let steps = plan["steps"].as_f64().unwrap();
        for (swept, replayed, key) in [
            (&sweep["first_come"], &first_come, "seconds"),
            (&sweep["limit"], &first_come, "compute_seconds"),
            (&sweep["points"][0]["seconds"], &fixed, "seconds"),
        ] {
            // Reading and adding up what was printed rounds in the last digit.
            let ratio = swept.as_f64().unwrap() * steps / added(replayed, 1, key);
            assert!((ratio - 1.0).abs() < 1e-14, "{key} of {work:?}: {ratio}");
        }
        let link_bytes = (added(&fixed, 1, "link_bytes") / steps) as u64;
        assert_eq!(sweep["points"][0]["link_bytes"], link_bytes, "{work:?}");
    }
}

#[test]
fn a_sweep_finds_its_range() {
    let found = json(&["sweep", "sdxl_unet_2048", "--json"]);
    let points = found["points"].as_array().unwrap();
    let reserve = |at: usize| points[at]["reserve_bytes"].as_u64().unwrap();
    let scratch = json(&["plan", "sdxl_unet_2048", "--json"])["scratch_bytes"].as_u64().unwrap();
    assert!(reserve(0) == 0 && reserve(points.len() - 1) > scratch && points.len() <= 41, "{}", points.len());
    kitten_bench(&["sweep", "sdxl_unet_2048"])
        .assert()
        .success()
        .stdout(contains("plan, for the same work: the right reserve is 1.34 GiB"));
}

#[test]
fn the_steady_hot_path_calls_no_driver() {
    let found = json(&["hotpath", "--rounds", "4", "--json"]);
    assert_eq!(found["driver_calls_steady"], 0);
    assert!(found["ns_per_pair"].as_f64().unwrap() > 0.0);
    assert!(found["peers"]["btreemap-best-fit"].as_f64().unwrap() > 0.0);
}

#[test]
fn errors_of_wrong_inputs_name_the_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.jsonl");
    std::fs::write(&bad, "not a trace\n").unwrap();
    let bad = bad.to_str().unwrap();
    let pickle = folder.path().join("cut.pickle");
    std::fs::write(&pickle, b"\x80\x04\x95\x10\0\0").unwrap();
    let pickle = pickle.to_str().unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["replay", "nonesuch"], 1, "neither a file nor one of those bundled"),
        (&["plan", "SDXL"], 1, "the nearest are sdxl_unet_1024, sdxl_unet_2048, sdxl_lora_1024"),
        (&["plan", "flux-1-dev"], 1, "the nearest are flux1dev_1024, "),
        (&["plan", "missing.safetensors"], 1, "there is no trace missing.safetensors"),
        (&["plan", "sd15_unet_512", "--card", "all"], 1, "--cards all"),
        (&["plan", "sd15_unet_512", "--card", "8GB"], 1, "RTX 4060 8GB"),
        (&["plan", "sd15_unet_512", "--card", "RX 7600"], 1, "not NVIDIA's"),
        (&["replay", "sd15_unet_512", "--dedicated", "8"], 2, "write 8GiB, 8MiB, or 8B"),
        (&["replay", "sd15_unet_512", "--reserve", "auto"], 2, "--policy auto"),
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
        (
            &["sweep", "sd15_unet_512", "--from", "0", "--to", "1MiB", "--step", "1MiB", "--plot", "x.bmp"],
            1,
            ".svg or .png",
        ),
        (&["plan", "sd15_unet_512:0"], 1, "0 steps"),
        (&["plan", pickle], 1, "cut off"),
        (&["replay", "sd15_unet_512", "--loop", "0"], 1, "--loop 0"),
        (&["hotpath", bad], 1, "line 1"),
        (&["hotpath", "--rounds", "0"], 1, "measures nothing"),
        (&["hotpath", "--rounds", "18446744073709551615"], 1, "no more than"),
        (&["hotpath", "--live", "18446744073709551615"], 1, "no more than"),
        (&["hotpath", "nonesuch"], 1, "cannot open the log nonesuch"),
        (&["replay", "sd15_unet_512", "--reserve", "nan"], 2, "nan"),
        (&["replay", "sd15_unet_512", "--reserve", "inf"], 2, "inf"),
        (&["replay", "sd15_unet_512", "--reserve", "1e400"], 2, "1e400"),
        (&["replay", "sd15_unet_512", "--dedicated", "18446744073709551616"], 2, "18446744073709551616"),
        (&["replay", "sd15_unet_512", "--in-place-reread", "nan"], 1, "above 0"),
        (&["replay", "sd15_unet_512", "--in-place-reread", "1e400"], 1, "above 0"),
        (&["replay", "sd15_unet_512", "--loop", "18446744073709551615"], 1, "no more than 1000000"),
        (&["replay", "sd15_unet_512:18446744073709551615"], 1, "no more than 1000000"),
        (&["replay", "sd15_unet_512:18446744073709551616"], 1, "too many"),
        (&["replay", "sd15_unet_512", "--device", "cuda:18446744073709551616"], 2, "cuda:0"),
        (
            &["map", "sd15_unet_512", "--at", "step 0", "--out", "/nonexistent/x.svg"],
            1,
            "cannot write /nonexistent/x.svg",
        ),
    ];
    wrong_inputs(cases);
}

#[cfg(unix)]
#[test]
fn folders_and_devices_are_no_inputs() {
    wrong_inputs(&[
        (&["hotpath", "/"], 1, "cannot read /"),
        (&["replay", "/"], 1, "/ is a folder"),
        (&["replay", "/dev/zero"], 1, "longer than"),
        (&["hotpath", "/dev/zero"], 1, "longer than"),
        (&["replay", "/dev/null"], 1, "empty"),
        (&["hotpath", "/dev/null"], 1, "no block"),
        (&["replay", "sd15_unet_512", "--profile", "/dev/zero"], 1, "longer than"),
        (&["replay", "sd15_unet_512", "--profile", "/"], 1, "nominal-6g"),
        (&["replay", "sd15_unet_512", "--device", "/dev/null"], 2, "cuda:0"),
        (&["report", "/dev/null"], 1, "cannot read /dev/null"),
    ]);
}

/// Checks that arguments end with a code, and what is said.
fn wrong_inputs(cases: &[(&[&str], i32, &str)]) {
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

/// A file in a folder, by its path.
fn file(folder: &tempfile::TempDir, name: &str, contents: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, contents).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn a_checkpoint_is_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "model.safetensors", [8, 0, 0, 0, 0, 0, 0, 0]);
    kitten_bench(&["plan", &path]).assert().code(1).stderr(contains("a checkpoint, which has weights and no work"));
}

#[test]
fn a_trace_without_its_ending_is_answered_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "mine.jsonl.gz", []);
    let short = path.strip_suffix(".jsonl.gz").unwrap();
    kitten_bench(&["plan", short]).assert().code(1).stderr(contains("mine.jsonl.gz: give its whole name"));
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into()).collect();
    names.sort();
    names
}

const HEADER: &str = "{\"ev\":\"header\",\"format\":\"gpu-op-trace/1\",\"trace\":\"t\"}\n";
const END: &str = "{\"ev\":\"end\"}\n";
const GIB: u64 = 1 << 30;

fn allocs(blocks: std::ops::Range<u64>) -> String {
    blocks.map(|id| format!("{{\"ev\":\"alloc\",\"id\":{id},\"bytes\":{GIB},\"kind\":\"param\"}}\n")).collect()
}

#[test]
fn a_log_that_does_not_fit_the_card_is_never_timed() {
    let folder = tempfile::tempdir().unwrap();
    let calls = |what: &str, bytes: u64| -> String {
        (0u64..40).map(|n| format!("{what} {:#x} {bytes} 0 (nil)\n", (n + 1) << 32)).collect()
    };
    let freed = file(&folder, "freed.log", calls("A", GIB) + &calls("F", GIB));
    // Blocks that are never freed are the model, which is not timed.
    let kept = file(&folder, "kept.log", calls("A", GIB) + "A 0x1 512 0 (nil)\nF 0x1 512 0 (nil)\n");
    let large = file(&folder, "large.log", calls("A", 1 << 40) + &calls("F", 1 << 40));
    for log in [freed, kept, large] {
        kitten_bench(&["hotpath", &log, "--rounds", "8"])
            .assert()
            .code(1)
            .stdout("")
            .stderr(contains("more memory than giant-kitten has").and(contains("CUDA out of memory")));
    }
    let fits = file(&folder, "fits.log", calls("A", 1 << 20) + &calls("F", 1 << 20));
    assert_eq!(json(&["hotpath", &fits, "--rounds", "4", "--json"])["pairs"], 40);
}

/// Python's `pickle.dumps` of a snapshot of a number of live blocks of 1 GiB, without a history.
fn snapshot_of(blocks: u32) -> Vec<u8> {
    let text = |text: &str| [&b"\x8c"[..], &[text.len() as u8], text.as_bytes()].concat();
    let number = |number: u64| [&b"\x8a\x08"[..], &number.to_le_bytes()].concat();
    let blocks = (0..u64::from(blocks)).flat_map(|block| {
        let address = [text("address"), number((64 + block) * GIB)].concat();
        [b"}(".to_vec(), address, text("size"), number(GIB), text("state"), text("active_allocated"), b"u".to_vec()]
            .concat()
    });
    let blocks = [b"](".to_vec(), blocks.collect(), b"e".to_vec()].concat();
    let segment = [b"}(".to_vec(), text("address"), number(64 * GIB), text("blocks"), blocks, b"u".to_vec()].concat();
    [b"\x80\x04}(".to_vec(), text("segments"), b"]".to_vec(), segment, b"au.".to_vec()].concat()
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

#[test]
fn impossible_cards_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let card = kitten_sim::Profile::builtin("nominal-6g").unwrap();
    let profile = |name: &str, profile: kitten_sim::Profile| file(&folder, name, profile.to_toml());
    let large = kitten_sim::Profile { granularity: 1 << 30, dedicated_bytes: 64 << 30, ..card.clone() };
    let large = profile("large.toml", large);
    kitten_bench(&["check", "--profile", &large]).assert().code(1).stderr(contains("granules of 1.00 GiB"));
    let small = profile("small.toml", kitten_sim::Profile { dedicated_bytes: 4 << 20, ..card.clone() });
    kitten_bench(&["check", "--profile", &small]).assert().code(1).stderr(contains("the check needs 48.00 MiB"));
    // If this profile were written, nothing could read it.
    let fast = profile("fast.toml", kitten_sim::Profile { vram_bandwidth: 1.7e308, ..card });
    let out = folder.path().join("out.toml");
    kitten_bench(&["probe", "--profile", &fast, "-o", out.to_str().unwrap()])
        .assert()
        .code(1)
        .stderr(contains("not the profile of any card: vram_bandwidth"));
    assert!(!out.exists());
}

#[test]
fn work_that_no_card_holds_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let work = [HEADER, &allocs(0..1).replace(&GIB.to_string(), "17592186044416"), END].concat();
    let huge = file(&folder, "huge.jsonl", work.replace(END, &["{\"ev\":\"phase\",\"name\":\"s\"}\n", END].concat()));
    kitten_bench(&["replay", &huge]).assert().code(1).stderr(contains("CUDA out of memory"));
    kitten_bench(&["plan", &huge]).assert().code(1).stderr(contains("needs more than any card has"));
    let sweep = ["sweep", "sd15_unet_512", "--from", "0", "--to", "0", "--step", "1MiB", "--dedicated", "64MiB"];
    let none = [&sweep[..], &["--shared", "0"]].concat();
    kitten_bench(&none).assert().code(1).stderr(contains("no reserve got through: CUDA out of memory"));
    kitten_bench(&[&none[..], &["--json"]].concat()).assert().code(1).stdout(contains("\"oom\": \"CUDA out of memory"));
}

#[test]
fn impossible_figures_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let op = "{\"ev\":\"phase\",\"name\":\"s\"}\n{\"ev\":\"op\",\"name\":\"x\",\"flops\":FLOPS}\n";
    for (flops, said) in
        [("1e308", "which no step does"), ("1e400", "out of range"), ("NaN", "line 3"), ("-1", "-1 flops")]
    {
        let work = file(&folder, "t.jsonl", [HEADER, &op.replace("FLOPS", flops), END].concat());
        kitten_bench(&["replay", &work]).assert().code(1).stderr(contains(said));
        kitten_bench(&["plan", &work]).assert().code(1).stderr(contains(said));
    }
    let streams: String =
        (0..5000).map(|id| format!("{{\"ev\":\"alloc\",\"id\":{id},\"bytes\":512,\"stream\":{id}}}\n")).collect();
    let work = file(&folder, "t.jsonl", [HEADER, &streams, END].concat());
    kitten_bench(&["replay", &work]).assert().code(1).stderr(contains("more than 4096 streams"));
}

#[test]
fn deeply_nested_pickles_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let deep = 1_000_000;
    let bodies: &[Vec<u8>] = &[
        [vec![b']'; deep], vec![b'a'; deep - 1]].concat(),
        [vec![b')'], vec![0x85; deep]].concat(),
        [b"}N".repeat(deep), vec![b'N'], vec![b's'; deep]].concat(),
        [b"(".repeat(deep), b"t".repeat(deep)].concat(),
        [b"]".to_vec(), b"2a".repeat(deep)].concat(),
    ];
    for body in bodies {
        // As the whole pickle, and in place of the snapshot's segments.
        let segments = [&b"}\x8c\x08segments"[..], body, b"s"].concat();
        for body in [body.clone(), segments] {
            let path = file(&folder, "deep.pickle", [&b"\x80\x04"[..], &body, b"."].concat());
            kitten_bench(&["plan", &path]).assert().code(1).stderr(contains("but not what torch.cuda.memory"));
        }
    }
    // Next to the entries that are read, nesting does not matter.
    let beside = [&b"\x80\x04}\x8c\x05other"[..], &bodies[0], b"s"].concat();
    let path = file(&folder, "deep.pickle", [&beside, &snapshot_of(1)[3..]].concat());
    assert_eq!(json(&["replay", &path, "--json"])["peak_live_bytes"], GIB);
}

#[test]
fn endless_files_are_errors() {
    use std::io::Read;
    let folder = tempfile::tempdir().unwrap();
    let bomb = |name: &str, head: &str, line: &str, times: usize| {
        let text = head.as_bytes().chain(std::io::Cursor::new(line.repeat(times)));
        file(&folder, name, zstd::encode_all(text, 1).unwrap())
    };
    let line = bomb("line.zst", "", "x", 64 << 20);
    let blank = bomb("blank.zst", HEADER, "\n", 32 << 20);
    let unknown = bomb("unknown.zst", HEADER, "{\"ev\":\"x\"}\n", 17 << 20);
    for (bomb, said) in [(&line, "line is longer than"), (&blank, "more than 16777216 lines")] {
        kitten_bench(&["replay", bomb]).assert().code(1).stderr(contains(said));
        kitten_bench(&["plan", bomb]).assert().code(1).stderr(contains(said));
    }
    kitten_bench(&["replay", &unknown]).assert().code(1).stderr(contains("more than 16777216 lines"));
    kitten_bench(&["hotpath", &line]).assert().code(1).stderr(contains("line is longer than"));
    let blank = bomb("blank.log.zst", "", "\n", 32 << 20);
    kitten_bench(&["hotpath", &blank]).assert().code(1).stderr(contains("more than 16777216 lines"));
}

/// Each command that prints, with as little work as possible.
#[cfg(target_os = "linux")]
const PRINTS: &[&[&str]] = &[
    &["--help"],
    &["--version"],
    &["options"],
    &["replay", "sdvae_dec_1024"],
    &["replay", "sdvae_dec_1024", "--json"],
    &["plan", "sdvae_dec_1024"],
    &["plan", "sdvae_dec_1024", "--json"],
    &["sweep", "sdvae_dec_1024", "--from", "0", "--to", "1MiB", "--step", "1MiB"],
    &["sweep", "sdvae_dec_1024", "--from", "0", "--to", "1MiB", "--step", "1MiB", "--json"],
    &["hotpath", "--rounds", "1"],
    &["hotpath", "--rounds", "1", "--json"],
    &["check", "--profile", "nominal-6g"],
];

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_and_a_closed_pipe_end_the_program() {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    let program = assert_cmd::cargo::cargo_bin("kitten-bench");
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for arguments in PRINTS {
        let output = Command::new(&program).args(*arguments).stdout(full()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.starts_with("kitten-bench: cannot write to the standard output: No space left"), "{said}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(&program).args(*arguments).stdout(writer).output().unwrap();
        assert_eq!(output.status.signal(), Some(13), "{arguments:?}: as any other program, by SIGPIPE");
        assert!(output.stderr.is_empty(), "{arguments:?}");
    }
    // The error has nowhere to go.
    for (arguments, code) in [(&["replay", "nonesuch"][..], 1), (&["replay"], 2)] {
        let status = Command::new(&program).args(arguments).stdout(Stdio::null()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code));
    }
    for file in ["--csv", "--json-in-a-file"] {
        let arguments: &[&str] = match file {
            "--csv" => {
                &["sweep", "sdvae_dec_1024", "--from", "0", "--to", "1MiB", "--step", "1MiB", "--csv", "/dev/full"]
            }
            _ => &["check", "--profile", "nominal-6g", "--json", "/dev/full"],
        };
        kitten_bench(arguments).assert().code(1).stderr(contains("cannot write /dev/full: No space left"));
    }
}

// Windows has no such names of files.
#[cfg(unix)]
#[test]
fn control_characters_never_reach_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let named = |text: &str| {
        let named = "\\u001b[2J\\u009b31m\\u202e\\n<script>";
        text.replace("\"t\"", &format!("\"{named}\"")).replace("step", &format!("step {named}"))
    };
    let text = [
        HEADER,
        "{\"ev\":\"alloc\",\"id\":1,\"bytes\":1048576}\n{\"ev\":\"phase\",\"name\":\"step\"}\n",
        "{\"ev\":\"op\",\"name\":\"x\",\"reads\":[1],\"read_bytes\":[1024],\"flops\":1e9}\n",
    ];
    let work = file(&folder, "a\u{1b}[2J.jsonl", named(&[&text.concat(), END].concat()));
    let broken = file(&folder, "b\u{1b}\n[2J.jsonl", named(&text.concat()) + "{\u{1b}[2J");
    let unnamed = file(&folder, "c\u{1b}[2J.jsonl", text.concat().replace(",\"trace\":\"t\"", "") + END);
    let profile = kitten_sim::Profile::builtin("nominal-6g").unwrap();
    let profile = kitten_sim::Profile { name: "p\u{1b}[2J\n<script>".into(), ..profile }.to_toml();
    let bad = file(&folder, "bad.toml", profile.replace("note", "\u{9b}note"));
    let profile = file(&folder, "p\u{1b}.toml", profile);
    let log = file(&folder, "l.log", "A \u{1b}[2J 512\nA \u{1b}[2J 512\n");
    let pickle = file(&folder, "s\u{1b}[2J.pickle", snapshot_of(1));
    let at = "step \\u{1b}[2J\\u{9b}31m\\u{202e}\\n<script>";
    let (svg, html) = (folder.path().join("m.svg"), folder.path().join("m.html"));
    let (plot, missing) = (folder.path().join("s.svg"), folder.path().join("\u{1b}[2J\n"));
    let (svg, html, plot) = (svg.to_str().unwrap(), html.to_str().unwrap(), plot.to_str().unwrap());
    let missing = missing.to_str().unwrap();
    let sweep = ["--from", "0", "--to", "0", "--step", "1MiB", "--profile", &profile, "--plot", plot];
    let cases: &[(&[&str], i32)] = &[
        (&["replay", &work, "--profile", &profile], 0),
        (&["replay", &work, "--profile", &profile, "--json"], 0),
        (&["replay", &unnamed], 0),
        (&["replay", &pickle], 0),
        (&["plan", &work, "--profile", &profile], 0),
        (&["plan", &work, "--profile", &profile, "--json"], 0),
        (&[&["sweep", &work], &sweep[..]].concat(), 0),
        (&[&["sweep", &work, "--json"], &sweep[..]].concat(), 0),
        (&["map", &work, "--at", at, "--out", svg], 0),
        (&["map", &work, "--at", at, "--out", html], 0),
        (&["map", &work, "--at", "\u{1b}[2J", "--out", html], 1),
        (&["probe", "--profile", &profile, "-o", missing], 0),
        (&["replay", &broken], 1),
        (&["replay", missing, "nonesuch"], 1),
        (&["replay", &work, "--profile", &bad], 1),
        (&["replay", &work, "--reserve", "\u{1b}[2J"], 2),
        (&["replay", &format!("{missing}:0")], 1),
        (&["hotpath", &log], 1),
        (&["hotpath", &format!("{missing}x")], 1),
        (&["report", &format!("{missing}x")], 1),
        (&["map", &work, "--at", at, "--out", &format!("{missing}x")], 1),
    ];
    let obeyed = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
    for (arguments, code) in cases {
        let output = kitten_bench(arguments).assert().code(*code);
        let output = output.get_output();
        for text in [&output.stdout, &output.stderr] {
            let text = std::str::from_utf8(text).unwrap();
            assert!(!obeyed(text), "{arguments:?}: {text}");
        }
    }
    for (path, shown) in [(svg, "&lt;script&gt;"), (html, "\\u003cscript>"), (plot, "&lt;script&gt;")] {
        let text = std::fs::read_to_string(path).unwrap();
        assert!(!obeyed(&text), "{path}");
        assert!(text.contains("u{1b}[2J") && text.contains(shown) && !text.contains("n<script>"), "{path}: {text}");
    }
    // A name is one line.
    let first = kitten_bench(&["replay", &work]).assert().success();
    let first = String::from_utf8_lossy(&first.get_output().stdout).into_owned();
    assert!(first.starts_with("\\u{1b}[2J\\u{9b}31m\\u{202e}\\n<script> on nominal-6g"), "{first}");
}

#[test]
fn a_picture_may_have_a_name_that_is_not_utf8() {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        for name in [&b"\xff\xfe.svg"[..], b"\xff\xfe.png", b"\xff\xfe.html"] {
            let out = folder.path().join(std::ffi::OsStr::from_bytes(name));
            kitten_bench(&["map", "sdvae_dec_1024", "--at", "step 0", "--out"]).arg(&out).assert().success();
            assert!(std::fs::metadata(out).unwrap().len() > 1000);
        }
        let missing = std::ffi::OsStr::from_bytes(b"\xff");
        kitten_bench(&["replay"]).arg(missing).assert().code(2).stderr(contains("invalid UTF-8"));
        kitten_bench(&["report"]).arg(missing).assert().code(1).stderr(contains("cannot read"));
    }
}

/// Writes the least that a check of a GPU leaves.
fn checked(folder: &Path, card: &str) {
    let proof = serde_json::json!({ "name": "a | b", "seconds": 1.0, "error": "<b>\u{1b}[2J\n# c" });
    let check = serde_json::json!({ "card": card, "rung": "pinned", "granule": 2097152, "proofs": [proof] });
    std::fs::write(folder.join("check.json"), check.to_string()).unwrap();
    std::fs::write(folder.join("machine.txt"), "```\u{1b}[2J\n# d\n").unwrap();
    let replay = kitten_bench(&["replay", "sdvae_dec_1024", "--json"]).output().unwrap().stdout;
    let replay = String::from_utf8(replay).unwrap().replace("\"card_seconds\": null", "\"card_seconds\": 1.0");
    std::fs::write(folder.join("replay-a.json"), replay).unwrap();
}

#[test]
fn a_report_overwrites_only_its_own_files() {
    let folder = tempfile::tempdir().unwrap();
    let (path, page) = (folder.path(), folder.path().join("README.md"));
    let report = || kitten_bench(&["report", path.to_str().unwrap()]).assert();
    // A folder in which no check has left anything.
    report().code(1).stderr(contains("nothing in").and(contains("gpu-check")));
    assert_eq!(names(path), [""; 0]);
    std::fs::write(&page, "# Somebody's\n").unwrap();
    report().code(1).stderr(contains("nothing in"));

    // A folder with somebody else's page, or picture.
    let plot = path.join("measured-against-modelled.svg");
    checked(path, "one");
    let before = names(path);
    report().code(1).stderr(contains("README.md exists and was not written by kitten-bench report"));
    assert_eq!(names(path), before);
    assert_eq!(std::fs::read_to_string(&page).unwrap(), "# Somebody's\n");
    std::fs::remove_file(&page).unwrap();
    std::fs::write(&plot, "<svg></svg>").unwrap();
    report().code(1).stderr(contains("measured-against-modelled.svg exists"));
    assert!(!page.exists());
    std::fs::remove_file(&plot).unwrap();

    // It overwrites its own files.
    report().success();
    checked(path, "two");
    report().success();
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.starts_with("# GPU check: two\n") && text.contains("measured-against-modelled.svg"), "{text}");
    assert!(text.contains("a \\| b") && text.contains("**fails**: \\<b\\>\\\\u{1b}\\[2J\\\\n# c"), "{text}");
    assert!(text.contains("````text\n```\\u{1b}[2J\n# d\n````\n") && !text.contains('\u{1b}'), "{text}");

    // It rejects figures that no card has.
    let replay = std::fs::read_to_string(path.join("replay-a.json")).unwrap();
    for (seconds, said) in [("-1.0", "no step takes"), ("1e308", "no step takes"), ("1e400", "out of range")] {
        std::fs::write(
            path.join("replay-b.json"),
            replay.replace("\"card_seconds\": 1.0", &format!("\"card_seconds\": {seconds}")),
        )
        .unwrap();
        report().code(1).stderr(contains("replay-b.json does not have the expected format").and(contains(said)));
    }
    std::fs::remove_file(path.join("replay-b.json")).unwrap();
    assert_eq!(std::fs::read_to_string(&page).unwrap(), text);

    // It does not overwrite its page after somebody has added to it, nor through a link or a
    // folder.
    std::fs::write(&page, text.clone() + "Mine.\n").unwrap();
    report().code(1).stderr(contains("README.md exists"));
    std::fs::remove_file(&page).unwrap();
    std::fs::create_dir(&page).unwrap();
    report().code(1).stderr(contains("README.md exists"));
    std::fs::remove_dir(&page).unwrap();
    #[cfg(unix)]
    {
        let other = path.join("other");
        std::fs::write(&other, &text).unwrap();
        std::os::unix::fs::symlink(&other, &page).unwrap();
        report().code(1).stderr(contains("README.md exists"));
        std::fs::remove_file(&other).unwrap();
        report().code(1).stderr(contains("README.md exists"));
        assert!(!other.exists());
    }
}

#[cfg(unix)]
#[test]
fn a_report_that_cannot_be_written_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    checked(folder.path(), "one");
    std::fs::remove_file(folder.path().join("replay-a.json")).unwrap();
    std::fs::write(folder.path().join("machine.txt"), "x".repeat(4096)).unwrap();
    let before = names(folder.path());
    let program = assert_cmd::cargo::cargo_bin("kitten-bench");
    // No file may grow beyond a kibibyte, so a write fails in the middle as on a full disk.
    let report = || {
        let mut command = Command::new("bash");
        command.args(["-c", "ulimit -f 1; exec \"$@\"", "bash"]).arg(&program).arg("report").arg(folder.path());
        command.assert().code(1).stderr(contains("cannot write").and(contains("README.md")));
    };
    report();
    assert_eq!(names(folder.path()), before);
    kitten_bench(&["report"]).arg(folder.path()).assert().success();
    let page = std::fs::read(folder.path().join("README.md")).unwrap();
    report();
    assert_eq!(std::fs::read(folder.path().join("README.md")).unwrap(), page);
    assert_eq!(names(folder.path()).len(), before.len() + 1);
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
