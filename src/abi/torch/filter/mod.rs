//! The C++ `std::function<bool(cudaStream_t)>` that PyTorch passes to the hook that begins a pool.
//!
//! An argument of that type is passed as a hidden pointer. Its layout, and who destroys it, differ
//! between C++ libraries: `libstdcxx.rs` is for GCC's, which Linux builds of PyTorch use, and
//! `msvc.rs` for Microsoft's, which Windows builds use.
//!
//! The type of the function inside distinguishes a graph capture (a lambda of PyTorch's
//! `at::cuda::CUDAGraph`) from a program that uses a `MemPool`.

#[cfg(not(windows))]
mod libstdcxx;
#[cfg(not(windows))]
pub(super) use libstdcxx::Filter;
#[cfg(windows)]
mod msvc;
#[cfg(windows)]
pub(super) use msvc::Filter;

use crate::heap::ContextKind;

/// The kind of the context whose filter has a type with this mangled name.
fn kind_of(name: &[u8]) -> ContextKind {
    const CAPTURES: &[u8] = b"CUDAGraph";
    log::debug!("the filter of a pool context is a {}", String::from_utf8_lossy(name));
    let is_capture = name.windows(CAPTURES.len()).any(|part| part == CAPTURES);
    if is_capture { ContextKind::Capture } else { ContextKind::Region }
}
