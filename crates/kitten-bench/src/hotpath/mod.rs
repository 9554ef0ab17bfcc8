//! Nanoseconds per malloc and free: a log of genuine PyTorch's calls through `gk_malloc` and
//! `gk_free`, compared with other allocators.
//!
//! Method: the log is read into an array of (slot, size) beforehand, without the calls for 0 bytes.
//! The blocks that the log never frees are the model: they are allocated once, before anything is
//! timed. The rest of the log is a round. Rounds of all allocators alternate. Each allocator's
//! figure is the median of its rounds, divided by the mallocs in a round.
//!
//! ```text
//!   log.rs       logs of calls
//!   peers.rs     other allocators, as offsets in one range
//!   ours.rs      giant-kitten as one of them
//!   measure.rs   rounds of a log through each, and their median
//!   costs.rs     calls off the hot path, as more lives
//! ```

pub mod costs;
mod log;
mod measure;
mod ours;
pub mod peers;

pub use log::{BUNDLED, Log};
pub use measure::{Figures, MOST_LIVE, MOST_ROUNDS, Runner, measure};
pub use ours::Ours;
pub use peers::ROOM;
