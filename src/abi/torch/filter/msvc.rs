//! Microsoft's `std::function`: 64 bytes, of which the last word points to an object with virtual
//! functions (`_Func_base` in its header `functional`). The object lies in the other 56 bytes, or
//! elsewhere.
//!
//! The function that is called destroys the argument.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use super::kind_of;
use crate::driver::Stream;
use crate::heap::ContextKind;

/// The object's address, at which its table of virtual functions is.
type Object = *mut *const Table;

#[repr(C)]
struct Table {
    copy: unsafe extern "C" fn(Object, *mut Storage) -> Object,
    relocate: unsafe extern "C" fn(Object, *mut Storage) -> Object,
    call: unsafe extern "C" fn(Object, *const *mut c_void) -> bool,
    type_info: unsafe extern "C" fn(Object) -> *const TypeInfo,
    delete: unsafe extern "C" fn(Object, bool),
    get: unsafe extern "C" fn(Object) -> *const c_void,
}

type Storage = [usize; 7];

#[repr(C, align(16))]
struct Function {
    storage: Storage,
    object: Object,
}

/// The first fields of a `std::type_info`. The name is decorated, and as long as it takes.
#[repr(C)]
struct TypeInfo {
    functions: *const c_void,
    readable: *const c_char,
    name: [c_char; 1],
}

impl Function {
    const EMPTY: Function = Function { storage: [0; 7], object: ptr::null_mut() };

    fn table(&self) -> Option<&Table> {
        // SAFETY: the pointer is null, or leads to an object that begins with the pointer to its
        // table.
        unsafe { self.object.as_ref().map(|table| &**table) }
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let is_elsewhere = !ptr::eq(self.object.cast(), &self.storage);
        if let Some(table) = self.table() {
            // SAFETY: the object is not used afterwards. Memory of its own is freed with it.
            unsafe { (table.delete)(self.object, is_elsewhere) };
        }
    }
}

/// A copy of PyTorch's filter, which outlives the call. It is in a box because an object in the
/// storage must not be moved.
pub(in crate::abi::torch) struct Filter(Box<Function>);

// SAFETY: PyTorch calls its filters on any thread that allocates, and they only compare stream
// handles.
unsafe impl Send for Filter {}
// SAFETY: as above; a call does not change the filter.
unsafe impl Sync for Filter {}

impl Filter {
    /// Copies the filter that PyTorch passed, and destroys that one.
    ///
    /// # Safety
    /// `function` is null or points to a `std::function<bool(cudaStream_t)>` of Microsoft's
    /// library, which the caller uses no more.
    pub(in crate::abi::torch) unsafe fn copy(function: *const c_void) -> Option<Filter> {
        if function.is_null() {
            return None;
        }
        let mut copy = Box::new(Function::EMPTY);
        // SAFETY: the caller's promise, and the layout of the library. The two storages have the
        // same size and alignment.
        unsafe {
            let source = function.cast_mut().cast::<Function>();
            if let Some(table) = (*source).table() {
                copy.object = (table.copy)((*source).object, &mut copy.storage);
            }
            ptr::drop_in_place(source);
        }
        (!copy.object.is_null()).then_some(Filter(copy))
    }

    /// The kind of the context that the filter belongs to.
    pub(in crate::abi::torch) fn kind(&self) -> ContextKind {
        let Some(table) = self.0.table() else { return ContextKind::Unknown };
        // SAFETY: the object is of the table. A `std::type_info` lives as long as its library,
        // which is PyTorch's.
        let info = unsafe { (table.type_info)(self.0.object) };
        if info.is_null() {
            return ContextKind::Unknown;
        }
        // SAFETY: the name is a C string at the end of the `std::type_info`.
        let name = unsafe { CStr::from_ptr((&raw const (*info).name).cast()) }.to_bytes();
        match name {
            // The compiler has left out where the lambda is from.
            [b'.', b'?', b'A', b'V', b'<', rest @ ..] if !rest.contains(&b'?') => ContextKind::Unknown,
            name => kind_of(name),
        }
    }

    /// Whether the filter accepts a stream.
    pub(in crate::abi::torch) fn accepts(&self, stream: Stream) -> bool {
        let stream = stream.0 as *mut c_void;
        // SAFETY: the object is of the table, and takes the stream by reference.
        self.0.table().is_some_and(|table| unsafe { (table.call)(self.0.object, &stream) })
    }
}
