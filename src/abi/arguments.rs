//! Arguments of C functions as the allocator's types: devices, streams, tiers and texts.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::core::{Tier, parse_size};
use crate::driver::Stream;
use crate::error::Error;

use super::answer::status;

/// The card's own memory.
pub const GK_DEDICATED: c_int = 0;
/// Host memory mapped for the GPU.
pub const GK_SHARED: c_int = 1;

/// No tier, in the place of a tier.
pub const GK_NO_TIER: c_int = -1;

#[inline]
pub(super) fn device_number(device: c_int) -> Result<usize, Error> {
    usize::try_from(device).map_err(|_| Error::argument(format!("there is no device {device}")))
}

#[inline]
pub(super) fn stream_of(stream: *mut c_void) -> Stream {
    Stream(stream as u64)
}

pub(super) fn tier_of(tier: c_int) -> Result<Tier, Error> {
    match tier {
        GK_DEDICATED => Ok(Tier::Dedicated),
        GK_SHARED => Ok(Tier::Shared),
        _ => Err(Error::argument(format!("there is no tier {tier}: 0 is dedicated, 1 is shared"))),
    }
}

/// The number of the tier that a block is pinned to.
pub(super) fn pin_number(pin: Option<Tier>) -> c_int {
    pin.map_or(GK_NO_TIER, |tier| tier as c_int)
}

/// The text at a pointer.
///
/// # Safety
/// `text` is null or a C string.
pub(super) unsafe fn text_of<'a>(text: *const c_char) -> Result<&'a str, Error> {
    if text.is_null() {
        return Err(Error::argument("a text was expected, and null was given: pass a C string"));
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| Error::argument("a text is not UTF-8: pass it in UTF-8"))
}

/// Parses a size as the options do: a number with a unit, or a number of bytes.
///
/// # Safety
/// `text` is null or a C string; `bytes` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_parse_size(text: *const c_char, bytes: *mut u64) -> c_int {
    status(|| {
        // SAFETY: the caller's promise.
        let (text, bytes) = unsafe { (text_of(text)?, bytes.as_mut()) };
        let size = parse_size(text).map_err(Error::argument)?;
        match bytes {
            Some(bytes) => *bytes = size,
            None => {
                return Err(Error::argument("gk_parse_size needs a pointer for the result, and null was given"));
            }
        }
        Ok(())
    })
}
