//! Windows.

use std::fs;
use std::path::PathBuf;

use libloading::Library;
use libloading::os::windows;

pub(crate) use super::dxgi::Adapter;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The file name of the CUDA driver's library.
pub(crate) const CUDA_DRIVER: &str = "nvcuda.dll";

/// Loads the CUDA driver from the system's folder alone. By its bare name, the folders of the
/// program and of `PATH` would be searched too, in which anybody may have put a file.
pub(crate) fn load_cuda_driver() -> Result<Library, libloading::Error> {
    // SAFETY: the initialisers of the NVIDIA driver have no precondition.
    unsafe { windows::Library::load_with_flags(CUDA_DRIVER, windows::LOAD_LIBRARY_SEARCH_SYSTEM32) }.map(Into::into)
}

/// A library by its file name, if the process has loaded it.
pub(crate) fn loaded(name: &str) -> Option<Library> {
    windows::Library::open_already_loaded(name).ok().map(Into::into)
}

/// The library of the Python interpreter that the process runs, if any. Each release has its own
/// name.
pub(crate) fn python() -> Option<Library> {
    (9..32).find_map(|minor| loaded(&format!("python3{minor}.dll")))
}

/// Nothing: this system has no fork.
pub(crate) fn at_fork(_run: extern "C" fn()) -> bool {
    true
}

/// Nothing: this system ends all other threads before it unloads anything.
pub(crate) fn at_exit(_run: extern "C" fn()) -> bool {
    true
}

/// The start time of a process, in seconds; `None` if it does not exist. Together with the process
/// number it identifies a process for good.
pub(crate) fn started(process: u32) -> Option<u64> {
    let process = Pid::from_u32(process);
    let mut system = System::new().ok()?;
    let wanted = ProcessesToUpdate::Some(&[process]);
    system.refresh_processes_specifics(wanted, true, ProcessRefreshKind::nothing());
    Some(system.process(process)?.start_time())
}

/// All processes have their numbers in the same place.
pub(crate) fn process_namespace() -> Option<String> {
    Some("windows".into())
}

/// A folder in the one for temporary files, which is the user's own. Created if it is missing.
pub(crate) fn private_folder() -> Option<PathBuf> {
    let folder = std::env::temp_dir().join("giant-kitten");
    fs::create_dir_all(&folder).ok()?;
    Some(folder)
}
