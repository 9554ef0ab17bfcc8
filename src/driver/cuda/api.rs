//! The functions of the CUDA driver that we call. Each is looked up by itself, each is optional,
//! and each reports errors in words.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::fmt;
use std::ptr::NonNull;

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUevent, CUmemAccessDesc, CUmemAllocationProp, CUmemGenericAllocationHandle, CUstream,
};

use crate::driver::{DriverError, Result};

/// `CUDA_ERROR_NOT_FOUND`: the result of a call that the driver does not have.
pub(super) const NOT_FOUND: i32 = 500;

/// A device address, shown in hexadecimal.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) u64);

/// An argument as an error shows it. `None` for one that says nothing, such as a place for a
/// result.
trait Argument {
    fn show(&self) -> Option<String>;
}

macro_rules! shown_as {
    ($($kind:ty => |$value:ident| $text:expr;)*) => {
        $(impl Argument for $kind {
            fn show(&self) -> Option<String> {
                let $value = self;
                $text
            }
        })*
    };
}

shown_as! {
    Address => |address| Some(format!("{:#x}", address.0));
    c_int => |number| Some(number.to_string());
    c_uint => |number| Some(number.to_string());
    u64 => |number| Some(number.to_string());
    usize => |number| Some(number.to_string());
    *mut c_void => |pointer| Some(format!("{pointer:p}"));
    CUcontext => |pointer| Some(format!("{pointer:p}"));
    CUstream => |pointer| Some(format!("{pointer:p}"));
    CUevent => |pointer| Some(format!("{pointer:p}"));
    &CUmemAllocationProp => |prop| Some(format!("{:?} {}", prop.location.type_, prop.location.id));
}

impl<T> Argument for *mut T
where
    T: Answer,
{
    fn show(&self) -> Option<String> {
        None
    }
}

impl Argument for *const CUmemAccessDesc {
    fn show(&self) -> Option<String> {
        None
    }
}

/// A type that the driver writes results to.
trait Answer {}
impl Answer for c_int {}
impl Answer for f32 {}
impl Answer for c_uint {}
impl Answer for usize {}
impl Answer for u64 {}
impl Answer for Address {}
impl Answer for c_char {}
impl Answer for *mut c_void {}
impl Answer for CUcontext {}
impl Answer for CUstream {}
impl Answer for CUevent {}

macro_rules! functions {
    ($($name:ident = $symbol:literal, direct $direct:literal, since $since:literal:
        ($($argument:ident: $kind:ty),*);)*) => {
        /// The functions found in a driver.
        pub(super) struct Api {
            error_name: Option<unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int>,
            error_string: Option<unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int>,
            $($name: Option<unsafe extern "C" fn($($kind),*) -> c_int>,)*
        }

        impl Api {
            /// Looks each function up by its name, by the symbol whose arguments are the ones used
            /// here, and by the CUDA version (11040 for 11.4) in which the function took on these
            /// arguments.
            ///
            /// # Safety
            /// The function found under a name is the driver's function of that name.
            pub(super) unsafe fn resolve(find: impl Fn(&CStr, &CStr, c_int) -> Option<NonNull<c_void>>) -> Api {
                // SAFETY: the caller's promise; the types are those of the driver's header.
                unsafe {
                    Api {
                        error_name: find(c"cuGetErrorName", c"cuGetErrorName", 6000)
                            .map(|found| std::mem::transmute::<NonNull<c_void>, _>(found)),
                        error_string: find(c"cuGetErrorString", c"cuGetErrorString", 6000)
                            .map(|found| std::mem::transmute::<NonNull<c_void>, _>(found)),
                        $($name: find($symbol, $direct, $since)
                            .map(|found| std::mem::transmute::<NonNull<c_void>, _>(found)),)*
                    }
                }
            }

            /// The functions that this driver lacks.
            pub(super) fn missing(&self) -> Vec<&'static str> {
                let mut missing = Vec::new();
                $(if self.$name.is_none() {
                    missing.push(name_of($symbol));
                })*
                missing
            }

            $(
                #[doc = concat!("Calls `", stringify!($symbol), "`.")]
                ///
                /// # Safety
                /// As the driver's documentation requires of the arguments.
                #[allow(clippy::too_many_arguments, reason = "the driver's own")]
                pub(super) unsafe fn $name(&self, $($argument: $kind),*) -> Result<()> {
                    const CALL: &str = name_of($symbol);
                    let Some(function) = self.$name else {
                        return Err(DriverError {
                            call: CALL,
                            code: NOT_FOUND,
                            name: "CUDA_ERROR_NOT_FOUND".into(),
                            detail: format!(
                                "the installed driver lacks this function: it needs CUDA {}.{} or later; update the driver",
                                $since / 1000,
                                $since % 1000 / 10
                            ),
                        });
                    };
                    // SAFETY: the caller's promise.
                    match unsafe { function($($argument),*) } {
                        0 => Ok(()),
                        code => {
                            let arguments: &[(&str, &dyn Argument)] = &[$((stringify!($argument), &$argument)),*];
                            Err(self.error(CALL, code, arguments))
                        }
                    }
                }
            )*
        }
    };
}

functions! {
    init = c"cuInit", direct c"cuInit", since 2000: (flags: c_uint);
    driver_version = c"cuDriverGetVersion", direct c"cuDriverGetVersion", since 2020: (version: *mut c_int);
    device_count = c"cuDeviceGetCount", direct c"cuDeviceGetCount", since 2000: (count: *mut c_int);
    device_get = c"cuDeviceGet", direct c"cuDeviceGet", since 2000: (device: *mut c_int, ordinal: c_int);
    device_name = c"cuDeviceGetName", direct c"cuDeviceGetName", since 2000:
        (name: *mut c_char, length: c_int, device: CUdevice);
    device_attribute = c"cuDeviceGetAttribute", direct c"cuDeviceGetAttribute", since 2000:
        (value: *mut c_int, attribute: c_int, device: CUdevice);
    luid = c"cuDeviceGetLuid", direct c"cuDeviceGetLuid", since 10000:
        (luid: *mut c_char, nodes: *mut c_uint, device: CUdevice);
    can_access_peer = c"cuDeviceCanAccessPeer", direct c"cuDeviceCanAccessPeer", since 4000:
        (can: *mut c_int, device: CUdevice, peer: CUdevice);
    context_retain = c"cuDevicePrimaryCtxRetain", direct c"cuDevicePrimaryCtxRetain", since 7000:
        (context: *mut CUcontext, device: CUdevice);
    context_release = c"cuDevicePrimaryCtxRelease", direct c"cuDevicePrimaryCtxRelease_v2", since 11000:
        (device: CUdevice);
    context_current = c"cuCtxGetCurrent", direct c"cuCtxGetCurrent", since 4000: (context: *mut CUcontext);
    context_push = c"cuCtxPushCurrent", direct c"cuCtxPushCurrent_v2", since 4000: (context: CUcontext);
    context_pop = c"cuCtxPopCurrent", direct c"cuCtxPopCurrent_v2", since 4000: (context: *mut CUcontext);
    synchronize = c"cuCtxSynchronize", direct c"cuCtxSynchronize", since 2000: ();
    capture_mode = c"cuThreadExchangeStreamCaptureMode", direct c"cuThreadExchangeStreamCaptureMode", since 10010:
        (mode: *mut c_int);
    memory_info = c"cuMemGetInfo", direct c"cuMemGetInfo_v2", since 3020: (free: *mut usize, total: *mut usize);
    granularity = c"cuMemGetAllocationGranularity", direct c"cuMemGetAllocationGranularity", since 10020:
        (granularity: *mut usize, prop: &CUmemAllocationProp, option: c_int);
    reserve = c"cuMemAddressReserve", direct c"cuMemAddressReserve", since 10020:
        (address: *mut Address, size: usize, alignment: usize, wish: Address, flags: c_ulonglong);
    unreserve = c"cuMemAddressFree", direct c"cuMemAddressFree", since 10020: (address: Address, size: usize);
    create = c"cuMemCreate", direct c"cuMemCreate", since 10020:
        (handle: *mut CUmemGenericAllocationHandle, size: usize, prop: &CUmemAllocationProp, flags: c_ulonglong);
    release = c"cuMemRelease", direct c"cuMemRelease", since 10020: (handle: CUmemGenericAllocationHandle);
    map = c"cuMemMap", direct c"cuMemMap", since 10020:
        (address: Address, size: usize, offset: usize, handle: CUmemGenericAllocationHandle, flags: c_ulonglong);
    unmap = c"cuMemUnmap", direct c"cuMemUnmap", since 10020: (address: Address, size: usize);
    set_access = c"cuMemSetAccess", direct c"cuMemSetAccess", since 10020:
        (address: Address, size: usize, access: *const CUmemAccessDesc, count: usize);
    pin = c"cuMemHostAlloc", direct c"cuMemHostAlloc", since 2020:
        (memory: *mut *mut c_void, size: usize, flags: c_uint);
    unpin = c"cuMemFreeHost", direct c"cuMemFreeHost", since 2000: (memory: *mut c_void);
    device_pointer = c"cuMemHostGetDevicePointer", direct c"cuMemHostGetDevicePointer_v2", since 3020:
        (address: *mut Address, memory: *mut c_void, flags: c_uint);
    copy = c"cuMemcpyDtoDAsync", direct c"cuMemcpyDtoDAsync_v2", since 3020:
        (to: Address, from: Address, size: usize, stream: CUstream);
    copy_in_stream = c"cuMemcpyAsync", direct c"cuMemcpyAsync", since 4000:
        (to: Address, from: Address, size: usize, stream: CUstream);
    stream_create = c"cuStreamCreate", direct c"cuStreamCreate", since 2000: (stream: *mut CUstream, flags: c_uint);
    stream_destroy = c"cuStreamDestroy", direct c"cuStreamDestroy_v2", since 4000: (stream: CUstream);
    stream_synchronize = c"cuStreamSynchronize", direct c"cuStreamSynchronize", since 2000: (stream: CUstream);
    stream_query = c"cuStreamQuery", direct c"cuStreamQuery", since 2000: (stream: CUstream);
    stream_wait = c"cuStreamWaitEvent", direct c"cuStreamWaitEvent", since 3020:
        (stream: CUstream, event: CUevent, flags: c_uint);
    stream_is_capturing = c"cuStreamIsCapturing", direct c"cuStreamIsCapturing", since 10000:
        (stream: CUstream, status: *mut c_int);
    event_create = c"cuEventCreate", direct c"cuEventCreate", since 2000: (event: *mut CUevent, flags: c_uint);
    event_destroy = c"cuEventDestroy", direct c"cuEventDestroy_v2", since 4000: (event: CUevent);
    event_record = c"cuEventRecord", direct c"cuEventRecord", since 2000: (event: CUevent, stream: CUstream);
    record_all = c"cuCtxRecordEvent", direct c"cuCtxRecordEvent", since 12050: (context: CUcontext, event: CUevent);
    event_query = c"cuEventQuery", direct c"cuEventQuery", since 2000: (event: CUevent);
    event_elapsed = c"cuEventElapsedTime", direct c"cuEventElapsedTime", since 2000:
        (milliseconds: *mut f32, from: CUevent, to: CUevent);
}

const fn name_of(symbol: &'static CStr) -> &'static str {
    match symbol.to_str() {
        Ok(name) => name,
        Err(_) => "",
    }
}

impl Api {
    #[cold]
    fn error(&self, call: &'static str, code: c_int, arguments: &[(&str, &dyn Argument)]) -> DriverError {
        let arguments: Vec<_> =
            arguments.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.show()?))).collect();
        let mut detail = arguments.join(", ");
        if let Some(text) = text_of(self.error_string, code) {
            detail = if detail.is_empty() { text } else { format!("{text} ({detail})") };
        }
        DriverError { call, code, name: text_of(self.error_name, code).unwrap_or_else(|| "unknown".into()), detail }
    }
}

/// The driver's text for a code; `None` for a code that it does not know.
fn text_of(ask: Option<unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int>, code: c_int) -> Option<String> {
    let mut text = std::ptr::null();
    // SAFETY: the driver writes a pointer to a static string, or null.
    let answer = unsafe { ask?(code, &mut text) };
    if answer != 0 || text.is_null() {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("missing", &self.missing()).finish()
    }
}
