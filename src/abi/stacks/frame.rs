//! The frames of Python stacks.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The code of a Python function. It lives as long as its code object or a stack refers to it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::abi) struct Code {
    pub(in crate::abi) filename: String,
    pub(in crate::abi) name: String,
}

/// A frame: a line of a function. Different code objects are different, even if their texts are
/// equal.
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
