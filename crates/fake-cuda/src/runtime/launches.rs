//! Kernels. They do nothing, and the fake does not know what they touch.

use std::cell::RefCell;
use std::ffi::{c_int, c_uint, c_void};

use super::call;
use crate::answer::put;

/// `dim3`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Dim3 {
    x: c_uint,
    y: c_uint,
    z: c_uint,
}

/// The start of `cudaLaunchConfig_t`, the same in every version.
#[repr(C)]
pub struct LaunchConfig {
    grid: Dim3,
    block: Dim3,
    shared_memory: usize,
    stream: u64,
}

thread_local! {
    /// The arguments of `<<<…>>>`, until the launch that follows takes them.
    static CONFIGURATIONS: RefCell<Vec<(Dim3, Dim3, usize, u64)>> = const { RefCell::new(Vec::new()) };
}

fn launch(stream: u64) -> c_int {
    call(|machine| Ok(machine.gpu.launch(stream, "kernel", &[])?))
}

/// Launches a kernel.
#[unsafe(no_mangle)]
pub extern "C" fn cudaLaunchKernel(_: usize, _: Dim3, _: Dim3, _: *mut *mut c_void, _: usize, stream: u64) -> c_int {
    launch(stream)
}

/// Launches a kernel.
#[unsafe(no_mangle)]
pub extern "C" fn cudaLaunchCooperativeKernel(
    _: usize,
    _: Dim3,
    _: Dim3,
    _: *mut *mut c_void,
    _: usize,
    stream: u64,
) -> c_int {
    launch(stream)
}

/// Launches a kernel.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaLaunchKernel(_: usize, _: Dim3, _: Dim3, _: *mut *mut c_void, _: usize, stream: u64) -> c_int {
    launch(stream)
}

/// Launches a kernel.
///
/// # Safety
/// `config` is whole.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaLaunchKernelExC(config: *const LaunchConfig, _: usize, _: *mut *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    launch(unsafe { config.as_ref() }.map_or(0, |config| config.stream))
}

/// Stores the arguments of `<<<…>>>`.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaPushCallConfiguration(grid: Dim3, block: Dim3, shared_memory: usize, stream: u64) -> c_uint {
    CONFIGURATIONS.with(|kept| kept.borrow_mut().push((grid, block, shared_memory, stream)));
    0
}

/// Hands them to the launch.
///
/// # Safety
/// All may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cudaPopCallConfiguration(
    grid: *mut Dim3,
    block: *mut Dim3,
    shared_memory: *mut usize,
    stream: *mut u64,
) -> c_int {
    call(|_| {
        if let Some(kept) = CONFIGURATIONS.with(|kept| kept.borrow_mut().pop()) {
            // SAFETY: the caller's promise.
            unsafe {
                put(grid, kept.0)?;
                put(block, kept.1)?;
                put(shared_memory, kept.2)?;
                put(stream, kept.3)?;
            }
        }
        Ok(())
    })
}

/// Registers code. Nothing runs it, but callers need a handle.
#[unsafe(no_mangle)]
pub extern "C" fn __cudaRegisterFatBinary(_: *const c_void) -> *mut *mut c_void {
    static mut HANDLE: [usize; 8] = [0; 8];
    (&raw mut HANDLE).cast()
}

/// The kernel behind a host function: its own address.
///
/// # Safety
/// `kernel` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __cudaGetKernel(kernel: *mut usize, function: usize) -> c_int {
    // SAFETY: the caller's promise.
    call(|_| unsafe { put(kernel, function) })
}

/// How many blocks run on a multiprocessor at once, by the number of its threads.
///
/// # Safety
/// `blocks` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    _: usize,
    block_size: c_int,
    _: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    call(|_| unsafe { put(blocks, (2048 / block_size.max(1)).max(1)) })
}

/// The same with flags.
///
/// # Safety
/// `blocks` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    blocks: *mut c_int,
    kernel: usize,
    block_size: c_int,
    shared_memory: usize,
    _flags: c_uint,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, block_size, shared_memory) }
}
