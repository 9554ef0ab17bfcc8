//! Drives giant-kitten's C interface on simulated machines for as long as it is told to, and compares: every block byte for byte with
//! what was written to it, every book with the machine's.
//!
//! ```text
//!   run.rs         episodes: a machine each, rounds on it, and the position of what fails
//!   machine.rs     random machines with the library on them, and their books
//!   actor.rs       one thread of a program: blocks, streams, PyTorch's hooks
//!   pools.rs       its graph captures and memory pools, in right orders and in wrong ones
//!   quiet.rs       between rounds, while all actors are parked: actions, books, failures to come
//!   contents.rs    what blocks hold          filter.rs      filters as libstdc++ lays them out
//!   notes.rs       the last calls of each    complaints.rs  what the library logs as errors
//! ```
//!
//! An episode follows from its seed. Every other one is played by one thread, which acts for all actors in turn, so that it goes the
//! same way each time; the others by a thread for each actor.

mod actor;
mod complaints;
mod contents;
mod filter;
mod machine;
mod notes;
mod pools;
mod quiet;
mod run;

pub use actor::Tally;
pub use run::{Plan, Report, Stopped, run, watch};

/// What is wrong, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

/// A part of what is done, which can be left out to find what a failure needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[repr(u8)]
pub enum Part {
    /// Activating, disabling, freeing, loading, moving, safe points
    Actions,
    /// Graph captures and memory pools
    Captures,
    /// Calls of the driver that fail
    Failures,
    /// Other programs that take memory of the card
    Foreign,
    /// PyTorch's hooks: reset, memory fraction, history
    Hooks,
    /// Work that is done only when it is waited for
    Late,
    /// Questions about devices that are not in use
    Questions,
    /// Streams besides a block's own, streams that come and go, blocks that change hands
    Streams,
    /// Pools that are ended and released in wrong orders
    WrongOrders,
}

/// The parts that are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts(u32);

impl Parts {
    /// All but these.
    pub fn without(parts: &[Part]) -> Parts {
        Parts(parts.iter().fold(u32::MAX, |left, part| left & !(1 << *part as u8)))
    }

    /// Whether a part is done.
    #[inline]
    pub fn has(self, part: Part) -> bool {
        self.0 & 1 << part as u8 != 0
    }
}
