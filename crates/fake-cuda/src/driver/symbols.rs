//! How functions are found by name and version.

use std::ffi::{CStr, c_char, c_int, c_ulonglong, c_void};

use kitten_sim::code;

use super::{contexts, devices, memory, pinned, streams, virtual_memory};
use crate::answer::{answer, put};
use crate::refusal::{Result, refuse};

/// `CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND` and `CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT`.
const NOT_THERE: c_int = 1;
const TOO_OLD: c_int = 2;

macro_rules! table {
    ($($name:literal, since $since:literal => $function:expr;)*) => {
        /// Each function, and the CUDA version in which it got its present arguments.
        const TABLE: &[(&str, c_int, fn() -> *mut c_void)] = &[$(($name, $since, || $function as *mut c_void)),*];
    };
}

table! {
    "cuInit", since 2000 => devices::cuInit;
    "cuDriverGetVersion", since 2020 => devices::cuDriverGetVersion;
    "cuDeviceGetCount", since 2000 => devices::cuDeviceGetCount;
    "cuDeviceGet", since 2000 => devices::cuDeviceGet;
    "cuDeviceGetName", since 2000 => devices::cuDeviceGetName;
    "cuDeviceGetUuid", since 11040 => devices::cuDeviceGetUuid_v2;
    "cuDeviceGetAttribute", since 2000 => devices::cuDeviceGetAttribute;
    "cuDeviceTotalMem", since 3020 => devices::cuDeviceTotalMem_v2;
    "cuDeviceGetLuid", since 10000 => devices::cuDeviceGetLuid;
    "cuDeviceCanAccessPeer", since 4000 => devices::cuDeviceCanAccessPeer;
    "cuGetErrorName", since 6000 => devices::cuGetErrorName;
    "cuGetErrorString", since 6000 => devices::cuGetErrorString;
    "cuMemGetInfo", since 3020 => devices::cuMemGetInfo_v2;
    "cuDevicePrimaryCtxRetain", since 7000 => contexts::cuDevicePrimaryCtxRetain;
    "cuDevicePrimaryCtxRelease", since 11000 => contexts::cuDevicePrimaryCtxRelease_v2;
    "cuDevicePrimaryCtxGetState", since 7000 => contexts::cuDevicePrimaryCtxGetState;
    "cuCtxPushCurrent", since 4000 => contexts::cuCtxPushCurrent_v2;
    "cuCtxPopCurrent", since 4000 => contexts::cuCtxPopCurrent_v2;
    "cuCtxGetCurrent", since 4000 => contexts::cuCtxGetCurrent;
    "cuCtxGetDevice", since 2000 => contexts::cuCtxGetDevice;
    "cuCtxSetCurrent", since 4000 => contexts::cuCtxSetCurrent;
    "cuCtxSynchronize", since 2000 => contexts::cuCtxSynchronize;
    "cuThreadExchangeStreamCaptureMode", since 10010 => contexts::cuThreadExchangeStreamCaptureMode;
    "cuMemGetAllocationGranularity", since 10020 => virtual_memory::cuMemGetAllocationGranularity;
    "cuMemAddressReserve", since 10020 => virtual_memory::cuMemAddressReserve;
    "cuMemAddressFree", since 10020 => virtual_memory::cuMemAddressFree;
    "cuMemCreate", since 10020 => virtual_memory::cuMemCreate;
    "cuMemRelease", since 10020 => virtual_memory::cuMemRelease;
    "cuMemMap", since 10020 => virtual_memory::cuMemMap;
    "cuMemUnmap", since 10020 => virtual_memory::cuMemUnmap;
    "cuMemSetAccess", since 10020 => virtual_memory::cuMemSetAccess;
    "cuMemAlloc", since 3020 => memory::cuMemAlloc_v2;
    "cuMemFree", since 3020 => memory::cuMemFree_v2;
    "cuMemAllocAsync", since 11020 => memory::cuMemAllocAsync;
    "cuMemFreeAsync", since 11020 => memory::cuMemFreeAsync;
    "cuMemAllocHost", since 3020 => pinned::cuMemAllocHost_v2;
    "cuMemHostAlloc", since 2020 => pinned::cuMemHostAlloc;
    "cuMemFreeHost", since 2000 => pinned::cuMemFreeHost;
    "cuMemHostRegister", since 6050 => pinned::cuMemHostRegister_v2;
    "cuMemHostUnregister", since 4000 => pinned::cuMemHostUnregister;
    "cuMemHostGetDevicePointer", since 3020 => pinned::cuMemHostGetDevicePointer_v2;
    "cuMemcpyDtoDAsync", since 3020 => memory::cuMemcpyDtoDAsync_v2;
    "cuMemcpyAsync", since 4000 => memory::cuMemcpyAsync;
    "cuMemcpyHtoDAsync", since 3020 => memory::cuMemcpyHtoDAsync_v2;
    "cuMemcpyDtoHAsync", since 3020 => memory::cuMemcpyDtoHAsync_v2;
    "cuStreamCreate", since 2000 => streams::cuStreamCreate;
    "cuStreamDestroy", since 4000 => streams::cuStreamDestroy_v2;
    "cuStreamSynchronize", since 2000 => streams::cuStreamSynchronize;
    "cuStreamQuery", since 2000 => streams::cuStreamQuery;
    "cuStreamWaitEvent", since 3020 => streams::cuStreamWaitEvent;
    "cuStreamIsCapturing", since 10000 => streams::cuStreamIsCapturing;
    "cuEventCreate", since 2000 => streams::cuEventCreate;
    "cuEventDestroy", since 4000 => streams::cuEventDestroy_v2;
    "cuEventRecord", since 2000 => streams::cuEventRecord;
    "cuCtxRecordEvent", since 12050 => streams::cuCtxRecordEvent;
    "cuEventQuery", since 2000 => streams::cuEventQuery;
    "cuEventSynchronize", since 2000 => streams::cuEventSynchronize;
    "cuEventElapsedTime", since 2000 => streams::cuEventElapsedTime;
}

/// The names of all functions that can be found.
pub fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(name, ..)| *name)
}

/// Stands for a function that the fake does not have, where a caller insists on finding one.
pub(crate) extern "C" fn no_operation() -> c_int {
    0
}

/// Finds a function as of a version, and reports why it is not found.
///
/// # Safety
/// `symbol` is null or a string; `found` may be written to; `status` may be, or is null.
pub(crate) unsafe fn find(
    symbol: *const c_char,
    found: *mut *mut c_void,
    version: c_int,
    status: *mut c_int,
) -> Result {
    let mut outcome = 0;
    let result = crate::machine::current().and_then(|machine| {
        if symbol.is_null() {
            return refuse(code::INVALID_VALUE, "the name is missing");
        }
        // SAFETY: the caller's promise.
        let name = unsafe { CStr::from_ptr(symbol) }.to_string_lossy();
        let known = TABLE.iter().filter(|_| !machine.lacks(&name));
        let entry = known.into_iter().find(|(known, since, _)| *known == name && *since <= machine.version);
        outcome = match entry {
            None => NOT_THERE,
            Some((_, since, _)) if *since > version => TOO_OLD,
            // SAFETY: the caller's promise.
            Some((.., function)) => return unsafe { put(found, function()) },
        };
        refuse(code::NOT_FOUND, format!("{name}: not in this driver as of {version}"))
    });
    // SAFETY: the caller's promise.
    if let Some(status) = unsafe { status.as_mut() } {
        *status = outcome;
    }
    result
}

/// Finds a function as of a version, and reports why it is not found.
///
/// # Safety
/// `symbol` is a string; `found` may be written to; `status` may be, or is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    found: *mut *mut c_void,
    version: c_int,
    _flags: c_ulonglong,
    status: *mut c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    answer(|_| unsafe { find(symbol, found, version, status) })
}

/// Finds a function as of a version.
///
/// # Safety
/// `symbol` is a string; `found` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    found: *mut *mut c_void,
    version: c_int,
    _flags: c_ulonglong,
) -> c_int {
    // SAFETY: the caller's promise.
    answer(|_| unsafe { find(symbol, found, version, std::ptr::null_mut()) })
}
