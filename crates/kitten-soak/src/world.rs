//! The state that all actors share, and their blocks.

use std::sync::Mutex;

use giant_kitten::internals::BlockSize;

use crate::Parts;
use crate::contents::Contents;
use crate::machine::Machine;
use crate::notes::Notes;

/// The state that all actors share.
#[derive(Debug)]
pub struct World {
    /// The machine with the library on it.
    pub machine: Machine,
    /// Whether one thread acts for all.
    pub alone: bool,
    /// The parts that take place.
    pub parts: Parts,
    /// The last calls of each actor.
    pub notes: Vec<Notes>,
    /// Blocks on their way from one actor to another.
    pub mail: Mutex<Vec<Block>>,
}

/// A live block.
#[derive(Debug)]
pub struct Block {
    /// Where it begins.
    pub address: u64,
    /// The size that was requested.
    pub bytes: u64,
    /// Its device.
    pub device: usize,
    /// The handle of the stream it was allocated for, which PyTorch names when it frees the block.
    pub owner: u64,
    /// The stream that works on it, by its place in the actor.
    pub at: usize,
    /// Its contents, if they are known.
    pub contents: Option<Contents>,
    /// Whether a graph writes to it each time it is replayed.
    pub graphed: bool,
    /// While in the mail: an event behind all work on it.
    pub ready: Option<u64>,
}

impl Block {
    /// The bytes that the block takes in the library.
    pub fn taken(&self) -> u64 {
        BlockSize::of(self.bytes).map_or(0, BlockSize::rounded)
    }
}
