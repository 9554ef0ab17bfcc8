//! Wrong inputs: each is answered with the mistake, by its name.

use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

use crate::{END, GIB, HEADER, allocs, file, json, kitten_bench, snapshot_of, wrong_inputs};

#[test]
fn errors_of_wrong_inputs_name_the_mistake() {
    let folder = tempfile::tempdir().unwrap();
    let bad = &*file(&folder, "bad.jsonl", "not a trace\n");
    let pickle = &*file(&folder, "cut.pickle", b"\x80\x04\x95\x10\0\0");
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
