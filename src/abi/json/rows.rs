//! A list whose rows are made as they are written, so that no long list is held twice.

use serde::{Serialize, Serializer};

/// The rows that an iterator makes, in its order.
pub(super) struct Rows<I>(pub(super) I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Rows<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}
