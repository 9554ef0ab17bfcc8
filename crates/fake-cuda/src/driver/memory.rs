//! Copies.

use std::ffi::{c_int, c_void};

use crate::answer::answer;
use crate::driver::device_of_context;

/// Copies within the device, in stream order.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, size: usize, stream: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        Ok(machine.gpu.copy_in_stream(stream as u64, to, from, size as u64)?)
    })
}

/// Copies from host memory, in stream order.
///
/// # Safety
/// `from` can be read for `size` bytes until the copy is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, size: usize, stream: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        // SAFETY: the caller's promise.
        Ok(unsafe { machine.gpu.upload(stream as u64, to, from.cast(), size as u64) }?)
    })
}

/// Copies to host memory, in stream order.
///
/// # Safety
/// `to` can be written for `size` bytes until the copy is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, size: usize, stream: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        // SAFETY: the caller's promise.
        Ok(unsafe { machine.gpu.download(stream as u64, to.cast(), from, size as u64) }?)
    })
}
