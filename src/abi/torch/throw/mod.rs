//! Throws errors as PyTorch's own C++ exceptions.
//!
//! PyTorch does not check whether an allocator returned null, so the only way to report an
//! out-of-memory is an exception. It converts `c10::OutOfMemoryError` to `torch.OutOfMemoryError`.
//!
//! The classes are found at run time, by their mangled names, in the PyTorch that the process has
//! loaded. Nothing is linked. How C++ throws differs between the compilers that PyTorch is built
//! with: `itanium.rs` has GCC's way, for Linux, and `msvc.rs` Microsoft's, for Windows.

use std::ffi::c_char;

#[cfg(target_os = "linux")]
mod itanium;
#[cfg(target_os = "linux")]
pub(super) use itanium::throw;
#[cfg(windows)]
mod msvc;
#[cfg(windows)]
pub(super) use msvc::throw;

/// The exception to throw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exception {
    /// `c10::OutOfMemoryError`: Python's `torch.OutOfMemoryError`.
    OutOfMemory,
    /// `c10::Error`: Python's `RuntimeError`.
    Error,
}

/// No way to throw is known on this system.
#[cfg(not(any(target_os = "linux", windows)))]
pub(super) fn throw(_exception: Exception, _text: &std::ffi::CStr) {}

/// `c10::SourceLocation`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SourceLocation {
    function: *const c_char,
    file: *const c_char,
    line: u32,
}

/// The place that our exceptions name.
const HERE: SourceLocation =
    SourceLocation { function: c"gk_torch_malloc".as_ptr(), file: c"giant-kitten".as_ptr(), line: 0 };

/// More bytes than any version of an exception has (about 150 in PyTorch 2.15).
const ROOM: usize = 1024;
