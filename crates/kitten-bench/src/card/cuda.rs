//! A real card. Its kernels are PTX text that the driver compiles, so nothing of CUDA needs to be
//! installed except the driver.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use giant_kitten::Tier;
use giant_kitten::driver::cuda::{CudaDriver, LIBRARY};
use giant_kitten::driver::{Driver, Handle, Stream};
use kitten_sim::kernels::{self, OPERATIONS, RANGES, VECTOR, WARP};
use libloading::Library;

use super::functions::{Functions, Pointer};
use super::{Card, Range, timed};

const MEMORY: &str = concat!(include_str!("kernels/memory.ptx"), "\0");
const MULTIPLY: &str = concat!(include_str!("kernels/multiply.ptx"), "\0");

/// Blocks and threads of every kernel: enough to fill any current card.
const BLOCKS: c_uint = 1056;
const THREADS: c_uint = 256;

/// `CU_STREAM_NON_BLOCKING`: this stream and the legacy default stream do not wait for each other.
const NON_BLOCKING: c_uint = 1;

/// A real card, or a fake driver's.
pub struct Cuda {
    driver: Arc<CudaDriver>,
    device: usize,
    functions: Functions,
    name: String,
    read: Pointer,
    write: Pointer,
    operate: Pointer,
    /// Null on a card whose tensor cores do not have the instruction.
    multiply: Pointer,
    /// The stream of everything, and one for a second copy at the same time.
    streams: [Pointer; 2],
    start: Pointer,
    end: Pointer,
    joined: Pointer,
    /// A granule that kernels may write to.
    sink: (u64, Handle, u64),
}

/// An argument of a kernel.
fn argument<T>(value: &mut T) -> *mut c_void {
    (&raw mut *value).cast()
}

impl Cuda {
    /// A device of the driver that the process has loaded, or of the system's.
    ///
    /// # Errors
    /// No driver, no such device, no memory.
    pub fn new(device: usize) -> Result<Cuda> {
        let driver = CudaDriver::open()?;
        let info = driver.device_info(device)?;
        let version = driver.version()?;
        // SAFETY: the driver above has loaded this library already.
        let library = unsafe { Library::new(LIBRARY) }?;
        // SAFETY: as above.
        let functions = unsafe { Functions::find(&library) }?;
        // Never unloaded: the driver stays loaded for good.
        std::mem::forget(library);
        let granule = info.granularity;
        let handle = driver.create(device, Tier::Dedicated, granule)?;
        let address = driver.reserve(device, granule, granule)?;
        driver.map(device, address, granule, handle)?;
        driver.set_access(device, address, granule)?;
        let mut card = Cuda {
            driver: Arc::new(driver),
            device,
            functions,
            name: format!("{}, driver for CUDA {}.{}", info.name, version / 1000, version % 1000 / 10),
            read: null_mut(),
            write: null_mut(),
            operate: null_mut(),
            multiply: null_mut(),
            streams: [null_mut(); 2],
            start: null_mut(),
            end: null_mut(),
            joined: null_mut(),
            sink: (address, handle, granule),
        };
        card.prepare()?;
        Ok(card)
    }

    fn prepare(&mut self) -> Result<()> {
        let f = &self.functions;
        let (mut context, mut memory, mut tensor) = (null_mut(), null_mut(), null_mut());
        // SAFETY: the driver writes the handles that it creates; the texts end with a zero byte.
        unsafe {
            f.retain_context(&mut context, self.device as c_int)?;
            f.set_context(context)?;
            f.load(&mut memory, MEMORY.as_ptr().cast()).context("the kernels cannot be compiled")?;
            f.kernel(&mut self.read, memory, kernels::READ)?;
            f.kernel(&mut self.write, memory, kernels::WRITE)?;
            f.kernel(&mut self.operate, memory, kernels::OPERATE)?;
            if f.load(&mut tensor, MULTIPLY.as_ptr().cast()).is_ok() {
                f.kernel(&mut self.multiply, tensor, kernels::MULTIPLY)?;
            }
            for stream in &mut self.streams {
                f.create_stream(stream, NON_BLOCKING)?;
            }
            for event in [&mut self.start, &mut self.end, &mut self.joined] {
                f.create_event(event, 0)?;
            }
        }
        Ok(())
    }

    fn launch(&self, kernel: Pointer, arguments: &mut [*mut c_void]) -> Result<()> {
        let (stream, arguments) = (self.streams[0], arguments.as_mut_ptr());
        // SAFETY: the arguments are those of the kernel in its PTX; the driver copies them before
        // it returns.
        unsafe { self.functions.launch(kernel, BLOCKS, 1, 1, THREADS, 1, 1, 0, stream, arguments, null_mut()) }
    }
}

impl Card for Cuda {
    fn driver(&self) -> Arc<dyn Driver> {
        self.driver.clone()
    }

    fn device(&self) -> usize {
        self.device
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn is_real(&self) -> bool {
        !self.name.starts_with("simulated ")
    }

    fn time_calls(&self, calls: &mut dyn FnMut(&dyn Driver) -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        calls(&*self.driver)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn stream(&self) -> Stream {
        Stream(self.streams[0] as u64)
    }

    fn create_stream(&self) -> Result<Stream> {
        let mut stream = null_mut();
        // SAFETY: the driver writes the stream.
        unsafe { self.functions.create_stream(&mut stream, NON_BLOCKING) }?;
        Ok(Stream(stream as u64))
    }

    fn start_clock(&self) -> Result<()> {
        // SAFETY: event and stream were created in `prepare`.
        unsafe { self.functions.record(self.start, self.streams[0]) }
    }

    fn stop_clock(&self) -> Result<f64> {
        let mut milliseconds = 0.0;
        // SAFETY: events and stream were created in `prepare`; the driver writes the time.
        unsafe {
            self.functions.record(self.end, self.streams[0])?;
            self.functions.synchronize_event(self.end)?;
            self.functions.elapsed(&mut milliseconds, self.start, self.end)?;
        }
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn read(&self, (mut address, bytes): Range, mut stride: u64, mut passes: u32) -> Result<()> {
        let (mut count, mut sink) = (bytes / stride, self.sink.0);
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

    fn write(&self, (mut address, bytes): Range, mut stride: u64) -> Result<()> {
        let (mut count, mut value) = (bytes / stride, 0u32);
        self.launch(
            self.write,
            &mut [argument(&mut address), argument(&mut count), argument(&mut stride), argument(&mut value)],
        )
    }

    fn operate(&self, reads: &[Range], writes: &[Range]) -> Result<()> {
        let all: Vec<_> =
            reads.iter().map(|range| (range, true)).chain(writes.iter().map(|range| (range, false))).collect();
        for part in all.chunks(RANGES) {
            let mut ranges = kernels::Ranges::default();
            for (slot, ((address, bytes), _)) in ranges.iter_mut().zip(part) {
                *slot = [*address, bytes.div_ceil(VECTOR)];
            }
            let (mut count, mut read) = (part.len() as u32, part.iter().filter(|(_, read)| *read).count() as u32);
            let mut sink = self.sink.0;
            self.launch(
                self.operate,
                &mut [argument(&mut ranges), argument(&mut read), argument(&mut count), argument(&mut sink)],
            )?;
        }
        Ok(())
    }

    fn copy(&self, copies: &[(u64, u64, u64)]) -> Result<()> {
        if copies.len() > self.streams.len() {
            bail!("{} copies at once: there are streams for only {}", copies.len(), self.streams.len());
        }
        let (f, first) = (&self.functions, self.streams[0]);
        // SAFETY: the ranges are mapped; events and streams were created in `prepare`.
        unsafe {
            f.record(self.joined, first)?;
            f.wait(self.streams[1], self.joined, 0)?;
            for ((to, from, bytes), stream) in copies.iter().zip(self.streams) {
                f.copy(*to, *from, *bytes as usize, stream)?;
            }
            f.record(self.joined, self.streams[1])?;
            f.wait(first, self.joined, 0)
        }
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the bytes can be read until the stream has been waited for.
        unsafe {
            self.functions.upload(to, bytes.as_ptr().cast(), bytes.len(), self.streams[0])?;
            self.functions.synchronize_stream(self.streams[0])
        }
    }

    fn download(&self, bytes: &mut [u8], from: u64) -> Result<()> {
        // SAFETY: the bytes can be written until the stream has been waited for.
        unsafe {
            self.functions.download(bytes.as_mut_ptr().cast(), from, bytes.len(), self.streams[0])?;
            self.functions.synchronize_stream(self.streams[0])
        }
    }

    fn multiply(&self) -> Result<f64> {
        if self.multiply.is_null() {
            return Err(anyhow!(
                "this card has no tensor cores that the probe can measure: it needs compute capability 7.0 or later"
            ));
        }
        let (mut turns, mut sink) = (20_000u32, self.sink.0);
        let seconds = timed(self, || self.launch(self.multiply, &mut [argument(&mut turns), argument(&mut sink)]))?;
        let warps = f64::from(BLOCKS * THREADS / WARP);
        Ok(warps * f64::from(turns) * OPERATIONS / seconds)
    }

    fn product(&self, _weight: Range) -> Result<Option<f64>> {
        // Only a library's product means anything; scripts/gpu-check measures it in PyTorch.
        Ok(None)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let (address, handle, granule) = self.sink;
        // Errors at the end of a program have nowhere to go.
        let _ = self.driver.synchronize(self.device);
        let _ = self.driver.unmap(self.device, address, granule);
        let _ = self.driver.unreserve(self.device, address, granule);
        let _ = self.driver.release(self.device, handle);
    }
}
