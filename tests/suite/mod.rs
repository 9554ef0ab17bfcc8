//! The allocator's suite, run over every driver: each test binary that includes it says which, by its function `driver`.

mod actions;
mod automatic;
pub mod common;
mod contents;
mod failures;
mod history;
mod others;
mod pools;
mod remembered;
mod streams;
