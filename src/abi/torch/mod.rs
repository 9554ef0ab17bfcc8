//! The functions that PyTorch calls.
//!
//! `allocate.rs` has those of its pluggable allocator, `pools.rs` the hooks of memory pools, and
//! `hooks.rs` the other hooks. `throw.rs` throws PyTorch's own exceptions, `filter.rs` copies its
//! C++ filter function, and `behind.rs` finds out whether PyTorch's own allocator calls this one.

mod allocate;
mod behind;
mod filter;
mod hooks;
mod pools;
mod throw;

pub use self::allocate::*;
pub use self::hooks::*;
pub use self::pools::*;
