//! What is printed reaches a terminal whole and harmless, or ends the program.

use predicates::str::contains;

use crate::{END, HEADER, file, kitten_bench, snapshot_of};

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
