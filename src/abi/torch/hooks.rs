//! The hooks that PyTorch calls beside allocation.

use std::ffi::{c_int, c_void};

use crate::abi::answer::{guarded, hook};
use crate::abi::arguments::{device_number, stream_of};
use crate::abi::start::{current, owner_of, started};
use crate::allocator::Allocator;

use super::behind;

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
