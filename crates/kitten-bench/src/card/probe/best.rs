//! The best of several rounds.

use anyhow::Result;

/// How often each figure is measured.
pub const ROUNDS: usize = 5;

/// The least seconds of [`ROUNDS`] rounds after one that is thrown away.
pub(super) fn best(mut round: impl FnMut() -> Result<f64>) -> Result<f64> {
    round()?;
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        least = least.min(round()?);
    }
    Ok(least)
}
