//! The functions of the CUDA driver that a card calls: kernels, copies, a clock. The table is apart
//! from the allocator's own, which resolves only what the allocator calls.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use anyhow::{Context, Result, bail};
use libloading::Library;

/// A context, module, function, stream or event of the driver.
pub(super) type Pointer = *mut c_void;

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($argument:ident: $kind:ty),*);)*) => {
        /// The functions found.
        pub(super) struct Functions {
            error_string: Option<unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int>,
            $($name: unsafe extern "C" fn($($kind),*) -> c_int,)*
        }

        impl Functions {
            /// Finds them all.
            ///
            /// # Errors
            /// A function that the driver lacks.
            ///
            /// # Safety
            /// The library is the CUDA driver.
            pub(super) unsafe fn find(library: &Library) -> Result<Functions> {
                // SAFETY: the caller's promise; the types are those of the driver's header.
                unsafe {
                    Ok(Functions {
                        error_string: library.get("cuGetErrorString").ok().map(|found| *found),
                        $($name: *library.get($symbol).with_context(|| format!("the driver lacks {}", $symbol))?,)*
                    })
                }
            }

            $(
                #[doc = concat!("Calls `", $symbol, "`.")]
                ///
                /// # Safety
                /// The arguments are as the driver's documentation requires.
                #[allow(clippy::too_many_arguments, reason = "the driver's own")]
                pub(super) unsafe fn $name(&self, $($argument: $kind),*) -> Result<()> {
                    // SAFETY: the caller's promise.
                    let code = unsafe { (self.$name)($($argument),*) };
                    if code == 0 {
                        return Ok(());
                    }
                    bail!("{} failed with code {code}: {}", $symbol, self.text_of(code))
                }
            )*
        }
    };
}

functions! {
    retain_context = "cuDevicePrimaryCtxRetain" (context: *mut Pointer, device: c_int);
    set_context = "cuCtxSetCurrent" (context: Pointer);
    load = "cuModuleLoadData" (module: *mut Pointer, image: *const c_char);
    function = "cuModuleGetFunction" (function: *mut Pointer, module: Pointer, name: *const c_char);
    launch = "cuLaunchKernel" (function: Pointer, blocks: c_uint, y: c_uint, z: c_uint, threads: c_uint, along_y: c_uint,
        along_z: c_uint, shared: c_uint, stream: Pointer, arguments: *mut *mut c_void, extra: *mut *mut c_void);
    create_stream = "cuStreamCreate" (stream: *mut Pointer, flags: c_uint);
    synchronize_stream = "cuStreamSynchronize" (stream: Pointer);
    wait = "cuStreamWaitEvent" (stream: Pointer, event: Pointer, flags: c_uint);
    create_event = "cuEventCreate" (event: *mut Pointer, flags: c_uint);
    record = "cuEventRecord" (event: Pointer, stream: Pointer);
    synchronize_event = "cuEventSynchronize" (event: Pointer);
    elapsed = "cuEventElapsedTime" (milliseconds: *mut f32, start: Pointer, end: Pointer);
    copy = "cuMemcpyDtoDAsync_v2" (to: u64, from: u64, bytes: usize, stream: Pointer);
    upload = "cuMemcpyHtoDAsync_v2" (to: u64, from: *const c_void, bytes: usize, stream: Pointer);
    download = "cuMemcpyDtoHAsync_v2" (to: *mut c_void, from: u64, bytes: usize, stream: Pointer);
}

impl Functions {
    /// Finds a kernel of a module by its name.
    ///
    /// # Safety
    /// The module was loaded, and `kernel` may be written to.
    pub(super) unsafe fn kernel(&self, kernel: &mut Pointer, module: Pointer, name: &str) -> Result<()> {
        let name = CString::new(name)?;
        // SAFETY: the caller's promise; the name ends with a zero byte.
        unsafe { self.function(kernel, module, name.as_ptr()) }
    }

    /// The driver's text for a code.
    fn text_of(&self, code: c_int) -> String {
        let mut text = std::ptr::null();
        // SAFETY: the driver writes a string that stays valid, or nothing.
        let told = self.error_string.is_some_and(|tell| unsafe { tell(code, &mut text) } == 0) && !text.is_null();
        // SAFETY: as above.
        if told { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() } else { "no text".into() }
    }
}
