//! Cards: what a probe, a check and a replay need of one, apart from the allocator's driver.
//!
//! ```text
//!   mod.rs         the interface of a card: kernels, copies and a clock
//!   cuda.rs        a real one; kernels/ has its kernels as PTX text, which the driver compiles
//!   functions.rs   the driver's functions that it calls
//!   simulated.rs   the simulated GPU
//!   probe/         a card measured: its hardware profile
//!   check/         the allocator proved on a card, byte for byte
//! ```

pub mod check;
mod cuda;
mod functions;
pub mod probe;
mod simulated;

use std::sync::Arc;

use anyhow::Result;
use giant_kitten::driver::{Driver, Stream};
use kitten_sim::{Elapsed, Load};

pub use cuda::Cuda;
pub use simulated::Simulated;

/// A range of device memory: address and bytes.
pub type Range = (u64, u64);

/// A card. Kernels and copies are queued in one stream, [`stream`](Card::stream), and run in order.
/// Nothing waits for them except the clock, a download, and [`Driver::synchronize`].
pub trait Card {
    /// The driver, which creates and maps memory.
    fn driver(&self) -> Arc<dyn Driver>;

    /// The number of the card's device in its driver.
    fn device(&self) -> usize;

    /// The name of the card and its driver.
    fn name(&self) -> String;

    /// Whether its clock measures, as opposed to adding up what is modelled.
    fn is_real(&self) -> bool;

    /// Seconds that calls of the driver take, by the host's clock.
    ///
    /// # Errors
    /// The calls'.
    fn time_calls(&self, calls: &mut dyn FnMut(&dyn Driver) -> Result<()>) -> Result<f64>;

    /// Seconds until calls that move memory are done, and all work before them.
    ///
    /// # Errors
    /// The calls'.
    fn time_moves(&self, calls: &mut dyn FnMut(&dyn Driver) -> Result<()>) -> Result<f64> {
        self.time_calls(calls)
    }

    /// The stream in which everything below is queued.
    fn stream(&self) -> Stream;

    /// Creates another stream. It and the others do not wait for each other.
    ///
    /// # Errors
    /// The driver's.
    fn create_stream(&self) -> Result<Stream>;

    /// Starts the clock behind everything that is queued.
    ///
    /// # Errors
    /// The driver's.
    fn start_clock(&self) -> Result<()>;

    /// Waits for everything that is queued, and returns the seconds since the clock was started, by
    /// the card's clock.
    ///
    /// # Errors
    /// The driver's, including those of kernels.
    fn stop_clock(&self) -> Result<f64>;

    /// Queues a kernel that reads 16 of every `stride` bytes of a range, `passes` times over.
    ///
    /// # Errors
    /// The driver's.
    fn read(&self, range: Range, stride: u64, passes: u32) -> Result<()>;

    /// Queues a kernel that writes 16 of every `stride` bytes of a range.
    ///
    /// # Errors
    /// The driver's.
    fn write(&self, range: Range, stride: u64) -> Result<()>;

    /// Queues an operation: one kernel that reads some ranges and writes others, each once.
    ///
    /// # Errors
    /// The driver's.
    fn operate(&self, reads: &[Range], writes: &[Range]) -> Result<()>;

    /// Charges modelled work in the card's stream; a real card does nothing.
    ///
    /// # Errors
    /// The driver's.
    fn charge(&self, _name: &str, _load: &Load) -> Result<()> {
        Ok(())
    }

    /// The sums of the modelled timeline; none on a real card.
    fn timeline(&self) -> Elapsed {
        Elapsed::default()
    }

    /// Queues copies that run at the same time, at most two, each a destination, a source and a
    /// length.
    ///
    /// # Errors
    /// The driver's.
    fn copy(&self, copies: &[(u64, u64, u64)]) -> Result<()>;

    /// Writes bytes of the host to an address, behind everything that is queued. The bytes may
    /// change once this returns.
    ///
    /// # Errors
    /// The driver's.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()>;

    /// Reads bytes at an address once everything that is queued is done.
    ///
    /// # Errors
    /// The driver's.
    fn download(&self, bytes: &mut [u8], from: u64) -> Result<()>;

    /// Half-precision operations per second of a kernel that does nothing else.
    ///
    /// # Errors
    /// The driver's; a card without the instruction.
    fn multiply(&self) -> Result<f64>;

    /// Seconds of a matrix product whose weight lies at `weight`, and its other operands in
    /// dedicated memory; `None` where there is no library of products. It is the same product each
    /// time.
    ///
    /// # Errors
    /// The driver's.
    fn product(&self, weight: Range) -> Result<Option<f64>>;
}

/// Seconds of the work that is queued, by the card's clock.
///
/// # Errors
/// The driver's, including those of kernels.
pub fn timed(card: &dyn Card, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    card.start_clock()?;
    work()?;
    card.stop_clock()
}
