//! One block, given by any address in it: its marks, its tier, and moving it.

use std::ffi::{c_int, c_void};

use crate::core::Tier;

use super::answer::{guarded, status};
use super::arguments::{GK_NO_TIER, pin_number, tier_of};
use super::start::owner_of;

/// Marks the block that holds `ptr` as the model's (not 0) or not (0).
#[unsafe(no_mangle)]
pub extern "C" fn gk_mark(ptr: *mut c_void, model: c_int) -> c_int {
    status(|| owner_of(ptr)?.mark(ptr as u64, model != 0))
}

/// Pins the block that holds `ptr` to a tier, or unpins it ([`GK_NO_TIER`]). No placement moves a
/// pinned block out of its tier. Nothing moves during this call.
#[unsafe(no_mangle)]
pub extern "C" fn gk_pin(ptr: *mut c_void, tier: c_int) -> c_int {
    status(|| {
        let tier = if tier == GK_NO_TIER { None } else { Some(tier_of(tier)?) };
        owner_of(ptr)?.pin_to(ptr as u64, tier)
    })
}

/// The tier that the block that holds `ptr` is pinned to, or [`GK_NO_TIER`], also for a foreign
/// pointer.
#[unsafe(no_mangle)]
pub extern "C" fn gk_pinned(ptr: *mut c_void) -> c_int {
    guarded(|| owner_of(ptr)?.pin_of(ptr as u64)).map_or(GK_NO_TIER, pin_number)
}

/// Stores the bytes that the block that holds `ptr` has in each tier.
///
/// # Safety
/// `dedicated` and `shared` are null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_tier(ptr: *mut c_void, dedicated: *mut u64, shared: *mut u64) -> c_int {
    status(|| {
        let bytes = owner_of(ptr)?.residency(ptr as u64)?;
        for (tier, to) in [(Tier::Dedicated, dedicated), (Tier::Shared, shared)] {
            // SAFETY: the caller's promise.
            if let Some(to) = unsafe { to.as_mut() } {
                *to = bytes[tier];
            }
        }
        Ok(())
    })
}

/// Moves the block that holds `ptr` to a tier. No thread may launch work on the device until this
/// returns.
#[unsafe(no_mangle)]
pub extern "C" fn gk_move(ptr: *mut c_void, tier: c_int) -> c_int {
    status(|| {
        let tier = tier_of(tier)?;
        owner_of(ptr)?.move_block(ptr as u64, tier).map(drop)
    })
}
