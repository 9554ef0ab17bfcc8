//! The least that a probe needs of a card besides the allocator's driver: kernels, and a clock.

use anyhow::Result;
use giant_kitten::driver::Driver;

/// A card to be probed.
pub trait Card {
    /// The driver, by which memory is had.
    fn driver(&self) -> &dyn Driver;

    /// What the card and its driver are called.
    fn name(&self) -> String;

    /// Seconds that calls of the driver take, by the host's clock.
    ///
    /// # Errors
    /// The calls'.
    fn time_calls(&self, calls: &mut dyn FnMut(&dyn Driver) -> Result<()>) -> Result<f64>;

    /// Seconds of a kernel that reads 16 of every `stride` bytes of a range, `passes` times over, by the card's clock.
    ///
    /// # Errors
    /// The driver's.
    fn read(&self, address: u64, bytes: u64, stride: u64, passes: u32) -> Result<f64>;

    /// Begins a kernel that reads a range `passes` times over, and does not wait for it.
    ///
    /// # Errors
    /// The driver's.
    fn begin_read(&self, address: u64, bytes: u64, passes: u32) -> Result<()>;

    /// Seconds of a kernel that writes 16 of every `stride` bytes of a range.
    ///
    /// # Errors
    /// The driver's.
    fn write(&self, address: u64, bytes: u64, stride: u64) -> Result<f64>;

    /// Seconds of copies that run at the same time, each a destination, a source and a length.
    ///
    /// # Errors
    /// The driver's.
    fn copy(&self, copies: &[(u64, u64, u64)]) -> Result<f64>;

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
    fn product(&self, weight: u64, bytes: u64) -> Result<Option<f64>>;
}
