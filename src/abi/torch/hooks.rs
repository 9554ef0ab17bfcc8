//! PyTorch's hooks other than those of memory pools.

use std::ffi::{c_int, c_void};

use crate::abi::answer::{guarded, hook};
use crate::abi::arguments::{device_number, stream_of};
use crate::abi::start::{current, owner_of, started};
use crate::allocator::Allocator;

use super::behind;

/// PyTorch's init hook, with the number of devices. It creates nothing: heaps are created at their
/// first use.
#[unsafe(no_mangle)]
pub extern "C" fn gk_init(_device_count: c_int) {
    behind::is_in_front();
}

/// PyTorch's reset hook (`empty_cache`). It may be called at any time, also while work runs, and
/// moves no live block, unless the option `safe_points:empty_cache` makes it a safe point.
#[unsafe(no_mangle)]
pub extern "C" fn gk_reset() {
    hook("gk_reset", || started().map_or(Ok(()), Allocator::reset));
}

/// PyTorch's memory fraction hook: limits dedicated memory to this fraction, 0 to 1, of the card.
#[unsafe(no_mangle)]
pub extern "C" fn gk_memory_fraction(fraction: f64, device: c_int) {
    hook("gk_memory_fraction", || current()?.set_memory_fraction(device_number(device)?, fraction));
}

/// PyTorch's base allocation hook. Returns the start of the block that holds `ptr`, and stores its
/// length in `size` unless that is null. Returns null for a foreign pointer.
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

/// PyTorch's record stream hook: `stream` uses the block that holds `ptr`, as its own stream does.
#[unsafe(no_mangle)]
pub extern "C" fn gk_record_stream(ptr: *mut c_void, stream: *mut c_void) {
    if ptr.is_null() {
        return;
    }
    hook("gk_record_stream", || owner_of(ptr)?.record_stream(ptr as u64, stream_of(stream)));
}
