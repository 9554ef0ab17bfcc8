//! `probe` and `report`, and the files that they write.

use std::path::Path;

use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

use crate::kitten_bench;

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

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into()).collect();
    names.sort();
    names
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
        let mut command = assert_cmd::Command::new("bash");
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
