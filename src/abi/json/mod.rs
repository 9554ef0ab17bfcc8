//! What crosses the interface as text: one file for each kind of answer.

mod claims;
mod map;
mod snapshot;
mod stats;
mod text;

pub(super) use self::claims::json as claims;
pub use self::map::json as map_json;
pub(super) use self::snapshot::{history, json as snapshot};
pub(super) use self::stats::{device_json as device, json as stats};
