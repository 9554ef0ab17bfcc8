//! Virtual memory management.

use std::ffi::{c_int, c_uchar, c_ulonglong, c_ushort, c_void};

use kitten_sim::{Tier, code};

use super::contexts::device_of_context;
use crate::answer::{answer, put};
use crate::machine::Machine;
use crate::refusal::{Result, refuse};

/// `CUmemLocation`, with integers where the header has enumerations: a program may send anything.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Location {
    kind: c_int,
    id: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
pub struct AllocationProp {
    kind: c_int,
    handle_types: c_int,
    location: Location,
    win32: *mut c_void,
    compression: c_uchar,
    rdma: c_uchar,
    usage: c_ushort,
    reserved: [c_uchar; 4],
}

/// `CUmemAccessDesc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AccessDesc {
    location: Location,
    flags: c_int,
}

const PINNED: c_int = 1;
const DEVICE: c_int = 1;
const HOST: c_int = 2;
const HOST_NUMA: c_int = 3;
const READ_WRITE: c_int = 3;

/// The device and tier that a description names. Host memory is accounted to the current device.
unsafe fn place(machine: &Machine, prop: *const AllocationProp) -> Result<(usize, Tier)> {
    // SAFETY: the callers' callers promise that it is null or whole.
    let Some(prop) = (unsafe { prop.as_ref() }) else {
        return refuse(code::INVALID_VALUE, "the description is missing");
    };
    if prop.kind != PINNED {
        return refuse(code::INVALID_VALUE, format!("backing of type {}: it must be pinned (1)", prop.kind));
    }
    let Location { kind, id } = prop.location;
    match kind {
        DEVICE => Ok((machine.device(id)?, Tier::Dedicated)),
        HOST_NUMA if machine.host_numa && id == 0 => Ok((device_of_context()?, Tier::Shared)),
        HOST_NUMA if machine.host_numa => refuse(code::INVALID_DEVICE, format!("there is no host node {id}: only 0")),
        HOST if machine.host => Ok((device_of_context()?, Tier::Shared)),
        _ => refuse(code::INVALID_VALUE, format!("this driver places no backing at locations of type {kind}")),
    }
}

/// The size of which all backing is a multiple.
///
/// # Safety
/// `granularity` may be written to; `prop` is whole.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetAllocationGranularity(
    granularity: *mut usize,
    prop: *const AllocationProp,
    _option: c_int,
) -> c_int {
    answer(|machine| {
        machine.gpu.note("cuMemGetAllocationGranularity")?;
        // SAFETY: the caller's promise.
        let (device, _) = unsafe { place(machine, prop) }?;
        let bytes = machine.gpu.device_profile(device)?.granularity;
        // SAFETY: the caller's promise.
        unsafe { put(granularity, bytes as usize) }
    })
}

/// Reserves addresses.
///
/// # Safety
/// `address` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAddressReserve(
    address: *mut u64,
    size: usize,
    alignment: usize,
    _wish: u64,
    flags: c_ulonglong,
) -> c_int {
    answer(|machine| {
        no_flags(flags)?;
        let start = machine.gpu.reserve(device_of_context()?, size as u64, alignment as u64)?;
        // SAFETY: the caller's promise.
        unsafe { put(address, start) }
    })
}

fn no_flags(flags: c_ulonglong) -> Result {
    if flags == 0 { Ok(()) } else { refuse(code::INVALID_VALUE, "the flags must be 0") }
}

/// Frees reserved addresses.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemAddressFree(address: u64, size: usize) -> c_int {
    answer(|machine| {
        device_of_context()?;
        Ok(machine.gpu.unreserve(address, size as u64)?)
    })
}

/// Creates backing.
///
/// # Safety
/// `handle` may be written to; `prop` is whole.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    handle: *mut u64,
    size: usize,
    prop: *const AllocationProp,
    flags: c_ulonglong,
) -> c_int {
    answer(|machine| {
        no_flags(flags)?;
        device_of_context()?;
        // SAFETY: the caller's promise.
        let (device, tier) = unsafe { place(machine, prop) }?;
        let made = machine.gpu.create(device, tier, size as u64)?;
        // SAFETY: the caller's promise.
        unsafe { put(handle, made) }
    })
}

/// Releases backing.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemRelease(handle: u64) -> c_int {
    answer(|machine| Ok(machine.gpu.release(device_of_context()?, handle)?))
}

/// Maps a whole handle.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemMap(address: u64, size: usize, offset: usize, handle: u64, flags: c_ulonglong) -> c_int {
    answer(|machine| {
        no_flags(flags)?;
        if offset != 0 {
            return refuse(code::INVALID_VALUE, format!("the offset {offset} must be 0"));
        }
        Ok(machine.gpu.map(device_of_context()?, address, size as u64, handle)?)
    })
}

/// Unmaps whole mappings.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemUnmap(address: u64, size: usize) -> c_int {
    answer(|machine| Ok(machine.gpu.unmap(device_of_context()?, address, size as u64)?))
}

/// Makes a mapped range accessible.
///
/// # Safety
/// `access` has `count` members.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemSetAccess(address: u64, size: usize, access: *const AccessDesc, count: usize) -> c_int {
    answer(|machine| {
        if access.is_null() || count == 0 {
            return refuse(code::INVALID_VALUE, "no device is named");
        }
        let current = device_of_context()?;
        let mut own = false;
        // SAFETY: the caller's promise.
        for desc in unsafe { std::slice::from_raw_parts(access, count) } {
            if desc.location.kind != DEVICE || desc.flags != READ_WRITE {
                return refuse(code::INVALID_VALUE, "the access must be a device's, to read and write");
            }
            own |= machine.device(desc.location.id)? == current;
        }
        if !own {
            return refuse(code::INVALID_VALUE, "the current device is not among those that get access");
        }
        Ok(machine.gpu.set_access(current, address, size as u64)?)
    })
}
