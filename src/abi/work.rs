//! Hints about work: safe points, and which threads may be launching.

use std::ffi::{c_char, c_int, c_void};

use crate::allocator::Allocator;

use super::answer::status;
use super::arguments::{device_number, text_of};
use super::start::{self, ask, owner_of};

/// A safe point: no thread launches work on the device until this returns. `kind` names the work
/// that comes next, by any text that is the same for the same work, or is null. The automatic mode
/// moves memory here if that pays.
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

/// The calling thread begins a piece of work on a device, in which it may launch without
/// allocating. No safe point of another thread moves anything before [`gk_end_work`]. Pieces may be
/// nested. A piece may begin before the device's first allocation, and does not put it to use.
#[unsafe(no_mangle)]
pub extern "C" fn gk_begin_work(device: c_int) -> c_int {
    status(|| start::begin_work(device_number(device)?))
}

/// The calling thread ends the piece of work that it began last on a device.
#[unsafe(no_mangle)]
pub extern "C" fn gk_end_work(device: c_int) -> c_int {
    status(|| start::end_work(device_number(device)?))
}

/// The calling thread launches nothing on a device before it next allocates, frees or begins a
/// piece of work there.
#[unsafe(no_mangle)]
pub extern "C" fn gk_rest(device: c_int) -> c_int {
    status(|| ask(device, Allocator::rest))
}

/// The caller promises for its next safe point that no other thread launches work on a device,
/// except threads inside a piece of work.
#[unsafe(no_mangle)]
pub extern "C" fn gk_vouch(device: c_int) -> c_int {
    status(|| ask(device, Allocator::vouch))
}

/// Reports to the automatic mode that the work between the last safe point and the next one reads
/// `bytes` of the block that holds `ptr`.
#[unsafe(no_mangle)]
pub extern "C" fn gk_touch(ptr: *const c_void, bytes: usize) -> c_int {
    status(|| owner_of(ptr)?.touch(ptr as u64, bytes as u64))
}
