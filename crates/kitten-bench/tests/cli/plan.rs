//! What `plan` and `sweep` advise, and that they agree.

use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

use crate::{file, json, kitten_bench};

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
