//! The layout of Microsoft's library. The function that is called destroys the filter.

use std::ffi::c_void;

use super::Accepts;

/// What lies in a filter, or elsewhere: an object with virtual functions.
#[repr(C)]
struct Object {
    table: *const Table,
    accepts: *mut Accepts,
}

#[repr(C)]
struct Table {
    copy: unsafe extern "C" fn(*const Object, *mut Object) -> *mut Object,
    relocate: unsafe extern "C" fn(*mut Object, *mut Object) -> *mut Object,
    call: unsafe extern "C" fn(*const Object, *const *mut c_void) -> bool,
    type_info: unsafe extern "C" fn(*const Object) -> *const TypeInfo,
    delete: unsafe extern "C" fn(*mut Object, bool),
    get: unsafe extern "C" fn(*const Object) -> *const c_void,
}

static TABLE: Table = Table { copy, relocate, call, type_info, delete, get };

/// A `std::type_info`, with room for the decorated name.
#[repr(C)]
struct TypeInfo {
    functions: usize,
    readable: usize,
    name: [u8; 80],
}

static OF_CAPTURES: TypeInfo = TypeInfo::new(b".?AV<lambda_1>@?1??capture_begin@CUDAGraph@cuda@at@@QEAAX@Z@");
static OF_THREADS: TypeInfo = TypeInfo::new(b".?AV<lambda_1>@?1??use_mem_pool@MemPool@cuda@c10@@QEAAX@Z@");

impl TypeInfo {
    const fn new(decorated: &[u8]) -> TypeInfo {
        let mut name = [0; 80];
        name.split_at_mut(decorated.len()).0.copy_from_slice(decorated);
        TypeInfo { functions: 0, readable: 0, name }
    }
}

/// What is passed: 64 bytes.
#[repr(C, align(16))]
struct Function {
    inside: Object,
    unused: [usize; 5],
    object: *mut Object,
}

/// A filter. It is in a box because an object inside must not be moved.
pub struct Filter(Box<Function>);

impl Filter {
    pub(super) fn new(accepts: Accepts) -> Filter {
        let inside = Object { table: &TABLE, accepts: Box::into_raw(Box::new(accepts)) };
        let mut function = Box::new(Function { inside, unused: [0; 5], object: std::ptr::null_mut() });
        function.object = &raw mut function.inside;
        Filter(function)
    }

    /// Passes the pointer that PyTorch would. The function that is called destroys the filter.
    pub fn pass(mut self, to: impl FnOnce(*const c_void)) {
        to((&raw mut *self.0).cast());
    }
}

#[cfg(test)]
impl Filter {
    pub(super) fn copy(&self) -> Filter {
        let inside = Object { table: &TABLE, accepts: std::ptr::null_mut() };
        let mut function = Box::new(Function { inside, unused: [0; 5], object: std::ptr::null_mut() });
        // SAFETY: the object is this filter's, and the room is that of one to be.
        function.object = unsafe { (TABLE.copy)(self.0.object, &mut function.inside) };
        Filter(function)
    }

    pub(super) fn accepts(&self, stream: u64) -> bool {
        // SAFETY: the object is this filter's.
        unsafe { (TABLE.call)(self.0.object, &(stream as *mut c_void)) }
    }

    pub(super) fn destroy(self) {
        // SAFETY: the object is this filter's, lies inside it, and is not used afterwards.
        unsafe { (TABLE.delete)(self.0.object, false) };
    }
}

/// # Safety
/// The object is a filter's, and there is room for another.
unsafe extern "C" fn copy(object: *const Object, to: *mut Object) -> *mut Object {
    // SAFETY: the caller's promise.
    unsafe {
        let accepts = Box::into_raw(Box::new((*(*object).accepts).clone()));
        to.write(Object { table: &TABLE, accepts });
    }
    to
}

/// # Safety
/// The object is a filter's and not used afterwards, and there is room for another.
unsafe extern "C" fn relocate(object: *mut Object, to: *mut Object) -> *mut Object {
    // SAFETY: the caller's promise.
    unsafe { to.write(object.read()) };
    to
}

/// # Safety
/// The object is a filter's, and the stream may be read.
unsafe extern "C" fn call(object: *const Object, stream: *const *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    unsafe { (*(*object).accepts).accepts(*stream as u64) }
}

/// # Safety
/// The object is a filter's.
unsafe extern "C" fn type_info(object: *const Object) -> *const TypeInfo {
    // SAFETY: the caller's promise.
    match unsafe { &*(*object).accepts } {
        Accepts::Streams(_) => &OF_CAPTURES,
        Accepts::Actor(_) => &OF_THREADS,
    }
}

/// # Safety
/// The object is a filter's and not used afterwards. All of ours lie inside their filters.
unsafe extern "C" fn delete(object: *mut Object, is_elsewhere: bool) {
    assert!(!is_elsewhere, "the filter's object lies inside the filter");
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw((*object).accepts) });
}

/// # Safety
/// None: it returns where the function would be.
unsafe extern "C" fn get(object: *const Object) -> *const c_void {
    object.cast()
}
