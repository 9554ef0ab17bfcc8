//! giant-kitten: an allocator that owns two tiers of GPU memory and decides what lives where.
//!
//! **Dedicated** memory is the card's own; **shared** memory is the host's, mapped for the GPU and
//! read over the link. A block keeps its address for life. The memory under it moves between the
//! tiers, granule by granule.
//!
//! PyTorch loads this crate as a C library ([`abi`], with the header `include/giant_kitten.h`). A
//! Rust program uses [`Allocator`] directly: allocate and free blocks of any device, mark those of
//! a model, and [`activate`](Allocator::activate) a placement.
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::sync::Arc;
//! use giant_kitten::driver::{Stream, sim::SimDriver};
//! use giant_kitten::{Activation, Allocator, Options, Tier};
//!
//! let driver = SimDriver::of_profile("nominal-6g")?;
//! let allocator = Allocator::new(Options::default(), Arc::new(driver))?;
//! let weight = allocator.malloc(64 << 20, 0, Stream(0))?;
//! allocator.mark(weight, true)?;
//! let activation = Activation { reserve: (1 << 30).into(), ..Activation::default() };
//! allocator.activate(0, &activation)?;
//! assert_eq!(allocator.residency(weight)?[Tier::Dedicated], 64 << 20);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! `sim` adds `driver::sim`, the simulated GPU as a driver, for tests, tools and examples. It is
//! off by default: the library that users load has only the CUDA driver.
//!
//! # Where to look
//!
//! * [`Allocator`] is the whole interface of a process; [`Options`] say how it is set up.
//! * [`Stats`], [`MemoryMap`], [`Segment`] and [`history`] tell what it does.
//! * [`driver::Driver`] is what it needs from a GPU: implement that to bring another kind.

pub mod abi;
mod allocator;
mod core;
pub mod driver;
mod error;
mod heap;
mod platform;
mod sync;

/// For the project's own tests and tools; no part of the interface.
#[doc(hidden)]
pub mod internals {
    pub use crate::core::placement::{Order, Plan, Resident, SortBy, plan};
    pub use crate::core::{ArenaId, BlockSize, GranuleId, ThreadId};
}

pub use allocator::{Allocator, Found, Look, OPTIONS, OptionRow, Options, reference};
pub use core::history;
pub use core::layout::Layout;
pub use core::placement::{Order, SortBy};
pub use core::policy::{Spill, Wanted};
pub use core::{
    Activation, BlockStats, Class, Gauge, PerTier, Phase, PoolId, Reserve, Splits, Stats, Tier, TierStats, parse_size,
    show_size,
};
pub use error::{Error, OutOfMemory, Text};
pub use heap::{
    ArenaMap, Asked, BlockState, Claim, ContextKind, CopyAhead, GranuleMap, Limits, MemoryInfo, MemoryMap, Moved,
    Returned, Segment, SegmentBlock,
};
