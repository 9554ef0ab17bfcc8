//! The hooks of memory pools, for graph captures and for programs that use a `MemPool`.

use std::ffi::{c_int, c_void};

use crate::abi::answer::{guarded, hook, status};
use crate::abi::arguments::{device_number, stream_of};
use crate::abi::start::{current, started};
use crate::core::PoolId;
use crate::heap::ContextKind;

use super::filter;

/// The name of a pool, as PyTorch passes it to its hooks: a `std::pair` by value. That is in two
/// registers on Linux, and by a hidden pointer on Windows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct GkPool {
    /// The first integer.
    pub a: u64,
    /// The second integer.
    pub b: u64,
}

impl From<GkPool> for PoolId {
    fn from(pool: GkPool) -> PoolId {
        PoolId(pool.a, pool.b)
    }
}

/// PyTorch's hook at the beginning of a graph capture. Allocations on streams that `filter` accepts
/// come from the pool. A null filter accepts every stream.
///
/// # Safety
/// `filter` is null or points to a `std::function<bool(cudaStream_t)>` of the C++ library that
/// PyTorch is built with: libstdc++, or on Windows Microsoft's, where this function destroys it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_begin_allocate_to_pool(device: c_int, pool: GkPool, filter: *const c_void) {
    hook("gk_begin_allocate_to_pool", || {
        // SAFETY: the caller's promise.
        let filter = unsafe { filter::Filter::copy(filter) };
        // A capture passes a filter for the streams that it captures, so a null filter is a
        // region's.
        let kind = filter.as_ref().map_or(ContextKind::Region, filter::Filter::kind);
        let accepts = move |stream| filter.as_ref().is_none_or(|filter| filter.accepts(stream));
        current()?.begin_pool_of_kind(device_number(device)?, pool.into(), kind, accepts)
    });
}

/// PyTorch's hook at the end of a graph capture.
#[unsafe(no_mangle)]
pub extern "C" fn gk_end_allocate_to_pool(device: c_int, pool: GkPool) {
    hook("gk_end_allocate_to_pool", || current()?.end_pool(device_number(device)?, pool.into()));
}

/// [`gk_begin_allocate_to_pool`] for versions of PyTorch that name the one stream that is captured.
#[unsafe(no_mangle)]
pub extern "C" fn gk_begin_allocate_stream_to_pool(device: c_int, stream: *mut c_void, pool: GkPool) {
    hook("gk_begin_allocate_stream_to_pool", || {
        current()?.begin_stream_pool(device_number(device)?, stream_of(stream), pool.into())
    });
}

/// [`gk_end_allocate_to_pool`] for versions of PyTorch that name the stream.
#[unsafe(no_mangle)]
pub extern "C" fn gk_end_allocate_stream_to_pool(device: c_int, stream: *mut c_void) {
    hook("gk_end_allocate_stream_to_pool", || current()?.end_stream_pool(device_number(device)?, stream_of(stream)));
}

/// PyTorch's hook when a graph that used the pool is destroyed.
#[unsafe(no_mangle)]
pub extern "C" fn gk_release_pool(device: c_int, pool: GkPool) {
    hook("gk_release_pool", || current()?.release_pool(device_number(device)?, pool.into()));
}

/// Holds a pool on all devices, as a `MemPool` does, from its first use there until
/// [`gk_drop_pool`].
#[unsafe(no_mangle)]
pub extern "C" fn gk_keep_pool(pool_a: u64, pool_b: u64) -> c_int {
    status(|| {
        current()?.keep_pool(PoolId(pool_a, pool_b));
        Ok(())
    })
}

/// Ends the hold of [`gk_keep_pool`]. A pool without holds is destroyed, and its idle memory is
/// returned to the driver.
#[unsafe(no_mangle)]
pub extern "C" fn gk_drop_pool(pool_a: u64, pool_b: u64) {
    hook("gk_drop_pool", || started().map_or(Ok(()), |allocator| allocator.drop_pool(PoolId(pool_a, pool_b))));
}

/// The number of holds of a pool on all devices: those of [`gk_keep_pool`], and the beginnings of
/// allocation from it that were not released yet. 0 for an unknown pool.
#[unsafe(no_mangle)]
pub extern "C" fn gk_pool_holds(_device: c_int, pool_a: u64, pool_b: u64) -> u64 {
    let holds = guarded(|| Ok(started().map_or(0, |allocator| allocator.pool_holds(PoolId(pool_a, pool_b)))));
    holds.map_or(0, u64::from)
}
