//! Streams and events.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use kitten_sim::code;

use super::call;
use crate::answer::put;
use crate::refusal::refuse;

/// When each event was last recorded, by the host's clock.
static RECORDED: LazyLock<Mutex<HashMap<u64, Instant>>> = LazyLock::new(Mutex::default);

/// Creates a stream.
///
/// # Safety
/// `stream` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamCreate(stream: *mut u64) -> c_int {
    // SAFETY: the caller's promise.
    call(|machine| unsafe { put(stream, machine.gpu.create_stream()?) })
}

/// Creates a stream.
///
/// # Safety
/// `stream` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamCreateWithFlags(stream: *mut u64, _flags: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cudaStreamCreate(stream) }
}

/// Creates a stream.
///
/// # Safety
/// `stream` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamCreateWithPriority(stream: *mut u64, _flags: c_uint, _priority: c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cudaStreamCreate(stream) }
}

/// Destroys a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cudaStreamDestroy(stream: u64) -> c_int {
    call(|machine| Ok(machine.gpu.destroy_stream(stream)?))
}

/// The priority of a stream: all are equal.
///
/// # Safety
/// `priority` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamGetPriority(_stream: u64, priority: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    call(|_| unsafe { put(priority, 0) })
}

/// The range of priorities.
///
/// # Safety
/// Both may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaDeviceGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> c_int {
    call(|_| {
        // SAFETY: the caller's promise.
        unsafe {
            put(least, 0)?;
            put(greatest, -5)
        }
    })
}

/// Whether a stream's work is done. It waits for the work, so the answer is always yes.
#[unsafe(no_mangle)]
pub extern "C" fn cudaStreamQuery(stream: u64) -> c_int {
    cudaStreamSynchronize(stream)
}

/// Waits for a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cudaStreamSynchronize(stream: u64) -> c_int {
    call(|machine| Ok(machine.gpu.synchronize_stream(stream)?))
}

/// Makes later work of a stream wait for an event.
#[unsafe(no_mangle)]
pub extern "C" fn cudaStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) -> c_int {
    call(|machine| Ok(machine.gpu.wait(stream, event)?))
}

/// Calls the host in stream order: here, at once, after waiting for the work in the stream.
///
/// # Safety
/// `run` may be called with `data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaLaunchHostFunc(
    stream: u64,
    run: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
) -> c_int {
    let mut now = false;
    let code = call(|machine| {
        now = !machine.gpu.is_capturing(stream)?;
        if now { Ok(machine.gpu.synchronize_stream(stream)?) } else { Ok(()) }
    });
    if code == 0 && now {
        // SAFETY: the caller's promise.
        unsafe { run(data) };
    }
    code
}

/// The same with the stream and the code as arguments.
///
/// # Safety
/// `run` may be called with `data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamAddCallback(
    stream: u64,
    run: unsafe extern "C" fn(u64, c_int, *mut c_void),
    data: *mut c_void,
    _flags: c_uint,
) -> c_int {
    let code = cudaStreamSynchronize(stream);
    // SAFETY: the caller's promise.
    unsafe { run(stream, code, data) };
    code
}

/// Creates an event.
///
/// # Safety
/// `event` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaEventCreate(event: *mut u64) -> c_int {
    // SAFETY: the caller's promise.
    call(|machine| unsafe { put(event, machine.gpu.create_event()?) })
}

/// Creates an event.
///
/// # Safety
/// `event` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaEventCreateWithFlags(event: *mut u64, _flags: c_uint) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cudaEventCreate(event) }
}

/// Destroys an event.
#[unsafe(no_mangle)]
pub extern "C" fn cudaEventDestroy(event: u64) -> c_int {
    call(|machine| {
        RECORDED.lock().unwrap_or_else(PoisonError::into_inner).remove(&event);
        Ok(machine.gpu.destroy_event(event)?)
    })
}

/// Records an event behind all work of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cudaEventRecord(event: u64, stream: u64) -> c_int {
    call(|machine| {
        machine.gpu.record(event, stream)?;
        RECORDED.lock().unwrap_or_else(PoisonError::into_inner).insert(event, Instant::now());
        Ok(())
    })
}

/// Records an event behind all work of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cudaEventRecordWithFlags(event: u64, stream: u64, _flags: c_uint) -> c_int {
    cudaEventRecord(event, stream)
}

/// Whether the work before an event is done. The answer "not yet" is not remembered as an error.
#[unsafe(no_mangle)]
pub extern "C" fn cudaEventQuery(event: u64) -> c_int {
    let mut done = false;
    match call(|machine| {
        done = machine.gpu.query(event)?;
        Ok(())
    }) {
        0 if done => 0,
        0 => code::NOT_READY,
        code => code,
    }
}

/// Waits for an event.
#[unsafe(no_mangle)]
pub extern "C" fn cudaEventSynchronize(event: u64) -> c_int {
    call(|machine| Ok(machine.gpu.synchronize_event(event)?))
}

/// Milliseconds of the host's clock between two events. They mean nothing, because kernels do
/// nothing.
///
/// # Safety
/// `milliseconds` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) -> c_int {
    call(|_| {
        let recorded = RECORDED.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(start), Some(end)) = (recorded.get(&start), recorded.get(&end)) else {
            return refuse(code::INVALID_HANDLE, "an event was never recorded");
        };
        // SAFETY: the caller's promise.
        unsafe { put(milliseconds, end.saturating_duration_since(*start).as_secs_f32() * 1e3) }
    })
}

/// The same by its newer name.
///
/// # Safety
/// `milliseconds` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaEventElapsedTime_v2(milliseconds: *mut f32, start: u64, end: u64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cudaEventElapsedTime(milliseconds, start, end) }
}
