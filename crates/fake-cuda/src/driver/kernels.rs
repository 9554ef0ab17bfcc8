//! The kernels of kitten-bench, by name. They touch the same bytes as the real ones and take the
//! time that the model gives, and compute nothing.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use kitten_sim::kernels::{self, Ranges, VECTOR, WARP};
use kitten_sim::{Access, code};

use super::contexts::device_of_context;
use crate::answer::{answer, put};
use crate::refusal::{Result, refuse};

/// The kernels. A function's handle is its place here, counted from 1.
const KERNELS: [&str; 4] = [kernels::READ, kernels::WRITE, kernels::OPERATE, kernels::MULTIPLY];

/// Loads a module. Any image is accepted.
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
        match KERNELS.iter().position(|known| *known == name) {
            // SAFETY: the caller's promise.
            Some(number) => unsafe { put(function, (number + 1) as *mut c_void) },
            None => refuse(code::NOT_FOUND, format!("the fake knows no kernel {name}")),
        }
    })
}

/// The n-th argument of a kernel.
///
/// # Safety
/// The argument exists and has the type.
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
        let Some(kernel) = (function as usize).checked_sub(1).and_then(|place| KERNELS.get(place)) else {
            return refuse(code::INVALID_HANDLE, format!("{function:p} is not a function"));
        };
        // SAFETY: the caller's promise.
        let work = unsafe { Work::of(kernel, arguments, blocks * threads / WARP) };
        let launch =
            |_| -> Result { Ok(machine.gpu.work(stream as u64, kernel, &work.accesses, work.operations, 1.0)?) };
        (0..work.times).try_for_each(launch)
    })
}

/// The ranges that a launch of a kernel touches, and the operations that it computes.
struct Work {
    accesses: Vec<Access>,
    operations: f64,
    /// How many times over.
    times: u32,
}

impl Work {
    /// The work of a launch with this many warps.
    ///
    /// # Safety
    /// The arguments are the kernel's.
    unsafe fn of(kernel: &str, arguments: *mut *mut c_void, warps: u32) -> Work {
        match kernel {
            kernels::READ => {
                // SAFETY: the caller's promise; the fourth argument is the number of passes.
                let (range, passes) = unsafe { (strided(arguments), argument(arguments, 3)) };
                Work { accesses: vec![Access::read(range.0, range.1)], operations: 0.0, times: passes }
            }
            kernels::WRITE => {
                // SAFETY: the caller's promise.
                let range = unsafe { strided(arguments) };
                Work { accesses: vec![Access::write(range.0, range.1)], operations: 0.0, times: 1 }
            }
            kernels::OPERATE => {
                // SAFETY: the caller's promise.
                Work { accesses: unsafe { operated(arguments) }, operations: 0.0, times: 1 }
            }
            _ => {
                // SAFETY: the caller's promise.
                let turns: u32 = unsafe { argument(arguments, 0) };
                let operations = f64::from(warps) * f64::from(turns) * kernels::OPERATIONS;
                Work { accesses: Vec::new(), operations, times: 1 }
            }
        }
    }
}

/// The range that a strided kernel touches: its first three arguments are address, count and
/// stride.
///
/// # Safety
/// The arguments are such a kernel's.
unsafe fn strided(arguments: *mut *mut c_void) -> (u64, u64) {
    // SAFETY: the caller's promise.
    let (address, count, stride): (u64, u64, u64) =
        unsafe { (argument(arguments, 0), argument(arguments, 1), argument(arguments, 2)) };
    (address, count * stride)
}

/// The ranges that an operation touches: first those that it reads.
///
/// # Safety
/// The arguments are those of `gk_operate`.
unsafe fn operated(arguments: *mut *mut c_void) -> Vec<Access> {
    // SAFETY: the caller's promise.
    let (ranges, reads, count): (Ranges, u32, u32) =
        unsafe { (argument(arguments, 0), argument(arguments, 1), argument(arguments, 2)) };
    (0..)
        .zip(ranges.iter().take(count as usize))
        .map(|(at, [address, vectors])| match at < reads {
            true => Access::read(*address, vectors * VECTOR),
            false => Access::write(*address, vectors * VECTOR),
        })
        .collect()
}
