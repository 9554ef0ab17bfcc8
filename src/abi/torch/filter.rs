//! A C++ `std::function<bool(cudaStream_t)>`, as PyTorch passes it to the hook that begins a graph pool.
//!
//! An argument of that type travels as a hidden pointer, and dies with the call. libstdc++ lays it out so:
//!
//! ```text
//!   0   16 bytes of storage, or a pointer to more
//!  16   manager(destination, source, operation)      operation 2 copies, 3 destroys
//!  24   invoker(storage, &stream) -> bool
//! ```
//!
//! Asked with operation 0, the manager names the type of what it holds, which tells a graph capture (a lambda of PyTorch's
//! `at::cuda::CUDAGraph`) from a program that uses a `MemPool`.
//!
//! Other C++ libraries differ: only Linux builds of PyTorch, which use libstdc++, may pass one here.

use std::ffi::{CStr, c_char, c_void};

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

/// The beginning of a `std::type_info`, by the Itanium C++ ABI.
#[repr(C)]
struct TypeInfo {
    functions: *const c_void,
    name: *const c_char,
}

/// The class whose filters are those of captures, as it stands in a mangled name.
const CAPTURES: &[u8] = b"CUDAGraph";

/// A copy of PyTorch's filter, good for as long as it is kept.
pub(super) struct Filter(Function);

// SAFETY: PyTorch calls its filters from whatever thread allocates; they only compare stream handles.
unsafe impl Send for Filter {}
// SAFETY: as above; calling one changes nothing in it.
unsafe impl Sync for Filter {}

impl Filter {
    /// Copies the filter that PyTorch passed.
    ///
    /// # Safety
    /// `function` is null or points to a `std::function<bool(cudaStream_t)>` of libstdc++.
    pub(super) unsafe fn copy(function: *const c_void) -> Option<Filter> {
        // SAFETY: the caller's promise; the layout is libstdc++'s.
        let source = unsafe { function.cast::<Function>().as_ref() }?;
        let (manager, invoker) = (source.manager?, source.invoker?);
        let mut copy = Function { storage: Storage([0; 16]), manager: Some(manager), invoker: Some(invoker) };
        // SAFETY: the manager belongs to this storage, and copies into storage of the same size and alignment.
        unsafe { manager(&mut copy.storage, &source.storage, COPY) };
        Some(Filter(copy))
    }

    /// What the context is for whose filter this is.
    pub(super) fn kind(&self) -> ContextKind {
        let mut found = Storage([0; 16]);
        let Some(manager) = self.0.manager else { return ContextKind::Unknown };
        // SAFETY: the manager belongs to the storage; with this operation it writes a pointer to a `std::type_info`, or null.
        unsafe { manager(&mut found, &self.0.storage, TYPE_INFO) };
        // SAFETY: as above; storage is as large as a pointer, and aligned as one.
        let info = unsafe { (&raw const found).cast::<*const TypeInfo>().read() };
        // SAFETY: a `std::type_info` lives as long as the library it is in, which is PyTorch's.
        let Some(info) = (unsafe { info.as_ref() }) else { return ContextKind::Unknown };
        if info.name.is_null() {
            return ContextKind::Unknown;
        }
        // SAFETY: the name is a C string that lives as long.
        let name = unsafe { CStr::from_ptr(info.name) }.to_bytes();
        log::debug!("a pool context whose filter is a {}", String::from_utf8_lossy(name));
        let is_capture = name.windows(CAPTURES.len()).any(|part| part == CAPTURES);
        if is_capture { ContextKind::Capture } else { ContextKind::Region }
    }

    /// Whether the filter accepts a stream.
    pub(super) fn accepts(&self, stream: Stream) -> bool {
        let stream = stream.0 as *mut c_void;
        // SAFETY: the invoker belongs to the storage, and takes the stream by reference.
        self.0.invoker.is_some_and(|invoker| unsafe { invoker(&self.0.storage, &stream) })
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(manager) = self.0.manager {
            // SAFETY: the storage holds what the manager copied into it, and is not used afterwards.
            unsafe { manager(&mut self.0.storage, std::ptr::null(), DESTROY) };
        }
    }
}
