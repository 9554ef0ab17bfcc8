//! Memory: the runtime's own allocations, pinned host memory, copies, fills.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kitten_sim::code;

use super::call;
use crate::answer::put;
use crate::driver::{allocate, copy_in_stream, free, holds, is_registered, register, unregister};
use crate::refusal::refuse;

/// Pinned host memory: by address, its length.
static PINNED: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

/// Whole pages for a number of bytes.
fn pages(bytes: usize) -> Option<Layout> {
    const PAGE: usize = 4096;
    Layout::from_size_align(bytes.max(1).checked_next_multiple_of(PAGE)?, PAGE).ok()
}

fn locked<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Allocates memory of the card.
///
/// # Safety
/// `pointer` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMalloc(pointer: *mut u64, size: usize) -> c_int {
    call(|machine| {
        let address = if size == 0 { 0 } else { allocate(&machine.gpu, size)? };
        // SAFETY: the caller's promise.
        unsafe { put(pointer, address) }
    })
}

/// Frees it, once all work is done.
#[unsafe(no_mangle)]
pub extern "C" fn cudaFree(pointer: u64) -> c_int {
    call(|machine| free(&machine.gpu, pointer))
}

/// Allocates memory of the card in stream order: here, at once.
///
/// # Safety
/// `pointer` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMallocAsync(pointer: *mut u64, size: usize, _stream: u64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cudaMalloc(pointer, size) }
}

/// Frees it in stream order: here, once all work is done.
#[unsafe(no_mangle)]
pub extern "C" fn cudaFreeAsync(pointer: u64, _stream: u64) -> c_int {
    cudaFree(pointer)
}

/// Allocates pinned host memory.
///
/// # Safety
/// `pointer` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaHostAlloc(pointer: *mut *mut c_void, size: usize, _flags: c_uint) -> c_int {
    call(|_| {
        // SAFETY: the layout has at least a page.
        let address = pages(size).map_or(std::ptr::null_mut(), |layout| unsafe { std::alloc::alloc(layout) });
        if address.is_null() {
            return refuse(code::OUT_OF_MEMORY, format!("the host has no {size} bytes left"));
        }
        locked(&PINNED).insert(address as usize, size);
        // SAFETY: the caller's promise.
        unsafe { put(pointer, address.cast()) }
    })
}

/// Allocates pinned host memory.
///
/// # Safety
/// `pointer` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaMallocHost(pointer: *mut *mut c_void, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cudaHostAlloc(pointer, size, 0) }
}

/// Frees pinned host memory.
///
/// # Safety
/// The memory was allocated here, and nobody uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaFreeHost(pointer: *mut c_void) -> c_int {
    call(|_| {
        if pointer.is_null() {
            return Ok(());
        }
        let pinned = locked(&PINNED).remove(&(pointer as usize));
        let Some(layout) = pinned.and_then(pages) else {
            return refuse(code::INVALID_VALUE, format!("{pointer:p} is not pinned memory"));
        };
        // SAFETY: it was allocated with this layout.
        unsafe { std::alloc::dealloc(pointer.cast(), layout) };
        Ok(())
    })
}

/// Pins existing host memory.
#[unsafe(no_mangle)]
pub extern "C" fn cudaHostRegister(pointer: usize, size: usize, _flags: c_uint) -> c_int {
    call(|_| register(pointer, size))
}

/// Unpins it.
#[unsafe(no_mangle)]
pub extern "C" fn cudaHostUnregister(pointer: usize) -> c_int {
    call(|_| unregister(pointer))
}

/// The kind of memory that a pointer leads to, for the C part: 0 ordinary host memory, 1 pinned, 2
/// a device's.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_kind(pointer: usize) -> c_int {
    let mut kind = 0;
    call(|machine| {
        let pinned = holds(&locked(&PINNED), pointer) || is_registered(pointer);
        kind = if machine.gpu.is_device_address(pointer as u64) { 2 } else { c_int::from(pinned) };
        Ok(())
    });
    kind
}

/// The device whose memory a pointer leads to, for the C part; 0 where it is no device's.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_device(pointer: usize) -> c_int {
    let mut device = 0;
    call(|machine| {
        device = machine.gpu.device_of_address(pointer as u64).unwrap_or(0);
        Ok(())
    });
    device as c_int
}

/// Copies, and waits.
#[unsafe(no_mangle)]
pub extern "C" fn cudaMemcpy(to: usize, from: usize, size: usize, _kind: c_int) -> c_int {
    call(|machine| {
        copy_in_stream(&machine.gpu, to, from, size, 0)?;
        Ok(machine.gpu.synchronize_stream(0)?)
    })
}

/// Copies in stream order. A copy of ordinary host memory is waited for, because it may change
/// afterwards.
#[unsafe(no_mangle)]
pub extern "C" fn cudaMemcpyAsync(to: usize, from: usize, size: usize, _kind: c_int, stream: u64) -> c_int {
    call(|machine| {
        copy_in_stream(&machine.gpu, to, from, size, stream)?;
        let ordinary = [to, from].into_iter().any(|pointer| fake_cuda_kind(pointer) == 0);
        if ordinary && !machine.gpu.is_capturing(stream)? {
            machine.gpu.synchronize_stream(stream)?;
        }
        Ok(())
    })
}

/// Copies from device to device.
#[unsafe(no_mangle)]
pub extern "C" fn cudaMemcpyPeerAsync(to: usize, _: c_int, from: usize, _: c_int, size: usize, stream: u64) -> c_int {
    cudaMemcpyAsync(to, from, size, 0, stream)
}

/// Copies rows.
#[unsafe(no_mangle)]
pub extern "C" fn cudaMemcpy2DAsync(
    to: usize,
    to_pitch: usize,
    from: usize,
    from_pitch: usize,
    width: usize,
    height: usize,
    _kind: c_int,
    stream: u64,
) -> c_int {
    call(|machine| {
        (0..height).try_for_each(|row| {
            copy_in_stream(&machine.gpu, to + row * to_pitch, from + row * from_pitch, width, stream)
        })
    })
}

/// Fills, and waits.
#[unsafe(no_mangle)]
pub extern "C" fn cudaMemset(to: u64, value: c_int, size: usize) -> c_int {
    call(|machine| {
        machine.gpu.fill(0, to, size as u64, value as u8)?;
        Ok(machine.gpu.synchronize_stream(0)?)
    })
}

/// Fills in stream order.
#[unsafe(no_mangle)]
pub extern "C" fn cudaMemsetAsync(to: u64, value: c_int, size: usize, stream: u64) -> c_int {
    call(|machine| if size == 0 { Ok(()) } else { Ok(machine.gpu.fill(stream, to, size as u64, value as u8)?) })
}
