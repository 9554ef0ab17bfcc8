//! Filters of graph pools as PyTorch passes them: objects laid out as libstdc++'s
//! `std::function<bool(cudaStream_t)>`.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The operations of a manager.
const TYPE_INFO: i32 = 0;
const COPY: i32 = 2;
const DESTROY: i32 = 3;

thread_local! {
    static ACTING: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Sets the actor that acts on this thread from now on.
pub fn act_as(actor: usize) {
    ACTING.set(actor as u64);
}

type Storage = [u64; 2];

/// The streams of a capture: its own and one that has joined it, each `u64::MAX` if there is none.
pub type Streams = Arc<[AtomicU64; 2]>;

/// A filter. PyTorch would pass a pointer to it.
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
    /// Accepts the streams that a capture has when the filter is called.
    pub fn of_streams(streams: &Streams) -> Filter {
        let streams = Arc::into_raw(streams.clone());
        Filter { storage: [streams as u64, 0], manager: manage::<true>, invoker: is_one_of }
    }

    /// Accepts the requests of one actor on any stream, as the filter of a `MemPool` in use accepts
    /// one thread.
    pub fn of_actor(actor: usize) -> Filter {
        Filter { storage: [actor as u64, 0], manager: manage::<false>, invoker: is_acting }
    }

    /// The pointer that PyTorch passes.
    pub fn as_ptr(&self) -> *const c_void {
        std::ptr::from_ref(self).cast()
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: the storage is this filter's, and not used afterwards.
        unsafe { (self.manager)(&mut self.storage, null(), DESTROY) };
    }
}

/// # Safety
/// The storages are a filter's, or may be written to as one.
unsafe extern "C" fn manage<const CAPTURE: bool>(to: *mut Storage, from: *const Storage, operation: i32) -> bool {
    match operation {
        // SAFETY: the caller's promise; a pointer fits.
        TYPE_INFO => unsafe {
            to.cast::<*const TypeInfo>().write(if CAPTURE { &raw const OF_CAPTURES } else { &raw const OF_THREADS });
        },
        // SAFETY: the caller's promise; where streams are counted, the storage holds one count of
        // them.
        COPY => unsafe {
            if CAPTURE {
                Arc::increment_strong_count((*from)[0] as *const [AtomicU64; 2]);
            }
            to.write(from.read());
        },
        // SAFETY: as above.
        DESTROY if CAPTURE => unsafe { Arc::decrement_strong_count((*to)[0] as *const [AtomicU64; 2]) },
        _ => {}
    }
    false
}

/// # Safety
/// The storage is a filter's, and the stream may be read.
unsafe extern "C" fn is_one_of(storage: *const Storage, stream: *const *mut c_void) -> bool {
    // SAFETY: the caller's promise; the storage holds one count of the streams.
    let (streams, stream) = unsafe { (&*((*storage)[0] as *const [AtomicU64; 2]), (*stream) as u64) };
    streams.iter().any(|one| one.load(Ordering::Relaxed) == stream)
}

/// # Safety
/// The storage is a filter's.
unsafe extern "C" fn is_acting(storage: *const Storage, _stream: *const *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    ACTING.get() == unsafe { (*storage)[0] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_and_destructions_are_counted() {
        let streams: Streams = Arc::new([AtomicU64::new(16), AtomicU64::new(u64::MAX)]);
        let filter = Filter::of_streams(&streams);
        let mut copy: Storage = [0; 2];
        // SAFETY: the storages are a filter's and one to be.
        unsafe { (filter.manager)(&mut copy, &filter.storage, COPY) };
        assert_eq!(Arc::strong_count(&streams), 3);
        drop(filter);
        streams[1].store(32, Ordering::Relaxed);
        // SAFETY: the copy is a filter's.
        let accepts = |stream: u64| unsafe { is_one_of(&copy, &(stream as *mut c_void)) };
        assert_eq!([16, 32, 48].map(accepts), [true, true, false]);
        // SAFETY: as above; it is not used afterwards.
        unsafe { manage::<true>(&mut copy, null(), DESTROY) };
        assert_eq!(Arc::strong_count(&streams), 1);
    }
}
