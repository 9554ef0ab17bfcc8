//! The JSON texts that cross the C interface. Each kind has a file, and each object in it a row
//! type.
//!
//! The schemas in `schemas/` describe the texts, and the tests in `schemas.rs` validate real ones.

mod by_tier;
mod claims;
mod device;
mod history;
mod map;
mod rows;
#[cfg(all(test, feature = "sim"))]
mod schemas;
mod snapshot;
mod stacks;
mod stats;

use serde::Serialize;

pub(super) use self::claims::json as claims;
pub(super) use self::device::json as device;
pub(super) use self::history::json as history;
pub use self::map::json as map_json;
pub(super) use self::snapshot::json as snapshot;
pub(super) use self::stats::json as stats;

/// A value as JSON.
fn text_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("writing JSON fails only for keys that are not texts, and all keys are")
}
