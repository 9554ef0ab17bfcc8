//! Counts of everything that is done.

/// Counts of everything that is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Blocks allocated.
    pub mallocs: u64,
    /// Requests refused.
    pub refused: u64,
    /// Blocks freed.
    pub frees: u64,
    /// Other calls of the library.
    pub others: u64,
    /// Contents compared.
    pub compared: u64,
    /// Bytes of these contents.
    pub compared_bytes: u64,
    /// Captures.
    pub captures: u64,
    /// Replays of graphs.
    pub replays: u64,
    /// Wrong orders and wrong arguments.
    pub wrong: u64,
    /// Failures armed.
    pub armed: u64,
    /// Actions.
    pub actions: u64,
    /// Weights that were lent from the ring.
    pub lent: u64,
}

impl Tally {
    /// All calls of the library.
    pub fn operations(&self) -> u64 {
        self.mallocs + self.refused + self.frees + self.others
    }

    /// Adds another tally.
    pub fn add(&mut self, other: &Tally) {
        for (sum, more) in self.all_mut().into_iter().zip(other.all()) {
            *sum += more;
        }
    }

    fn all(mut self) -> [u64; 12] {
        self.all_mut().map(|count| *count)
    }

    fn all_mut(&mut self) -> [&mut u64; 12] {
        [
            &mut self.mallocs,
            &mut self.refused,
            &mut self.frees,
            &mut self.others,
            &mut self.compared,
            &mut self.compared_bytes,
            &mut self.captures,
            &mut self.replays,
            &mut self.wrong,
            &mut self.armed,
            &mut self.actions,
            &mut self.lent,
        ]
    }
}
