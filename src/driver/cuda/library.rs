//! Finds the driver's library: the one that the process has loaded already, if any, so that there
//! is only ever one.

use std::ffi::{CStr, c_char, c_int, c_ulonglong, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libloading::Library;

use super::api::Api;
use crate::driver::{DriverError, Result};
use crate::platform::system;

/// The environment variable that names another file to load as the driver, for tests.
const VARIABLE: &str = "GIANT_KITTEN_CUDA_DRIVER";

/// `CUDA_ERROR_NO_DEVICE`, for a machine whose driver cannot be loaded.
const NO_DEVICE: i32 = 100;

/// Loads the driver of this machine, or the one in the given file.
pub(super) fn load(path: Option<&Path>) -> Result<Api> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let (library, shown) = match path.or(named.as_deref()) {
        // SAFETY: the initialisers of the NVIDIA driver have no precondition.
        Some(path) => (unsafe { Library::new(path) }, path.display().to_string()),
        None => {
            let loaded = system::loaded(system::CUDA_DRIVER);
            (loaded.map_or_else(system::load_cuda_driver, Ok), system::CUDA_DRIVER.into())
        }
    };
    let library = library.map_err(|why| DriverError {
        call: "loading the CUDA driver",
        code: NO_DEVICE,
        name: "CUDA_ERROR_NO_DEVICE".into(),
        detail: format!("{shown} cannot be loaded ({}): is the NVIDIA driver installed?", reason(&why)),
    })?;
    // SAFETY: we trust a library that calls itself the CUDA driver.
    let api = unsafe { Api::resolve(finder(&library)) };
    log::debug!("the CUDA driver is {shown}; it lacks {:?}", api.missing());
    // Never unloaded: work and memory outlive whatever is dropped here.
    std::mem::forget(library);
    Ok(api)
}

/// The loader's message, in the words of the system where it has some.
fn reason(why: &libloading::Error) -> String {
    std::error::Error::source(why).map_or_else(|| why.to_string(), ToString::to_string)
}

type GetProcAddress = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, c_ulonglong, *mut c_int) -> c_int;
type OldGetProcAddress = unsafe extern "C" fn(*const c_char, *mut *mut c_void, c_int, c_ulonglong) -> c_int;

/// How functions are found: by `cuGetProcAddress`, which knows versions, or by their symbols in
/// drivers that are older than that (11.3).
fn finder(library: &Library) -> impl Fn(&CStr, &CStr, c_int) -> Option<NonNull<c_void>> {
    // SAFETY: the types are those of the driver's header.
    let (ask, ask_old) = unsafe {
        (
            library.get::<GetProcAddress>("cuGetProcAddress_v2").ok().map(|symbol| *symbol),
            library.get::<OldGetProcAddress>("cuGetProcAddress").ok().map(|symbol| *symbol),
        )
    };
    move |name, direct, since| {
        let mut found = std::ptr::null_mut();
        // SAFETY: the driver reads the name and writes the address.
        let answer = unsafe {
            match (ask, ask_old) {
                (Some(ask), _) => ask(name.as_ptr(), &mut found, since, 0, std::ptr::null_mut()),
                (None, Some(ask)) => ask(name.as_ptr(), &mut found, since, 0),
                (None, None) => {
                    return library.get::<*mut c_void>(direct).ok().and_then(|symbol| NonNull::new(*symbol));
                }
            }
        };
        NonNull::new(found).filter(|_| answer == 0)
    }
}
