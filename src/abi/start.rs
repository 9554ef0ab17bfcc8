//! The allocator of the process: made at its first use, with the options that were set until then.

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
/// The environment variable that says what to log: `error`, `warn` (the default), `info`, `debug`.
pub const LOG_VARIABLE: &str = "GIANT_KITTEN_LOG";

/// The allocator that the functions below use. Those it pointed to before are leaked, so a reference stays good for ever.
static CURRENT: AtomicPtr<Allocator> = AtomicPtr::new(std::ptr::null_mut());
/// Held while the allocator is made; holds the options given by `gk_configure` before.
static STARTING: Mutex<Option<Options>> = Mutex::new(None);

/// What [`gk_record`] asked for: a recording may be wished for before there is anything to record.
pub(super) static RECORDED: Mutex<Recording> = Mutex::new(Recording { most: 0, names: Names::None, skipped: 0 });

/// Makes `allocator` the allocator of this process, in place of the one before, whose memory all goes back to its driver.
/// For tests and tools: whoever still holds blocks of the one before must not use them.
pub fn install(allocator: Allocator) -> &'static Allocator {
    let allocator: &'static mut Allocator = Box::leak(Box::new(allocator));
    let before = CURRENT.swap(allocator, Ordering::AcqRel);
    // SAFETY: whatever the pointer ever held was leaked by this function or by `start`.
    if let Some(before) = unsafe { before.as_ref() } {
        before.shutdown();
    }
    allocator
}

#[inline]
pub(super) fn current() -> Result<&'static Allocator, Error> {
    // SAFETY: the pointer is null or was leaked by `install` or `start`.
    match unsafe { CURRENT.load(Ordering::Acquire).as_ref() } {
        Some(allocator) => Ok(allocator),
        None => start(),
    }
}

/// The allocator, if it has been made: who only asks, or takes back, begins nothing.
#[inline]
pub(super) fn started() -> Option<&'static Allocator> {
    // SAFETY: as in `current`.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// Asks the allocator about a device; where there is none yet, nothing is in use.
pub(super) fn ask<T: Default>(
    device: c_int,
    question: impl FnOnce(&Allocator, usize) -> Result<T, Error>,
) -> Result<T, Error> {
    let device = device_number(device)?;
    started().map_or_else(|| Ok(T::default()), |allocator| question(allocator, device))
}

/// The allocator, if it can have given out the block at an address.
pub(super) fn owner_of(address: *const c_void) -> Result<&'static Allocator, Error> {
    started().ok_or(Error::NotAllocated { address: address as u64 })
}

/// Makes the allocator at its first use, from `gk_configure` or the environment variable.
#[cold]
fn start() -> Result<&'static Allocator, Error> {
    if fork::is_child() {
        return Err(Error::Refused(fork::WHY.into()));
    }
    let configured = STARTING.lock();
    // SAFETY: as in `current`. Another thread may have been first.
    if let Some(allocator) = unsafe { CURRENT.load(Ordering::Acquire).as_ref() } {
        return Ok(allocator);
    }
    start_log();
    let options = match &*configured {
        Some(options) => options.clone(),
        None => options_from_environment().map_err(Error::Argument)?,
    };
    let allocator = Allocator::new(options, driver::open()?)?;
    // Held until the allocator can be found: one that is made beside a change of what is recorded would miss it.
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

/// In a forked child the allocator is gone: its locks may be held by threads that the child does not have.
fn forget_allocator() {
    CURRENT.store(std::ptr::null_mut(), Ordering::Release);
}

/// The options that the allocator would be made with now.
pub(super) fn configured() -> Result<Options, Error> {
    match &*STARTING.lock() {
        Some(options) => Ok(options.clone()),
        None => options_from_environment().map_err(Error::Argument),
    }
}

/// Begins to log to standard error what [`LOG_VARIABLE`] asks for, unless the process has a log of its own.
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

/// Sets options, as in the environment variable, before the first use; what the text does not name is as the variable says.
///
/// # Safety
/// `options` is null or a string.
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

/// Puts a device to use, as its first allocation would: a context, and the backing of the reserve.
#[unsafe(no_mangle)]
pub extern "C" fn gk_open(device: c_int) -> c_int {
    status(|| current()?.open(device_number(device)?))
}

/// The end of the program, as far as the allocator knows: what this run would have wanted is remembered where the options say so,
/// and what ought to be said is logged.
#[unsafe(no_mangle)]
pub extern "C" fn gk_farewell() {
    hook("gk_farewell", || {
        let lines = started().map(Allocator::farewell).unwrap_or_default();
        lines.iter().for_each(|line| log::warn!(target: "giant_kitten", "{line}"));
        Ok(())
    });
}

/// Forgets what runs of a program have left for the next one, or of all programs where `program` is null; how many files those
/// were into `count`, unless null.
///
/// # Safety
/// `program` is null or a string; `count` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_forget(program: *const c_char, count: *mut usize) -> c_int {
    status(|| {
        // SAFETY: the caller's promise.
        let program = if program.is_null() { None } else { Some(unsafe { text_of(program) }?) };
        let forgotten = forget(program).map_err(|why| Error::Refused(format!("not all could be forgotten: {why}")))?;
        // SAFETY: the caller's promise.
        if let Some(count) = unsafe { count.as_mut() } {
            *count = forgotten;
        }
        Ok(())
    })
}
