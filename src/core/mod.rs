//! Pure bookkeeping, in offsets: no driver, no clock, no unsafe code.
#![forbid(unsafe_code)]

mod arena;
pub mod balance;
mod bins;
mod demand;
mod forecast;
pub mod history;
mod ledger;
mod opening;
pub mod placement;
mod quick;
mod size;
mod spill;
mod stats;
mod steady;
mod tier;
mod witness;

pub use arena::{Arena, Block, BlockId, Class, Growth, Marks, StreamId};
pub use demand::Demand;
pub use forecast::{Forecast, Reads};
pub use ledger::{Ledger, Reserve};
pub use opening::Opening;
pub use size::{ALIGNMENT, LARGEST, SMALL_LIMIT, parse_size, rounded, show_size};
pub use spill::Spill;
pub use stats::{Gauge, Phase, Splits, Stats, TierStats};
pub use steady::{Steady, WORKS};
pub use tier::{PerTier, Tier};
pub use witness::{ThreadId, Witness};
