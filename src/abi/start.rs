//! The allocator of the process, from `gk_configure` to `gk_farewell`.
//!
//! It is created at its first use, with the options that were set until then.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use parking_lot::Mutex;

use crate::allocator::{Allocator, Options, forget};
use crate::core::history::{Names, Recording};
use crate::driver;
use crate::error::Error;
use crate::platform::fork;

use super::answer::{hook, status};
use super::arguments::{device_number, text_of};
use super::idle;

/// The environment variable with the options.
pub const VARIABLE: &str = "GIANT_KITTEN";
/// The environment variable with the level of the log: `error`, `warn` (the default), `info`,
/// `debug`.
pub const LOG_VARIABLE: &str = "GIANT_KITTEN_LOG";

/// The allocator of this process. Every allocator that was ever here is leaked, so references to it
/// stay valid for ever.
static CURRENT: AtomicPtr<Allocator> = AtomicPtr::new(std::ptr::null_mut());
/// Held while the allocator is made; holds the options given by `gk_configure` before.
static STARTING: Mutex<Option<Options>> = Mutex::new(None);

/// The recording that `gk_record` asked for last, which may be before the allocator exists.
pub(super) static RECORDED: Mutex<Recording> = Mutex::new(Recording { most: 0, names: Names::None, skipped: 0 });

/// Makes `allocator` the allocator of this process. The one before it returns all its memory to its
/// driver, so its blocks must not be used any more. For tests and tools.
pub fn install(allocator: Allocator) -> &'static Allocator {
    let allocator: &'static mut Allocator = Box::leak(Box::new(allocator));
    let before = CURRENT.swap(allocator, Ordering::AcqRel);
    // SAFETY: the pointer is null, or this function or `start` leaked its target.
    if let Some(before) = unsafe { before.as_ref() } {
        before.shutdown();
    }
    allocator
}

/// The allocator, which is created if it does not exist yet.
#[inline]
pub(super) fn current() -> Result<&'static Allocator, Error> {
    // SAFETY: the pointer is null, or `install` or `start` leaked its target.
    match unsafe { CURRENT.load(Ordering::Acquire).as_ref() } {
        Some(allocator) => Ok(allocator),
        None => start(),
    }
}

/// The allocator, if it exists. Questions and frees do not create it.
#[inline]
pub(super) fn started() -> Option<&'static Allocator> {
    // SAFETY: as in `current`.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// Asks the allocator about a device. Before the allocator exists, no device is in use.
pub(super) fn ask<T: Default>(
    device: c_int,
    question: impl FnOnce(&Allocator, usize) -> Result<T, Error>,
) -> Result<T, Error> {
    let device = device_number(device)?;
    started().map_or_else(|| Ok(T::default()), |allocator| question(allocator, device))
}

/// The allocator, if it exists: otherwise no address is a block's.
pub(super) fn owner_of(address: *const c_void) -> Result<&'static Allocator, Error> {
    started().ok_or(Error::NotAllocated { address: address as u64 })
}

/// Creates the allocator with the options of `gk_configure` or of the environment variable.
#[cold]
fn start() -> Result<&'static Allocator, Error> {
    if fork::is_child() {
        return Err(Error::Refused(fork::WHY.into()));
    }
    let configured = STARTING.lock();
    // SAFETY: as in `current`. Another thread may have created it in the meantime.
    if let Some(allocator) = unsafe { CURRENT.load(Ordering::Acquire).as_ref() } {
        return Ok(allocator);
    }
    start_log();
    let options = match &*configured {
        Some(options) => options.clone(),
        None => options_from_environment().map_err(Error::Argument)?,
    };
    let allocator = Allocator::new(options, driver::open()?)?;
    // Held until the allocator can be found: it would miss a change of the recording otherwise.
    let recorded = RECORDED.lock();
    allocator.record(*recorded);
    let allocator: &'static Allocator = Box::leak(Box::new(allocator));
    fork::watch(forget_allocator);
    CURRENT.store(std::ptr::from_ref(allocator).cast_mut(), Ordering::Release);
    if let Some(interval) = allocator.options().idle {
        idle::watch(allocator, interval);
    }
    Ok(allocator)
}

/// Forgets the allocator in a forked child: threads that the child does not have may hold its
/// locks.
fn forget_allocator() {
    CURRENT.store(std::ptr::null_mut(), Ordering::Release);
}

/// The options that the allocator would be created with now.
pub(super) fn configured() -> Result<Options, Error> {
    match &*STARTING.lock() {
        Some(options) => Ok(options.clone()),
        None => options_from_environment().map_err(Error::Argument),
    }
}

/// Starts to log to standard error, at the level of [`LOG_VARIABLE`]. Does nothing if the process
/// has a logger already.
pub fn start_log() {
    let log = env_logger::Env::new().filter_or(LOG_VARIABLE, "warn");
    let _ = env_logger::Builder::from_env(log).try_init();
}

fn options_from_environment() -> Result<Options, String> {
    match std::env::var(VARIABLE) {
        Ok(text) => Options::parse(&text).map_err(|why| format!("{VARIABLE}={text}: {why}")),
        Err(std::env::VarError::NotPresent) => Ok(Options::default()),
        Err(why) => Err(format!("{VARIABLE}: {why}")),
    }
}

/// Sets options before the first use, in the form of the environment variable. Options that the
/// text does not name stay as the variable has them.
///
/// # Safety
/// `options` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_configure(options: *const c_char) -> c_int {
    status(|| {
        // SAFETY: the caller's promise.
        let text = unsafe { text_of(options) }?;
        let mut configured = STARTING.lock();
        if !CURRENT.load(Ordering::Acquire).is_null() {
            return Err(Error::Refused(
                "options must be set before the first allocation, and there was one already: call gk_configure first"
                    .into(),
            ));
        }
        let mut options = match &*configured {
            Some(options) => options.clone(),
            None => options_from_environment().map_err(Error::Argument)?,
        };
        options.apply(text).map_err(Error::Argument)?;
        *configured = Some(options);
        Ok(())
    })
}

/// Puts a device to use, as its first allocation would: creates its context and the backing of the
/// reserve.
#[unsafe(no_mangle)]
pub extern "C" fn gk_open(device: c_int) -> c_int {
    status(|| current()?.open(device_number(device)?))
}

/// Tells the allocator that the program ends. It stores the reserve that this run would have
/// needed, if the option `reserve:remembered` asks for that, and logs its advice otherwise.
#[unsafe(no_mangle)]
pub extern "C" fn gk_farewell() {
    hook("gk_farewell", || {
        let lines = started().map(Allocator::farewell).unwrap_or_default();
        lines.iter().for_each(|line| log::warn!(target: "giant_kitten", "{line}"));
        Ok(())
    });
}

/// Deletes the reserve that is remembered for a program, or for all programs if `program` is null.
/// Stores the number of deleted files in `count` unless it is null.
///
/// # Safety
/// `program` is null or a C string; `count` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_forget(program: *const c_char, count: *mut usize) -> c_int {
    status(|| {
        // SAFETY: the caller's promise.
        let program = if program.is_null() { None } else { Some(unsafe { text_of(program) }?) };
        let forgotten = forget(program)
            .map_err(|why| Error::Refused(format!("a remembered reserve could not be deleted: {why}")))?;
        // SAFETY: the caller's promise.
        if let Some(count) = unsafe { count.as_mut() } {
            *count = forgotten;
        }
        Ok(())
    })
}
