//! libstdc++'s layout. The caller of a function destroys the filter that it has passed.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::null;

use super::Accepts;

/// The operations of a manager.
const TYPE_INFO: i32 = 0;
const COPY: i32 = 2;
const DESTROY: i32 = 3;

/// A pointer to what it accepts, and an unused word.
type Storage = [*mut Accepts; 2];

/// A filter.
#[repr(C)]
pub struct Filter {
    storage: Storage,
    manager: unsafe extern "C" fn(*mut Storage, *const Storage, i32) -> bool,
    invoker: unsafe extern "C" fn(*const Storage, *const *mut c_void) -> bool,
}

/// The beginning of a `std::type_info`.
#[repr(C)]
struct TypeInfo {
    functions: *const c_void,
    name: *const c_char,
}

// SAFETY: it is only read.
unsafe impl Sync for TypeInfo {}

static OF_CAPTURES: TypeInfo = type_info(c"ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyEE3$_0");
static OF_THREADS: TypeInfo = type_info(c"ZN3c104cuda7MemPool10use_mem_poolEvE3$_0");

const fn type_info(name: &'static CStr) -> TypeInfo {
    TypeInfo { functions: null(), name: name.as_ptr() }
}

impl Filter {
    pub(super) fn new(accepts: Accepts) -> Filter {
        let storage = [Box::into_raw(Box::new(accepts)), std::ptr::null_mut()];
        Filter { storage, manager: manage, invoker: invoke }
    }

    /// Passes the pointer that PyTorch would, and destroys the filter as its caller would.
    pub fn pass(mut self, to: impl FnOnce(*const c_void)) {
        to(std::ptr::from_ref(&self).cast());
        // SAFETY: the storage is this filter's, and not used afterwards.
        unsafe { (self.manager)(&mut self.storage, null(), DESTROY) };
    }
}

#[cfg(test)]
impl Filter {
    pub(super) fn copy(&self) -> Filter {
        let mut copy = Filter { storage: [std::ptr::null_mut(); 2], ..*self };
        // SAFETY: the storages are a filter's and one to be.
        unsafe { (self.manager)(&mut copy.storage, &self.storage, COPY) };
        copy
    }

    pub(super) fn accepts(&self, stream: u64) -> bool {
        // SAFETY: the storage is this filter's.
        unsafe { (self.invoker)(&self.storage, &(stream as *mut c_void)) }
    }

    pub(super) fn destroy(self) {
        self.pass(|_| ());
    }
}

/// # Safety
/// The storages are a filter's, or may be written to as one.
unsafe extern "C" fn manage(to: *mut Storage, from: *const Storage, operation: i32) -> bool {
    // SAFETY: the caller's promise; a pointer to type information fits into a storage.
    unsafe {
        match operation {
            TYPE_INFO => to.cast::<*const TypeInfo>().write(match &*(*from)[0] {
                Accepts::Streams(_) => &raw const OF_CAPTURES,
                Accepts::Actor(_) => &raw const OF_THREADS,
            }),
            COPY => to.write([Box::into_raw(Box::new((*(*from)[0]).clone())), std::ptr::null_mut()]),
            DESTROY => drop(Box::from_raw((*to)[0])),
            _ => {}
        }
    }
    false
}

/// # Safety
/// The storage is a filter's, and the stream may be read.
unsafe extern "C" fn invoke(storage: *const Storage, stream: *const *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*(*storage)[0]).accepts(*stream as u64) }
}
