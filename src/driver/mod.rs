//! What the allocator needs from a GPU, and nothing more: the [`Driver`] trait.
//!
//! Implementations: [`cuda`] (the real CUDA driver, loaded at run time) and `sim` (the simulated GPU, behind the feature `sim`).
//!
//! Device addresses are plain `u64`: the allocator never reads or writes what they point to.

use std::fmt;

use crate::core::{PerTier, Tier};

pub mod cuda;
#[cfg(feature = "sim")]
pub mod sim;

/// One physical allocation, as the driver names it (`CUmemGenericAllocationHandle`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(pub u64);

/// A stream as the caller names it (`cudaStream_t`): 0 and 1 are the legacy default stream, 2 is
/// the calling thread's own default stream, anything else an address the runtime handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream(pub u64);

/// A marker in a stream (`CUevent`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event(pub u64);

/// How the shared tier comes about on a device: the rungs of a ladder, tried from the top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Backing on a node of host memory (CUDA 12.2 and later).
    HostNuma,
    /// Backing in host memory (CUDA 13.0 and later).
    Host,
    /// Pinned host memory, at addresses of its own: nothing that lies there can change tier.
    Pinned,
    /// There is no shared tier.
    Nothing,
}

impl Rung {
    /// Its name, as statistics and messages have it.
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

/// What a device is and how much memory it has, as the driver tells it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device's name, for people.
    pub name: String,
    /// Physical backing comes in multiples of this many bytes, in either tier. A power of two.
    pub granularity: u64,
    /// Memory that each tier has in all; 0 of a tier that the driver does not have.
    pub total: PerTier<u64>,
    /// Memory of each tier that is free at this moment; of the shared tier, what the host can spare.
    pub free: PerTier<u64>,
    /// Free dedicated memory to leave for the CUDA context, late-loaded kernels and the desktop.
    pub headroom: u64,
    /// Whether the shared tier is memory of this machine, which other processes use as well.
    pub shared_is_the_hosts: bool,
    /// How the shared tier comes about.
    pub rung: Rung,
    /// Why each better rung does not hold, in words.
    pub refused: Vec<String>,
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub const OUT_OF_MEMORY: i32 = 2;
/// `CUDA_ERROR_NOT_SUPPORTED`.
pub const NOT_SUPPORTED: i32 = 801;
/// `CUDA_ERROR_INVALID_HANDLE`.
pub const INVALID_HANDLE: i32 = 400;
/// `CUDA_ERROR_DEINITIALIZED`: the process is exiting and the driver has gone already.
pub const DEINITIALIZED: i32 = 4;
/// `CUDA_ERROR_INVALID_CONTEXT`: what a context answers that is no more.
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
    /// The arguments and, where the driver says more, the reason.
    pub detail: String,
}

impl DriverError {
    /// Whether the device (or the host, for the shared tier) has no memory left for the call.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == OUT_OF_MEMORY
    }

    /// Whether the call is one that a graph capture under way forbids (`CUDA_ERROR_STREAM_CAPTURE_…`).
    pub fn is_capture(&self) -> bool {
        (900..=908).contains(&self.code)
    }

    /// Whether the driver, or the context in it, has gone already, as when a process exits.
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

/// Makes a call that undoes something, again if it fails: up to three times.
///
/// # Errors
/// The last one's.
pub(crate) fn insist(mut call: impl FnMut() -> Result<()>) -> Result<()> {
    call().or_else(|_| call()).or_else(|_| call())
}

/// The least the allocator needs from a GPU.
///
/// The rules are the CUDA driver's virtual memory management: an address range is reserved first;
/// backing is created apart from it and mapped whole at a granule of a reserved range; a fresh mapping is
/// unreadable until [`set_access`](Driver::set_access); only whole mappings are unmapped; released backing
/// lives on until its last mapping goes. Which way there is to a shared tier says [`DeviceInfo::rung`]: [`create`](Driver::create),
/// or [`pin`](Driver::pin), or none. Every call may come from any thread, whatever its current device.
/// A call that fails has changed nothing.
pub trait Driver: Send + Sync + fmt::Debug {
    /// How many devices there are.
    fn device_count(&self) -> Result<usize>;

    /// What `device` is and has.
    fn device_info(&self, device: usize) -> Result<DeviceInfo>;

    /// Dedicated memory that is free at this moment, in bytes.
    fn dedicated_free(&self, device: usize) -> Result<u64>;

    /// Reserves `bytes` of addresses (a multiple of the granularity), aligned to `align` (a power of two).
    fn reserve(&self, device: usize, bytes: u64, align: u64) -> Result<u64>;

    /// Gives a whole reservation back. Nothing may be mapped in it.
    fn unreserve(&self, device: usize, address: u64, bytes: u64) -> Result<()>;

    /// Creates `bytes` of physical backing in `tier`.
    fn create(&self, device: usize, tier: Tier, bytes: u64) -> Result<Handle>;

    /// Gives backing up; its memory goes when its last mapping goes.
    fn release(&self, device: usize, handle: Handle) -> Result<()>;

    /// Maps the whole of `handle`, `bytes` long, at `address`.
    fn map(&self, device: usize, address: u64, bytes: u64, handle: Handle) -> Result<()>;

    /// Unmaps whole mappings that together fill `address..address + bytes`.
    fn unmap(&self, device: usize, address: u64, bytes: u64) -> Result<()>;

    /// Lets `device` (and every peer that may reach its memory) read and write a mapped range.
    fn set_access(&self, device: usize, address: u64, bytes: u64) -> Result<()>;

    /// Pins `bytes` of host memory (a multiple of the granularity) at an address of its own, which is at a page and no more; the
    /// device, and every other, reads and writes it there.
    fn pin(&self, device: usize, bytes: u64) -> Result<u64>;

    /// Gives pinned memory back, with its address. No work may touch it any more.
    fn unpin(&self, device: usize, address: u64) -> Result<()>;

    /// Copies between mapped ranges that do not overlap, and returns when it is done.
    fn copy(&self, device: usize, to: u64, from: u64, bytes: u64) -> Result<()>;

    /// Makes an event.
    fn create_event(&self, device: usize) -> Result<Event>;

    /// Unmakes an event; work that waits for it goes on waiting.
    fn destroy_event(&self, device: usize, event: Event) -> Result<()>;

    /// Puts `event` behind all work now in `stream`.
    fn record(&self, device: usize, event: Event, stream: Stream) -> Result<()>;

    /// Whether all work before the event's last record is done.
    fn is_done(&self, device: usize, event: Event) -> Result<bool>;

    /// Makes all later work in `stream` wait for `event`.
    fn wait(&self, device: usize, stream: Stream, event: Event) -> Result<()>;

    /// Waits until all work on the device is done.
    fn synchronize(&self, device: usize) -> Result<()>;

    /// Whether `stream` has no work that is not done.
    fn is_idle(&self, device: usize, stream: Stream) -> Result<bool>;

    /// Whether `stream` is being captured into a graph.
    fn is_capturing(&self, device: usize, stream: Stream) -> Result<bool>;
}

/// The CUDA driver of this machine.
///
/// # Errors
/// No library, one that is no driver, no device: each in words.
pub fn open() -> Result<std::sync::Arc<dyn Driver>> {
    Ok(std::sync::Arc::new(cuda::CudaDriver::open()?))
}
