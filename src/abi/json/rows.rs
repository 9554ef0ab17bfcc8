//! A list whose rows are created while it is written, so that long lists are not stored twice.

use serde::{Serialize, Serializer};

/// The items of an iterator, in its order.
pub(super) struct Rows<I>(pub(super) I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Rows<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}
