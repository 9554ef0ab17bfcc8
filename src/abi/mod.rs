//! The C interface, the only place that exports C functions. `include/giant_kitten.h` documents it.
//!
//! No panic crosses it, and no lock is held when it returns or calls back.
//!
//! ```text
//!   callers      torch/        PyTorch: allocation, hooks, pools
//!                actions.rs    programs: activate, disable, free_vram, begin_loading
//!                work.rs       programs: safe points and pieces of work
//!                blocks.rs     programs: one block
//!                watch.rs      programs that look: statistics, maps, snapshots, histories
//!   texts        json/         the texts that watch.rs returns
//!                stats.rs      the statistics as a C struct
//!                snapshot.rs   a snapshot as C structs
//!                stacks/       the Python stacks that histories and snapshots name
//!   below        start.rs      the allocator of the process, and its options
//!                idle.rs       the thread that returns idle memory
//!                arguments.rs  arguments of C functions as the allocator's types
//!                answer.rs     codes, and the text of the last error
//! ```

mod actions;
mod answer;
mod arguments;
mod blocks;
mod idle;
mod json;
mod passes;
mod snapshot;
mod stacks;
mod start;
mod stats;
mod torch;
mod watch;
mod work;

pub use self::actions::*;
pub use self::answer::*;
pub use self::arguments::*;
pub use self::blocks::*;
pub use self::json::map_json;
pub use self::passes::*;
pub use self::snapshot::*;
pub use self::start::*;
pub use self::stats::*;
pub use self::torch::*;
pub use self::watch::*;
pub use self::work::*;
