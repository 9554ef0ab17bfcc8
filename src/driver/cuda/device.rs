//! One device of the driver: its primary context, and the abilities of its tiers, found by trial.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationProp_st__bindgen_ty_1, CUmemAllocationType,
    CUmemLocation, CUmemLocationType, CUstream, CUstream_flags,
};

use once_cell::sync::OnceCell;

use super::api::{Address, Api};
use crate::core::{Grant, PerTier, Tier};
use crate::driver::{DriverError, Granted, Handle, Result, Rung, insist};
use crate::platform::graphics::Card;
use crate::platform::system::Adapter;

/// `CU_STREAM_CAPTURE_MODE_RELAXED`: this thread may make calls that a capture elsewhere would
/// forbid.
const RELAXED: c_int = 2;

/// `CU_MEMHOSTALLOC_PORTABLE` and `CU_MEMHOSTALLOC_DEVICEMAP`: pinned for every context, and mapped
/// for the device.
const PORTABLE_AND_MAPPED: c_uint = 1 | 2;

/// How long a budget of the system may be used: to ask is no driver call, and not free either.
const BUDGETS_LAST: Duration = Duration::from_secs(2);

/// A device in use.
#[derive(Debug)]
pub(super) struct Device {
    api: Arc<Api>,
    ordinal: c_int,
    handle: CUdevice,
    context: CUcontext,
    /// The stream of migration copies. It waits for no other stream, and no other waits for it.
    pub(super) copies: CUstream,
    pub(super) granularity: u64,
    pub(super) rung: Rung,
    /// Why each rung above the one in use failed its trial.
    pub(super) refused: Vec<String>,
    shared: Option<CUmemLocation>,
    /// The card as the system's graphics know it, if they keep budgets; or why it is not found.
    adapter: OnceCell<Result<Option<Adapter>, String>>,
    /// The devices that may read and write: this one, and every other that can reach it.
    access: Vec<CUmemAccessDesc>,
}

// SAFETY: contexts and streams of the driver may be used from every thread.
unsafe impl Send for Device {}
// SAFETY: as above; the driver locks.
unsafe impl Sync for Device {}

/// While this lives, the device's primary context is current in this thread, and captures elsewhere
/// tolerate its calls.
pub(super) struct Entered<'a> {
    api: &'a Api,
    pushed: bool,
    mode: Option<c_int>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(mode) = &mut self.mode {
            // SAFETY: the mode is the one that this thread had.
            let _ = unsafe { self.api.capture_mode(mode) };
        }
        if self.pushed {
            let mut context = std::ptr::null_mut();
            // SAFETY: the context that is popped is the one that was pushed.
            if let Err(why) = unsafe { self.api.context_pop(&mut context) } {
                log::debug!("the context could not be popped and stays current in this thread: {why}");
            }
        }
    }
}

fn enter(api: &Api, context: CUcontext) -> Result<Entered<'_>> {
    let mut current = std::ptr::null_mut();
    // SAFETY: the driver writes the result. If it cannot, the context is pushed, which is right in
    // any case.
    let known = unsafe { api.context_current(&mut current) }.is_ok();
    let pushed = !(known && current == context);
    if pushed {
        // SAFETY: the context is the device's primary one, which we hold.
        unsafe { api.context_push(context) }?;
    }
    let mut mode = RELAXED;
    // SAFETY: the mode is one of the driver's. The driver writes the previous one.
    let mode = unsafe { api.capture_mode(&mut mode) }.is_ok().then_some(mode);
    Ok(Entered { api, pushed, mode })
}

fn backing(location: CUmemLocation) -> CUmemAllocationProp {
    CUmemAllocationProp {
        type_: CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
        requestedHandleTypes: CUmemAllocationHandleType::CU_MEM_HANDLE_TYPE_NONE,
        location,
        win32HandleMetaData: std::ptr::null_mut(),
        allocFlags: CUmemAllocationProp_st__bindgen_ty_1 {
            compressionType: 0,
            gpuDirectRDMACapable: 0,
            usage: 0,
            reserved: [0; 4],
        },
    }
}

fn on_device(ordinal: c_int) -> CUmemLocation {
    CUmemLocation { type_: CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE, id: ordinal }
}

impl Device {
    /// Retains the device's primary context and finds out what the device can do.
    ///
    /// # Errors
    /// The driver's: no such device, no context, or no virtual memory management.
    pub(super) fn open(api: Arc<Api>, ordinal: c_int, count: c_int) -> Result<Device> {
        let mut handle = 0;
        let mut context = std::ptr::null_mut();
        // SAFETY: the driver writes the results.
        unsafe {
            api.device_get(&mut handle, ordinal)?;
            api.context_retain(&mut context, handle)?;
        }
        let mut device = Device {
            api: api.clone(),
            ordinal,
            handle,
            context,
            copies: std::ptr::null_mut(),
            granularity: 0,
            rung: Rung::Nothing,
            refused: Vec::new(),
            shared: None,
            adapter: OnceCell::new(),
            access: vec![readable(ordinal)],
        };
        let entered = enter(&api, context)?;
        device.copies = device.create_stream()?;
        device.granularity = device.granularity_of(on_device(ordinal))?;
        for peer in (0..count).filter(|peer| *peer != ordinal) {
            if device.reachable_from(peer) {
                device.access.push(readable(peer));
            }
        }
        // Fails here for a driver that lacks a part of this, rather than when memory is to be
        // returned.
        match device.try_backing(on_device(ordinal)) {
            Err(why) if !why.is_out_of_memory() => return Err(why),
            _ => device.climb_down(),
        }
        drop(entered);
        Ok(device)
    }

    /// Makes the device's context current in this thread.
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
        enter(&self.api, self.context)
    }

    /// The device's primary context.
    pub(super) fn context(&self) -> CUcontext {
        self.context
    }

    fn reachable_from(&self, peer: c_int) -> bool {
        let (mut handle, mut can) = (0, 0);
        // SAFETY: the driver writes the results.
        let asked = unsafe {
            self.api
                .device_get(&mut handle, peer)
                .and_then(|()| self.api.can_access_peer(&mut can, handle, self.handle))
        };
        asked.is_ok() && can != 0
    }

    fn granularity_of(&self, location: CUmemLocation) -> Result<u64> {
        let mut bytes = 0;
        let minimum = CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM as c_int;
        // SAFETY: the description is complete. The driver writes the result.
        unsafe { self.api.granularity(&mut bytes, &backing(location), minimum) }?;
        Ok((bytes as u64).max(1 << 16).next_power_of_two())
    }

    /// Tries the rungs of the shared tier, the best first. The first one that passes its trial is
    /// used.
    fn climb_down(&mut self) {
        let rungs = [
            (Rung::HostNuma, CUmemLocationType::CU_MEM_LOCATION_TYPE_HOST_NUMA, self.numa_node()),
            (Rung::Host, CUmemLocationType::CU_MEM_LOCATION_TYPE_HOST, 0),
        ];
        for (rung, type_, id) in rungs {
            let location = CUmemLocation { type_, id };
            match self.try_backing(location) {
                Ok(granularity) => {
                    self.granularity = self.granularity.max(granularity);
                    (self.rung, self.shared) = (rung, Some(location));
                    return;
                }
                Err(why) => self.refused.push(format!("{}: {why}", rung.name())),
            }
        }
        match self.try_pinning() {
            Ok(()) => self.rung = Rung::Pinned,
            Err(why) => self.refused.push(format!("{}: {why}", Rung::Pinned.name())),
        }
    }

    /// Pins a granule of host memory and frees it. The device must reach it at the host's own
    /// address.
    fn try_pinning(&self) -> Result<()> {
        let here = self.pin(self.granularity)?;
        let mut address = Address(0);
        // SAFETY: the memory was pinned just now. The driver writes the result.
        let reached = unsafe { self.api.device_pointer(&mut address, here as *mut c_void, 0) };
        let reached = reached.and_then(|()| match address.0 {
            there if there == here => Ok(()),
            there => Err(DriverError {
                call: "cuMemHostGetDevicePointer",
                code: crate::driver::NOT_SUPPORTED,
                name: "CUDA_ERROR_NOT_SUPPORTED".into(),
                detail: format!(
                    "the device address {there:#x} is not the host's {here:#x}: unified addressing is missing"
                ),
            }),
        });
        reached.and(insist(|| self.unpin(here)))
    }

    /// Pins host memory for every context.
    pub(super) fn pin(&self, bytes: u64) -> Result<u64> {
        let mut memory = std::ptr::null_mut::<c_void>();
        // SAFETY: the driver writes the address.
        unsafe { self.api.pin(&mut memory, bytes as usize, PORTABLE_AND_MAPPED) }?;
        Ok(memory as u64)
    }

    /// Frees pinned memory.
    pub(super) fn unpin(&self, address: u64) -> Result<()> {
        // SAFETY: the driver refuses an address that it did not pin.
        unsafe { self.api.unpin(address as *mut c_void) }
    }

    /// The node of host memory nearest to the device; 0 where the system has none.
    fn numa_node(&self) -> c_int {
        let mut node = 0;
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID as c_int;
        // SAFETY: the driver writes the result.
        match unsafe { self.api.device_attribute(&mut node, attribute, self.handle) } {
            Ok(()) => node.max(0),
            Err(_) => 0,
        }
    }

    /// Creates, maps and makes accessible one granule at a location, then undoes all of that. The
    /// attributes that report the ability are newer than the ability itself, so only a trial tells.
    /// Returns the granularity in bytes.
    fn try_backing(&self, location: CUmemLocation) -> Result<u64> {
        let granularity = self.granularity_of(location)?;
        let bytes = self.granularity.max(granularity);
        let (mut handle, mut address) = (0, Address(0));
        // SAFETY: everything obtained here is released in reverse order.
        unsafe {
            self.api.create(&mut handle, bytes as usize, &backing(location), 0)?;
            let reserved = self.api.reserve(&mut address, bytes as usize, bytes as usize, Address(0), 0);
            let tried = reserved.and_then(|()| {
                let mapped = self.api.map(address, bytes as usize, 0, handle, 0);
                let readable = mapped.and_then(|()| {
                    let readable = self.set_access(address.0, bytes);
                    readable.and(insist(|| self.api.unmap(address, bytes as usize)))
                });
                readable.and(insist(|| self.api.unreserve(address, bytes as usize)))
            });
            tried.and(insist(|| self.api.release(handle)))?;
        }
        Ok(granularity)
    }

    /// Creates backing in a tier.
    pub(super) fn create(&self, tier: Tier, bytes: u64) -> Result<Handle> {
        let location = match (tier, self.shared) {
            (Tier::Dedicated, _) => on_device(self.ordinal),
            (Tier::Shared, Some(location)) => location,
            (Tier::Shared, None) => {
                return Err(DriverError {
                    call: "cuMemCreate",
                    code: crate::driver::OUT_OF_MEMORY,
                    name: "CUDA_ERROR_OUT_OF_MEMORY".into(),
                    detail: "this driver cannot create backing in host memory".into(),
                });
            }
        };
        let mut handle = 0;
        // SAFETY: the description is complete. The driver writes the handle.
        unsafe { self.api.create(&mut handle, bytes as usize, &backing(location), 0) }?;
        Ok(Handle(handle))
    }

    /// Makes a mapped range readable and writable for this device and its peers.
    pub(super) fn set_access(&self, address: u64, bytes: u64) -> Result<()> {
        // SAFETY: there are as many descriptions as the length says.
        unsafe { self.api.set_access(Address(address), bytes as usize, self.access.as_ptr(), self.access.len()) }
    }

    /// Creates a stream that waits for no other.
    pub(super) fn create_stream(&self) -> Result<CUstream> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: the driver writes the stream.
        unsafe { self.api.stream_create(&mut stream, CUstream_flags::CU_STREAM_NON_BLOCKING as u32) }?;
        Ok(stream)
    }

    /// Total and free bytes of the card.
    pub(super) fn memory(&self) -> Result<(u64, u64)> {
        let _entered = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the driver writes the results.
        unsafe { self.api.memory_info(&mut free, &mut total) }?;
        Ok((total as u64, free as u64))
    }

    /// What the system grants this process of the card's memory, by its own graphics library or by
    /// the one in a file.
    pub(super) fn granted(&self, graphics: Option<&Path>) -> Result<Option<Granted>, String> {
        let adapter = self.adapter.get_or_init(|| Adapter::find(graphics, || self.card()));
        let Some(adapter) = adapter.as_ref().map_err(Clone::clone)? else { return Ok(None) };
        let of = adapter.budgets()?.map(|(budget, usage)| Grant::of(budget, usage));
        Ok(Some(Granted { of: PerTier(of), lasts: BUDGETS_LAST }))
    }

    /// The card by the number that the system's graphics know it by.
    fn card(&self) -> Result<Card, String> {
        let (mut luid, mut nodes) = ([0; 8], 0);
        // SAFETY: the driver writes the results: eight bytes, and a number.
        match unsafe { self.api.luid(luid.as_mut_ptr().cast::<c_char>(), &mut nodes, self.handle) } {
            Ok(()) => Ok(Card { luid, node: nodes.trailing_zeros() % c_uint::BITS }),
            Err(why) => Err(why.to_string()),
        }
    }

    /// The device's human-readable name.
    pub(super) fn name(&self) -> String {
        let mut name = [0; 256];
        // SAFETY: the driver writes at most the given length.
        match unsafe { self.api.device_name(name.as_mut_ptr(), name.len() as c_int, self.handle) } {
            Ok(()) => name.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect(),
            Err(_) => format!("device {}", self.ordinal),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.copies.is_null()
            && let Ok(_entered) = enter(&self.api, self.context)
        {
            // SAFETY: the stream was created in `open` and is no longer in use.
            let _ = unsafe { self.api.stream_destroy(self.copies) };
        }
        // SAFETY: `open` retained the context once.
        if let Err(why) = unsafe { self.api.context_release(self.handle) } {
            log::debug!("device {}: {why}", self.ordinal);
        }
    }
}

fn readable(ordinal: c_int) -> CUmemAccessDesc {
    CUmemAccessDesc { location: on_device(ordinal), flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE }
}
