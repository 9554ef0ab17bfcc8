//! The driver itself and its devices.

use std::ffi::{CString, c_char, c_int, c_uint};

use kitten_sim::{Tier, code};

use super::contexts::device_of_context;
use crate::answer::{answer, last_rule, put};
use crate::dxgi;
use crate::refusal::refuse;

/// Initializes the driver.
#[unsafe(no_mangle)]
pub extern "C" fn cuInit(flags: c_uint) -> c_int {
    answer(|machine| {
        machine.gpu.note("cuInit")?;
        if flags == 0 { Ok(()) } else { refuse(code::INVALID_VALUE, "the flags must be 0") }
    })
}

/// The CUDA version supported.
///
/// # Safety
/// `version` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    answer(|machine| unsafe { put(version, machine.version) })
}

/// How many devices there are.
///
/// # Safety
/// `count` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    answer(|machine| unsafe { put(count, machine.gpu.device_count() as c_int) })
}

/// The device of a number: the number.
///
/// # Safety
/// `device` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    answer(|machine| {
        machine.device(ordinal)?;
        // SAFETY: the caller's promise.
        unsafe { put(device, ordinal) }
    })
}

/// The device's name.
///
/// # Safety
/// `name` may be written to for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> c_int {
    answer(|machine| {
        let profile = machine.gpu.device_profile(machine.device(device)?)?;
        let text = format!("simulated {}", profile.name);
        let kept = text.len().min(usize::try_from(length).unwrap_or(0).saturating_sub(1));
        for (at, byte) in text.bytes().take(kept).chain([0]).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { put(name.wrapping_add(at), byte as c_char) }?;
        }
        Ok(())
    })
}

/// The identity of the device among all in the world: here, its number.
///
/// # Safety
/// `uuid` may be written to for 16 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_int {
    // SAFETY: the caller's promise.
    answer(|machine| unsafe { put(uuid, (machine.device(device)? as u128 + 1).to_be_bytes()) })
}

/// The number by which the system's graphics know the device, and its place among linked ones.
///
/// # Safety
/// `luid` may be written to for eight bytes, and `nodes` may be.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetLuid(luid: *mut c_char, nodes: *mut c_uint, device: c_int) -> c_int {
    answer(|machine| {
        let number = dxgi::luid_of(machine.device(device)?);
        // SAFETY: the caller's promise.
        unsafe {
            put(luid.cast::<[u8; 8]>(), number.to_le_bytes())?;
            put(nodes, 1)
        }
    })
}

/// An attribute of the device; 0 for those that the fake does not know.
///
/// # Safety
/// `value` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int) -> c_int {
    const VIRTUAL_MEMORY_MANAGEMENT: c_int = 102;
    const UNIFIED_ADDRESSING: c_int = 41;
    const HOST_NUMA_ID: c_int = 134;
    answer(|machine| {
        machine.device(device)?;
        let found = match attribute {
            VIRTUAL_MEMORY_MANAGEMENT | UNIFIED_ADDRESSING => 1,
            HOST_NUMA_ID if machine.version >= 12_020 => machine.numa_node,
            HOST_NUMA_ID => return refuse(code::INVALID_VALUE, "this driver does not know the attribute"),
            _ => 0,
        };
        // SAFETY: the caller's promise.
        unsafe { put(value, found) }
    })
}

/// Whether a device can access another's memory: always.
///
/// # Safety
/// `can` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceCanAccessPeer(can: *mut c_int, device: c_int, peer: c_int) -> c_int {
    answer(|machine| {
        let different = machine.device(device)? != machine.device(peer)?;
        // SAFETY: the caller's promise.
        unsafe { put(can, c_int::from(different)) }
    })
}

/// Total bytes of a card.
///
/// # Safety
/// `total` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(total: *mut usize, device: c_int) -> c_int {
    answer(|machine| {
        let (capacity, _) = machine.gpu.memory_info(machine.device(device)?, Tier::Dedicated)?;
        // SAFETY: the caller's promise.
        unsafe { put(total, capacity as usize) }
    })
}

/// Free and total bytes of the card.
///
/// # Safety
/// Both may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    answer(|machine| {
        let (capacity, left) = machine.gpu.memory_info(device_of_context()?, Tier::Dedicated)?;
        // SAFETY: the caller's promise.
        unsafe {
            put(free, left as usize)?;
            put(total, capacity as usize)
        }
    })
}

fn text_of_code(number: c_int, text: &str, to: *mut *const c_char) -> c_int {
    answer(|_| {
        if number != 0 && code::name(number) == "unknown" {
            return refuse(code::INVALID_VALUE, "the code does not exist");
        }
        // Leaked, because the driver's texts are static; there are few of them.
        let text = CString::new(text).unwrap_or_default().into_raw();
        // SAFETY: the callers' callers promise that it may be written to.
        unsafe { put(to, text.cast_const()) }
    })
}

/// The name of a code.
///
/// # Safety
/// `text` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(number: c_int, text: *mut *const c_char) -> c_int {
    text_of_code(number, if number == 0 { "CUDA_SUCCESS" } else { code::name(number) }, text)
}

/// The meaning of a code: the rule that this thread's last refused call broke.
///
/// # Safety
/// `text` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(number: c_int, text: *mut *const c_char) -> c_int {
    text_of_code(number, &if number == 0 { "no error".into() } else { last_rule() }, text)
}
