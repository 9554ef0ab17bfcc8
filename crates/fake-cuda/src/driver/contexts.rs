//! Contexts: one primary context for each device, and a stack of current ones for each thread.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_uint, c_void};
use std::mem::ManuallyDrop;

use kitten_sim::code;

use crate::answer::{answer, put};
use crate::machine::Machine;
use crate::refusal::{Result, refuse};

thread_local! {
    /// Never destroyed: C++ destructors still make calls at the end of a process, when its first
    /// thread has destroyed its other variables.
    static STACK: RefCell<ManuallyDrop<Vec<usize>>> = const { RefCell::new(ManuallyDrop::new(Vec::new())) };
    static CAPTURE_MODE: Cell<c_int> = const { Cell::new(0) };
}

/// The handle of a device's context.
fn context_of(device: usize) -> *mut c_void {
    (0xC0DE_0000 + 16 * (device + 1)) as *mut c_void
}

pub(super) fn device_in(machine: &Machine, context: *mut c_void) -> Result<usize> {
    match (0..machine.gpu.device_count()).find(|device| context_of(*device) == context) {
        Some(device) => Ok(device),
        None => refuse(code::INVALID_CONTEXT, format!("{context:p} is not a context")),
    }
}

/// The device of this thread's current context.
pub(crate) fn device_of_context() -> Result<usize> {
    match STACK.with(|stack| stack.borrow().last().copied()) {
        Some(device) => Ok(device),
        None => refuse(code::INVALID_CONTEXT, "this thread has no current context"),
    }
}

/// Makes a device's context current, in place of the current one.
pub(crate) fn make_current(device: usize) {
    STACK.with(|stack| {
        let mut stack = stack.borrow_mut();
        stack.pop();
        stack.push(device);
    });
}

/// Makes the first device's context current in a thread without a context, as the runtime does.
pub(crate) fn have_context() {
    STACK.with(|stack| {
        let mut stack = stack.borrow_mut();
        if stack.is_empty() {
            stack.push(0);
        }
    });
}

/// Returns the device's primary context.
///
/// # Safety
/// `context` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> c_int {
    answer(|machine| {
        machine.gpu.note("cuDevicePrimaryCtxRetain")?;
        let device = machine.device(device)?;
        // SAFETY: the caller's promise.
        unsafe { put(context, context_of(device)) }
    })
}

/// Releases the primary context.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int {
    answer(|machine| machine.device(device).map(drop))
}

/// Whether the primary context is active: always.
///
/// # Safety
/// Both may be written to or are null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) -> c_int {
    answer(|machine| {
        machine.device(device)?;
        // SAFETY: the caller's promise.
        unsafe {
            put(flags, 0)?;
            put(active, 1)
        }
    })
}

/// Pushes a context on the stack and makes it current.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: *mut c_void) -> c_int {
    answer(|machine| {
        machine.gpu.note("cuCtxPushCurrent")?;
        let device = device_in(machine, context)?;
        STACK.with(|stack| stack.borrow_mut().push(device));
        Ok(())
    })
}

/// Pops a context, and makes the one below it current.
///
/// # Safety
/// `context` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut *mut c_void) -> c_int {
    answer(|_| match STACK.with(|stack| stack.borrow_mut().pop()) {
        // SAFETY: the caller's promise.
        Some(device) if !context.is_null() => unsafe { put(context, context_of(device)) },
        Some(_) => Ok(()),
        None => refuse(code::INVALID_CONTEXT, "there is no context to pop"),
    })
}

/// The current context, or null.
///
/// # Safety
/// `context` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> c_int {
    answer(|_| {
        let current =
            STACK.with(|stack| stack.borrow().last().map_or(std::ptr::null_mut(), |device| context_of(*device)));
        // SAFETY: the caller's promise.
        unsafe { put(context, current) }
    })
}

/// The device of the current context.
///
/// # Safety
/// `device` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetDevice(device: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    answer(|_| unsafe { put(device, device_of_context()? as c_int) })
}

/// Replaces the current context; null leaves none.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> c_int {
    answer(|machine| {
        let device = if context.is_null() { None } else { Some(device_in(machine, context)?) };
        STACK.with(|stack| {
            let mut stack = stack.borrow_mut();
            stack.pop();
            stack.extend(device);
        });
        Ok(())
    })
}

/// Waits for all work.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    answer(|machine| Ok(machine.gpu.synchronize(device_of_context()?)?))
}

/// Exchanges this thread's capture mode.
///
/// # Safety
/// `mode` may be read and written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) -> c_int {
    answer(|_| {
        // SAFETY: the caller's promise.
        let Some(wanted) = (unsafe { mode.as_ref() }).filter(|mode| (0..=2).contains(*mode)) else {
            return refuse(code::INVALID_VALUE, "the capture mode does not exist");
        };
        // SAFETY: the caller's promise.
        unsafe { put(mode, CAPTURE_MODE.replace(*wanted)) }
    })
}
