//! Work through the allocator, the time it takes, and the reserve that suits it.
//!
//! ```text
//!   setup.rs     how work is replayed: on what, and how memory is placed
//!   outcome.rs   the result of a replay
//!   run.rs       the replay: events through the allocator, and the time model
//!   lending.rs   the weights that are lent in a step
//!   map.rs       the memory map at the busiest moment of a phase
//!   modules.rs   the weights of a model by module and tier
//!   asked.rs     the step or phase that is asked for, by its name
//!   timeline.rs  what a step does when
//!   layout.rs    where its large blocks lie, and when
//!   sweep.rs     seconds per step for each reserve of a range
//!   plan.rs      whether work fits a card, the time it takes, and which setting to use
//!   otherwise.rs what one would do there without giant-kitten, by closed formulas
//!   weights.rs   which modules, blocks and models the weights of work belong to
//!   choose.rs    the same on several cards, and the smallest card that will do
//!   compare.rs   the orders of placement compared with each other
//!   demo.rs      the table that kitten-bench prints without arguments
//!   cores.rs     several replays at a time
//! ```
//!
//! `sweep.rs`, `plan.rs`, `choose.rs`, `compare.rs` and `demo.rs` replay work several times.
//! `choose.rs` uses `plan.rs`, and none of the others uses another.

mod asked;
pub mod choose;
pub mod compare;
mod cores;
pub mod demo;
pub mod layout;
mod lending;
mod map;
mod modules;
pub mod otherwise;
mod outcome;
pub mod plan;
mod run;
mod setup;
pub mod sweep;
pub mod timeline;
mod weights;

pub use map::{Busiest, map_at};
pub use modules::Module;
pub(crate) use outcome::is_a_time;
pub use outcome::{Compared, Outcome, Step};
pub use run::{Moment, Watch, replay, replay_on, replay_watched};
pub use setup::{Policy, Setup};
