//! Replays traces of real models through the allocator on a simulated GPU, and says what placement is worth; and holds a real GPU
//! against the model.
//!
//! ```text
//!   input.rs     files that are read, within bounds
//!   output.rs    files that are written, whole or not at all; the standard output
//!   text.rs      text of files made harmless for terminals and pages
//!   trace.rs     traces as streams of events, checked
//!   snapshot.rs  PyTorch's own snapshots of its memory, as work
//!   pickle.rs    Python's pickles, read without running anything
//!   workload.rs  one trace, or several as one run
//!   replay.rs    a trace through the allocator; time by where the bytes lie
//!   demo.rs      the table that kitten-bench shows without arguments
//!   sweep.rs     seconds per step against the reserve
//!   plan.rs      what work will do on a card, and which setting to use
//!   compare.rs   the orders of placement beside each other
//!   card/        a card, real or simulated: kernels, copies, a clock
//!   probe.rs     a card measured: its hardware profile
//!   check.rs     the allocator proved on a card, byte for byte
//!   report.rs    what a check of a GPU found, as one page
//!   page.rs      the memory map as a page, by the element that the WebUIs show
//!   picture.rs   the plot of a sweep, the memory map, a card against the model
//!   hotpath.rs   nanoseconds per malloc and free, beside peers
//!   peers.rs     other allocators, as offsets in one range
//! ```
//!
//! All seconds of a replay on the simulated GPU are modelled, from a hardware profile. `hotpath` measures this machine's processor;
//! `probe`, `check` and `replay --device` measure a real card, where there is one.

pub mod card;
pub mod check;
pub mod compare;
pub mod demo;
pub mod hotpath;
mod input;
pub mod output;
pub mod page;
pub mod peers;
mod pickle;
pub mod picture;
pub mod plan;
pub mod probe;
pub mod replay;
pub mod report;
pub mod snapshot;
pub mod sweep;
pub mod text;
pub mod trace;
pub mod workload;
