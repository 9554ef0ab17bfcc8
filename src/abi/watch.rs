//! The questions about a device: its statistics, its memory, its blocks, and what happened.

use std::ffi::{c_char, c_int};

use crate::allocator::Allocator;
use crate::core::history::{Names, Recording};
use crate::error::Error;

use super::actions::GkActivation;
use super::answer::{guarded, status};
use super::arguments::{device_number, tier_of};
use super::start::{RECORDED, ask, current, started};
use super::stats::GkStats;
use super::{json, stacks};

/// The statistics of a device, as far as the caller's struct goes.
///
/// # Safety
/// `stats` points to a struct whose first field says its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_stats(device: c_int, stats: *mut GkStats) -> c_int {
    status(|| {
        if stats.is_null() {
            return Err(Error::Argument("gk_stats needs a struct to write to: null was given".into()));
        }
        // SAFETY: the caller's promise; the size is the first field of every version.
        let known = unsafe { stats.cast::<u32>().read() } as usize;
        if known < 8 {
            return Err(Error::Argument(format!(
                "gk_stats: the field \"size\" says {known}; set it to sizeof(struct gk_stats) before the call"
            )));
        }
        let (counted, splits) = (ask(device, Allocator::stats)?, ask(device, Allocator::splits)?);
        let mut full = GkStats::of(&counted, &splits);
        let length = known.min(size_of::<GkStats>());
        full.size = length as u32;
        // SAFETY: the caller's struct is `known` bytes long, ours is no shorter than `length`.
        unsafe { std::ptr::copy_nonoverlapping((&raw const full).cast::<u8>(), stats.cast::<u8>(), length) };
        Ok(())
    })
}

/// The statistics of a device as JSON. Returns the bytes needed with the end, or 0 after an error; writes only if `length` is enough.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_stats_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| {
        let (stats, splits) = (ask(device, Allocator::stats)?, ask(device, Allocator::splits)?);
        let info = ask(device, Allocator::device_info)?;
        Ok(json::stats(&stats, &splits, info.as_ref(), &ask(device, Allocator::reserve_reason)?))
    });
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// Forgets the peaks of a device.
#[unsafe(no_mangle)]
pub extern "C" fn gk_reset_peaks(device: c_int) -> c_int {
    status(|| ask(device, Allocator::reset_peaks))
}

/// Begins anew to count on a device what only ever grows.
#[unsafe(no_mangle)]
pub extern "C" fn gk_reset_totals(device: c_int) -> c_int {
    status(|| ask(device, Allocator::reset_totals))
}

/// What can be had of a tier of a device now, and what it has in all. Either may be null. Asks the driver, and looks at a device
/// that is not in use without putting it to use.
///
/// # Safety
/// `free` and `total` are null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_memory_info(device: c_int, tier: c_int, free: *mut u64, total: *mut u64) -> c_int {
    status(|| {
        let tier = tier_of(tier)?;
        let info = current()?.memory_info(device_number(device)?)?;
        for (bytes, to) in [(info.free[tier], free), (info.total[tier], total)] {
            // SAFETY: the caller's promise.
            if let Some(to) = unsafe { to.as_mut() } {
                *to = bytes;
            }
        }
        Ok(())
    })
}

/// What a device is found to be and would have, as JSON, without putting it to use; see [`gk_stats_json`] for the buffer.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_device_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| Ok(json::device(&current()?.look_at(device_number(device)?)?)));
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// The memory map of a device as JSON; see [`gk_stats_json`] for the buffer.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_map_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| Ok(json::map_json(&ask(device, Allocator::map)?)));
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// Every segment and block of a device, and the stacks of those who asked for what lives, as JSON; see [`gk_stats_json`] for the buffer.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_snapshot_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| {
        Ok({
            let (segments, askers) = ask(device, Allocator::snapshot)?;
            json::snapshot(&segments, &askers)
        })
    });
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// The live blocks of a device in the order in which an action would let them claim dedicated memory, as JSON; see [`gk_stats_json`] for
/// the buffer.
///
/// # Safety
/// `activation` is null or points to a struct, of which only the order counts; `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_claims_json(
    device: c_int,
    activation: *const GkActivation,
    buffer: *mut c_char,
    length: usize,
) -> usize {
    let text = guarded(|| {
        let claims = ask(device, |allocator, device| {
            // SAFETY: the caller's promise.
            let order = unsafe { GkActivation::or_options(activation, allocator) }?.order();
            allocator.claims(device, order)
        })?;
        Ok(json::claims(&claims))
    });
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// Records what happens, the last `events` of each device, and the stacks of Python that lead there, as `stacks` says; 0 ends it. What
/// was recorded before is kept, as far as there is room. `skipped` has a bit for each action that is left out.
///
/// Once it has returned, no stack is asked for that it does not want.
#[unsafe(no_mangle)]
pub extern "C" fn gk_record(events: usize, stacks: c_int, skipped: u32) -> c_int {
    status(|| {
        let names = match stacks {
            0 => Names::None,
            1 => Names::OfBlocks,
            2 => Names::OfRequests,
            3 => Names::OfAll,
            _ => return Err(Error::Argument(format!("gk_record: stacks is 0 to 3, not {stacks}"))),
        };
        let recording = Recording { most: events, names: if events > 0 { names } else { Names::None }, skipped };
        let mut recorded = RECORDED.lock();
        *recorded = recording;
        stacks::ask_for(recording.names);
        started().into_iter().for_each(|allocator| allocator.record(recording));
        drop(recorded);
        stacks::wait_for_answers();
        Ok(())
    })
}

/// What was recorded of a device, and the stacks of those who did it, as JSON; see [`gk_stats_json`] for the buffer.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_history_json(device: c_int, buffer: *mut c_char, length: usize) -> usize {
    let text = guarded(|| Ok(json::history(&ask(device, Allocator::history)?)));
    // SAFETY: the caller's promise.
    unsafe { write_text(text, buffer, length) }
}

/// Writes a text where it fits; returns the bytes needed with the end, or 0 after an error.
///
/// # Safety
/// `buffer` is null or has room for `length` bytes.
unsafe fn write_text(text: Result<String, c_int>, buffer: *mut c_char, length: usize) -> usize {
    let Ok(text) = text else { return 0 };
    let needed = text.len() + 1;
    if !buffer.is_null() && length >= needed {
        // SAFETY: the caller's promise; `needed` fits.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), buffer, text.len());
            buffer.add(text.len()).write(0);
        }
    }
    needed
}
