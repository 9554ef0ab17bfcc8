//! What the operating system gives: the host's memory, and the other processes that share it.

pub(crate) mod fork;
pub(crate) mod host;
pub(crate) mod neighbours;
