//! Pinned host memory that the device accesses at the host's address.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kitten_sim::code;

use super::contexts::device_of_context;
use crate::answer::{answer, put};
use crate::refusal::{Result, refuse};

const PORTABLE: c_uint = 1;
const DEVICE_MAP: c_uint = 2;
const WRITE_COMBINED: c_uint = 4;

/// Memory of programs that they have pinned where it lies: by address, its length.
static REGISTERED: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

fn registered() -> MutexGuard<'static, BTreeMap<usize, usize>> {
    REGISTERED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pins existing host memory.
pub(crate) fn register(pointer: usize, size: usize) -> Result {
    if pointer == 0 || size == 0 {
        return refuse(code::INVALID_VALUE, format!("{size} bytes at {pointer:#x} are no memory"));
    }
    registered().insert(pointer, size);
    Ok(())
}

/// Unpins it.
pub(crate) fn unregister(pointer: usize) -> Result {
    match registered().remove(&pointer) {
        Some(_) => Ok(()),
        None => refuse(code::INVALID_VALUE, format!("{pointer:#x} is not pinned")),
    }
}

/// Whether a pointer leads to memory that a program has pinned where it lies.
pub(crate) fn is_registered(pointer: usize) -> bool {
    holds(&registered(), pointer)
}

/// Whether a pointer leads into one of some ranges, which are given by address with their lengths.
pub(crate) fn holds(ranges: &BTreeMap<usize, usize>, pointer: usize) -> bool {
    ranges.range(..=pointer).next_back().is_some_and(|(start, size)| pointer < start + size)
}

/// Pins host memory, accounted to the current device.
///
/// # Safety
/// `memory` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(memory: *mut *mut c_void, size: usize, flags: c_uint) -> c_int {
    answer(|machine| {
        if flags & !(PORTABLE | DEVICE_MAP | WRITE_COMBINED) != 0 {
            return refuse(code::INVALID_VALUE, format!("the flags {flags} do not exist"));
        }
        let device = device_of_context()?;
        if !machine.pinned {
            return refuse(code::NOT_SUPPORTED, "this driver pins no host memory for the device");
        }
        let address = machine.gpu.pin(device, size as u64)?;
        // SAFETY: the caller's promise.
        unsafe { put(memory, address as *mut c_void) }
    })
}

/// Pins host memory, accounted to the current device.
///
/// # Safety
/// `memory` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(memory: *mut *mut c_void, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cuMemHostAlloc(memory, size, 0) }
}

/// Frees pinned host memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(memory: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        Ok(machine.gpu.unpin(memory as u64)?)
    })
}

/// The device's address of pinned host memory: the host's.
///
/// # Safety
/// `address` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetDevicePointer_v2(address: *mut u64, memory: *mut c_void, flags: c_uint) -> c_int {
    answer(|machine| {
        machine.gpu.note("cuMemHostGetDevicePointer")?;
        device_of_context()?;
        if flags != 0 || !machine.gpu.is_pinned(memory as u64) {
            return refuse(code::INVALID_VALUE, format!("{memory:p} is not the start of pinned memory"));
        }
        // SAFETY: the caller's promise.
        unsafe { put(address, memory as u64) }
    })
}

/// Pins existing host memory.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(memory: *mut c_void, size: usize, _flags: c_uint) -> c_int {
    answer(|_| {
        device_of_context()?;
        register(memory as usize, size)
    })
}

/// Unpins it.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(memory: *mut c_void) -> c_int {
    answer(|_| {
        device_of_context()?;
        unregister(memory as usize)
    })
}
