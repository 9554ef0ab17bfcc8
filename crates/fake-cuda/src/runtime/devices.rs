//! Devices, and how the runtime finds the driver.

use std::ffi::{c_char, c_int, c_uint, c_ulonglong, c_void};

use kitten_sim::{Tier, code};

use super::call;
use crate::answer::put;
use crate::driver::{device_of_context, find, make_current, no_operation};

/// How many devices there are.
///
/// # Safety
/// `count` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDeviceCount(count: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    call(|machine| unsafe { put(count, machine.gpu.device_count() as c_int) })
}

/// This thread's device.
///
/// # Safety
/// `device` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDevice(device: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    call(|_| unsafe { put(device, device_of_context()? as c_int) })
}

/// Chooses this thread's device.
#[unsafe(no_mangle)]
pub extern "C" fn cudaSetDevice(device: c_int) -> c_int {
    call(|machine| {
        make_current(machine.device(device)?);
        Ok(())
    })
}

/// Waits for all work.
#[unsafe(no_mangle)]
pub extern "C" fn cudaDeviceSynchronize() -> c_int {
    call(|machine| Ok(machine.gpu.synchronize(device_of_context()?)?))
}

/// Whether a device can access another's memory.
///
/// # Safety
/// `can` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) -> c_int {
    call(|machine| {
        let different = machine.device(device)? != machine.device(peer)?;
        // SAFETY: the caller's promise.
        unsafe { put(can, c_int::from(different)) }
    })
}

/// Free and total bytes of the card.
///
/// # Safety
/// Both may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMemGetInfo(free: *mut usize, total: *mut usize) -> c_int {
    call(|machine| {
        let (capacity, left) = machine.gpu.memory_info(device_of_context()?, Tier::Dedicated)?;
        // SAFETY: the caller's promise.
        unsafe {
            put(free, left as usize)?;
            put(total, capacity as usize)
        }
    })
}

/// Bytes of a card, for the properties that the C part reports; 0 if the card does not exist.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_card_bytes(device: c_int) -> u64 {
    let mut bytes = 0;
    call(|machine| {
        bytes = machine.gpu.memory_info(machine.device(device)?, Tier::Dedicated)?.0;
        Ok(())
    });
    bytes
}

/// How many cards are in the machine, including those that `CUDA_VISIBLE_DEVICES` hides, as NVML
/// counts them.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_cards() -> c_uint {
    let mut cards = 0;
    call(|machine| {
        cards = machine.cards as c_uint;
        Ok(())
    });
    cards
}

/// Finds a function of the driver. A function that the fake does not have does nothing and
/// succeeds, because PyTorch insists on finding them all.
///
/// # Safety
/// `symbol` is a string; `function` may be written to; `result` may be, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDriverEntryPointByVersion(
    symbol: *const c_char,
    function: *mut *mut c_void,
    version: c_uint,
    _flags: c_ulonglong,
    result: *mut c_int,
) -> c_int {
    call(|_| {
        // SAFETY: the caller's promise.
        unsafe {
            if let Err(why) = find(symbol, function, version as c_int, std::ptr::null_mut()) {
                if why.code != code::NOT_FOUND {
                    return Err(why);
                }
                put(function, no_operation as *mut c_void)?;
            }
            if result.is_null() { Ok(()) } else { put(result, 0) }
        }
    })
}

/// The same in older runtimes.
///
/// # Safety
/// As above.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGetDriverEntryPoint(
    symbol: *const c_char,
    function: *mut *mut c_void,
    flags: c_ulonglong,
    result: *mut c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cudaGetDriverEntryPointByVersion(symbol, function, c_uint::MAX >> 1, flags, result) }
}
