//! The C interface from C and C++, on the library that users load, over a fake `libcuda.so.1`. For
//! Windows, `scripts/windows-test` compiles and runs the same programs.
#![cfg(unix)]

#[path = "fake/mod.rs"]
mod fake;
mod root;

use std::path::PathBuf;
use std::process::Command;

use root::root;

/// Cargo's folder with the cdylib that belongs to this test.
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
fn a_forked_child_gets_an_error() {
    let said = compile_and_run("cc", &["-std=gnu11"], "tests/c/fork.c", &[]);
    let (child, parent) = said.split_once('\n').unwrap();
    assert!(child.starts_with("child: ") && child.contains("\"spawn\""), "{said}");
    assert_eq!(parent, "parent: goes on\n");
}

#[test]
fn a_thread_at_work_before_the_first_allocation_is_seen() {
    let said = compile_and_run("cc", &["-std=gnu11"], "tests/c/work.c", &[]);
    assert_eq!(said, "a thread at work was seen\n");
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
