//! Work to replay: streams of events from traces and snapshots.
//!
//! ```text
//!   trace.rs      a trace as a stream of events, checked as it is read
//!   source.rs     where a replay gets its events from
//!   part.rs       a trace or snapshot cut into loading and steps
//!   pickle.rs     Python's pickles, read without running anything
//!   snapshot.rs   PyTorch's own snapshots of its memory
//!   workload.rs   several parts as one run, again and again
//!   open.rs       from the names on a command line to a source
//! ```

mod open;
mod part;
mod pickle;
pub mod snapshot;
mod source;
pub mod trace;
mod workload;

pub use open::{has_snapshot, open, open_generations};
pub use snapshot::RECIPE;
pub use source::Source;
pub(crate) use workload::MOST_STEPS;
