//! The driver's functions. The driver's documentation describes each; here its rules are checked.

mod absent;
mod contexts;
mod devices;
mod kernels;
mod memory;
mod pinned;
mod streams;
mod symbols;
mod virtual_memory;

pub use contexts::cuThreadExchangeStreamCaptureMode;
pub(crate) use contexts::{device_of_context, have_context, make_current};
pub(crate) use memory::{allocate, copy_in_stream, free};
pub(crate) use pinned::{holds, is_registered, register, unregister};
pub(crate) use streams::capture_status;
pub use symbols::names;
pub(crate) use symbols::{find, no_operation};
