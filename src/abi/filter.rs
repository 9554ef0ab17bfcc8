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
//! Other C++ libraries differ: only Linux builds of PyTorch, which use libstdc++, may pass one here.

use std::ffi::c_void;

use crate::driver::Stream;

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
