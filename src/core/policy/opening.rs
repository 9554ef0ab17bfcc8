//! When a reserve is handed out that nobody opens by an action.
//!
//! A program that knows nothing of reserves loads, and then works. What it works with needs the reserve from its first step
//! on, and nothing says that loading has ended, except: as much lives as in a run before, once that had loaded; or more has
//! come and gone than the reserve holds, which loading does not do.

use super::steady::WORKS;

/// What tells that loading has ended. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// What lived in an earlier run once it had loaded, if one is remembered.
    pub resident: Option<u64>,
    /// What may have come and gone since the start before that is no loading.
    pub churn: u64,
}

impl Opening {
    /// For a reserve of so many bytes, where so many have come and gone before; `resident` is what lived in an earlier run once
    /// it had loaded.
    pub fn new(reserve: u64, resident: Option<u64>, gone: u64) -> Opening {
        // Without a run before, what comes and goes is all there is to go by, and conversions are not to be taken for work.
        let times = if resident.is_some() { 1 } else { 4 };
        Opening { resident, churn: gone + (times * reserve).max(WORKS) }
    }

    /// Whether loading has ended, where so many bytes live and so many have come and gone.
    pub fn is_due(&self, live: u64, gone: u64) -> bool {
        gone >= self.churn || self.resident.is_some_and(|resident| live >= resident)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_run_before_tells_exactly() {
        let opening = Opening::new(500 * MIB, Some(3000 * MIB), 0);
        assert!(!opening.is_due(2999 * MIB, 499 * MIB) && opening.is_due(3000 * MIB, 0));
        assert!(opening.is_due(10, 500 * MIB), "a smaller model this time");
    }

    #[test]
    fn otherwise_it_is_what_comes_and_goes() {
        let opening = Opening::new(500 * MIB, None, 0);
        assert!(!opening.is_due(u64::MAX, 1999 * MIB) && opening.is_due(0, 2000 * MIB));
        assert!(!Opening::new(0, Some(u64::MAX), MIB).is_due(0, 64 * MIB));
    }
}
