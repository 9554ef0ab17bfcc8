//! The lines of a program that were at work.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A function of a program, for as long as its code or a stack needs it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::abi) struct Code {
    pub(in crate::abi) filename: String,
    pub(in crate::abi) name: String,
}

/// A line of a program that was at work. Two functions are never the same, however equal their texts are.
#[derive(Clone, Debug)]
pub(in crate::abi) struct Frame {
    pub(in crate::abi) code: Arc<Code>,
    pub(in crate::abi) line: u32,
}

impl PartialEq for Frame {
    fn eq(&self, other: &Frame) -> bool {
        Arc::ptr_eq(&self.code, &other.code) && self.line == other.line
    }
}

impl Hash for Frame {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (Arc::as_ptr(&self.code), self.line).hash(state);
    }
}
