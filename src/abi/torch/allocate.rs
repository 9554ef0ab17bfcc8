//! Allocation and free: the functions that PyTorch calls for every tensor.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::abi::answer::{GK_OUT_OF_MEMORY, complain, gk_last_error, guarded, hook};
use crate::abi::arguments::{GK_DEDICATED, GK_SHARED, device_number, stream_of};
use crate::abi::stacks;
use crate::abi::start::{current, owner_of};
use crate::allocator::Allocator;
use crate::core::Tier;
use crate::error::Error;

use super::{behind, throw};

/// The number of threads that prefer a tier. Allocations look here before the thread's own
/// preference.
static PREFERENCES: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static PREFERENCE: Cell<Option<Tier>> = const { Cell::new(None) };
}

#[inline]
fn allocate(size: usize, device: c_int, stream: *mut c_void) -> Result<u64, Error> {
    let allocator = current()?;
    let device = device_number(device)?;
    if allocator.is_observed() {
        let who = stacks::of_malloc();
        let result = allocate_by(allocator, size, device, stream);
        allocator.record_malloc(&result, size, device, stream_of(stream), who);
        return result;
    }
    allocate_by(allocator, size, device, stream)
}

#[inline]
fn allocate_by(allocator: &Allocator, size: usize, device: usize, stream: *mut c_void) -> Result<u64, Error> {
    if PREFERENCES.load(Ordering::Relaxed) != 0
        && let Some(Tier::Shared) = PREFERENCE.try_with(Cell::get).unwrap_or(None)
    {
        return allocator.malloc_shared(size, device, stream_of(stream));
    }
    allocator.malloc(size, device, stream_of(stream))
}

/// Allocates `size` bytes on `device` for `stream`. Returns null for size 0, and null with
/// `gk_last_error` set after an error.
#[unsafe(no_mangle)]
pub extern "C" fn gk_malloc(size: usize, device: c_int, stream: *mut c_void) -> *mut c_void {
    match guarded(|| allocate(size, device, stream)) {
        Ok(address) => address as *mut c_void,
        Err(code) => refuse(code),
    }
}

#[cold]
fn refuse(code: c_int) -> *mut c_void {
    if code != GK_OUT_OF_MEMORY {
        complain("gk_malloc");
    }
    std::ptr::null_mut()
}

/// [`gk_malloc`] for PyTorch, which does not check for null: errors are thrown as PyTorch's
/// exceptions, out of memory as `torch.OutOfMemoryError`. Returns null only for size 0, and after
/// an error in a process without PyTorch.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn gk_torch_malloc(size: usize, device: c_int, stream: *mut c_void) -> *mut c_void {
    behind::asked(size);
    match guarded(|| allocate(size, device, stream)) {
        Ok(address) => address as *mut c_void,
        Err(code) => throw_last(code),
    }
}

/// Throws the last error of this thread. No lock is held here, and this frame has nothing to
/// destroy when the exception leaves it.
#[cold]
fn throw_last(code: c_int) -> *mut c_void {
    let exception = if code == GK_OUT_OF_MEMORY { throw::Exception::OutOfMemory } else { throw::Exception::Error };
    // SAFETY: the text lives until this thread's next error, and the exception copies it.
    throw::throw(exception, unsafe { CStr::from_ptr(gk_last_error()) });
    refuse(code)
}

/// Frees a block. Does nothing for null. `size` is ignored: the allocator knows it.
#[unsafe(no_mangle)]
pub extern "C" fn gk_free(ptr: *mut c_void, _size: usize, device: c_int, stream: *mut c_void) {
    if ptr.is_null() {
        return;
    }
    let device = usize::try_from(device).unwrap_or(usize::MAX);
    hook("gk_free", || {
        let allocator = owner_of(ptr)?;
        if allocator.is_observed() {
            allocator.recorded_free(ptr as u64, stream_of(stream), stacks::of_free())?;
        } else {
            allocator.free(ptr as u64, device, stream_of(stream))?;
        }
        if behind::is_behind() { allocator.give_back(device) } else { Ok(()) }
    });
}

/// Sets the tier that the calling thread's allocations prefer: [`GK_SHARED`] while that tier has
/// room, or [`GK_DEDICATED`] for the usual order. Returns the setting before.
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
