//! The C interface: the only `extern "C"` of the library. `include/giant_kitten.h` is its face and its documentation.
//!
//! No panic crosses it, and no lock is held when it returns or calls back.
//!
//! Who calls what: PyTorch calls `torch/`, programs that act call `actions.rs`, `work.rs` and `blocks.rs`, and those that look call
//! `watch.rs`, whose texts are made in `json/` from what `stacks/` and the allocator know. Under all of them `start.rs` has the
//! allocator of the process, `arguments.rs` reads what is passed, and `answer.rs` turns results into codes.

mod actions;
mod answer;
mod arguments;
mod blocks;
mod idle;
mod json;
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
pub use self::start::*;
pub use self::stats::*;
pub use self::torch::*;
pub use self::watch::*;
pub use self::work::*;
