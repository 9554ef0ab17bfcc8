//! What the operating system gives: the host's memory, the other processes that share it, the
//! budgets of a card's memory, and the libraries that the process has loaded.
//!
//! `unix.rs` and `windows.rs` have the same functions for their systems, and the one that is built
//! is chosen here. Everything else of the allocator is the same on both, except how PyTorch's C++
//! is called (`abi/torch`).

#[cfg(windows)]
mod dxgi;
pub(crate) mod fork;
pub(crate) mod graphics;
pub(crate) mod host;
pub(crate) mod neighbours;

#[cfg(unix)]
#[path = "unix.rs"]
pub(crate) mod system;
#[cfg(windows)]
#[path = "windows.rs"]
pub(crate) mod system;
