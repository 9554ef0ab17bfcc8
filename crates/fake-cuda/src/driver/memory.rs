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
