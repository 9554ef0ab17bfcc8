//! One device of the driver: its primary context, and what was found by trial about its tiers.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUmemAccess_flags, CUmemAccessDesc, CUmemAllocationGranularity_flags,
    CUmemAllocationHandleType, CUmemAllocationProp, CUmemAllocationProp_st__bindgen_ty_1, CUmemAllocationType,
    CUmemLocation, CUmemLocationType, CUstream, CUstream_flags,
};

use super::api::{Address, Api};
use crate::core::Tier;
use crate::driver::{DriverError, Handle, Result, Rung, insist};

/// `CU_STREAM_CAPTURE_MODE_RELAXED`: calls that a capture elsewhere would forbid are allowed to this thread.
const RELAXED: c_int = 2;

/// `CU_MEMHOSTALLOC_PORTABLE` and `CU_MEMHOSTALLOC_DEVICEMAP`: pinned for every context, and mapped for the device.
const PORTABLE_AND_MAPPED: c_uint = 1 | 2;

/// A device in use.
#[derive(Debug)]
pub(super) struct Device {
    api: Arc<Api>,
    ordinal: c_int,
    handle: CUdevice,
    context: CUcontext,
    /// Where migrations copy. Waits for no other stream and no other for it.
    pub(super) copies: CUstream,
    pub(super) granularity: u64,
    pub(super) rung: Rung,
    /// Why each rung above the one that holds does not.
    pub(super) refused: Vec<String>,
    shared: Option<CUmemLocation>,
    /// Who may read and write: this device, and every other that can reach it.
    access: Vec<CUmemAccessDesc>,
}

// SAFETY: contexts and streams of the driver may be used from every thread.
unsafe impl Send for Device {}
// SAFETY: as above; the driver locks.
unsafe impl Sync for Device {}

/// While it lives, the device's primary context is the current one of this thread, and captures elsewhere do not mind its calls.
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
            // SAFETY: what is popped is what was pushed.
            if let Err(why) = unsafe { self.api.context_pop(&mut context) } {
                log::debug!("the context stays current in this thread: {why}");
            }
        }
    }
}

fn enter(api: &Api, context: CUcontext) -> Result<Entered<'_>> {
    let mut current = std::ptr::null_mut();
    // SAFETY: the driver writes the answer; where it cannot, the context is pushed, which is right in any case.
    let known = unsafe { api.context_current(&mut current) }.is_ok();
    let pushed = !(known && current == context);
    if pushed {
        // SAFETY: the context is the device's primary one, which we hold.
        unsafe { api.context_push(context) }?;
    }
    let mut mode = RELAXED;
    // SAFETY: the mode is one of the driver's; it writes the one before.
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
    /// Takes the device's primary context and finds out what it can do.
    ///
    /// # Errors
    /// The driver's: no such device, no context, no virtual memory management.
    pub(super) fn open(api: Arc<Api>, ordinal: c_int, count: c_int) -> Result<Device> {
        let mut handle = 0;
        let mut context = std::ptr::null_mut();
        // SAFETY: the driver writes the answers.
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
            access: vec![readable(ordinal)],
        };
        let entered = enter(&api, context)?;
        // SAFETY: the driver writes the stream.
        unsafe { api.stream_create(&mut device.copies, CUstream_flags::CU_STREAM_NON_BLOCKING as u32) }?;
        device.granularity = device.granularity_of(on_device(ordinal))?;
        for peer in (0..count).filter(|peer| *peer != ordinal) {
            if device.reachable_from(peer) {
                device.access.push(readable(peer));
            }
        }
        // A driver that cannot do all of it is found out now, and not when memory is to be given back.
        match device.try_backing(on_device(ordinal)) {
            Err(why) if !why.is_out_of_memory() => return Err(why),
            _ => device.climb_down(),
        }
        drop(entered);
        Ok(device)
    }

    /// Makes the device current.
    pub(super) fn enter(&self) -> Result<Entered<'_>> {
        enter(&self.api, self.context)
    }

    fn reachable_from(&self, peer: c_int) -> bool {
        let (mut handle, mut can) = (0, 0);
        // SAFETY: the driver writes the answers.
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
        // SAFETY: the description is whole; the driver writes the answer.
        unsafe { self.api.granularity(&mut bytes, &backing(location), minimum) }?;
        Ok((bytes as u64).max(1 << 16).next_power_of_two())
    }

    /// The rungs of the shared tier, the best first; the first that passes a trial holds.
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

    /// Pins a granule of host memory and gives it back. The device must reach it at the address that it has for the host.
    fn try_pinning(&self) -> Result<()> {
        let here = self.pin(self.granularity)?;
        let mut address = Address(0);
        // SAFETY: the memory was pinned just now; the driver writes the answer.
        let reached = unsafe { self.api.device_pointer(&mut address, here as *mut c_void, 0) };
        let reached = reached.and_then(|()| match address.0 {
            there if there == here => Ok(()),
            there => Err(DriverError {
                call: "cuMemHostGetDevicePointer",
                code: crate::driver::NOT_SUPPORTED,
                name: "CUDA_ERROR_NOT_SUPPORTED".into(),
                detail: format!("the device has {there:#x} for the host's {here:#x}: there is no unified addressing"),
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

    /// Gives pinned memory back.
    pub(super) fn unpin(&self, address: u64) -> Result<()> {
        // SAFETY: the driver answers an address that it did not pin with an error.
        unsafe { self.api.unpin(address as *mut c_void) }
    }

    /// The node of host memory nearest to the device; 0 where the system has none.
    fn numa_node(&self) -> c_int {
        let mut node = 0;
        let attribute = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID as c_int;
        // SAFETY: the driver writes the answer.
        match unsafe { self.api.device_attribute(&mut node, attribute, self.handle) } {
            Ok(()) => node.max(0),
            Err(_) => 0,
        }
    }

    /// Creates, maps and makes accessible one granule at a location, and takes it all back. Attributes that tell came later than the
    /// ability, so a trial is the only way to know. Returns the granularity.
    fn try_backing(&self, location: CUmemLocation) -> Result<u64> {
        let granularity = self.granularity_of(location)?;
        let bytes = self.granularity.max(granularity);
        let (mut handle, mut address) = (0, Address(0));
        // SAFETY: what is given back is what was taken, in reverse order.
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
                    detail: "this driver creates no backing in shared memory".into(),
                });
            }
        };
        let mut handle = 0;
        // SAFETY: the description is whole; the driver writes the handle.
        unsafe { self.api.create(&mut handle, bytes as usize, &backing(location), 0) }?;
        Ok(Handle(handle))
    }

    /// Lets this device and its peers read and write a mapped range.
    pub(super) fn set_access(&self, address: u64, bytes: u64) -> Result<()> {
        // SAFETY: the descriptions are as many as said.
        unsafe { self.api.set_access(Address(address), bytes as usize, self.access.as_ptr(), self.access.len()) }
    }

    /// Total and free bytes of the card.
    pub(super) fn memory(&self) -> Result<(u64, u64)> {
        let _entered = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the driver writes the answers.
        unsafe { self.api.memory_info(&mut free, &mut total) }?;
        Ok((total as u64, free as u64))
    }

    /// The device's name, for people.
    pub(super) fn name(&self) -> String {
        let mut name = [0; 256];
        // SAFETY: the driver writes at most the length given.
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
            // SAFETY: the stream was made in `open`, and nobody uses it any more.
            let _ = unsafe { self.api.stream_destroy(self.copies) };
        }
        // SAFETY: the context was retained in `open`, once.
        if let Err(why) = unsafe { self.api.context_release(self.handle) } {
            log::debug!("device {}: {why}", self.ordinal);
        }
    }
}

fn readable(ordinal: c_int) -> CUmemAccessDesc {
    CUmemAccessDesc { location: on_device(ordinal), flags: CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE }
}
