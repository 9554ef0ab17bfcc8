//! Calls giant-kitten's C interface on simulated machines for hours. It compares every block, byte
//! for byte, with the bytes written to it, and the library's books with the machine's.
//!
//! ```text
//!   run.rs         episodes: a machine, rounds on it, and the position of a failure
//!   machine.rs     random machines with the library on them, and their books
//!   world.rs       the state that all actors share, and their blocks
//!   actor/         one thread of a program: blocks, streams, pools, PyTorch's hooks
//!   quiet/         between rounds, while all actors are parked: actions, books, failures to come
//!   tally.rs       counts of everything that is done
//!   contents.rs    the contents of blocks
//!   filter/        filters of graph pools as C++ libraries lay them out
//!   notes.rs       the last calls of each actor
//!   complaints.rs  the errors that the library logs
//! ```
//!
//! An episode follows from its seed. Every other episode is played by one thread, which acts for
//! all actors in turn, so it runs the same way each time. The others have a thread for each actor.

mod actor;
mod complaints;
mod contents;
mod filter;
mod machine;
mod notes;
mod quiet;
mod run;
mod tally;
mod world;

pub use run::{Plan, Report, Stopped, run, watch};
pub use tally::Tally;

/// A failure, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

/// A part of the soak, which can be left out to find what a failure needs.
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
    /// Work that completes only when it is waited for
    Late,
    /// Passes of work, whose weights are lent
    Passes,
    /// Queries about devices that are not in use
    Questions,
    /// Streams other than a block's own, streams created and destroyed, blocks that change hands
    Streams,
    /// Pools that are ended and released in wrong orders
    WrongOrders,
}

/// The parts that take place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts(u32);

impl Parts {
    /// All parts except these.
    pub fn without(parts: &[Part]) -> Parts {
        Parts(parts.iter().fold(u32::MAX, |left, part| left & !(1 << *part as u8)))
    }

    /// Whether a part takes place.
    #[inline]
    pub fn has(self, part: Part) -> bool {
        self.0 & 1 << part as u8 != 0
    }
}
