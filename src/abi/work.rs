//! What a program says of its work: safe points, and which threads launch what.

use std::ffi::{c_char, c_int, c_void};

use crate::allocator::Allocator;

use super::answer::status;
use super::arguments::text_of;
use super::start::{ask, owner_of};

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
