//! The driver's functions. What each does is the driver's documentation; what is checked here are its rules.

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
pub(crate) use devices::known;
pub(crate) use memory::{allocate, free};
pub use symbols::names;
pub(crate) use symbols::{find, no_operation};
