//! Cards: what a probe, a check and a replay need of one, besides the allocator's driver.
//!
//! ```text
//!   mod.rs         the least that is needed of a card: kernels, copies and a clock
//!   cuda.rs        a real one: kernels as PTX text, compiled by the driver (memory.ptx, multiply.ptx)
//!   functions.rs   the driver's functions that it takes
//!   simulated.rs   the simulated GPU
//! ```

mod cuda;
mod functions;
mod simulated;

use std::sync::Arc;

use anyhow::Result;
use giant_kitten::driver::{Driver, Stream};

pub use cuda::Cuda;
pub use simulated::Simulated;

/// Where something lies: address and bytes.
pub type Range = (u64, u64);

/// A card. Kernels and copies are put in one stream, [`stream`](Card::stream), and are done in their order; nobody waits for them but
/// the clock, a download, and [`Driver::synchronize`].
pub trait Card {
    /// The driver, by which memory is had.
    fn driver(&self) -> Arc<dyn Driver>;

    /// The number of the card's device in its driver.
    fn device(&self) -> usize;

    /// What the card and its driver are called.
    fn name(&self) -> String;

    /// Whether what its clock tells is measured, and not modelled.
    fn is_real(&self) -> bool;

    /// Seconds that calls of the driver take, by the host's clock.
    ///
    /// # Errors
    /// The calls'.
    fn time_calls(&self, calls: &mut dyn FnMut(&dyn Driver) -> Result<()>) -> Result<f64>;

    /// The stream of all that is put in below.
    fn stream(&self) -> Stream;

    /// Makes another stream, which waits for none and none for it.
    ///
    /// # Errors
    /// The driver's.
    fn create_stream(&self) -> Result<Stream>;

    /// Starts the clock behind all that was put in.
    ///
    /// # Errors
    /// The driver's.
    fn start_clock(&self) -> Result<()>;

    /// Waits for all that was put in, and tells the seconds since the clock was started, as the card has measured them.
    ///
    /// # Errors
    /// The driver's, those of kernels among them.
    fn stop_clock(&self) -> Result<f64>;

    /// Puts in a kernel that reads 16 of every `stride` bytes of a range, `passes` times over.
    ///
    /// # Errors
    /// The driver's.
    fn read(&self, range: Range, stride: u64, passes: u32) -> Result<()>;

    /// Puts in a kernel that writes 16 of every `stride` bytes of a range.
    ///
    /// # Errors
    /// The driver's.
    fn write(&self, range: Range, stride: u64) -> Result<()>;

    /// Puts in an operation: one kernel that reads some ranges and writes others, each once.
    ///
    /// # Errors
    /// The driver's.
    fn operate(&self, reads: &[Range], writes: &[Range]) -> Result<()>;

    /// Puts in copies that run at the same time, at most two, each a destination, a source and a length.
    ///
    /// # Errors
    /// The driver's.
    fn copy(&self, copies: &[(u64, u64, u64)]) -> Result<()>;

    /// Writes bytes of the host at an address, behind all that was put in; they may change once this returns.
    ///
    /// # Errors
    /// The driver's.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;

    /// Reads bytes at an address once all is done that was put in.
    ///
    /// # Errors
    /// The driver's.
    fn download(&self, bytes: &mut [u8], from: u64) -> Result<()>;

    /// Half-precision operations per second of a kernel that does nothing else.
    ///
    /// # Errors
    /// The driver's; a card that cannot.
    fn multiply(&self) -> Result<f64>;

    /// Seconds of a matrix product whose weight lies at `weight`, and its other operands in dedicated memory; `None` where there is
    /// no library for it. The same product each time.
    ///
    /// # Errors
    /// The driver's.
    fn product(&self, weight: Range) -> Result<Option<f64>>;
}

/// Seconds of what is put in, by the card's clock.
///
/// # Errors
/// The driver's, those of kernels among them.
pub fn timed(card: &dyn Card, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    card.start_clock()?;
    work()?;
    card.stop_clock()
}
