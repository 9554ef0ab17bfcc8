//! The driver's functions. What each does is the driver's documentation; what is checked here are its rules.

mod contexts;
mod devices;
mod memory;
mod streams;
mod symbols;
mod virtual_memory;

pub(crate) use contexts::device_of_context;
pub use symbols::names;
