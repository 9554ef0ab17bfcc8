//! DXGI, as far as the budgets of a card's memory need it: the card of a number, and one question
//! about it. The interfaces are laid out by hand: a library of bindings imports `dxgi.dll`, without
//! which ours could not be loaded then.

use std::ffi::{c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use libloading::Library;
use libloading::os::windows::{self, LOAD_LIBRARY_SEARCH_SYSTEM32};

use super::graphics::{Budgets, Card};

/// The file name of the library.
const LIBRARY: &str = "dxgi.dll";

/// The environment variable that names another file to load, for tests.
const VARIABLE: &str = "GIANT_KITTEN_DXGI";

/// `HRESULT`: negative after a failure.
type Status = c_int;

/// `IID`.
#[repr(C)]
struct Id(u32, u16, u16, [u8; 8]);

/// An interface: its number, and its methods as far as they are called.
trait Interface {
    const ID: Id;
    type Methods;
}

/// `IUnknown`, with which every table of methods begins.
#[repr(C)]
struct Unknown {
    query_interface: usize,
    add_reference: usize,
    release: unsafe extern "system" fn(*mut c_void) -> c_uint,
}

/// `IDXGIFactory4`.
#[derive(Debug)]
struct Factory;

#[repr(C)]
struct FactoryMethods {
    unknown: Unknown,
    before: [usize; 23],
    enum_adapter_by_luid: unsafe extern "system" fn(*mut c_void, u64, &Id, *mut *mut c_void) -> Status,
}

impl Interface for Factory {
    const ID: Id = Id(0x1bc6_ea02, 0xef36, 0x464f, [0xbf, 0x0c, 0x21, 0xca, 0x39, 0xe5, 0x16, 0x8a]);
    type Methods = FactoryMethods;
}

/// `IDXGIAdapter3`.
#[derive(Debug)]
struct Adapter3;

#[repr(C)]
struct AdapterMethods {
    unknown: Unknown,
    before: [usize; 11],
    query_video_memory_info: unsafe extern "system" fn(*mut c_void, c_uint, c_int, &mut Info) -> Status,
}

impl Interface for Adapter3 {
    const ID: Id = Id(0x6459_67a4, 0x1392, 0x4310, [0xa7, 0x98, 0x80, 0x53, 0xce, 0x3e, 0x93, 0xfd]);
    type Methods = AdapterMethods;
}

/// `DXGI_QUERY_VIDEO_MEMORY_INFO`.
#[repr(C)]
#[derive(Default)]
struct Info {
    budget: u64,
    usage: u64,
    available_for_reservation: u64,
    reservation: u64,
}

/// The groups of a card's memory: its own, and the host's.
const GROUPS: [c_int; 2] = [0, 1];

/// An object with an interface. Dropping it releases it.
#[derive(Debug)]
struct Object<I>(NonNull<c_void>, std::marker::PhantomData<I>);

// SAFETY: the objects of DXGI may be used from every thread.
unsafe impl<I> Send for Object<I> {}
// SAFETY: as above.
unsafe impl<I> Sync for Object<I> {}

impl<I: Interface> Object<I> {
    /// The object that a call writes.
    fn made(call: &str, make: impl FnOnce(&Id, *mut *mut c_void) -> Status) -> Result<Object<I>, String> {
        let mut made = std::ptr::null_mut();
        succeeded(call, make(&I::ID, &mut made))?;
        let made = NonNull::new(made).ok_or_else(|| format!("{call} has made nothing"))?;
        Ok(Object(made, std::marker::PhantomData))
    }

    fn methods(&self) -> &I::Methods {
        // SAFETY: the object has the interface, and begins with a pointer to the table.
        unsafe { self.0.cast::<NonNull<I::Methods>>().read().as_ref() }
    }
}

impl<I> Drop for Object<I> {
    fn drop(&mut self) {
        // SAFETY: every object begins with a pointer to a table that begins with these.
        unsafe {
            let unknown = self.0.cast::<NonNull<Unknown>>().read();
            (unknown.as_ref().release)(self.0.as_ptr());
        }
    }
}

/// A card, as the system's graphics know it.
#[derive(Debug)]
pub(crate) struct Adapter {
    adapter: Object<Adapter3>,
    node: u32,
}

impl Adapter {
    /// The card that `card` names, by the library in a file or by the system's.
    ///
    /// # Errors
    /// A system without the library, or without such a card: in words.
    pub(crate) fn find(
        library: Option<&Path>,
        card: impl FnOnce() -> Result<Card, String>,
    ) -> Result<Option<Adapter>, String> {
        let Card { luid, node } = card()?;
        let factory = factory(library)?;
        let find = factory.methods().enum_adapter_by_luid;
        let adapter = Object::made("IDXGIFactory4::EnumAdapterByLuid", |id, made| {
            // SAFETY: the object is one of the interface; the call writes its result.
            unsafe { find(factory.0.as_ptr(), u64::from_le_bytes(luid), id, made) }
        })?;
        Ok(Some(Adapter { adapter, node }))
    }

    /// What the system grants this process of the card's memory now.
    ///
    /// # Errors
    /// The system's, in words.
    pub(crate) fn budgets(&self) -> Result<Budgets, String> {
        let ask = self.adapter.methods().query_video_memory_info;
        let mut budgets = Budgets::default();
        for (group, budget) in GROUPS.into_iter().zip(&mut budgets) {
            let mut info = Info::default();
            // SAFETY: the object is one of the interface; the call writes its result.
            let status = unsafe { ask(self.adapter.0.as_ptr(), self.node, group, &mut info) };
            succeeded("IDXGIAdapter3::QueryVideoMemoryInfo", status)?;
            *budget = (info.budget, info.usage);
        }
        Ok(budgets)
    }
}

/// Loads the library, from the system's folder alone unless a file is named, and makes a factory.
fn factory(library: Option<&Path>) -> Result<Object<Factory>, String> {
    type Create = unsafe extern "system" fn(&Id, *mut *mut c_void) -> Status;
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let library = library.or(named.as_deref());
    let shown = library.map_or_else(|| LIBRARY.into(), |path| path.display().to_string());
    // SAFETY: the initialisers of the system's library have no precondition.
    let loaded = unsafe {
        match library {
            Some(path) => Library::new(path),
            None => windows::Library::load_with_flags(LIBRARY, LOAD_LIBRARY_SEARCH_SYSTEM32).map(Into::into),
        }
    };
    let loaded = loaded.map_err(|why| format!("{shown} cannot be loaded: {why}"))?;
    // SAFETY: the type is that of the system's header.
    let create = unsafe { loaded.get::<Create>("CreateDXGIFactory1") };
    let create = *create.map_err(|why| format!("{shown} has no CreateDXGIFactory1: {why}"))?;
    // Never unloaded: the factory and the card are its objects.
    std::mem::forget(loaded);
    // SAFETY: the call writes its result.
    Object::made("CreateDXGIFactory1", |id, made| unsafe { create(id, made) })
}

/// Says what a call has answered, by its name where that is one of those to be expected.
fn succeeded(call: &str, status: Status) -> Result<(), String> {
    if status >= 0 {
        return Ok(());
    }
    let name = match status as u32 {
        0x887a_0002 => "DXGI_ERROR_NOT_FOUND ",
        0x887a_0004 => "DXGI_ERROR_UNSUPPORTED ",
        0x8000_4002 => "E_NOINTERFACE ",
        _ => "",
    };
    Err(format!("{call} failed with {name}({status:#010x})"))
}
