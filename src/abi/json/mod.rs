//! The texts that cross the interface: one file for each kind, with one row type for each JSON object.
//!
//! The schemas in `schemas/` describe them, and tests compare the two.

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

/// Writes a value as JSON.
fn text_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("only maps with keys that are not texts fail, and there are none")
}
