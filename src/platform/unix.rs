//! Linux, and as far as it goes other kinds of Unix.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use libloading::Library;
use libloading::os::unix;

use super::graphics::{Budgets, Card};

/// The file name of the CUDA driver's library.
pub(crate) const CUDA_DRIVER: &str = "libcuda.so.1";

/// `RTLD_NOLOAD` of glibc and musl.
const NOLOAD: libc::c_int = 0x4;

/// Loads the CUDA driver from where the system keeps its libraries.
pub(crate) fn load_cuda_driver() -> Result<Library, libloading::Error> {
    // SAFETY: the initialisers of the NVIDIA driver have no precondition.
    unsafe { Library::new(CUDA_DRIVER) }
}

/// A card, as the system's graphics know it: this system grants no budgets, and so knows none.
#[derive(Debug)]
pub(crate) enum Adapter {}

impl Adapter {
    /// None.
    pub(crate) fn find(
        _library: Option<&Path>,
        _card: impl FnOnce() -> Result<Card, String>,
    ) -> Result<Option<Adapter>, String> {
        Ok(None)
    }

    /// Never called, since there is none.
    pub(crate) fn budgets(&self) -> Result<Budgets, String> {
        match *self {}
    }
}

/// A library by its file name, if the process has loaded it.
pub(crate) fn loaded(name: &str) -> Option<Library> {
    // SAFETY: nothing is loaded, so nothing is run.
    unsafe { unix::Library::open(Some(name), unix::RTLD_NOW | unix::RTLD_LOCAL | NOLOAD) }.ok().map(Into::into)
}

/// The library of the Python interpreter that the process runs, if any.
pub(crate) fn python() -> Option<Library> {
    Some(unix::Library::this().into())
}

/// Calls `run` at the start of each child that is forked from now on. Returns whether it will.
pub(crate) fn at_fork(run: extern "C" fn()) -> bool {
    // SAFETY: the caller's function only does what a child may do right after a fork.
    unsafe { libc::pthread_atfork(None, None, Some(run)) == 0 }
}

/// Calls `run` when the process exits, before the libraries that are loaded by now are unloaded.
/// Returns whether it will.
pub(crate) fn at_exit(run: extern "C" fn()) -> bool {
    // SAFETY: the function has no precondition.
    unsafe { libc::atexit(run) == 0 }
}

/// The start time of a process, in the system's ticks; `None` if it does not exist. Together with
/// the process number it identifies a process for good.
pub(crate) fn started(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may contain anything. The start time is field 22 of proc(5), the
    // 20th after the name.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The namespace of process numbers: those of another container name other processes.
pub(crate) fn process_namespace() -> Option<String> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(link.to_str()?.chars().filter(char::is_ascii_digit).collect())
}

/// A folder that only this user can reach. Created if it is missing.
pub(crate) fn private_folder() -> Option<PathBuf> {
    // SAFETY: the function has no precondition.
    let user = unsafe { libc::geteuid() };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let folder = match runtime {
        Some(runtime) => runtime.join("giant-kitten"),
        None => std::env::temp_dir().join(format!("giant-kitten-{user}")),
    };
    let _ = fs::DirBuilder::new().mode(0o700).create(&folder);
    // Not through a link, which another user may have put there.
    let found = fs::symlink_metadata(&folder).ok()?;
    (found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0).then_some(folder)
}
