//! Passes of work, whose weights are lent from the ring of copies.

use std::ffi::{c_char, c_int, c_void};

use crate::error::Error;
use crate::heap::Returned;

use super::answer::{guarded, status};
use super::arguments::{device_number, stream_of, text_of};
use super::start::{ask, started};

/// The weight was read, or was not used.
pub const GK_READ: c_int = Returned::Read as c_int;
/// The weight was written.
pub const GK_WRITTEN: c_int = Returned::Written as c_int;
/// Somebody holds the slot.
pub const GK_KEPT: c_int = Returned::Kept as c_int;
/// Nobody holds the slot any more that was kept.
pub const GK_RELEASED: c_int = Returned::Released as c_int;

/// A pass of work of a kind begins on a device, right after its safe point. Stores in `placement` 0
/// where nothing has to be lent in it, and otherwise a number that changes whenever other weights
/// should be lent; and in `all` whether every weight should be.
///
/// # Safety
/// `kind` is a C string; `placement` and `all` are null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_begin_pass(
    device: c_int,
    kind: *const c_char,
    stream: *mut c_void,
    placement: *mut u64,
    all: *mut c_int,
) -> c_int {
    status(|| {
        // SAFETY: the caller's promise.
        let kind = unsafe { text_of(kind) }?;
        let asked = ask(device, |allocator, device| allocator.begin_pass(device, kind, stream_of(stream)))?;
        // SAFETY: the caller's promise.
        if let Some(placement) = unsafe { placement.as_mut() } {
            *placement = asked.placement;
        }
        // SAFETY: the caller's promise.
        if let Some(all) = unsafe { all.as_mut() } {
            *all = c_int::from(asked.all);
        }
        Ok(())
    })
}

/// The weight at `ptr` is for the calling thread to use on a stream.
#[unsafe(no_mangle)]
pub extern "C" fn gk_adopt(device: c_int, ptr: *const c_void, stream: *mut c_void) -> c_int {
    status(|| ask(device, |allocator, device| allocator.adopt(device, ptr as u64, stream_of(stream))))
}

/// The weight of `bytes` at `ptr` is about to be used on a stream. Returns where to read it: a slot
/// of the ring, or `ptr` itself.
#[unsafe(no_mangle)]
pub extern "C" fn gk_lend(device: c_int, ptr: *const c_void, bytes: usize, stream: *mut c_void) -> *mut c_void {
    let lent = guarded(|| {
        let Some(allocator) = started() else { return Ok(ptr as u64) };
        allocator.lend(device_number(device)?, ptr as u64, bytes as u64, stream_of(stream))
    });
    lent.unwrap_or(ptr as u64) as *mut c_void
}

/// A weight was used on a stream; `lent` is what [`gk_lend`] returned.
#[unsafe(no_mangle)]
pub extern "C" fn gk_give_back(device: c_int, lent: *const c_void, stream: *mut c_void, how: c_int) -> c_int {
    status(|| {
        let how = match how {
            GK_READ => Returned::Read,
            GK_WRITTEN => Returned::Written,
            GK_KEPT => Returned::Kept,
            GK_RELEASED => Returned::Released,
            _ => {
                return Err(Error::argument(format!(
                    "a weight cannot be given back as {how}: 0 is read, 1 is written, 2 is kept, 3 is released"
                )));
            }
        };
        ask(device, |allocator, device| allocator.give_back_weight(device, lent as u64, stream_of(stream), how))
    })
}

/// The pass that began last on a device ends. `whole` is 0 where it did not come to its end.
#[unsafe(no_mangle)]
pub extern "C" fn gk_end_pass(device: c_int, whole: c_int) -> c_int {
    status(|| ask(device, |allocator, device| allocator.end_pass(device, whole != 0)))
}
