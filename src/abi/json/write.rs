//! The one writer of all texts, and two shapes that several of them have.

use serde::{Serialize, Serializer};

use crate::core::{PerTier, Tier};

/// A value as JSON.
pub(super) fn text_of(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("writing JSON fails only for keys that are not texts, and all keys are")
}

/// The items of an iterator as a list. They are created while it is written, so that long lists are
/// not stored twice.
pub(super) struct Rows<I>(pub(super) I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Rows<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

/// One value per tier: `{"dedicated": value, "shared": value}`.
pub(super) struct ByTier<T>(pub(super) PerTier<T>);

impl<T: Serialize> Serialize for ByTier<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Tier::ALL.into_iter().map(|tier| (tier.name(), &self.0[tier])))
    }
}
