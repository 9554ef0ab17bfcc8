//! When a reserve opens that no action opens.
//!
//! A program that knows nothing of reserves loads, and then works. Its work needs the reserve from
//! the first step on, and nobody reports the end of loading. Two things show it: as much is live as
//! in an earlier run once that had loaded, or more has been freed than the reserve holds, which
//! loading does not do.

use super::steady::WORKS;

/// The signs that loading has ended. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The bytes that were live in an earlier run once it had loaded, if one is remembered.
    pub resident: Option<u64>,
    /// Once this many bytes have been freed since the start, the program is no longer loading.
    pub churn: u64,
}

impl Opening {
    /// The signs for a reserve of `reserve` bytes, where `gone` bytes were freed before. `resident`
    /// is what was live in an earlier run once it had loaded.
    pub fn new(reserve: u64, resident: Option<u64>, gone: u64) -> Opening {
        // Without an earlier run, freed bytes are the only sign, and conversions must not pass for
        // work.
        let times = if resident.is_some() { 1 } else { 4 };
        Opening { resident, churn: gone + (times * reserve).max(WORKS) }
    }

    /// Whether loading has ended, where `live` bytes are live and `gone` bytes were freed so far.
    pub fn is_due(&self, live: u64, gone: u64) -> bool {
        gone >= self.churn || self.resident.is_some_and(|resident| live >= resident)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn an_earlier_run_shows_the_end_of_loading() {
        let opening = Opening::new(500 * MIB, Some(3000 * MIB), 0);
        assert!(!opening.is_due(2999 * MIB, 499 * MIB) && opening.is_due(3000 * MIB, 0));
        assert!(opening.is_due(10, 500 * MIB), "a smaller model this time");
    }

    #[test]
    fn without_one_freed_bytes_show_it() {
        let opening = Opening::new(500 * MIB, None, 0);
        assert!(!opening.is_due(u64::MAX, 1999 * MIB) && opening.is_due(0, 2000 * MIB));
        assert!(!Opening::new(0, Some(u64::MAX), MIB).is_due(0, 64 * MIB));
    }
}
