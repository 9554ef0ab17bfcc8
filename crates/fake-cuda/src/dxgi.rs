//! The part of `dxgi.dll` that tells what Windows grants a program of a card's memory: the factory,
//! and the adapter of a LUID, as COM objects laid out by hand. The figures are the machine's.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

use crate::machine::{self, Machine};

type Status = c_int;

const OK: Status = 0;
/// `DXGI_ERROR_NOT_FOUND` and `DXGI_ERROR_UNSUPPORTED`.
const NOT_FOUND: Status = 0x887a_0002_u32 as Status;
const UNSUPPORTED: Status = 0x887a_0004_u32 as Status;

/// Where a method lies in the table of `IDXGIFactory4` or of `IDXGIAdapter3`.
const ENUM_ADAPTER_BY_LUID: usize = 26;
const QUERY_VIDEO_MEMORY_INFO: usize = 14;

/// The methods of an interface. Those that the fake does not have end the program.
struct Table<const METHODS: usize>([*const (); METHODS]);

// SAFETY: functions may be called from every thread.
unsafe impl<const METHODS: usize> Sync for Table<METHODS> {}

impl<const METHODS: usize> Table<METHODS> {
    const fn with(at: usize, method: *const ()) -> Table<METHODS> {
        let mut table = [absent as *const (); METHODS];
        table[0] = query_interface as *const ();
        table[1] = count as *const ();
        table[2] = count as *const ();
        table[at] = method;
        Table(table)
    }
}

static FACTORY: Table<28> = Table::with(ENUM_ADAPTER_BY_LUID, enum_adapter_by_luid as *const ());
static ADAPTER: Table<18> = Table::with(QUERY_VIDEO_MEMORY_INFO, query_video_memory_info as *const ());

/// A COM object: its table, and which device it is. It is never freed.
#[repr(C)]
struct Object {
    table: *const (),
    device: usize,
}

fn object(table: *const (), device: usize) -> *mut c_void {
    Box::into_raw(Box::new(Object { table, device })).cast()
}

extern "system" fn absent() -> Status {
    eprintln!("fake-cuda: this method of DXGI is not there");
    std::process::abort()
}

/// The same object, whatever it is asked for.
unsafe extern "system" fn query_interface(this: *mut c_void, _id: *const c_void, found: *mut *mut c_void) -> Status {
    // SAFETY: the caller has room for the result.
    unsafe { found.write(this) };
    OK
}

extern "system" fn count(_this: *mut c_void) -> c_uint {
    1
}

/// The LUID of a device. The first bytes make it none that another fake would have.
pub(crate) fn luid_of(device: usize) -> u64 {
    0x00a1_fc00 + device as u64
}

unsafe extern "system" fn enum_adapter_by_luid(
    _this: *mut c_void,
    luid: u64,
    _id: *const c_void,
    found: *mut *mut c_void,
) -> Status {
    let device = |machine: &Machine| (0..machine.gpu.device_count()).find(|device| luid_of(*device) == luid);
    let known = machine::current().ok().filter(|machine| !machine.lacks("EnumAdapterByLuid")).and_then(device);
    // SAFETY: the caller has room for the result.
    unsafe { found.write(known.map_or(null_mut(), |device| object(ADAPTER.0.as_ptr().cast(), device))) };
    if known.is_some() { OK } else { NOT_FOUND }
}

/// `DXGI_QUERY_VIDEO_MEMORY_INFO`.
#[repr(C)]
struct Info {
    budget: u64,
    usage: u64,
    available_for_reservation: u64,
    reservation: u64,
}

unsafe extern "system" fn query_video_memory_info(
    this: *mut c_void,
    node: c_uint,
    group: c_int,
    info: *mut Info,
) -> Status {
    // SAFETY: the object is one that `enum_adapter_by_luid` has made.
    let device = unsafe { (*this.cast::<Object>()).device };
    let granted = machine::current().ok().and_then(|machine| machine.gpu.granted(device).ok().flatten());
    let (Some(granted), 0, 0 | 1) = (granted, node, group) else { return UNSUPPORTED };
    let (budget, usage) = granted[group as usize];
    // SAFETY: the caller has room for the result.
    unsafe { info.write(Info { budget, usage, available_for_reservation: budget / 2, reservation: 0 }) };
    OK
}

/// Makes a factory.
///
/// # Safety
/// `found` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn CreateDXGIFactory1(_id: *const c_void, found: *mut *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { found.write(object(FACTORY.0.as_ptr().cast(), 0)) };
    OK
}
