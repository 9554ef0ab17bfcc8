//! What PyTorch calls, and how it is answered.
//!
//! `allocate.rs` has the functions of its pluggable allocator, `hooks.rs` the hooks beside them, `pools.rs` those of memory pools.
//! `throw.rs` throws PyTorch's own exceptions, `filter.rs` keeps a copy of its C++ filter function, and `behind.rs` tells whether
//! PyTorch's own allocator stands in front.

mod allocate;
mod behind;
mod filter;
mod hooks;
mod pools;
mod throw;

pub use self::allocate::*;
pub use self::hooks::*;
pub use self::pools::*;
