//! A real card. Kernels are PTX text that the driver compiles: nothing of CUDA needs to be installed but the driver.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use giant_kitten::driver::Driver;
use giant_kitten::driver::cuda::CudaDriver;
use libloading::Library;

use super::card::Card;

#[cfg(windows)]
const LIBRARY: &str = "nvcuda.dll";
#[cfg(not(windows))]
const LIBRARY: &str = "libcuda.so.1";

const MEMORY: &str = concat!(include_str!("memory.ptx"), "\0");
const MULTIPLY: &str = concat!(include_str!("multiply.ptx"), "\0");

/// Blocks and threads of every kernel: enough to fill any card of today.
const BLOCKS: c_uint = 1056;
const THREADS: c_uint = 256;
/// Operations of one turn of `gk_multiply` in one warp: four products of 16x16x16.
const OPERATIONS: f64 = 4.0 * 2.0 * 16.0 * 16.0 * 16.0;

type Handle = *mut c_void;

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($kind:ty),*);)*) => {
        /// The driver's functions that a probe needs besides the allocator's.
        struct Functions {
            $($name: unsafe extern "C" fn($($kind),*) -> c_int,)*
        }

        impl Functions {
            /// # Safety
            /// The library is the CUDA driver.
            unsafe fn find(library: &Library) -> Result<Functions> {
                Ok(Functions {
                    // SAFETY: the caller's promise; the types are those of the driver's header.
                    $($name: *unsafe { library.get($symbol) }.with_context(|| format!("the driver lacks {}", $symbol))?,)*
                })
            }
        }
    };
}

functions! {
    retain_context = "cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
    set_context = "cuCtxSetCurrent" (Handle);
    load = "cuModuleLoadData" (*mut Handle, *const c_char);
    function = "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    launch = "cuLaunchKernel"
        (Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
    create_stream = "cuStreamCreate" (*mut Handle, c_uint);
    synchronize_stream = "cuStreamSynchronize" (Handle);
    create_event = "cuEventCreate" (*mut Handle, c_uint);
    record = "cuEventRecord" (Handle, Handle);
    synchronize_event = "cuEventSynchronize" (Handle);
    elapsed = "cuEventElapsedTime" (*mut f32, Handle, Handle);
    wait = "cuStreamWaitEvent" (Handle, Handle, c_uint);
    copy = "cuMemcpyDtoDAsync_v2" (u64, u64, usize, Handle);
    error_string = "cuGetErrorString" (c_int, *mut *const c_char);
}

/// A real card, or a fake driver's.
pub struct Cuda {
    driver: CudaDriver,
    functions: Functions,
    name: String,
    read: Handle,
    write: Handle,
    /// Null on a card whose tensor cores do not know the instruction.
    multiply: Handle,
    streams: [Handle; 2],
    events: [Handle; 3],
    sink: u64,
}

/// An argument of a kernel.
fn argument<T>(value: &mut T) -> *mut c_void {
    (&raw mut *value).cast()
}

impl Cuda {
    /// The first device of the driver that the process has, or the system's.
    ///
    /// # Errors
    /// No driver, no device, no memory: in words.
    pub fn new() -> Result<Cuda> {
        let driver = CudaDriver::open()?;
        let info = driver.device_info(0)?;
        let version = driver.version()?;
        // SAFETY: the driver above is this very library.
        let library = unsafe { Library::new(LIBRARY) }?;
        // SAFETY: as above.
        let functions = unsafe { Functions::find(&library) }?;
        std::mem::forget(library);
        let sink = driver.reserve(0, info.granularity, info.granularity)?;
        let handle = driver.create(0, giant_kitten::Tier::Dedicated, info.granularity)?;
        driver.map(0, sink, info.granularity, handle)?;
        driver.set_access(0, sink, info.granularity)?;
        let null = std::ptr::null_mut();
        let mut card = Cuda {
            driver,
            functions,
            name: format!("{}, driver for CUDA {}.{}", info.name, version / 1000, version % 1000 / 10),
            read: null,
            write: null,
            multiply: null,
            streams: [null; 2],
            events: [null; 3],
            sink,
        };
        card.prepare()?;
        Ok(card)
    }

    fn check(&self, call: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: the driver writes a static string, or null.
        let told = unsafe { (self.functions.error_string)(code, &mut text) } == 0 && !text.is_null();
        // SAFETY: as above.
        let text = if told { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() } else { String::new() };
        bail!("{call} failed with code {code}: {text}")
    }

    fn prepare(&mut self) -> Result<()> {
        let f = &self.functions;
        let (mut context, mut module, mut other) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the driver writes what it makes; the texts end with a zero byte.
        unsafe {
            self.check("cuDevicePrimaryCtxRetain", (f.retain_context)(&mut context, 0))?;
            self.check("cuCtxSetCurrent", (f.set_context)(context))?;
            self.check("cuModuleLoadData", (f.load)(&mut module, MEMORY.as_ptr().cast()))?;
            let [mut read, mut write, mut multiply] = [std::ptr::null_mut(); 3];
            self.check("cuModuleGetFunction", (f.function)(&mut read, module, c"gk_read".as_ptr()))?;
            self.check("cuModuleGetFunction", (f.function)(&mut write, module, c"gk_write".as_ptr()))?;
            if (f.load)(&mut other, MULTIPLY.as_ptr().cast()) == 0 {
                self.check("cuModuleGetFunction", (f.function)(&mut multiply, other, c"gk_multiply".as_ptr()))?;
            }
            let (mut streams, mut events) = ([std::ptr::null_mut(); 2], [std::ptr::null_mut(); 3]);
            for stream in &mut streams {
                // Not blocking: neither waits for the default stream.
                self.check("cuStreamCreate", (f.create_stream)(stream, 1))?;
            }
            for event in &mut events {
                self.check("cuEventCreate", (f.create_event)(event, 0))?;
            }
            (self.read, self.write, self.multiply) = (read, write, multiply);
            (self.streams, self.events) = (streams, events);
        }
        Ok(())
    }

    fn launch(&self, kernel: Handle, arguments: &mut [*mut c_void]) -> Result<()> {
        // SAFETY: the arguments are those of the kernel in its PTX; the driver copies them before it returns.
        let code = unsafe {
            let (stream, none) = (self.streams[0], std::ptr::null_mut());
            (self.functions.launch)(kernel, BLOCKS, 1, 1, THREADS, 1, 1, 0, stream, arguments.as_mut_ptr(), none)
        };
        self.check("cuLaunchKernel", code)
    }

    /// Seconds between two events around what is put in the first stream.
    fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let (f, [start, end, _], stream) = (&self.functions, self.events, self.streams[0]);
        let mut milliseconds = 0.0;
        // SAFETY: events and streams were made in `prepare`.
        unsafe {
            self.check("cuEventRecord", (f.record)(start, stream))?;
            work()?;
            self.check("cuEventRecord", (f.record)(end, stream))?;
            self.check("cuEventSynchronize", (f.synchronize_event)(end))?;
            self.check("cuEventElapsedTime", (f.elapsed)(&mut milliseconds, start, end))?;
        }
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn launch_read(&self, address: u64, bytes: u64, stride: u64, passes: u32) -> Result<()> {
        let (mut address, mut count, mut stride, mut passes, mut sink) =
            (address, bytes / stride, stride, passes, self.sink);
        self.launch(
            self.read,
            &mut [
                argument(&mut address),
                argument(&mut count),
                argument(&mut stride),
                argument(&mut passes),
                argument(&mut sink),
            ],
        )
    }
}

impl Card for Cuda {
    fn driver(&self) -> &dyn Driver {
        &self.driver
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn time_calls(&self, calls: &mut dyn FnMut(&dyn Driver) -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        calls(&self.driver)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn read(&self, address: u64, bytes: u64, stride: u64, passes: u32) -> Result<f64> {
        self.time(|| self.launch_read(address, bytes, stride, passes))
    }

    fn begin_read(&self, address: u64, bytes: u64, passes: u32) -> Result<()> {
        self.launch_read(address, bytes, 16, passes)
    }

    fn write(&self, address: u64, bytes: u64, stride: u64) -> Result<f64> {
        let (mut address, mut count, mut stride, mut value) = (address, bytes / stride, stride, 0u32);
        self.time(|| {
            let arguments = [argument(&mut address), argument(&mut count), argument(&mut stride), argument(&mut value)];
            self.launch(self.write, &mut { arguments })
        })
    }

    fn copy(&self, copies: &[(u64, u64, u64)]) -> Result<f64> {
        if copies.len() > self.streams.len() {
            bail!("{} copies at once: there are {} streams for them", copies.len(), self.streams.len());
        }
        let (f, [start, _, joined]) = (&self.functions, self.events);
        self.time(|| {
            for ((to, from, bytes), stream) in copies.iter().zip(self.streams) {
                // SAFETY: the ranges are mapped; events and streams were made in `prepare`.
                unsafe {
                    if stream != self.streams[0] {
                        self.check("cuStreamWaitEvent", (f.wait)(stream, start, 0))?;
                    }
                    self.check("cuMemcpyDtoDAsync", (f.copy)(*to, *from, *bytes as usize, stream))?;
                    if stream != self.streams[0] {
                        self.check("cuEventRecord", (f.record)(joined, stream))?;
                        self.check("cuStreamWaitEvent", (f.wait)(self.streams[0], joined, 0))?;
                    }
                }
            }
            Ok(())
        })
    }

    fn multiply(&self) -> Result<f64> {
        if self.multiply.is_null() {
            return Err(anyhow!(
                "this card has no tensor cores of the kind that the probe knows (compute capability 7.0)"
            ));
        }
        let (mut turns, mut sink) = (20_000u32, self.sink);
        let seconds = self.time(|| self.launch(self.multiply, &mut [argument(&mut turns), argument(&mut sink)]))?;
        let warps = f64::from(BLOCKS * THREADS / 32);
        Ok(warps * f64::from(turns) * OPERATIONS / seconds)
    }

    fn product(&self, _weight: u64, _bytes: u64) -> Result<Option<f64>> {
        // A product that means anything is a library's; scripts/gpu-check measures it in PyTorch.
        Ok(None)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        for stream in self.streams {
            // SAFETY: the streams were made in `prepare`; a null one is the default stream.
            let _ = unsafe { (self.functions.synchronize_stream)(stream) };
        }
    }
}
