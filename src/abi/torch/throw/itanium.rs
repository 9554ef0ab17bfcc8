//! The C++ ABI of GCC ("Itanium"), which Linux builds of PyTorch have: an exception is allocated
//! and thrown by functions of the C++ runtime.

use std::ffi::{CStr, c_char, c_void};
use std::ptr::NonNull;

use libloading::Library;
use once_cell::sync::OnceCell;

use super::{Exception, HERE, ROOM, SourceLocation};
use crate::platform::system;

/// The offset of a vtable's functions, which follow the offset to the top and the type
/// information (Itanium C++ ABI, 2.5.2).
const FUNCTIONS: usize = 2 * size_of::<usize>();

/// Room for a `std::string` of either ABI of libstdc++, which has at most 32 bytes.
#[repr(C, align(8))]
struct Text([u8; 32]);

type ConstructText = unsafe extern "C" fn(*mut Text, *const c_char, *const u8);
type DestroyText = unsafe extern "C" fn(*mut Text);
/// `c10::Error::Error(SourceLocation, std::string)`. The string is passed by a hidden
/// reference.
type ConstructError = unsafe extern "C-unwind" fn(*mut c_void, SourceLocation, *mut Text);
type Allocate = unsafe extern "C" fn(usize) -> *mut c_void;
type Destroy = unsafe extern "C" fn(*mut c_void);
type Throw = unsafe extern "C-unwind" fn(*mut c_void, *const c_void, Option<Destroy>) -> !;

/// A class: its type information and its vtable.
#[derive(Clone, Copy)]
struct Class {
    info: NonNull<c_void>,
    vtable: NonNull<c_void>,
}

/// The functions and classes that are needed to throw.
struct Thrower {
    construct_text: ConstructText,
    destroy_text: DestroyText,
    construct_error: ConstructError,
    allocate: Allocate,
    throw: Throw,
    out_of_memory: Option<Class>,
    error: Class,
}

// SAFETY: the pointers lead into libraries that are never unloaded.
unsafe impl Send for Thrower {}
// SAFETY: as above.
unsafe impl Sync for Thrower {}

struct Libraries(Vec<Library>);

impl Libraries {
    /// The libraries of interest that the process has loaded.
    fn loaded() -> Libraries {
        Libraries(["libc10.so", "libc10_cuda.so", "libstdc++.so.6"].into_iter().filter_map(system::loaded).collect())
    }

    fn find(&self, name: &str) -> Option<NonNull<c_void>> {
        self.0.iter().find_map(|library| {
            // SAFETY: the address is not used here.
            let symbol = unsafe { library.get::<*mut c_void>(name) }.ok()?;
            NonNull::new(*symbol)
        })
    }

    fn class(&self, name: &str) -> Option<Class> {
        Some(Class { info: self.find(&format!("_ZTI{name}"))?, vtable: self.find(&format!("_ZTV{name}"))? })
    }
}

impl Thrower {
    /// Finds them in the PyTorch of the process, with the ABI of `std::string` that it was
    /// built with.
    fn find() -> Option<Thrower> {
        let libraries = Libraries::loaded();
        let error = "_ZN3c105ErrorC2ENS_14SourceLocationE";
        let new = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE";
        let (construct, destroy, found) = match libraries.find(&format!("{error}{new}")) {
            Some(found) => {
                let text = "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE";
                (format!("{text}C1EPKcRKS3_"), format!("{text}D1Ev"), found)
            }
            None => ("_ZNSsC1EPKcRKSaIcE".into(), "_ZNSsD1Ev".into(), libraries.find(&format!("{error}Ss"))?),
        };
        // SAFETY: the mangled names have the types of the arguments.
        let thrower = unsafe {
            Thrower {
                construct_text: std::mem::transmute::<NonNull<c_void>, ConstructText>(libraries.find(&construct)?),
                destroy_text: std::mem::transmute::<NonNull<c_void>, DestroyText>(libraries.find(&destroy)?),
                construct_error: std::mem::transmute::<NonNull<c_void>, ConstructError>(found),
                allocate: std::mem::transmute::<NonNull<c_void>, Allocate>(libraries.find("__cxa_allocate_exception")?),
                throw: std::mem::transmute::<NonNull<c_void>, Throw>(libraries.find("__cxa_throw")?),
                out_of_memory: libraries.class("N3c1016OutOfMemoryErrorE"),
                error: libraries.class("N3c105ErrorE")?,
            }
        };
        // The pointers lead into the libraries, so these stay loaded.
        std::mem::forget(libraries);
        Some(thrower)
    }
}

/// Throws. Returns only if the process has no PyTorch, or one whose exceptions are not found.
pub(in crate::abi::torch) fn throw(exception: Exception, text: &CStr) {
    static THROWER: OnceCell<Thrower> = OnceCell::new();
    let Ok(thrower) = THROWER.get_or_try_init(|| Thrower::find().ok_or(())) else { return };
    let class = match exception {
        Exception::OutOfMemory => thrower.out_of_memory.unwrap_or(thrower.error),
        Exception::Error => thrower.error,
    };
    // SAFETY: the object has room for any version of the class. It is constructed as its base
    // class, which has the same fields, and then gets its own vtable, whose first function
    // destroys it. The string is destroyed before the throw, and no frame of ours that is
    // unwound has anything to destroy.
    unsafe {
        let object = (thrower.allocate)(ROOM);
        let mut string = Text([0; 32]);
        let allocator = 0;
        (thrower.construct_text)(&mut string, text.as_ptr(), &allocator);
        (thrower.construct_error)(object, HERE, &mut string);
        (thrower.destroy_text)(&mut string);
        let functions = class.vtable.as_ptr().byte_add(FUNCTIONS);
        object.cast::<*mut c_void>().write(functions);
        let destroy = functions.cast::<Destroy>().read();
        (thrower.throw)(object, class.info.as_ptr(), Some(destroy))
    }
}
