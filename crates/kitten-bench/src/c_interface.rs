//! The allocator's C interface, as its callers see it.

use std::ffi::{CStr, c_int, c_void};

use giant_kitten::abi;

/// Allocates a block; `None` where the allocator refuses, and [`last_error`] has the reason.
#[inline]
pub(crate) fn malloc(bytes: u64, device: usize, stream: u64) -> Option<u64> {
    let address = abi::gk_malloc(bytes as usize, device as c_int, stream as *mut c_void) as u64;
    (address != 0).then_some(address)
}

/// Frees a block.
#[inline]
pub(crate) fn free(address: u64, bytes: u64, device: usize, stream: u64) {
    abi::gk_free(address as *mut c_void, bytes as usize, device as c_int, stream as *mut c_void);
}

/// Why the last call of the C interface on this thread was refused.
pub(crate) fn last_error() -> String {
    // SAFETY: the text is valid until the next call of the interface on this thread.
    let text = unsafe { CStr::from_ptr(abi::gk_last_error()) };
    text.to_string_lossy().into_owned()
}
