//! The program as users see it: its output, and its answers to wrong inputs.

mod card;
mod pictures;
mod plan;
#[cfg(unix)] // Windows has no such devices, nor such names of files.
mod printing;
mod replay;
mod wrong;

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

/// Checks that arguments end with a code, and what is said.
fn wrong_inputs(cases: &[(&[&str], i32, &str)]) {
    for (arguments, code, said) in cases {
        kitten_bench(arguments).assert().code(*code).stderr(contains(*said));
    }
}

/// A file in a folder, by its path.
fn file(folder: &tempfile::TempDir, name: &str, contents: impl AsRef<[u8]>) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, contents).unwrap();
    path.to_str().unwrap().into()
}

const HEADER: &str = "{\"ev\":\"header\",\"format\":\"gpu-op-trace/1\",\"trace\":\"t\"}\n";

const END: &str = "{\"ev\":\"end\"}\n";

const GIB: u64 = 1 << 30;

fn allocs(blocks: std::ops::Range<u64>) -> String {
    blocks.map(|id| format!("{{\"ev\":\"alloc\",\"id\":{id},\"bytes\":{GIB},\"kind\":\"param\"}}\n")).collect()
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
fn the_readme_has_what_the_demo_prints() {
    let output = kitten_bench(&[]).assert().success();
    let printed = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    assert!(include_str!("../../../../README.md").contains(printed.trim()), "{printed}");
}

#[test]
fn the_steady_hot_path_calls_no_driver() {
    let found = json(&["hotpath", "--rounds", "4", "--json"]);
    assert_eq!(found["driver_calls_steady"], 0);
    assert!(found["ns_per_pair"].as_f64().unwrap() > 0.0);
    assert!(found["peers"]["btreemap-best-fit"].as_f64().unwrap() > 0.0);
}
