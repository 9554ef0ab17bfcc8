//! Kernels: those of kitten-bench, by name. They touch what they would touch and take the time that the model says, and compute nothing.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use kitten_sim::{Access, code};

use crate::answer::{Result, answer, put, refuse};
use crate::driver::device_of_context;

/// A function's handle is its place here, from 1 on.
const NAMES: [&str; 4] = ["gk_read", "gk_write", "gk_operate", "gk_multiply"];
const READ: usize = 1;
const WRITE: usize = 2;
const OPERATE: usize = 3;
/// Ranges that one launch of `gk_operate` takes: an address, and how many vectors.
type Ranges = [[u64; 2]; 16];
/// Bytes of one access of a thread.
const VECTOR: u64 = 16;
/// Operations of one turn of `gk_multiply` in one warp.
const OPERATIONS: f64 = 4.0 * 2.0 * 16.0 * 16.0 * 16.0;

/// Loads a module: any.
///
/// # Safety
/// `module` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, _image: *const c_void) -> c_int {
    answer(|_| {
        device_of_context()?;
        // SAFETY: the caller's promise.
        unsafe { put(module, 16 as *mut c_void) }
    })
}

/// A kernel by its name.
///
/// # Safety
/// `function` may be written to; `name` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut *mut c_void, _: *mut c_void, name: *const c_char) -> c_int {
    answer(|_| {
        // SAFETY: the caller's promise.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        match NAMES.iter().position(|known| *known == name) {
            // SAFETY: the caller's promise.
            Some(number) => unsafe { put(function, (number + 1) as *mut c_void) },
            None => refuse(code::NOT_FOUND, format!("the fake knows no kernel {name}")),
        }
    })
}

/// The n-th argument of a kernel.
///
/// # Safety
/// There are so many, and it is of the type.
unsafe fn argument<T: Copy>(arguments: *mut *mut c_void, number: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { (*arguments.add(number)).cast::<T>().read() }
}

/// Launches a kernel of kitten-bench.
///
/// # Safety
/// The arguments are the kernel's.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "the driver's own")]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    blocks: c_uint,
    _: c_uint,
    _: c_uint,
    threads: c_uint,
    _: c_uint,
    _: c_uint,
    _: c_uint,
    stream: *mut c_void,
    arguments: *mut *mut c_void,
    _: *mut *mut c_void,
) -> c_int {
    answer(|machine| {
        device_of_context()?;
        let kernel = function as usize;
        if kernel == READ || kernel == WRITE {
            // SAFETY: the caller's promise.
            let (address, count, stride, last) = unsafe {
                (argument(arguments, 0), argument(arguments, 1), argument::<u64>(arguments, 2), argument(arguments, 3))
            };
            let (address, count, last): (u64, u64, u32) = (address, count, last);
            let touched = if stride == VECTOR { count * VECTOR } else { count * stride };
            let (access, times) = match kernel {
                READ => (Access::read(address, touched), last),
                _ => (Access::write(address, touched), 1),
            };
            let work = |_| -> Result { Ok(machine.gpu.work(stream as u64, NAMES[kernel - 1], &[access], 0.0, 1.0)?) };
            return (0..times).try_for_each(work);
        }
        if kernel == OPERATE {
            // SAFETY: the caller's promise.
            let (ranges, reads, count): (Ranges, u32, u32) =
                unsafe { (argument(arguments, 0), argument(arguments, 1), argument(arguments, 2)) };
            let accesses: Vec<_> = (0..)
                .zip(ranges.iter().take(count as usize))
                .map(|(at, [address, vectors])| match at < reads {
                    true => Access::read(*address, vectors * VECTOR),
                    false => Access::write(*address, vectors * VECTOR),
                })
                .collect();
            return Ok(machine.gpu.work(stream as u64, "gk_operate", &accesses, 0.0, 1.0)?);
        }
        // SAFETY: the caller's promise.
        let turns: u32 = unsafe { argument(arguments, 0) };
        let operations = f64::from(blocks * threads / 32) * f64::from(turns) * OPERATIONS;
        Ok(machine.gpu.work(stream as u64, "gk_multiply", &[], operations, 1.0)?)
    })
}

/// Waits for an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventSynchronize(event: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        Ok(machine.gpu.synchronize_event(event as u64)?)
    })
}

/// Modelled milliseconds between two events.
///
/// # Safety
/// `milliseconds` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: *mut c_void, end: *mut c_void) -> c_int {
    answer(|machine| {
        let at = |event: *mut c_void| machine.gpu.recorded_at(event as u64);
        match (at(start), at(end)) {
            // SAFETY: the caller's promise.
            (Some(start), Some(end)) => unsafe { put(milliseconds, ((end - start) * 1e3) as f32) },
            _ => refuse(code::INVALID_HANDLE, "an event that was never recorded"),
        }
    })
}
