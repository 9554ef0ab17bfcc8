//! Replays traces of real models through the allocator on a simulated GPU, and says what placement is worth.
//!
//! ```text
//!   trace.rs     traces as streams of events, checked
//!   workload.rs  one trace, or several as one run
//!   replay.rs    a trace through the allocator; time by where the bytes lie
//!   demo.rs      the table that kitten-bench shows without arguments
//!   sweep.rs     seconds per step against the reserve
//!   probe/       a card measured: its hardware profile
//!   picture.rs   the plot of a sweep, the memory map
//!   hotpath.rs   nanoseconds per malloc and free, beside peers
//!   peers.rs     other allocators, as offsets in one range
//! ```
//!
//! All seconds of a replay are modelled, from a hardware profile. Only `hotpath` measures anything: this machine's processor.

pub mod demo;
pub mod hotpath;
pub mod peers;
pub mod picture;
pub mod probe;
pub mod replay;
pub mod sweep;
pub mod trace;
pub mod workload;
