//! The kernels by which a card is measured. kitten-bench has their PTX text and launches them; the
//! fake driver knows them by name and charges the time that the model gives.

/// Reads one vector of every stride of a range, several times over.
pub const READ: &str = "gk_read";
/// Writes one vector of every stride of a range.
pub const WRITE: &str = "gk_write";
/// Reads some ranges and writes others, each once.
pub const OPERATE: &str = "gk_operate";
/// Multiplies matrices in registers, and touches no memory.
pub const MULTIPLY: &str = "gk_multiply";

/// Bytes that a thread reads or writes at once.
pub const VECTOR: u64 = 16;
/// Ranges that one launch of [`OPERATE`] takes.
pub const RANGES: usize = 16;
/// The ranges of one launch of [`OPERATE`]: of each its address and how many vectors it has.
pub type Ranges = [[u64; 2]; RANGES];
/// Threads of a warp.
pub const WARP: u32 = 32;
/// Floating-point operations of one turn of [`MULTIPLY`] in one warp: four products of 16x16x16.
pub const OPERATIONS: f64 = 4.0 * 2.0 * 16.0 * 16.0 * 16.0;
