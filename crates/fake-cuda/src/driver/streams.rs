//! Streams and events.

use std::ffi::{c_int, c_uint, c_void};

use kitten_sim::{CaptureStatus, code};

use super::contexts::{device_in, device_of_context};
use crate::answer::{answer, put};
use crate::machine::Machine;
use crate::refusal::{Result, refuse};

/// `CU_EVENT_DISABLE_TIMING`.
const DISABLE_TIMING: c_uint = 2;

/// Creates a stream.
///
/// # Safety
/// `stream` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) -> c_int {
    answer(|machine| {
        device_of_context()?;
        let made = machine.gpu.create_stream()?;
        // SAFETY: the caller's promise.
        unsafe { put(stream, made as *mut c_void) }
    })
}

/// Destroys a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: *mut c_void) -> c_int {
    answer(|machine| Ok(machine.gpu.destroy_stream(stream as u64)?))
}

/// Waits for a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        Ok(machine.gpu.synchronize_stream(stream as u64)?)
    })
}

/// Whether all work of a stream is done.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamQuery(stream: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        let is_done = machine.gpu.query_stream(stream as u64)?;
        if is_done { Ok(()) } else { refuse(code::NOT_READY, "the work is not done yet") }
    })
}

/// Makes later work of a stream wait for an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: *mut c_void, event: *mut c_void, _flags: c_uint) -> c_int {
    answer(|machine| {
        device_of_context()?;
        Ok(machine.gpu.wait(stream as u64, event as u64)?)
    })
}

/// Whether a stream is captured: a `CUstreamCaptureStatus`.
///
/// # Safety
/// `status` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: *mut c_void, status: *mut c_int) -> c_int {
    answer(|machine| {
        device_of_context()?;
        // SAFETY: the caller's promise.
        unsafe { put(status, capture_status(machine, stream as u64)?) }
    })
}

/// Whether a stream is captured, by the number that driver and runtime have for that.
pub(crate) fn capture_status(machine: &Machine, stream: u64) -> Result<c_int> {
    Ok(match machine.gpu.capture_status(stream)? {
        CaptureStatus::None => 0,
        CaptureStatus::Active => 1,
        CaptureStatus::Invalidated => 2,
    })
}

/// Creates an event. It keeps no time if the flags say so.
///
/// # Safety
/// `event` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, flags: c_uint) -> c_int {
    answer(|machine| {
        device_of_context()?;
        let made = if flags & DISABLE_TIMING == 0 { machine.gpu.create_timer() } else { machine.gpu.create_event() }?;
        // SAFETY: the caller's promise.
        unsafe { put(event, made as *mut c_void) }
    })
}

/// Destroys an event.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        Ok(machine.gpu.destroy_event(event as u64)?)
    })
}

/// Records an event behind all work of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: *mut c_void, stream: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        Ok(machine.gpu.record(event as u64, stream as u64)?)
    })
}

/// Records an event behind all work of a context.
#[unsafe(no_mangle)]
pub extern "C" fn cuCtxRecordEvent(context: *mut c_void, event: *mut c_void) -> c_int {
    answer(|machine| Ok(machine.gpu.record_all(device_in(machine, context)?, event as u64)?))
}

/// Whether the work before an event is done.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        if machine.gpu.query(event as u64)? { Ok(()) } else { refuse(code::NOT_READY, "the work is not done yet") }
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
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, from: *mut c_void, to: *mut c_void) -> c_int {
    answer(|machine| {
        device_of_context()?;
        let seconds = machine.gpu.seconds_between(from as u64, to as u64)?;
        // SAFETY: the caller's promise.
        unsafe { put(milliseconds, (seconds * 1e3) as f32) }
    })
}
