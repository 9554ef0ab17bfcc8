//! Pure bookkeeping, in offsets: no driver, no clock, no unsafe code.
#![forbid(unsafe_code)]

mod tier;

pub use tier::{PerTier, Tier};
