//! giant-kitten.
pub mod core;
pub mod driver;
