//! giant-kitten: an allocator that owns two tiers of GPU-addressable memory and decides what lives where.
//!
//! **Dedicated** memory is the card's own; **shared** memory is the host's, mapped for the GPU and read over the link. Blocks get
//! addresses that never change; what lies under them moves between the tiers, granule by granule.
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::sync::Arc;
//! use giant_kitten::{Activation, Kitten, Options, Reserve, Tier, driver::{Stream, sim::SimDriver}};
//!
//! let driver = SimDriver::of_profile("nominal-6g")?;
//! let kitten = Kitten::new(Options::default(), Arc::new(driver))?;
//! let weight = kitten.malloc(64 << 20, 0, Stream(0))?;
//! kitten.mark(weight, true)?;
//! kitten.activate(0, &Activation { reserve: Reserve::Fixed(1 << 30), ..Activation::default() })?;
//! assert_eq!(kitten.residency(weight)?[Tier::Dedicated], 64 << 20);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The floors, bottom up, are [`core`], [`driver`], [`heap`], the state machine [`Kitten`], and [`abi`], the C interface.

pub mod abi;
pub mod core;
pub mod driver;
mod error;
pub mod heap;
mod kitten;
mod platform;
mod sync;

pub use core::{PerTier, Phase, Reserve, Splits, Stats, Tier, parse_size, show_size};
pub use error::{Error, OutOfMemory};
pub use heap::{ContextKind, MemoryInfo, MemoryMap, Moved, PoolId, Segment, Wanted};
pub use kitten::{Activation, Found, Kitten, OPTIONS, OptionRow, Options, reference};
