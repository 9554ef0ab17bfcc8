//! What the simulated memory needs from the operating system: bytes, addresses, and mappings of the
//! ones at the others. A module for each system, with the same items, is chosen here.
//!
//! | item | |
//! |---|---|
//! | [`Bytes`] | the bytes of a tier, by offset |
//! | [`Addresses`] | the addresses of this process that reservations hold |
//! | [`PIN_ALIGNMENT`] | what pinned memory is aligned to |
//! | [`copy`], [`clear`] | write bytes, without making untouched memory cost anything |
//! | [`this_thread`] | the number of the calling thread |

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::*;
