//! A simulated GPU: devices with two tiers of memory that really hold bytes, the rules of virtual memory management, streams and
//! events that finish when a test says so, and a detector of memory used too early.
//!
//! ```text
//!   gpu.rs       the machine: every call a driver offers, counted, priced, and made to fail on demand
//!   memory.rs    addresses, backing, mappings and their rules; the only file that assumes Linux
//!   streams.rs   work, events, captures: what is ordered before what, what is done, what came too early
//!   profile.rs   the hardware profile: capacities, bandwidths, rates, the cost of each call
//!   time.rs      what work takes
//!   code.rs      the driver's codes and the error
//! ```
//!
//! Nothing here is a measurement: times are sums of a profile's figures.

pub mod code;
mod contents;
mod gpu;
pub mod kernels;
mod memory;
mod profile;
mod streams;
mod time;

pub use code::Error;
pub use contents::contents;
pub use gpu::{Gpu, Outstanding};
pub use memory::Tier;
pub use profile::{CallSeconds, Profile};
pub use streams::{Access, Completion, Fault};
pub use time::Load;
