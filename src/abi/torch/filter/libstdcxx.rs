//! libstdc++'s `std::function`, which its caller destroys after the call. Its layout is:
//!
//! ```text
//!   0   16 bytes of storage, or a pointer to more
//!  16   manager(destination, source, operation)      operation 2 copies, 3 destroys
//!  24   invoker(storage, &stream) -> bool
//! ```
//!
//! For operation 0, the manager returns the type of the stored function.

use std::ffi::{CStr, c_char, c_void};

use super::kind_of;
use crate::driver::Stream;
use crate::heap::ContextKind;

const TYPE_INFO: i32 = 0;
const COPY: i32 = 2;
const DESTROY: i32 = 3;

type Manager = unsafe extern "C" fn(*mut Storage, *const Storage, i32) -> bool;
type Invoker = unsafe extern "C" fn(*const Storage, *const *mut c_void) -> bool;

#[repr(C, align(8))]
struct Storage([u8; 16]);

#[repr(C)]
struct Function {
    storage: Storage,
    manager: Option<Manager>,
    invoker: Option<Invoker>,
}

/// The first fields of a `std::type_info` in the Itanium C++ ABI.
#[repr(C)]
struct TypeInfo {
    functions: *const c_void,
    name: *const c_char,
}

/// A copy of PyTorch's filter, which outlives the call.
pub(in crate::abi::torch) struct Filter(Function);

// SAFETY: PyTorch calls its filters on any thread that allocates, and they only compare stream
// handles.
unsafe impl Send for Filter {}
// SAFETY: as above; a call does not change the filter.
unsafe impl Sync for Filter {}

impl Filter {
    /// Copies the filter that PyTorch passed.
    ///
    /// # Safety
    /// `function` is null or points to a `std::function<bool(cudaStream_t)>` of libstdc++.
    pub(in crate::abi::torch) unsafe fn copy(function: *const c_void) -> Option<Filter> {
        // SAFETY: the caller's promise, and the layout of libstdc++.
        let source = unsafe { function.cast::<Function>().as_ref() }?;
        let (manager, invoker) = (source.manager?, source.invoker?);
        let mut copy = Function { storage: Storage([0; 16]), manager: Some(manager), invoker: Some(invoker) };
        // SAFETY: the manager belongs to this storage, and both storages have the same size and
        // alignment.
        unsafe { manager(&mut copy.storage, &source.storage, COPY) };
        Some(Filter(copy))
    }

    /// The kind of the context that the filter belongs to.
    pub(in crate::abi::torch) fn kind(&self) -> ContextKind {
        let mut found = Storage([0; 16]);
        let Some(manager) = self.0.manager else { return ContextKind::Unknown };
        // SAFETY: the manager belongs to the storage, and this operation writes a pointer to a
        // `std::type_info`, or null.
        unsafe { manager(&mut found, &self.0.storage, TYPE_INFO) };
        // SAFETY: as above; the storage has room for a pointer, and its alignment.
        let info = unsafe { (&raw const found).cast::<*const TypeInfo>().read() };
        // SAFETY: a `std::type_info` lives as long as its library, which is PyTorch's.
        let Some(info) = (unsafe { info.as_ref() }) else { return ContextKind::Unknown };
        if info.name.is_null() {
            return ContextKind::Unknown;
        }
        // SAFETY: the name is a C string that lives as long as the `std::type_info`.
        kind_of(unsafe { CStr::from_ptr(info.name) }.to_bytes())
    }

    /// Whether the filter accepts a stream.
    pub(in crate::abi::torch) fn accepts(&self, stream: Stream) -> bool {
        let stream = stream.0 as *mut c_void;
        // SAFETY: the invoker belongs to the storage, and takes the stream by reference.
        self.0.invoker.is_some_and(|invoker| unsafe { invoker(&self.0.storage, &stream) })
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(manager) = self.0.manager {
            // SAFETY: the manager copied the function into this storage, which is not used
            // afterwards.
            unsafe { manager(&mut self.0.storage, std::ptr::null(), DESTROY) };
        }
    }
}
