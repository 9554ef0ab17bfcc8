//! The real CUDA driver, through its virtual memory management.
//!
//! ```text
//!   library.rs   finds the library: the one already in the process, or libcuda.so.1 / nvcuda.dll
//!   api.rs       its functions, each optional; codes stay integers, errors carry the arguments
//!   device.rs    a device: primary context, peers, and the rungs of the shared tier found by trial
//!   mod.rs       the driver trait over these
//! ```
//!
//! A function that the driver lacks is an error in words. Streams and events are the driver's own
//! handles, shared with the runtime.

mod api;
mod device;
mod library;

use std::ffi::c_int;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cudarc::driver::sys::{CUevent, CUevent_flags, CUstream};
use once_cell::sync::OnceCell;

use self::api::{Address, Api};
use self::device::{Device, Entered};
use super::{DeviceInfo, Driver, DriverError, Event, Granted, Handle, NOT_READY, Result, Rung, Stream, insist};
use crate::core::{PerTier, Tier};

/// The file name of the driver's library on this system.
pub const LIBRARY: &str = crate::platform::system::CUDA_DRIVER;

/// `CUDA_ERROR_STREAM_CAPTURE_IMPLICIT`: a query of the legacy default stream while another stream
/// is being captured.
const CAPTURE_IMPLICIT: i32 = 906;

/// The CUDA driver of this machine.
#[derive(Debug)]
pub struct CudaDriver {
    api: Arc<Api>,
    devices: Box<[OnceCell<Device>]>,
    /// The library that tells what the system grants, if it is not the system's.
    graphics: Option<PathBuf>,
}

impl CudaDriver {
    /// The driver that the process has loaded already, or the system's.
    ///
    /// # Errors
    /// A missing library, a library that is not a driver, or a machine without a device: each in
    /// words.
    pub fn open() -> Result<CudaDriver> {
        CudaDriver::start(library::load(None)?)
    }

    /// The driver in a file.
    ///
    /// # Errors
    /// As for [`open`](CudaDriver::open).
    pub fn open_library(path: &Path) -> Result<CudaDriver> {
        CudaDriver::start(library::load(Some(path))?)
    }

    fn start(api: Api) -> Result<CudaDriver> {
        let mut count = 0;
        // SAFETY: cuInit takes 0; the driver writes the count.
        unsafe {
            api.init(0)?;
            api.device_count(&mut count)?;
        }
        let devices = (0..count.max(0)).map(|_| OnceCell::new()).collect();
        Ok(CudaDriver { api: Arc::new(api), devices, graphics: None })
    }

    /// The same driver, on a system whose graphics library is the one in a file, for tests. Only
    /// Windows has one.
    #[doc(hidden)]
    pub fn with_graphics(self, library: &Path) -> CudaDriver {
        CudaDriver { graphics: Some(library.to_owned()), ..self }
    }

    /// The CUDA version that the driver supports: 12040 for 12.4.
    ///
    /// # Errors
    /// The driver's.
    pub fn version(&self) -> Result<i32> {
        let mut version = 0;
        // SAFETY: the driver writes the result.
        unsafe { self.api.driver_version(&mut version) }?;
        Ok(version)
    }

    fn device(&self, device: usize) -> Result<&Device> {
        let slot = self.devices.get(device).ok_or_else(|| DriverError {
            call: "cuDeviceGet",
            code: 101,
            name: "CUDA_ERROR_INVALID_DEVICE".into(),
            detail: format!("there is no device {device}: this machine has {}", self.devices.len()),
        })?;
        slot.get_or_try_init(|| Device::open(self.api.clone(), device as c_int, self.devices.len() as c_int))
    }

    /// The device with its context current.
    fn enter(&self, device: usize) -> Result<(&Device, Entered<'_>)> {
        let device = self.device(device)?;
        Ok((device, device.enter()?))
    }

    fn event(&self, device: usize, flags: CUevent_flags) -> Result<Event> {
        let (_, _entered) = self.enter(device)?;
        let mut event = std::ptr::null_mut();
        // SAFETY: the driver writes the event.
        unsafe { self.api.event_create(&mut event, flags as u32) }?;
        Ok(Event(event as u64))
    }
}

/// The result of a call that the allocator can do without: a driver that lacks it is no broken
/// driver, and answers that the call is not supported.
fn optional<T>(result: Result<T>) -> Result<T> {
    result.map_err(|why| match why.code {
        api::NOT_FOUND => DriverError { code: super::NOT_SUPPORTED, name: "CUDA_ERROR_NOT_SUPPORTED".into(), ..why },
        _ => why,
    })
}

fn raw_stream(stream: Stream) -> CUstream {
    stream.0 as CUstream
}

fn raw_event(event: Event) -> CUevent {
    event.0 as CUevent
}

// In all calls below, addresses, handles, streams and events come from the driver or the runtime,
// through the caller. The driver reports an error for an invalid one.
impl Driver for CudaDriver {
    fn device_count(&self) -> Result<usize> {
        Ok(self.devices.len())
    }

    fn device_info(&self, device: usize) -> Result<DeviceInfo> {
        let found = self.device(device)?;
        let (dedicated_total, dedicated_free) = found.memory()?;
        let (shared_total, shared_spare) = match found.rung {
            Rung::Nothing => (0, 0),
            _ => crate::platform::host::memory(),
        };
        Ok(DeviceInfo {
            name: found.name(),
            granularity: found.granularity,
            total: PerTier::new(dedicated_total, shared_total),
            free: PerTier::new(dedicated_free, shared_spare),
            headroom: (dedicated_total / 32).clamp(256 << 20, 1 << 30),
            shared_is_the_hosts: true,
            rung: found.rung,
            refused: found.refused.clone(),
        })
    }

    fn dedicated_free(&self, device: usize) -> Result<u64> {
        Ok(self.device(device)?.memory()?.1)
    }

    fn granted(&self, device: usize) -> Result<Option<Granted>, String> {
        self.device(device).map_err(|why| why.to_string())?.granted(self.graphics.as_deref())
    }

    fn reserve(&self, device: usize, bytes: u64, align: u64) -> Result<u64> {
        let (_, _entered) = self.enter(device)?;
        let mut address = Address(0);
        // SAFETY: the driver writes the address.
        unsafe { self.api.reserve(&mut address, bytes as usize, align as usize, Address(0), 0) }?;
        Ok(address.0)
    }

    fn unreserve(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        unsafe { self.api.unreserve(Address(address), bytes as usize) }
    }

    fn create(&self, device: usize, tier: Tier, bytes: u64) -> Result<Handle> {
        let (device, _entered) = self.enter(device)?;
        device.create(tier, bytes)
    }

    fn release(&self, device: usize, handle: Handle) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        unsafe { self.api.release(handle.0) }
    }

    fn map(&self, device: usize, address: u64, bytes: u64, handle: Handle) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above. The offset must be 0.
        unsafe { self.api.map(Address(address), bytes as usize, 0, handle.0, 0) }
    }

    fn unmap(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        unsafe { self.api.unmap(Address(address), bytes as usize) }
    }

    fn set_access(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        let (device, _entered) = self.enter(device)?;
        device.set_access(address, bytes)
    }

    fn pin(&self, device: usize, bytes: u64) -> Result<u64> {
        let (device, _entered) = self.enter(device)?;
        device.pin(bytes)
    }

    fn unpin(&self, device: usize, address: u64) -> Result<()> {
        let (device, _entered) = self.enter(device)?;
        device.unpin(address)
    }

    fn begin_copy(&self, device: usize, to: u64, from: u64, bytes: u64) -> Result<()> {
        let (device, _entered) = self.enter(device)?;
        // SAFETY: see above.
        unsafe { self.api.copy(Address(to), Address(from), bytes as usize, device.copies) }
    }

    fn finish_copies(&self, device: usize) -> Result<()> {
        let (device, _entered) = self.enter(device)?;
        // SAFETY: see above. Where the stream cannot be waited for, the device can be.
        unsafe { insist(|| self.api.stream_synchronize(device.copies)).or_else(|_| insist(|| self.api.synchronize())) }
    }

    fn copy_in_stream(&self, device: usize, to: u64, from: u64, bytes: u64, stream: Stream) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        optional(unsafe { self.api.copy_in_stream(Address(to), Address(from), bytes as usize, raw_stream(stream)) })
    }

    fn create_stream(&self, device: usize) -> Result<Stream> {
        let (device, _entered) = self.enter(device)?;
        optional(device.create_stream()).map(|stream| Stream(stream as u64))
    }

    fn destroy_stream(&self, device: usize, stream: Stream) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        optional(unsafe { self.api.stream_destroy(raw_stream(stream)) })
    }

    fn create_event(&self, device: usize) -> Result<Event> {
        self.event(device, CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    fn create_timer(&self, device: usize) -> Result<Event> {
        self.event(device, CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn destroy_event(&self, device: usize, event: Event) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        unsafe { self.api.event_destroy(raw_event(event)) }
    }

    fn record(&self, device: usize, event: Event, stream: Stream) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        unsafe { self.api.event_record(raw_event(event), raw_stream(stream)) }
    }

    fn record_all(&self, device: usize, event: Event) -> Result<()> {
        let (device, _entered) = self.enter(device)?;
        // SAFETY: see above. The context is the device's primary one, which we hold.
        optional(unsafe { self.api.record_all(device.context(), raw_event(event)) })
    }

    fn is_done(&self, device: usize, event: Event) -> Result<bool> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        match unsafe { self.api.event_query(raw_event(event)) } {
            Ok(()) => Ok(true),
            Err(why) if why.code == NOT_READY => Ok(false),
            Err(why) => Err(why),
        }
    }

    fn seconds_between(&self, device: usize, from: Event, to: Event) -> Result<f64> {
        let (_, _entered) = self.enter(device)?;
        let mut milliseconds = 0.0;
        // SAFETY: the driver writes the time.
        optional(unsafe { self.api.event_elapsed(&mut milliseconds, raw_event(from), raw_event(to)) })?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn wait(&self, device: usize, stream: Stream, event: Event) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        unsafe { self.api.stream_wait(raw_stream(stream), raw_event(event), 0) }
    }

    fn synchronize(&self, device: usize) -> Result<()> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: no precondition.
        unsafe { self.api.synchronize() }
    }

    fn is_idle(&self, device: usize, stream: Stream) -> Result<bool> {
        let (_, _entered) = self.enter(device)?;
        // SAFETY: see above.
        match unsafe { self.api.stream_query(raw_stream(stream)) } {
            Ok(()) => Ok(true),
            Err(why) if why.code == NOT_READY => Ok(false),
            Err(why) => Err(why),
        }
    }

    fn is_capturing(&self, device: usize, stream: Stream) -> Result<bool> {
        let (_, _entered) = self.enter(device)?;
        let mut status = 0;
        // SAFETY: the driver writes the status; 0 is "no capture".
        match unsafe { self.api.stream_is_capturing(raw_stream(stream), &mut status) } {
            Ok(()) => Ok(status != 0),
            Err(why) if why.code == CAPTURE_IMPLICIT => Ok(true),
            // A driver that lacks this query (before 10.0) has no captures either.
            Err(why) if why.code == api::NOT_FOUND => Ok(false),
            Err(why) => Err(why),
        }
    }
}
