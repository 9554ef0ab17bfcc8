//! The C interface: the only `extern "C"` of the library. `include/giant_kitten.h` is its face and its documentation.
//!
//! No panic crosses it, and no lock is held when it returns or calls back.

mod behind;
mod claims;
mod filter;
mod fork;
mod idle;
mod map;
mod python;
mod snapshot;
mod stats;
mod throw;
mod who;

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use parking_lot::Mutex;

use crate::allocator::{Activation, Allocator, Options, forget};
use crate::core::history::{Names, Recording};
use crate::core::placement::SortBy;
use crate::core::{Reserve, Tier, parse_size, show_size};
use crate::driver::{self, Stream};
use crate::error::Error;
use crate::heap::{ContextKind, Moved, PoolId};

pub use map::json as map_json;
pub use stats::{GkStats, STATS_VERSION};

/// The environment variable with the options.
pub const VARIABLE: &str = "GIANT_KITTEN";
/// The environment variable that says what to log: `error`, `warn` (the default), `info`, `debug`.
pub const LOG_VARIABLE: &str = "GIANT_KITTEN_LOG";

/// How many threads prefer a tier; malloc looks here first.
static PREFERENCES: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static PREFERENCE: Cell<Option<Tier>> = const { Cell::new(None) };
}

/// What a call answers: done.
pub const GK_OK: c_int = 0;
/// Neither tier has room.
pub const GK_OUT_OF_MEMORY: c_int = 1;
/// An argument cannot be.
pub const GK_ARGUMENT: c_int = 2;
/// An address is not the start of a live block.
pub const GK_NOT_ALLOCATED: c_int = 3;
/// Not now.
pub const GK_REFUSED: c_int = 4;
/// The driver failed.
pub const GK_DRIVER: c_int = 5;
/// A fault of giant-kitten's own.
pub const GK_INTERNAL: c_int = 6;
/// Blocks that exist cannot change tier on this driver, and some ought to. Everything else that was asked for is done.
pub const GK_IMMOVABLE: c_int = 7;

/// The card's own memory.
pub const GK_DEDICATED: c_int = 0;
/// Host memory mapped for the GPU.
pub const GK_SHARED: c_int = 1;

/// The allocator that the functions below use. Those it pointed to before are leaked, so a reference stays good for ever.
static CURRENT: AtomicPtr<Allocator> = AtomicPtr::new(std::ptr::null_mut());
/// Held while the allocator is made; holds the options given by `gk_configure` before.
static STARTING: Mutex<Option<Options>> = Mutex::new(None);

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

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
fn current() -> Result<&'static Allocator, Error> {
    // SAFETY: the pointer is null or was leaked by `install` or `start`.
    match unsafe { CURRENT.load(Ordering::Acquire).as_ref() } {
        Some(allocator) => Ok(allocator),
        None => start(),
    }
}

/// The allocator, if it has been made: who only asks, or takes back, begins nothing.
#[inline]
fn started() -> Option<&'static Allocator> {
    // SAFETY: as in `current`.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// Asks the allocator about a device; where there is none yet, nothing is in use.
fn ask<T: Default>(device: c_int, question: impl FnOnce(&Allocator, usize) -> Result<T, Error>) -> Result<T, Error> {
    let device = device_number(device)?;
    started().map_or_else(|| Ok(T::default()), |allocator| question(allocator, device))
}

/// The allocator, if it can have given out the block at an address.
fn owner_of(address: *const c_void) -> Result<&'static Allocator, Error> {
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
    fork::watch();
    CURRENT.store(std::ptr::from_ref(allocator).cast_mut(), Ordering::Release);
    if let Some(interval) = allocator.options().idle {
        idle::watch(allocator, interval);
    }
    Ok(allocator)
}

/// The options that the allocator would be made with now.
fn configured() -> Result<Options, Error> {
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
    // The thread may be past the end of its locals; then there is nobody left to read the text.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
}

/// Runs what a function does; turns an error or a panic into its code, and remembers the text.
#[inline]
fn guarded<T>(run: impl FnOnce() -> Result<T, Error>) -> Result<T, c_int> {
    // The error becomes a code inside: what has to be carried out of `catch_unwind` is two words.
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
    let text = format!("a fault of giant-kitten's own, please report it: {why}");
    log::error!("{text}");
    remember(&text);
    GK_INTERNAL
}

fn status(run: impl FnOnce() -> Result<(), Error>) -> c_int {
    guarded(run).map_or_else(|code| code, |()| GK_OK)
}

#[inline]
fn device_number(device: c_int) -> Result<usize, Error> {
    usize::try_from(device).map_err(|_| Error::Argument(format!("there is no device {device}")))
}

#[inline]
fn stream_of(stream: *mut c_void) -> Stream {
    Stream(stream as u64)
}

#[inline]
fn give(size: usize, device: c_int, stream: *mut c_void) -> Result<u64, Error> {
    let allocator = current()?;
    let device = device_number(device)?;
    if allocator.is_observed() {
        let who = who::asks();
        let result = give_by(allocator, size, device, stream);
        allocator.record_malloc(&result, size, device, stream_of(stream), who);
        return result;
    }
    give_by(allocator, size, device, stream)
}

#[inline]
fn give_by(allocator: &Allocator, size: usize, device: usize, stream: *mut c_void) -> Result<u64, Error> {
    if PREFERENCES.load(Ordering::Relaxed) != 0
        && let Some(Tier::Shared) = PREFERENCE.try_with(Cell::get).unwrap_or(None)
    {
        return allocator.malloc_shared(size, device, stream_of(stream));
    }
    allocator.malloc(size, device, stream_of(stream))
}

/// Gives out `size` bytes on `device` for `stream`. Null for size 0; null with `gk_last_error` set if there is none to give.
#[unsafe(no_mangle)]
pub extern "C" fn gk_malloc(size: usize, device: c_int, stream: *mut c_void) -> *mut c_void {
    match guarded(|| give(size, device, stream)) {
        Ok(address) => address as *mut c_void,
        Err(code) => refuse(code),
    }
}

#[cold]
fn refuse(code: c_int) -> *mut c_void {
    if code != GK_OUT_OF_MEMORY {
        let _ = LAST_ERROR.try_with(|last| log::error!("gk_malloc: {}", last.borrow().to_string_lossy()));
    }
    std::ptr::null_mut()
}

/// [`gk_malloc`] for PyTorch, which does not look at a null: what cannot be given is thrown, out of memory as `torch.OutOfMemoryError`.
/// Null only for size 0, and in a process without a PyTorch to throw at.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn gk_torch_malloc(size: usize, device: c_int, stream: *mut c_void) -> *mut c_void {
    behind::asked(size);
    match guarded(|| give(size, device, stream)) {
        Ok(address) => address as *mut c_void,
        Err(code) => throw_last(code),
    }
}

/// No lock is held here, and nothing is left to be destroyed in this frame when the exception leaves it.
#[cold]
fn throw_last(code: c_int) -> *mut c_void {
    let exception = if code == GK_OUT_OF_MEMORY { throw::Exception::OutOfMemory } else { throw::Exception::Error };
    // SAFETY: the text is this thread's and stays until its next error; it is copied before the exception flies.
    throw::throw(exception, unsafe { CStr::from_ptr(gk_last_error()) });
    refuse(code)
}

/// Takes a block back. Null is nothing. `size` is not needed: the allocator keeps its own account.
#[unsafe(no_mangle)]
pub extern "C" fn gk_free(ptr: *mut c_void, _size: usize, device: c_int, stream: *mut c_void) {
    if ptr.is_null() {
        return;
    }
    let device = usize::try_from(device).unwrap_or(usize::MAX);
    hook("gk_free", || {
        let allocator = owner_of(ptr)?;
        if allocator.is_observed() {
            allocator.recorded_free(ptr as u64, stream_of(stream), who::gives_back())?;
        } else {
            allocator.free(ptr as u64, device, stream_of(stream))?;
        }
        if behind::is_behind() { allocator.give_back(device) } else { Ok(()) }
    });
}

/// Runs a hook, which has no way to answer: an error is logged. None that only says that the process is at its end, or is a child
/// that cannot use the GPU: then there is nothing left to do.
#[inline]
fn hook(call: &str, run: impl FnOnce() -> Result<(), Error>) {
    let mut quiet = false;
    let run =
        || run().inspect_err(|error| quiet = fork::is_child() || matches!(error, Error::Driver(why) if why.is_gone()));
    if guarded(run).is_err() && !quiet {
        complain(call);
    }
}

#[cold]
fn complain(call: &str) {
    let _ = LAST_ERROR.try_with(|last| log::error!("{call}: {}", last.borrow().to_string_lossy()));
}

/// What [`gk_record`] asked for: a recording may be wished for before there is anything to record.
static RECORDED: Mutex<Recording> = Mutex::new(Recording { most: 0, names: Names::None, skipped: 0 });

/// Records what happens, the last `events` of each device, and the stacks of Python that lead there, as `stacks` says; 0 ends it. What
/// was recorded before is kept, as far as there is room. `skipped` has a bit for each action that is left out.
///
/// Once it has returned, no stack is asked for that it does not want.
#[unsafe(no_mangle)]
pub extern "C" fn gk_record(events: usize, stacks: c_int, skipped: u32) -> c_int {
    status(|| {
        let names = match stacks {
            0 => Names::None,
            1 => Names::OfBlocks,
            2 => Names::OfRequests,
            3 => Names::OfAll,
            _ => return Err(Error::Argument(format!("gk_record: stacks is 0 to 3, not {stacks}"))),
        };
        let recording = Recording { most: events, names: if events > 0 { names } else { Names::None }, skipped };
        let mut recorded = RECORDED.lock();
        *recorded = recording;
        who::ask_for(recording.names);
        started().into_iter().for_each(|allocator| allocator.record(recording));
        drop(recorded);
        who::wait_for_answers();
        Ok(())
    })
}

/// What was recorded of a device, and the stacks of those who did it, as JSON; see [`gk_stats_json`] for the buffer.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_history_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| Ok(snapshot::history(&ask(device, Allocator::history)?)));
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// PyTorch's init hook: the number of devices. Heaps are made at their first use.
#[unsafe(no_mangle)]
pub extern "C" fn gk_init(_device_count: c_int) {
    behind::is_in_front();
}

/// PyTorch's reset hook (`empty_cache`): at any time, beside any work. Moves nothing that lives.
#[unsafe(no_mangle)]
pub extern "C" fn gk_reset() {
    hook("gk_reset", || started().map_or(Ok(()), Allocator::reset));
}

/// PyTorch's memory fraction hook.
#[unsafe(no_mangle)]
pub extern "C" fn gk_memory_fraction(fraction: f64, device: c_int) {
    hook("gk_memory_fraction", || current()?.set_memory_fraction(device_number(device)?, fraction));
}

/// PyTorch's base allocation hook: start of the block that holds `ptr`, its length in `size` unless null. Null for a foreign pointer.
///
/// # Safety
/// `size` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_base_alloc(ptr: *mut c_void, size: *mut usize) -> *mut c_void {
    match guarded(|| owner_of(ptr)?.extent(ptr as u64)) {
        Ok((start, length)) => {
            // SAFETY: the caller's promise.
            if let Some(size) = unsafe { size.as_mut() } {
                *size = length as usize;
            }
            start as *mut c_void
        }
        Err(_) => std::ptr::null_mut(),
    }
}

/// PyTorch's record stream hook: `stream` uses the block that holds `ptr`, too.
#[unsafe(no_mangle)]
pub extern "C" fn gk_record_stream(ptr: *mut c_void, stream: *mut c_void) {
    if ptr.is_null() {
        return;
    }
    hook("gk_record_stream", || owner_of(ptr)?.record_stream(ptr as u64, stream_of(stream)));
}

/// PyTorch's hook at the begin of a graph capture: what `filter` accepts comes from the pool. A null filter accepts every stream.
///
/// # Safety
/// `filter` is null or points to a `std::function<bool(cudaStream_t)>` of libstdc++.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_begin_allocate_to_pool(device: c_int, pool_a: u64, pool_b: u64, filter: *const c_void) {
    hook("gk_begin_allocate_to_pool", || {
        // SAFETY: the caller's promise.
        let filter = unsafe { filter::Filter::copy(filter) };
        // Who accepts every stream without a look captures none.
        let kind = filter.as_ref().map_or(ContextKind::Region, filter::Filter::kind);
        let accepts = move |stream| filter.as_ref().is_none_or(|filter| filter.accepts(stream));
        current()?.begin_pool_of_kind(device_number(device)?, PoolId(pool_a, pool_b), kind, accepts)
    });
}

/// PyTorch's hook at the end of a graph capture.
#[unsafe(no_mangle)]
pub extern "C" fn gk_end_allocate_to_pool(device: c_int, pool_a: u64, pool_b: u64) {
    hook("gk_end_allocate_to_pool", || current()?.end_pool(device_number(device)?, PoolId(pool_a, pool_b)));
}

/// [`gk_begin_allocate_to_pool`] of a PyTorch that names the one stream it captures: what is allocated on it comes from the pool.
#[unsafe(no_mangle)]
pub extern "C" fn gk_begin_allocate_stream_to_pool(device: c_int, stream: *mut c_void, pool_a: u64, pool_b: u64) {
    hook("gk_begin_allocate_stream_to_pool", || {
        current()?.begin_stream_pool(device_number(device)?, stream_of(stream), PoolId(pool_a, pool_b))
    });
}

/// [`gk_end_allocate_to_pool`] of a PyTorch that names the stream.
#[unsafe(no_mangle)]
pub extern "C" fn gk_end_allocate_stream_to_pool(device: c_int, stream: *mut c_void) {
    hook("gk_end_allocate_stream_to_pool", || current()?.end_stream_pool(device_number(device)?, stream_of(stream)));
}

/// PyTorch's hook when a graph that used the pool is gone.
#[unsafe(no_mangle)]
pub extern "C" fn gk_release_pool(device: c_int, pool_a: u64, pool_b: u64) {
    hook("gk_release_pool", || current()?.release_pool(device_number(device)?, PoolId(pool_a, pool_b)));
}

/// Keeps a pool on all devices, as a `MemPool` does, from its first use there until [`gk_drop_pool`].
#[unsafe(no_mangle)]
pub extern "C" fn gk_keep_pool(pool_a: u64, pool_b: u64) -> c_int {
    status(|| {
        current()?.keep_pool(PoolId(pool_a, pool_b));
        Ok(())
    })
}

/// Ends what [`gk_keep_pool`] began. Unless somebody else holds the pool, it is gone, and what is idle in it goes back to the
/// driver.
#[unsafe(no_mangle)]
pub extern "C" fn gk_drop_pool(pool_a: u64, pool_b: u64) {
    hook("gk_drop_pool", || started().map_or(Ok(()), |allocator| allocator.drop_pool(PoolId(pool_a, pool_b))));
}

/// How many hold a pool on all devices: who keeps it, and those that began to allocate from it, less those that released it. 0
/// where there is no such pool.
#[unsafe(no_mangle)]
pub extern "C" fn gk_pool_holds(_device: c_int, pool_a: u64, pool_b: u64) -> u64 {
    let holds = guarded(|| Ok(started().map_or(0, |allocator| allocator.pool_holds(PoolId(pool_a, pool_b)))));
    holds.map_or(0, u64::from)
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

/// # Safety
/// `text` is null or a string.
unsafe fn text_of<'a>(text: *const c_char) -> Result<&'a str, Error> {
    if text.is_null() {
        return Err(Error::Argument("a text is missing: null was given".into()));
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| Error::Argument("a text is not UTF-8".into()))
}

/// A reserve that is found automatically.
pub const GK_AUTO: u64 = u64::MAX;

/// What an action is to do, in C.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GkActivation {
    /// Dedicated bytes left to scratch, or [`GK_AUTO`].
    pub reserve: u64,
    /// Dedicated bytes withheld.
    pub persist: u64,
    /// Not 0: large blocks first.
    pub sort_reversed: c_int,
    /// Not 0: model blocks not before the others.
    pub ignore_model: c_int,
    /// What blocks are sorted by: 0 for their size, 1 for how often they are read, 2 for when they were last read.
    pub sort_by: c_int,
}

impl From<Activation> for GkActivation {
    fn from(from: Activation) -> Self {
        GkActivation {
            reserve: from.reserve.fixed().unwrap_or(GK_AUTO),
            persist: from.persist,
            sort_reversed: c_int::from(from.sort_reversed),
            ignore_model: c_int::from(from.ignore_model),
            sort_by: from.sort_by as c_int,
        }
    }
}

impl GkActivation {
    /// # Safety
    /// `given` is null or points to a struct.
    unsafe fn or_options(given: *const GkActivation, allocator: &Allocator) -> Result<Activation, Error> {
        // SAFETY: the caller's promise.
        Ok(match unsafe { given.as_ref() } {
            None => allocator.options().into(),
            Some(given) => Activation {
                reserve: if given.reserve == GK_AUTO { Reserve::Auto } else { Reserve::Fixed(given.reserve) },
                persist: given.persist,
                sort_reversed: given.sort_reversed != 0,
                ignore_model: given.ignore_model != 0,
                sort_by: SortBy::ALL.into_iter().find(|by| *by as c_int == given.sort_by).ok_or_else(|| {
                    Error::Argument(format!(
                        "sort_by {} is none of GK_BY_SIZE, GK_BY_READS, GK_BY_RECENCY",
                        given.sort_by
                    ))
                })?,
            },
        })
    }
}

/// Puts a device to use, as its first allocation would: a context, and the backing of the reserve.
#[unsafe(no_mangle)]
pub extern "C" fn gk_open(device: c_int) -> c_int {
    status(|| current()?.open(device_number(device)?))
}

/// What the options say of an activation: the start for whoever wants to change a part.
///
/// # Safety
/// `activation` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_defaults(activation: *mut GkActivation) -> c_int {
    status(|| {
        let options: Activation = match started() {
            Some(allocator) => allocator.options().into(),
            None => (&configured()?).into(),
        };
        // SAFETY: the caller's promise.
        match unsafe { activation.as_mut() } {
            Some(activation) => *activation = options.into(),
            None => return Err(Error::Argument("gk_defaults needs a struct to write to: null was given".into())),
        }
        Ok(())
    })
}

/// Places everything anew and freezes. Null takes the options. Nobody may launch work meanwhile.
///
/// # Safety
/// `activation` is null or points to a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_activate(device: c_int, activation: *const GkActivation) -> c_int {
    status(|| {
        let allocator = current()?;
        // SAFETY: the caller's promise.
        let activation = unsafe { GkActivation::or_options(activation, allocator) }?;
        let moved = allocator.activate(device_number(device)?, &activation)?;
        log::info!(
            "device {device} active: reserve {}, persist {}; {} promoted, {} demoted",
            activation.reserve,
            show_size(activation.persist),
            show_size(moved.promoted),
            show_size(moved.demoted)
        );
        all_moved(moved)
    })
}

/// An action is done; where blocks had to stay that ought to have moved, that is its answer.
fn all_moved(moved: Moved) -> Result<(), Error> {
    match moved.stayed {
        0 => Ok(()),
        bytes => Err(Error::Immovable { bytes }),
    }
}

/// Goes back to loading: thaws, and keeps reserve and persist from what is allocated until the next action. Null takes the options. Nobody
/// may launch work meanwhile.
///
/// # Safety
/// `activation` is null or points to a struct, of which only reserve and persist count.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_begin_loading(device: c_int, activation: *const GkActivation) -> c_int {
    status(|| {
        let allocator = current()?;
        // SAFETY: the caller's promise.
        let activation = unsafe { GkActivation::or_options(activation, allocator) }?;
        allocator.begin_loading(device_number(device)?, activation.reserve, activation.persist)
    })
}

/// The live blocks of a device in the order in which an action would let them claim dedicated memory, as JSON; see [`gk_stats_json`] for
/// the buffer.
///
/// # Safety
/// `activation` is null or points to a struct, of which only the order counts; `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_claims_json(
    device: c_int,
    activation: *const GkActivation,
    buffer: *mut c_char,
    length: usize,
) -> usize {
    let text = guarded(|| {
        let claims = ask(device, |allocator, device| {
            // SAFETY: the caller's promise.
            let order = unsafe { GkActivation::or_options(activation, allocator) }?.order();
            allocator.claims(device, order)
        })?;
        Ok(claims::json(&claims))
    });
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// A safe point: nobody launches work until this returns. `kind` names the work that comes next, in any words that are the same for
/// the same work; null where nobody knows. Moves memory in the automatic mode, if that pays.
///
/// # Safety
/// `kind` is null or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_safe_point(device: c_int, kind: *const c_char) -> c_int {
    status(|| {
        // SAFETY: the caller's promise.
        let kind = if kind.is_null() { "" } else { unsafe { text_of(kind) }? };
        ask(device, |allocator, device| allocator.safe_point(device, kind)).map(drop)
    })
}

/// A piece of work of this thread begins on a device, which may launch without allocating: no safe point of another thread
/// moves anything before [`gk_end_work`]. Pieces may lie inside each other.
#[unsafe(no_mangle)]
pub extern "C" fn gk_begin_work(device: c_int) -> c_int {
    status(|| ask(device, Allocator::begin_work))
}

/// The piece of work that this thread began last on a device has ended.
#[unsafe(no_mangle)]
pub extern "C" fn gk_end_work(device: c_int) -> c_int {
    status(|| ask(device, Allocator::end_work))
}

/// This thread launches nothing on a device before it allocates, frees or begins a piece of work there again.
#[unsafe(no_mangle)]
pub extern "C" fn gk_rest(device: c_int) -> c_int {
    status(|| ask(device, Allocator::rest))
}

/// The caller's word, good for the next safe point, that no other thread launches work on a device. Those inside a piece of
/// work are excepted.
#[unsafe(no_mangle)]
pub extern "C" fn gk_vouch(device: c_int) -> c_int {
    status(|| ask(device, Allocator::vouch))
}

/// Tells the automatic mode that the work from the last safe point to the next one reads `bytes` of the block that holds `ptr`.
#[unsafe(no_mangle)]
pub extern "C" fn gk_touch(ptr: *const c_void, bytes: usize) -> c_int {
    status(|| owner_of(ptr)?.touch(ptr as u64, bytes as u64))
}

/// Places everything anew without reserve and persist, and thaws. Null takes the options' order. Nobody may launch work meanwhile.
///
/// # Safety
/// `activation` is null or points to a struct, of which only the order counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_disable(device: c_int, activation: *const GkActivation) -> c_int {
    status(|| {
        let allocator = current()?;
        // SAFETY: the caller's promise.
        let order = unsafe { GkActivation::or_options(activation, allocator) }?.order();
        all_moved(allocator.disable(device_number(device)?, order)?)
    })
}

/// Moves everything to the shared tier and gives dedicated memory back. Nobody may launch work meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn gk_free_vram(device: c_int) -> c_int {
    status(|| all_moved(current()?.free_vram(device_number(device)?)?))
}

/// Says whether the block that holds `ptr` belongs to the model.
#[unsafe(no_mangle)]
pub extern "C" fn gk_mark(ptr: *mut c_void, model: c_int) -> c_int {
    status(|| owner_of(ptr)?.mark(ptr as u64, model != 0))
}

/// No tier, where one may be missing.
pub const GK_NO_TIER: c_int = -1;

fn pin_number(pin: Option<Tier>) -> c_int {
    pin.map_or(GK_NO_TIER, |tier| tier as c_int)
}

/// Pins the block that holds `ptr` to a tier, or unpins it (-1): no placement moves it from there. Nothing moves now.
#[unsafe(no_mangle)]
pub extern "C" fn gk_pin(ptr: *mut c_void, tier: c_int) -> c_int {
    status(|| {
        let tier = if tier == GK_NO_TIER { None } else { Some(tier_of(tier)?) };
        owner_of(ptr)?.pin_to(ptr as u64, tier)
    })
}

/// The tier that the block that holds `ptr` is pinned to; -1 for none, and for a foreign pointer.
#[unsafe(no_mangle)]
pub extern "C" fn gk_pinned(ptr: *mut c_void) -> c_int {
    guarded(|| owner_of(ptr)?.pin_of(ptr as u64)).map_or(GK_NO_TIER, pin_number)
}

/// Bytes of the block that holds `ptr` in each tier.
///
/// # Safety
/// `dedicated` and `shared` are null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_tier(ptr: *mut c_void, dedicated: *mut u64, shared: *mut u64) -> c_int {
    status(|| {
        let bytes = owner_of(ptr)?.residency(ptr as u64)?;
        for (tier, to) in [(Tier::Dedicated, dedicated), (Tier::Shared, shared)] {
            // SAFETY: the caller's promise.
            if let Some(to) = unsafe { to.as_mut() } {
                *to = bytes[tier];
            }
        }
        Ok(())
    })
}

fn tier_of(tier: c_int) -> Result<Tier, Error> {
    match tier {
        GK_DEDICATED => Ok(Tier::Dedicated),
        GK_SHARED => Ok(Tier::Shared),
        _ => Err(Error::Argument(format!("there is no tier {tier}: 0 is dedicated, 1 is shared"))),
    }
}

/// Moves the block that holds `ptr` to a tier: 0 dedicated, 1 shared. Nobody may launch work meanwhile.
#[unsafe(no_mangle)]
pub extern "C" fn gk_move(ptr: *mut c_void, tier: c_int) -> c_int {
    status(|| {
        let tier = tier_of(tier)?;
        owner_of(ptr)?.move_block(ptr as u64, tier).map(drop)
    })
}

/// Where the calling thread's allocations go from now on: 1 to the shared tier as long as that has room, anything else as always.
/// Returns what was so before.
#[unsafe(no_mangle)]
pub extern "C" fn gk_prefer(tier: c_int) -> c_int {
    let preference = (tier == GK_SHARED).then_some(Tier::Shared);
    match (PREFERENCE.try_with(|kept| kept.replace(preference)).unwrap_or(None), preference) {
        (None, Some(_)) => {
            PREFERENCES.fetch_add(1, Ordering::Relaxed);
            GK_DEDICATED
        }
        (Some(_), None) => {
            PREFERENCES.fetch_sub(1, Ordering::Relaxed);
            GK_SHARED
        }
        (before, _) => {
            if before.is_some() {
                GK_SHARED
            } else {
                GK_DEDICATED
            }
        }
    }
}

/// Reads a size as in the options: a number with a unit, or bytes.
///
/// # Safety
/// `text` is null or a string; `bytes` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_parse_size(text: *const c_char, bytes: *mut u64) -> c_int {
    status(|| {
        // SAFETY: the caller's promise.
        let (text, bytes) = unsafe { (text_of(text)?, bytes.as_mut()) };
        let size = parse_size(text).map_err(Error::Argument)?;
        match bytes {
            Some(bytes) => *bytes = size,
            None => return Err(Error::Argument("gk_parse_size needs a place for the answer: null was given".into())),
        }
        Ok(())
    })
}

/// The statistics of a device, as far as the caller's struct goes.
///
/// # Safety
/// `stats` points to a struct whose first field says its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_stats(device: c_int, stats: *mut GkStats) -> c_int {
    status(|| {
        if stats.is_null() {
            return Err(Error::Argument("gk_stats needs a struct to write to: null was given".into()));
        }
        // SAFETY: the caller's promise; the size is the first field of every version.
        let known = unsafe { stats.cast::<u32>().read() } as usize;
        if known < 8 {
            return Err(Error::Argument(format!(
                "gk_stats: the field \"size\" says {known}; set it to sizeof(struct gk_stats) before the call"
            )));
        }
        let (counted, splits) = (ask(device, Allocator::stats)?, ask(device, Allocator::splits)?);
        let mut full = GkStats::of(&counted, &splits);
        let length = known.min(size_of::<GkStats>());
        full.size = length as u32;
        // SAFETY: the caller's struct is `known` bytes long, ours is no shorter than `length`.
        unsafe { std::ptr::copy_nonoverlapping((&raw const full).cast::<u8>(), stats.cast::<u8>(), length) };
        Ok(())
    })
}

/// The statistics of a device as JSON. Returns the bytes needed with the end, or 0 after an error; writes only if `length` is enough.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_stats_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| {
        let (stats, splits) = (ask(device, Allocator::stats)?, ask(device, Allocator::splits)?);
        let info = ask(device, Allocator::device_info)?;
        Ok(stats::json(&stats, &splits, info.as_ref(), &ask(device, Allocator::reserve_reason)?))
    });
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// What can be had of a tier of a device now, and what it has in all. Either may be null. Asks the driver, and looks at a device
/// that is not in use without putting it to use.
///
/// # Safety
/// `free` and `total` are null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_memory_info(device: c_int, tier: c_int, free: *mut u64, total: *mut u64) -> c_int {
    status(|| {
        let tier = tier_of(tier)?;
        let info = current()?.memory_info(device_number(device)?)?;
        for (bytes, to) in [(info.free[tier], free), (info.total[tier], total)] {
            // SAFETY: the caller's promise.
            if let Some(to) = unsafe { to.as_mut() } {
                *to = bytes;
            }
        }
        Ok(())
    })
}

/// What a device is found to be and would have, as JSON, without putting it to use; see [`gk_stats_json`] for the buffer.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_device_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| Ok(stats::device_json(&current()?.look_at(device_number(device)?)?)));
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// Every segment and block of a device, and the stacks of those who asked for what lives, as JSON; see [`gk_stats_json`] for the buffer.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_snapshot_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| {
        Ok({
            let (segments, askers) = ask(device, Allocator::snapshot)?;
            snapshot::json(&segments, &askers)
        })
    });
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// The memory map of a device as JSON; see [`gk_stats_json`] for the buffer.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_map_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| Ok(map::json(&ask(device, Allocator::map)?)));
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// Writes a text where it fits; returns the bytes needed with the end, or 0 after an error.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
unsafe fn write_text(text: Result<String, c_int>, buffer: *mut c_char, length: usize) -> usize {
    let Ok(text) = text else { return 0 };
    let needed = text.len() + 1;
    if !buffer.is_null() && length >= needed {
        // SAFETY: the caller's promise; `needed` fits.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), buffer, text.len());
            buffer.add(text.len()).write(0);
        }
    }
    needed
}

/// Forgets the peaks of a device.
#[unsafe(no_mangle)]
pub extern "C" fn gk_reset_peaks(device: c_int) -> c_int {
    status(|| ask(device, Allocator::reset_peaks))
}

/// Begins anew to count on a device what only ever grows.
#[unsafe(no_mangle)]
pub extern "C" fn gk_reset_totals(device: c_int) -> c_int {
    status(|| ask(device, Allocator::reset_totals))
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

/// The text of the last error on this thread; empty if there was none. Good until the next call on this thread.
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
