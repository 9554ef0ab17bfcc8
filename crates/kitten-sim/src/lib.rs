//! A simulated GPU: devices with two tiers of memory that hold real bytes, the rules of virtual
//! memory management, streams and events that finish when a test says so, and a detector of memory
//! used too early.
//!
//! ```text
//!   gpu/         the machine: every call that a driver offers, and the controls for tests
//!   calls.rs     calls counted, priced, and made to fail
//!   memory/      addresses, backing, mappings and their rules; the only part that assumes Linux
//!   streams.rs   work, events and captures: their order, and their completion
//!   races.rs     the detector of memory used too early
//!   profile.rs   the hardware profile: capacities, bandwidths, rates, the cost of each call
//!   cards.rs     the cards that people own, by name, with their published figures
//!   time.rs      the time that work takes
//!   timeline.rs  when each piece of work begins and ends: engines, and who waits for whom
//!   code.rs      the driver's codes and the error
//!   kernels.rs   the kernels by which a card is measured
//!   contents.rs  contents of blocks for tests that compare every byte
//! ```
//!
//! Nothing here is a measurement: all times follow from a profile's figures.

mod calls;
mod cards;
pub mod code;
mod contents;
mod gpu;
pub mod kernels;
mod memory;
mod os;
mod profile;
mod races;
mod streams;
mod time;
mod timeline;

pub use cards::{Card, Link};
pub use code::Error;
pub use contents::contents;
pub use gpu::{Gpu, Outstanding};
pub use memory::{Budgets, Tier};
pub use profile::{CallSeconds, Profile};
pub use races::{Access, Fault};
pub use streams::{CaptureStatus, Completion};
pub use time::Load;
pub use timeline::{Elapsed, Span};
