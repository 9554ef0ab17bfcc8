//! The allocator's suite, run over every driver. Each test binary that includes it names its driver
//! by the function `driver`.

mod actions;
mod automatic;
mod careless;
pub mod common;
mod contents;
mod copies;
mod failures;
mod granted;
mod history;
mod others;
mod passes;
mod pools;
mod remembered;
mod streams;
