//! The allocator of the process, from `gk_configure` to `gk_farewell`.
//!
//! It is created at its first use, with the options that were set until then.

use std::ffi::{c_char, c_int, c_void};
use std::io::Write;
use std::sync::atomic::{AtomicPtr, Ordering};

use log::LevelFilter;
use parking_lot::Mutex;

use crate::allocator::{Allocator, Options, forget};
use crate::core::ThreadId;
use crate::core::history::{Names, Recording};
use crate::driver;
use crate::error::Error;
use crate::platform::fork;
use crate::sync::this_thread;

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
/// What is set before the allocator exists. Held while the allocator is created.
static BEFORE: Mutex<Before> = Mutex::new(Before { options: None, at_work: Vec::new(), process: 0 });

struct Before {
    /// The options that `gk_configure` has set.
    options: Option<Options>,
    /// The threads inside a piece of work on a device, once for each piece.
    at_work: Vec<(usize, ThreadId)>,
    /// The process that they are threads of.
    process: u32,
}

impl Before {
    /// The options that the allocator would be created with now.
    fn options(&self) -> Result<Options, Error> {
        match &self.options {
            Some(options) => Ok(options.clone()),
            None => options_from_environment().map_err(Error::argument),
        }
    }

    /// The threads at work, of this process alone. A forked child has only the thread that forked,
    /// which is taken to be the first that calls.
    fn at_work(&mut self) -> &mut Vec<(usize, ThreadId)> {
        let process = std::process::id();
        if std::mem::replace(&mut self.process, process) != process {
            let own = this_thread();
            self.at_work.retain(|(_, thread)| *thread == own);
        }
        &mut self.at_work
    }

    /// Tells the new allocator which threads are at work.
    fn hand_over(&mut self, allocator: &Allocator) {
        for (device, thread) in self.at_work().drain(..) {
            if let Err(why) = allocator.begin_work_of(device, thread) {
                log::debug!("a piece of work that began before the first allocation is ignored: {why}");
            }
        }
    }
}

/// The recording that `gk_record` asked for last, which may be before the allocator exists.
pub(super) static RECORDED: Mutex<Recording> = Mutex::new(Recording { most: 0, names: Names::None, skipped: 0 });

/// Makes `allocator` the allocator of this process. The one before it returns all its memory to its
/// driver, so its blocks must not be used any more. For tests and tools.
pub fn install(allocator: Allocator) -> &'static Allocator {
    let allocator: &'static mut Allocator = Box::leak(Box::new(allocator));
    let mut before = BEFORE.lock();
    before.hand_over(allocator);
    let replaced = CURRENT.swap(allocator, Ordering::AcqRel);
    drop(before);
    // SAFETY: the pointer is null, or this function or `start` leaked its target.
    if let Some(replaced) = unsafe { replaced.as_ref() } {
        replaced.shutdown();
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
    started().ok_or_else(|| Error::not_allocated(address as u64))
}

/// Creates the allocator with the options of `gk_configure` or of the environment variable.
#[cold]
fn start() -> Result<&'static Allocator, Error> {
    if fork::is_child() {
        return Err(Error::refused(fork::WHY));
    }
    let mut before = BEFORE.lock();
    // Another thread may have created it in the meantime.
    if let Some(allocator) = started() {
        return Ok(allocator);
    }
    start_log();
    let allocator = Allocator::new(before.options()?, driver::open()?)?;
    before.hand_over(&allocator);
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
    BEFORE.lock().options()
}

/// The calling thread begins a piece of work on a device. The allocator need not exist yet, and is
/// not created.
pub(super) fn begin_work(device: usize) -> Result<(), Error> {
    tell(|allocator| allocator.begin_work(device), |at_work| at_work.push((device, this_thread())))
}

/// The calling thread ends the piece of work that it began last on a device.
pub(super) fn end_work(device: usize) -> Result<(), Error> {
    let own = (device, this_thread());
    let forget = |at_work: &mut Vec<_>| {
        if let Some(at) = at_work.iter().rposition(|known| *known == own) {
            at_work.remove(at);
        }
    };
    tell(|allocator| allocator.end_work(device), forget)
}

/// Tells the allocator about a piece of work, or changes the list that it gets when it is created.
fn tell(
    now: impl FnOnce(&Allocator) -> Result<(), Error>,
    later: impl FnOnce(&mut Vec<(usize, ThreadId)>),
) -> Result<(), Error> {
    if let Some(allocator) = started() {
        return now(allocator);
    }
    // A forked child never gets an allocator, and a thread that it does not have may hold the lock.
    if fork::is_child() {
        return Ok(());
    }
    let mut before = BEFORE.lock();
    // Another thread may have created it in the meantime.
    let Some(allocator) = started() else {
        later(before.at_work());
        return Ok(());
    };
    drop(before);
    now(allocator)
}

/// Starts to log to standard error, at the level of [`LOG_VARIABLE`]. Does nothing if the process
/// has a logger already.
///
/// A line has the process's number, since several processes often share one standard error.
pub fn start_log() {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let wanted = wanted.trim();
    let level: Result<LevelFilter, _> = if wanted.is_empty() { Ok(LevelFilter::Warn) } else { wanted.parse() };
    let began = env_logger::Builder::new()
        .filter_level(level.as_ref().copied().unwrap_or(LevelFilter::Warn))
        .format(|line, record| {
            let (level, process) = (record.level().as_str().to_lowercase(), std::process::id());
            writeln!(line, "giant-kitten[{process}] {level}: {}", record.args())
        })
        .try_init();
    if began.is_ok() && level.is_err() {
        log::warn!("{LOG_VARIABLE}={wanted} is no level: write off, error, warn, info, debug or trace");
    }
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
        let mut before = BEFORE.lock();
        if started().is_some() {
            return Err(Error::refused(
                "options must be set before the first allocation, and there was one already: call gk_configure first",
            ));
        }
        let mut options = before.options()?;
        options.apply(text).map_err(Error::argument)?;
        before.options = Some(options);
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
            .map_err(|why| Error::refused(format!("a remembered reserve could not be deleted: {why}")))?;
        // SAFETY: the caller's promise.
        if let Some(count) = unsafe { count.as_mut() } {
            *count = forgotten;
        }
        Ok(())
    })
}
