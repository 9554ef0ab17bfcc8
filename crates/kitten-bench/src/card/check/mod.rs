//! The allocator proved on a card: the part of its suite that works without a simulated GPU. Every
//! block knows its contents, and is compared byte for byte.
//!
//! ```text
//!   world.rs    the allocator on a card, with blocks that know their contents
//!   trials.rs   the properties that hold, each with the trial that shows it
//! ```

mod trials;
mod world;

use std::time::Instant;

use anyhow::{Result, ensure};
use giant_kitten::driver::DeviceInfo;
use giant_kitten::{Tier, show_size};
use serde::{Deserialize, Serialize};

use crate::card::Card;
use trials::TRIALS;
use world::{DEDICATED, SHARED};

/// The largest granule that the check accepts. It writes and compares every byte, and would take
/// hours with larger ones.
const LARGEST_GRANULE: u64 = 64 << 20;

/// A property, and whether it was shown to hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// The property.
    pub name: String,
    /// Seconds that its trial took, by the host's clock.
    pub seconds: f64,
    /// Why it does not hold.
    pub error: Option<String>,
}

/// The result of a check.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// The card and its driver.
    pub card: String,
    /// The driver's way to the shared tier.
    pub rung: String,
    /// Bytes of a granule.
    pub granule: u64,
    /// All properties that were tried, in order.
    pub proofs: Vec<Proof>,
}

impl Checked {
    /// Whether all of them hold.
    pub fn is_good(&self) -> bool {
        self.proofs.iter().all(|proof| proof.error.is_none())
    }
}

/// Runs every trial on a card. `report` is called with each proof as it ends.
///
/// # Errors
/// A card that does not describe itself, or has too little memory; the errors of `report`. A
/// property that does not hold is not an error here.
pub fn check(card: &dyn Card, mut report: impl FnMut(&Proof) -> Result<()>) -> Result<Checked> {
    let info = card.driver().device_info(card.device())?;
    check_room(&card.name(), &info)?;
    let (rung, granule) = (info.rung.name().into(), info.granularity);
    let mut checked = Checked { card: card.name(), rung, granule, proofs: Vec::new() };
    for (name, trial) in TRIALS {
        let start = Instant::now();
        let error = trial(card).err().map(|why| format!("{why:#}"));
        let proof = Proof { name: (*name).into(), seconds: start.elapsed().as_secs_f64(), error };
        report(&proof)?;
        checked.proofs.push(proof);
    }
    Ok(checked)
}

/// Whether the card has granules that are small enough, and enough of them.
fn check_room(name: &str, info: &DeviceInfo) -> Result<()> {
    let granule = info.granularity;
    ensure!(
        granule <= LARGEST_GRANULE,
        "{name} has granules of {}: the check takes at most {}",
        show_size(granule),
        show_size(LARGEST_GRANULE)
    );
    ensure!(
        info.free[Tier::Dedicated] / granule >= DEDICATED && info.free[Tier::Shared] / granule >= SHARED,
        "{name} has {} of dedicated and {} of shared memory to spare: the check needs {} and {}",
        show_size(info.free[Tier::Dedicated]),
        show_size(info.free[Tier::Shared]),
        show_size(DEDICATED * granule),
        show_size(SHARED * granule)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::Simulated;
    use kitten_sim::Profile;

    #[test]
    fn everything_holds_on_the_simulated_gpu() {
        let card = Profile::builtin("nominal-6g").unwrap();
        for migrates in [true, false] {
            let card = Profile { granularity: 1 << 18, migrates, ..card.clone() };
            let checked = check(&Simulated::new(&card).unwrap(), |_| Ok(())).unwrap();
            assert!(checked.is_good(), "{checked:#?}");
            assert_eq!(checked.proofs.len(), TRIALS.len());
            assert_eq!(checked.rung == "pinned", !migrates);
        }
    }
}
