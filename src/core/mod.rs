//! Pure bookkeeping, in offsets: no driver, no clock, no unsafe code.
//!
//! ```text
//!   tier, size, place   the words of everything above
//!   phase               the state machine of a device
//!   activation          what an action asks for
//!   ahead/              copying weights ahead of their use: order, ring, pace
//!   ledger              how much of each tier there is, is kept, and may be used
//!   arena/              blocks in a range of offsets, and the tier of each granule
//!   layout/             where the blocks of work that repeats go, learned from it
//!   policy/             what should lie where, and how much is kept for scratch
//!   witness             the threads that are seen at work
//!   stats, history      what is counted, and what is recorded
//! ```
#![forbid(unsafe_code)]

mod activation;
pub mod ahead;
mod arena;
pub mod history;
pub mod layout;
mod ledger;
mod phase;
mod place;
pub mod policy;
mod size;
mod stats;
mod tier;
mod witness;

pub use activation::{Activation, Kept, Reserve};
pub use arena::{Arena, Block, BlockId, Growth, Idle, Marks, Near, StreamId};
pub use ledger::{Grant, Ledger};
pub use phase::{Phase, State, Step};
pub use place::{ArenaId, GranuleId, PoolId, Purpose};
pub use policy::{balance, placement};
pub use size::{BlockSize, Class, parse_size, show_size};
pub use stats::{BlockStats, Gauge, Splits, Stats, TierStats};
pub use tier::{PerTier, Tier};
pub use witness::{ThreadId, Witness};
