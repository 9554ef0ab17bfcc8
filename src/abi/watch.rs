//! Questions about a device: its statistics, its memory, its blocks, and its history.

use std::ffi::{CString, c_char, c_int};

use crate::allocator::Allocator;
use crate::core::PerTier;
use crate::core::history::{Names, Recording};
use crate::error::Error;

use super::actions::GkActivation;
use super::answer::{guarded, status};
use super::arguments::{GK_NO_TIER, device_number, tier_of};
use super::snapshot::GkSnapshot;
use super::start::{RECORDED, ask, current, started};
use super::stats::GkStats;
use super::{json, stacks};

/// Stores the statistics of a device, as many as the caller's struct has fields for.
///
/// # Safety
/// `stats` is null or points to a struct whose first field has its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_stats(device: c_int, stats: *mut GkStats) -> c_int {
    status(|| {
        if stats.is_null() {
            return Err(Error::argument("gk_stats needs a struct to write to, and null was given"));
        }
        // SAFETY: the caller's promise; the size is the first field of every version.
        let known = unsafe { stats.cast::<u32>().read() } as usize;
        if known < 8 {
            return Err(Error::argument(format!(
                "gk_stats: the field \"size\" is {known}: set it to sizeof(struct gk_stats) before the call"
            )));
        }
        let (counted, splits) = ask(device, Allocator::figures)?;
        let mut full = GkStats::of(&counted, &splits);
        let length = known.min(size_of::<GkStats>());
        full.size = length as u32;
        // SAFETY: the caller's struct has `known` bytes, and ours has at least `length`.
        unsafe { std::ptr::copy_nonoverlapping((&raw const full).cast::<u8>(), stats.cast::<u8>(), length) };
        Ok(())
    })
}

/// The statistics of a device as JSON: the fields of [`GkStats`] by name, the same figures by tier,
/// the names of the phase, the device and its rung, and how the reserve was found. See
/// [`gk_text_free`].
#[unsafe(no_mangle)]
pub extern "C" fn gk_stats_json(device: c_int) -> *mut c_char {
    text(|| Ok(json::stats(&ask(device, Allocator::look)?)))
}

/// Resets the peaks of a device to the current values.
#[unsafe(no_mangle)]
pub extern "C" fn gk_reset_peaks(device: c_int) -> c_int {
    status(|| ask(device, Allocator::reset_peaks))
}

/// Resets the counters of a device that only grow.
#[unsafe(no_mangle)]
pub extern "C" fn gk_reset_totals(device: c_int) -> c_int {
    status(|| ask(device, Allocator::reset_totals))
}

/// Stores how much of a tier of a device, or of both together, can still be allocated, and how much
/// it has in total. Either pointer may be null. Asks the driver, and does not put the device to
/// use.
///
/// # Safety
/// `free` and `total` are null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_memory_info(device: c_int, tier: c_int, free: *mut u64, total: *mut u64) -> c_int {
    status(|| {
        let tier = if tier == GK_NO_TIER { None } else { Some(tier_of(tier)?) };
        let info = current()?.memory_info(device_number(device)?)?;
        let of = |bytes: PerTier<u64>| tier.map_or_else(|| bytes.iter().sum(), |tier| bytes[tier]);
        for (bytes, to) in [(of(info.free), free), (of(info.total), total)] {
            // SAFETY: the caller's promise.
            if let Some(to) = unsafe { to.as_mut() } {
                *to = bytes;
            }
        }
        Ok(())
    })
}

/// A device as it is found, and the memory that its tiers would have, as JSON. Does not put the
/// device to use. See [`gk_text_free`].
#[unsafe(no_mangle)]
pub extern "C" fn gk_device_json(device: c_int) -> *mut c_char {
    text(|| Ok(json::device(&current()?.look_at(device_number(device)?)?)))
}

/// The memory map of a device as JSON. See [`gk_text_free`].
#[unsafe(no_mangle)]
pub extern "C" fn gk_map_json(device: c_int) -> *mut c_char {
    text(|| Ok(json::map_json(&ask(device, Allocator::map)?)))
}

/// Every segment and block of a device as JSON, and the stacks that led to the allocations of live
/// blocks. See [`gk_text_free`].
#[unsafe(no_mangle)]
pub extern "C" fn gk_snapshot_json(device: c_int) -> *mut c_char {
    text(|| {
        let (segments, callers) = ask(device, Allocator::snapshot)?;
        Ok(json::snapshot(&segments, &callers))
    })
}

/// Stores every segment and block of a device, the blocks as structs. See [`gk_snapshot_free`].
///
/// # Safety
/// `snapshot` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_snapshot(device: c_int, snapshot: *mut GkSnapshot) -> c_int {
    status(|| {
        if snapshot.is_null() {
            return Err(Error::argument("gk_snapshot needs a struct to write to, and null was given"));
        }
        let (segments, callers) = ask(device, Allocator::snapshot)?;
        let (outline, blocks) = json::outline(&segments, &callers);
        let outline = CString::new(outline).expect("JSON escapes zeros").into_raw();
        let (count, blocks) = (blocks.len(), Box::into_raw(blocks.into_boxed_slice()).cast());
        // SAFETY: the caller's promise.
        unsafe { snapshot.write(GkSnapshot { outline, blocks, count }) };
        Ok(())
    })
}

/// Frees what a snapshot holds. Null is allowed.
///
/// # Safety
/// `snapshot` is null, or [`gk_snapshot`] wrote it and it was not freed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_snapshot_free(snapshot: *mut GkSnapshot) {
    if snapshot.is_null() {
        return;
    }
    // SAFETY: the caller's promise; `gk_snapshot` gave both away by `into_raw`.
    unsafe {
        let GkSnapshot { outline, blocks, count } = snapshot.read();
        drop(CString::from_raw(outline));
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(blocks, count)));
    }
}

/// The live blocks of a device as JSON, in the order in which an action would let them claim
/// dedicated memory. Null takes the order of the options. See [`gk_text_free`].
///
/// # Safety
/// `activation` is null or points to a struct, of which only the order counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_claims_json(device: c_int, activation: *const GkActivation) -> *mut c_char {
    text(|| {
        let claims = ask(device, |allocator, device| {
            // SAFETY: the caller's promise.
            let order = unsafe { GkActivation::or_options(activation, allocator) }?.order;
            allocator.claims(device, order)
        })?;
        Ok(json::claims(&claims))
    })
}

/// Records the last `events` events of each device, and the Python stacks that `stacks` selects; 0
/// ends the recording. Earlier events are kept as far as there is room. `skipped` has a bit for
/// each action that is not recorded.
///
/// Once it has returned, no stack is read that this recording does not want.
#[unsafe(no_mangle)]
pub extern "C" fn gk_record(events: usize, stacks: c_int, skipped: u32) -> c_int {
    status(|| {
        let names = match stacks {
            0 => Names::None,
            1 => Names::OfBlocks,
            2 => Names::OfRequests,
            3 => Names::OfAll,
            _ => return Err(Error::argument(format!("gk_record: stacks is 0 to 3, not {stacks}"))),
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

/// The recorded events of a device as JSON, and the stacks that led to them. See [`gk_text_free`].
#[unsafe(no_mangle)]
pub extern "C" fn gk_history_json(device: c_int) -> *mut c_char {
    text(|| Ok(json::history(&ask(device, Allocator::history)?)))
}

/// Frees a text that a function of this library returned. Null is allowed.
///
/// # Safety
/// `text` is null, or one of those functions returned it and it was not freed yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_text_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller's promise; `text` below gave it away by `into_raw`.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// A text that the caller frees by [`gk_text_free`], or null after an error.
fn text(make: impl FnOnce() -> Result<String, Error>) -> *mut c_char {
    let made = guarded(|| Ok(CString::new(make()?).expect("JSON escapes zeros").into_raw()));
    made.unwrap_or(std::ptr::null_mut())
}
