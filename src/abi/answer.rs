//! The result of a call: its code, and the text of the last error on the calling thread.
//!
//! [`guarded`] catches every panic, so that none crosses the C interface.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Error;
use crate::platform::fork;

/// Success.
pub const GK_OK: c_int = 0;
/// Neither tier has room.
pub const GK_OUT_OF_MEMORY: c_int = 1;
/// An argument is invalid.
pub const GK_ARGUMENT: c_int = 2;
/// An address is in no live block, or is not the start of one where that is needed.
pub const GK_NOT_ALLOCATED: c_int = 3;
/// The call is not possible now. The text says what to do.
pub const GK_REFUSED: c_int = 4;
/// A call of the driver failed.
pub const GK_DRIVER: c_int = 5;
/// A bug in giant-kitten.
pub const GK_INTERNAL: c_int = 6;
/// Some blocks should have changed tier, and existing blocks cannot on this driver. The call did
/// everything else.
pub const GK_IMMOVABLE: c_int = 7;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

fn code(error: &Error) -> c_int {
    match error {
        Error::OutOfMemory(_) => GK_OUT_OF_MEMORY,
        Error::Argument(_) => GK_ARGUMENT,
        Error::NotAllocated { .. } => GK_NOT_ALLOCATED,
        Error::Refused(_) => GK_REFUSED,
        Error::Driver(_) => GK_DRIVER,
        Error::Immovable { .. } => GK_IMMOVABLE,
    }
}

#[cold]
fn remember(text: &str) {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // A thread that is ending may have destroyed its locals. Nobody reads the text then.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
}

/// Runs the body of a function. Turns an error or a panic into its code, and keeps the text.
#[inline]
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, c_int> {
    // The error becomes a code inside `catch_unwind`, so that its result is two words long.
    catch_unwind(AssertUnwindSafe(|| run().map_err(|error| failed(&error))))
        .unwrap_or_else(|panic| Err(panicked(&*panic)))
}

#[cold]
fn failed(error: &Error) -> c_int {
    let text = error.to_string();
    log::debug!("{text}");
    remember(&text);
    code(error)
}

#[cold]
fn panicked(panic: &(dyn std::any::Any + Send)) -> c_int {
    let why = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    let text = format!("a bug in giant-kitten, please report it: {why}");
    log::error!("{text}");
    remember(&text);
    GK_INTERNAL
}

/// Runs the body of a function that returns a code.
pub(super) fn status(run: impl FnOnce() -> Result<(), Error>) -> c_int {
    guarded(run).map_or_else(|code| code, |()| GK_OK)
}

/// Runs a hook. Hooks cannot return errors, so failures are logged, except those caused by process
/// exit or by a forked child that cannot use CUDA.
#[inline]
pub(super) fn hook(call: &str, run: impl FnOnce() -> Result<(), Error>) {
    let mut quiet = false;
    let run =
        || run().inspect_err(|error| quiet = fork::is_child() || matches!(error, Error::Driver(why) if why.is_gone()));
    if guarded(run).is_err() && !quiet {
        complain(call);
    }
}

/// Logs the last error of this thread.
#[cold]
pub(super) fn complain(call: &str) {
    let _ = LAST_ERROR.try_with(|last| log::error!("{call}: {}", last.borrow().to_string_lossy()));
}

/// The text of the last error on this thread; empty if there was none. It is valid until the next
/// call on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn gk_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The library's version.
#[unsafe(no_mangle)]
pub extern "C" fn gk_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(text) => text,
        Err(_) => c"",
    };
    VERSION.as_ptr()
}
