//! The C interface from C and C++, on the library that users load, over a fake `libcuda.so.1`; and that header and library say the same.

#[path = "fake/mod.rs"]
mod fake;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo puts the cdylib that belongs to this test.
fn library_folder() -> PathBuf {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    assert!(deps.join("libgiant_kitten.so").exists(), "no libgiant_kitten.so in {}", deps.display());
    deps
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}

/// Compiles a program against the header and the cdylib, and runs it.
fn compile_and_run(compiler: &str, flags: &[&str], source: &str, environment: &[(&str, &str)]) -> String {
    let library = library_folder();
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    std::os::unix::fs::symlink(fake_cuda::built_library(), folder.path().join("libcuda.so.1")).unwrap();
    let strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
    run(Command::new(compiler)
        .args(flags)
        .args(strict)
        .arg(format!("-I{}", root().join("include").display()))
        .arg(root().join(source))
        .arg("-o")
        .arg(&program)
        .arg(format!("-L{}", library.display()))
        .args(["-lgiant_kitten", "-lpthread"])
        .arg(format!("-Wl,-rpath,{}", library.display())));
    run(Command::new(&program)
        .env("LD_LIBRARY_PATH", format!("{}:{}", folder.path().display(), library.display()))
        .env("FAKE_CUDA_PROFILE", "nominal-6g")
        .env_remove("GIANT_KITTEN")
        .envs(environment.iter().copied()))
}

#[test]
fn everything_can_be_called_from_c11() {
    let said = compile_and_run("cc", &["-std=c11"], "tests/c/everything.c", &[]);
    assert!(said.ends_with("everything was called\n"), "{said}");
}

#[test]
fn everything_can_be_called_from_cpp17() {
    let said = compile_and_run("c++", &["-std=c++17", "-x", "c++"], "tests/c/everything.c", &[]);
    assert!(said.ends_with("everything was called\n"), "{said}");
}

#[test]
fn where_memory_can_only_be_pinned_nothing_moves_and_that_is_said() {
    let said = compile_and_run("cc", &["-std=c11"], "tests/c/pinned.c", &[("FAKE_CUDA_RUNGS", "pinned")]);
    assert!(said.ends_with("nothing moved, and that was said\n"), "{said}");
}

#[test]
fn the_c_example_runs() {
    let said = compile_and_run("cc", &["-std=c11"], "examples/generate.c", &[]);
    let shared_scratch = said.lines().filter(|line| line.starts_with("generate")).collect::<Vec<_>>();
    assert_eq!(shared_scratch.len(), 2, "{said}");
    assert!(said.contains("free_vram        0 MiB of blocks in dedicated"), "{said}");
}

#[test]
fn a_bad_variable_is_a_sentence() {
    let said = compile_and_run("cc", &["-std=c11"], "tests/c/variable.c", &[("GIANT_KITTEN", "reserve:1.6")]);
    for part in ["GIANT_KITTEN=reserve:1.6", "1.6GiB"] {
        assert!(said.contains(part), "{said}");
    }
    let said = compile_and_run("cc", &["-std=c11"], "tests/c/variable.c", &[("GIANT_KITTEN", "reserve:1.6GiB")]);
    assert_eq!(said, "reserve 1717986918\n");
}

#[test]
fn a_forked_child_is_told() {
    let said = compile_and_run("cc", &["-std=gnu11"], "tests/c/fork.c", &[]);
    let (child, parent) = said.split_once('\n').unwrap();
    assert!(child.starts_with("child: ") && child.contains("\"spawn\""), "{said}");
    assert_eq!(parent, "parent: goes on\n");
}

#[test]
fn a_machine_without_a_driver_is_a_sentence() {
    let said = compile_and_run(
        "cc",
        &["-std=c11"],
        "tests/c/variable.c",
        &[("LD_LIBRARY_PATH", &library_folder().display().to_string())],
    );
    assert!(said.contains("libcuda.so.1 cannot be loaded") && said.contains("NVIDIA driver"), "{said}");
}

/// Every `gk_…` that a text follows by a bracket.
fn functions(text: &str) -> BTreeSet<String> {
    let names = text.match_indices("gk_").filter_map(|(at, _)| {
        let rest = &text[at..];
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
        rest[end..].starts_with('(').then(|| rest[..end].to_owned())
    });
    names.collect()
}

fn without_comments(header: &str) -> String {
    let mut text = String::new();
    let mut rest = header;
    while let Some((before, after)) = rest.split_once("/*") {
        text.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    text + rest
}

#[test]
fn header_and_library_have_the_same_functions() {
    let header = without_comments(&std::fs::read_to_string(root().join("include/giant_kitten.h")).unwrap());
    let declared = functions(&header);
    let symbols =
        run(Command::new("nm").args(["-D", "--defined-only"]).arg(library_folder().join("libgiant_kitten.so")));
    let exported: BTreeSet<String> = symbols
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .filter(|name| name.starts_with("gk_"))
        .map(Into::into)
        .collect();
    assert_eq!(declared, exported);
    let called = functions(&std::fs::read_to_string(root().join("tests/c/everything.c")).unwrap());
    assert!(declared.is_subset(&called), "never called: {:?}", declared.difference(&called));
}

#[test]
fn header_and_library_have_the_same_statistics() {
    let header = without_comments(&std::fs::read_to_string(root().join("include/giant_kitten.h")).unwrap());
    let body = header.split_once("struct gk_stats {").unwrap().1.split_once('}').unwrap().0;
    let declared: Vec<&str> = body.split(';').filter_map(|field| field.split_whitespace().nth(1)).skip(2).collect();
    let ours = giant_kitten::abi::GkStats::default();
    assert_eq!(declared, ours.fields().map(|(name, _)| name).collect::<Vec<_>>());
    assert_eq!(size_of_val(&ours), 8 + 8 * declared.len());
}
