//! Memory that one call allocates and maps, and copies.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use kitten_sim::{Gpu, Tier, code};

use super::contexts::device_of_context;
use crate::answer::{answer, put};
use crate::refusal::{Result, refuse};

/// The allocations: by address, the device, length and backing.
static ALLOCATIONS: Mutex<BTreeMap<u64, (usize, u64, u64)>> = Mutex::new(BTreeMap::new());

/// Allocates memory of the current device.
pub(crate) fn allocate(gpu: &Gpu, size: usize) -> Result<u64> {
    let device = device_of_context()?;
    let bytes = (size as u64).next_multiple_of(gpu.device_profile(device)?.granularity);
    let handle = gpu.create(device, Tier::Dedicated, bytes)?;
    let address = gpu.reserve(device, bytes, 0).inspect_err(|_| drop(gpu.release(device, handle)))?;
    gpu.map(device, address, bytes, handle)?;
    gpu.set_access(device, address, bytes)?;
    ALLOCATIONS.lock().unwrap_or_else(PoisonError::into_inner).insert(address, (device, bytes, handle));
    Ok(address)
}

/// Frees it, once all work is done.
pub(crate) fn free(gpu: &Gpu, pointer: u64) -> Result {
    if pointer == 0 {
        return Ok(());
    }
    let Some((device, bytes, handle)) = ALLOCATIONS.lock().unwrap_or_else(PoisonError::into_inner).remove(&pointer)
    else {
        return refuse(code::INVALID_VALUE, format!("{pointer:#x} is not allocated"));
    };
    gpu.synchronize(device)?;
    gpu.unmap(device, pointer, bytes)?;
    gpu.release(device, handle)?;
    Ok(gpu.unreserve(pointer, bytes)?)
}

/// Allocates memory of the card.
///
/// # Safety
/// `pointer` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(pointer: *mut u64, size: usize) -> c_int {
    answer(|machine| {
        if size == 0 {
            return refuse(code::INVALID_VALUE, "the size is 0");
        }
        let address = allocate(&machine.gpu, size)?;
        // SAFETY: the caller's promise.
        unsafe { put(pointer, address) }
    })
}

/// Frees it, once all work is done.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(pointer: u64) -> c_int {
    answer(|machine| free(&machine.gpu, pointer))
}

/// Allocates memory of the card in stream order: here, at once.
///
/// # Safety
/// `pointer` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(pointer: *mut u64, size: usize, _stream: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cuMemAlloc_v2(pointer, size) }
}

/// Frees it in stream order: here, once all work is done.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(pointer: u64, _stream: *mut c_void) -> c_int {
    cuMemFree_v2(pointer)
}

/// Copies within the device, in stream order.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, size: usize, stream: *mut c_void) -> c_int {
    answer(|machine| {
        let device = device_of_context()?;
        Ok(machine.gpu.copy_on_device(device, stream as u64, to, from, size as u64)?)
    })
}

/// Copies between a device and itself or host memory, in stream order, as the addresses say.
pub(crate) fn copy_in_stream(gpu: &Gpu, to: usize, from: usize, size: usize, stream: u64) -> Result {
    if size == 0 {
        return Ok(());
    }
    let (bytes, is_device) = (size as u64, |pointer: usize| gpu.is_device_address(pointer as u64));
    match (is_device(to), is_device(from)) {
        (true, true) => Ok(gpu.copy_in_stream(device_of_context()?, stream, to as u64, from as u64, bytes)?),
        // SAFETY: the program's promise: host memory can be read and written until the copy is
        // done.
        (true, false) => Ok(unsafe { gpu.upload(stream, to as u64, from as *const u8, bytes) }?),
        // SAFETY: as above.
        (false, true) => Ok(unsafe { gpu.download(stream, to as *mut u8, from as u64, bytes) }?),
        (false, false) => {
            // SAFETY: as above.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, size) };
            Ok(())
        }
    }
}

/// Copies in stream order, as the addresses say.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyAsync(to: usize, from: usize, size: usize, stream: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        copy_in_stream(&machine.gpu, to, from, size, stream as u64)
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
