//! One value per tier, as an object with the names of the tiers.

use serde::{Serialize, Serializer};

use crate::core::{PerTier, Tier};

/// `{"dedicated": value, "shared": value}`.
pub(super) struct ByTier<T>(pub(super) PerTier<T>);

impl<T: Serialize> Serialize for ByTier<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Tier::ALL.into_iter().map(|tier| (tier.name(), &self.0[tier])))
    }
}
