//! Captures and graphs. A graph's handle is its number in the simulated GPU.

use std::ffi::{c_int, c_ulonglong, c_void};

use kitten_sim::CaptureStatus;

use super::call;
use crate::answer::put;
use crate::driver::capture_status;

/// Begins the capture of a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cudaStreamBeginCapture(stream: u64, _mode: c_int) -> c_int {
    call(|machine| Ok(machine.gpu.begin_capture(stream)?))
}

/// Ends a capture.
///
/// # Safety
/// `graph` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamEndCapture(stream: u64, graph: *mut u64) -> c_int {
    call(|machine| {
        let made = machine.gpu.end_capture(stream);
        // SAFETY: the caller's promise.
        unsafe { put(graph, made.as_ref().copied().unwrap_or(0)) }?;
        Ok(made.map(drop)?)
    })
}

/// Whether a stream is captured: a `cudaStreamCaptureStatus`.
///
/// # Safety
/// `status` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaStreamIsCapturing(stream: u64, status: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    call(|machine| unsafe { put(status, capture_status(machine, stream)?) })
}

/// The capture that a stream is in, and is valid, for the C part, whose function has other
/// arguments in each version; 0 for none.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_capture(stream: u64) -> c_ulonglong {
    let mut capture = 0;
    call(|machine| {
        if machine.gpu.capture_status(stream)? == CaptureStatus::Active {
            capture = machine.gpu.capture_of(stream)?.unwrap_or(0);
        }
        Ok(())
    });
    capture
}

/// Exchanges this thread's capture mode.
///
/// # Safety
/// `mode` may be read and written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaThreadExchangeStreamCaptureMode(mode: *mut c_int) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { crate::driver::cuThreadExchangeStreamCaptureMode(mode) }
}

/// The nodes of a graph: how many, and null for each.
///
/// # Safety
/// `count` may be read and written; `nodes` is null or has room for as many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGraphGetNodes(graph: u64, nodes: *mut *mut c_void, count: *mut usize) -> c_int {
    call(|machine| {
        let length = machine.gpu.graph_length(graph)?;
        if !nodes.is_null() {
            // SAFETY: the caller's promise.
            let room = unsafe { count.read() };
            (0..room.min(length)).try_for_each(|at| {
                // SAFETY: the caller's promise.
                unsafe { put(nodes.wrapping_add(at), std::ptr::null_mut()) }
            })?;
        }
        // SAFETY: the caller's promise.
        unsafe { put(count, length) }
    })
}

/// Makes a graph executable. The handle stays the same.
///
/// # Safety
/// `executable` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGraphInstantiate(executable: *mut u64, graph: u64, _flags: c_ulonglong) -> c_int {
    call(|machine| {
        machine.gpu.graph_length(graph)?;
        // SAFETY: the caller's promise.
        unsafe { put(executable, graph) }
    })
}

/// Makes a graph executable.
///
/// # Safety
/// `executable` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cudaGraphInstantiateWithFlags(executable: *mut u64, graph: u64, flags: c_ulonglong) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { cudaGraphInstantiate(executable, graph, flags) }
}

/// Launches a graph's work in a stream.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGraphLaunch(executable: u64, stream: u64) -> c_int {
    call(|machine| Ok(machine.gpu.replay(executable, stream)?))
}

/// Destroys an executable graph.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGraphExecDestroy(executable: u64) -> c_int {
    call(|machine| {
        machine.gpu.destroy_graph(executable);
        Ok(())
    })
}

/// Destroys a graph; its executable graphs stay.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGraphDestroy(_graph: u64) -> c_int {
    0
}
