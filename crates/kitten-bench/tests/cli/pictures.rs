//! The pictures that are drawn.

use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;

use crate::kitten_bench;

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
