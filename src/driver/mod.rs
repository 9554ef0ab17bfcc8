//! The [`Driver`] trait: what the allocator needs from a GPU, and nothing more.
//!
//! Implementations: [`cuda`] (the real CUDA driver, loaded at run time) and `sim` (the simulated
//! GPU, behind the feature `sim`).
//!
//! Device addresses are plain `u64`: the allocator never reads or writes the memory behind them.

use std::fmt;
use std::time::Duration;

use crate::core::{Grant, PerTier, Tier};

pub mod cuda;
#[cfg(feature = "sim")]
pub mod sim;

/// One physical allocation, as the driver names it (`CUmemGenericAllocationHandle`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// A stream as the caller names it (`cudaStream_t`): 0 and 1 are the legacy default stream, 2 is
/// the default stream of the calling thread, and anything else is an address from the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream(pub u64);

/// A marker in a stream (`CUevent`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event(pub u64);

/// The ways to a shared tier: the rungs of a ladder, tried from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Backing on a node of host memory (CUDA 12.2 and later).
    HostNuma,
    /// Backing in host memory (CUDA 13.0 and later).
    Host,
    /// Pinned host memory, at addresses of its own. Nothing there can change tier.
    Pinned,
    /// There is no shared tier.
    Nothing,
}

impl Rung {
    /// The rung's name in statistics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Rung::HostNuma => "host_numa",
            Rung::Host => "host",
            Rung::Pinned => "pinned",
            Rung::Nothing => "none",
        }
    }

    /// Whether shared memory is backing, so that granules can change tier under their addresses.
    pub fn migrates(self) -> bool {
        matches!(self, Rung::HostNuma | Rung::Host)
    }
}

/// A device and its memory, as the driver reports them at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device's human-readable name.
    pub name: String,
    /// The granularity of backing in either tier, in bytes. A power of two.
    pub granularity: u64,
    /// The total bytes of each tier; 0 for a tier that the driver does not have.
    pub total: PerTier<u64>,
    /// The bytes of each tier that are free at this moment. In the shared tier these are what the
    /// host can spare.
    pub free: PerTier<u64>,
    /// Free dedicated bytes to leave for the CUDA context, late-loaded kernels and the desktop.
    pub headroom: u64,
    /// Whether the shared tier is memory of this machine, which other processes use as well.
    pub shared_is_the_hosts: bool,
    /// The rung that the shared tier stands on.
    pub rung: Rung,
    /// Why each better rung failed its trial, in words.
    pub refused: Vec<String>,
}

/// What the operating system grants this process of a device's memory at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The grant of each tier; `None` for a tier of which the system keeps no account.
    pub of: PerTier<Option<Grant>>,
    /// How long the answer may be used before the system is asked again: asking has its price.
    pub lasts: Duration,
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub const OUT_OF_MEMORY: i32 = 2;
/// `CUDA_ERROR_NOT_READY`.
pub const NOT_READY: i32 = 600;
/// `CUDA_ERROR_NOT_SUPPORTED`.
pub const NOT_SUPPORTED: i32 = 801;
/// `CUDA_ERROR_INVALID_HANDLE`.
pub const INVALID_HANDLE: i32 = 400;
/// `CUDA_ERROR_DEINITIALIZED`: the process is exiting and the driver is already gone.
pub const DEINITIALIZED: i32 = 4;
/// `CUDA_ERROR_INVALID_CONTEXT`: the context no longer exists.
pub const INVALID_CONTEXT: i32 = 201;
/// `CUDA_ERROR_CONTEXT_IS_DESTROYED`.
pub const CONTEXT_IS_DESTROYED: i32 = 709;

/// A driver call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverError {
    /// The call, by the driver's name for it (`cuMemCreate`).
    pub call: &'static str,
    /// The driver's code, kept as an integer because a newer driver may return unknown ones.
    pub code: i32,
    /// The driver's name for the code, or `unknown`.
    pub name: String,
    /// The arguments and, where the driver reports one, the reason.
    pub detail: String,
}

impl DriverError {
    /// Whether the device (or the host, for the shared tier) is out of memory for the call. A
    /// driver for Windows may say so to a call about memory by [`NOT_READY`].
    pub fn is_out_of_memory(&self) -> bool {
        self.code == OUT_OF_MEMORY || (self.code == NOT_READY && self.call.starts_with("cuMem"))
    }

    /// Whether an ongoing graph capture forbids the call (`CUDA_ERROR_STREAM_CAPTURE_…`).
    pub fn is_capture(&self) -> bool {
        (900..=908).contains(&self.code)
    }

    /// Whether the driver or its context is already gone, as when a process exits.
    pub fn is_gone(&self) -> bool {
        matches!(self.code, DEINITIALIZED | INVALID_CONTEXT | CONTEXT_IS_DESTROYED)
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed with {} ({}): {}", self.call, self.name, self.code, self.detail)
    }
}

impl std::error::Error for DriverError {}

/// The result of a driver call.
pub type Result<T, E = DriverError> = std::result::Result<T, E>;

/// Makes a call that undoes something. Repeats it if it fails, up to three times in all.
///
/// # Errors
/// The last call's.
pub(crate) fn insist(mut call: impl FnMut() -> Result<()>) -> Result<()> {
    call().or_else(|_| call()).or_else(|_| call())
}

/// The least the allocator needs from a GPU.
///
/// The rules are those of the CUDA driver's virtual memory management. An address range is reserved
/// first. Backing is created separately, and mapped whole at a granule of a reserved range. A new
/// mapping is inaccessible until [`set_access`](Driver::set_access). Only whole mappings are
/// unmapped. Released backing lives on until its last mapping is gone.
///
/// [`DeviceInfo::rung`] says how a device gets a shared tier: by [`create`](Driver::create), by
/// [`pin`](Driver::pin), or not at all.
///
/// Every call may come from any thread, whatever its current device. A call that fails has changed
/// nothing. Sizes are in bytes.
///
/// A stream that the caller names must exist. A real driver follows the handle of a destroyed one
/// to memory that is gone.
pub trait Driver: Send + Sync + fmt::Debug {
    /// The number of devices.
    fn device_count(&self) -> Result<usize>;

    /// Describes `device` and its memory.
    fn device_info(&self, device: usize) -> Result<DeviceInfo>;

    /// Dedicated memory that is free at this moment, in bytes.
    fn dedicated_free(&self, device: usize) -> Result<u64>;

    /// What the operating system grants this process of the device's memory; `Ok(None)` where it
    /// keeps no account, now or ever. A driver may create more than is granted, and the system then
    /// moves memory to the host unasked: whoever creates keeps to it.
    ///
    /// # Errors
    /// In words, where the system keeps an account and does not tell.
    fn granted(&self, device: usize) -> Result<Option<Granted>, String>;

    /// Reserves `bytes` of addresses (a multiple of the granularity), aligned to `align` (a power
    /// of two). Returns the first address.
    fn reserve(&self, device: usize, bytes: u64, align: u64) -> Result<u64>;

    /// Returns a whole reservation. Nothing may be mapped in it.
    fn unreserve(&self, device: usize, address: u64, bytes: u64) -> Result<()>;

    /// Creates `bytes` of physical backing in `tier`.
    fn create(&self, device: usize, tier: Tier, bytes: u64) -> Result<Handle>;

    /// Releases backing. Its memory is freed when its last mapping is gone.
    fn release(&self, device: usize, handle: Handle) -> Result<()>;

    /// Maps the whole of `handle`, `bytes` long, at `address`.
    fn map(&self, device: usize, address: u64, bytes: u64, handle: Handle) -> Result<()>;

    /// Unmaps whole mappings that together fill `address..address + bytes`.
    fn unmap(&self, device: usize, address: u64, bytes: u64) -> Result<()>;

    /// Makes a mapped range readable and writable for `device` and for every peer that can reach
    /// its memory.
    fn set_access(&self, device: usize, address: u64, bytes: u64) -> Result<()>;

    /// Pins `bytes` of host memory (a multiple of the granularity) at an address that the driver
    /// chooses, aligned to a page only. The memory is accessible to every device there.
    fn pin(&self, device: usize, bytes: u64) -> Result<u64>;

    /// Frees pinned memory and its address. No work may touch it any more.
    fn unpin(&self, device: usize, address: u64) -> Result<()>;

    /// Begins a copy between mapped ranges that do not overlap, behind the copies that were begun
    /// before. It reads and writes memory of either tier, and waits for no stream.
    fn begin_copy(&self, device: usize, to: u64, from: u64, bytes: u64) -> Result<()>;

    /// Waits until all copies that were begun are done.
    ///
    /// # Errors
    /// The driver's, however often it was asked: a copy may still go on then.
    fn finish_copies(&self, device: usize) -> Result<()>;

    /// Copies between mapped ranges that do not overlap. Returns when the copy is done.
    ///
    /// # Errors
    /// As for [`begin_copy`](Driver::begin_copy) and [`finish_copies`](Driver::finish_copies).
    fn copy(&self, device: usize, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.begin_copy(device, to, from, bytes)?;
        self.finish_copies(device)
    }

    /// Queues a copy in `stream`, behind all work that is in it now. It reads and writes memory of
    /// either tier, in mapped ranges that do not overlap and may each consist of several mappings.
    /// A driver that lacks this answers [`NOT_SUPPORTED`].
    fn copy_in_stream(&self, device: usize, to: u64, from: u64, bytes: u64, stream: Stream) -> Result<()>;

    /// Creates a stream that waits for no other, not even for the legacy default stream. A driver
    /// that lacks this answers [`NOT_SUPPORTED`].
    fn create_stream(&self, device: usize) -> Result<Stream>;

    /// Destroys a stream that [`create_stream`](Driver::create_stream) returned, without waiting.
    /// Work in it goes on. A driver that lacks this answers [`NOT_SUPPORTED`].
    fn destroy_stream(&self, device: usize, stream: Stream) -> Result<()>;

    /// Creates an event, which keeps no time.
    fn create_event(&self, device: usize) -> Result<Event>;

    /// Creates an event that keeps the time at which the work before its last record was done.
    fn create_timer(&self, device: usize) -> Result<Event>;

    /// Destroys an event. Work that waits for it goes on waiting.
    fn destroy_event(&self, device: usize, event: Event) -> Result<()>;

    /// Records `event` in `stream`, behind all work that is in it now.
    fn record(&self, device: usize, event: Event, stream: Stream) -> Result<()>;

    /// Records `event` behind all work that is in any stream of the device now. Names no stream, so
    /// it may be called whichever were destroyed; not while a graph is captured, since some drivers
    /// spoil the capture. A driver that lacks this answers [`NOT_SUPPORTED`].
    fn record_all(&self, device: usize, event: Event) -> Result<()>;

    /// Whether all work before the event's last record is done.
    fn is_done(&self, device: usize, event: Event) -> Result<bool>;

    /// Seconds between the last records of two timers. The work before both must be done. A driver
    /// that lacks this answers [`NOT_SUPPORTED`].
    fn seconds_between(&self, device: usize, from: Event, to: Event) -> Result<f64>;

    /// Makes all later work in `stream` wait for `event`.
    fn wait(&self, device: usize, stream: Stream, event: Event) -> Result<()>;

    /// Waits until all work on the device is done.
    fn synchronize(&self, device: usize) -> Result<()>;

    /// Whether all work in `stream` is done.
    fn is_idle(&self, device: usize, stream: Stream) -> Result<bool>;

    /// Whether `stream` is being captured into a graph.
    fn is_capturing(&self, device: usize, stream: Stream) -> Result<bool>;
}

/// The CUDA driver of this machine.
///
/// # Errors
/// A missing library, a library that is not a driver, or a machine without a device: each in words.
pub fn open() -> Result<std::sync::Arc<dyn Driver>> {
    Ok(std::sync::Arc::new(cuda::CudaDriver::open()?))
}
