//! The allocator's suite, run over every driver. Each test binary that includes it names its driver
//! by the function `driver`.

mod actions;
mod automatic;
pub mod common;
mod contents;
mod copies;
mod failures;
mod history;
mod others;
mod pools;
mod remembered;
mod streams;
