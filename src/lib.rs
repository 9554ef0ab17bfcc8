//! giant-kitten.
pub mod abi;
pub mod core;
pub mod driver;
mod error;
pub mod heap;
mod kitten;

pub use core::{PerTier, Phase, Stats, Tier, parse_size, show_size};
pub use error::{Error, OutOfMemory};
pub use heap::{MemoryMap, Moved, PoolId};
pub use kitten::{Activation, Kitten, OPTIONS, OptionRow, Options, reference};
