//! The JSON texts that cross the C interface. Each kind has a file, and each object in it a row
//! type.
//!
//! The schemas in `schemas/` describe the texts, and the tests in `schemas.rs` validate real ones.

mod claims;
mod device;
mod history;
mod map;
mod outline;
// Miri has no memory for the simulated GPU.
#[cfg(all(test, feature = "sim", not(miri)))]
mod schemas;
mod snapshot;
mod stacks;
mod stats;
mod write;

pub(super) use self::claims::json as claims;
pub(super) use self::device::json as device;
pub(super) use self::history::json as history;
pub use self::map::json as map_json;
pub(super) use self::outline::json as outline;
pub(super) use self::snapshot::json as snapshot;
pub(super) use self::stats::json as stats;
