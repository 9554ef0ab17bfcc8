//! The C++ ABI of Microsoft's compiler, which Windows builds of PyTorch have.
//!
//! A C++ exception is one of the system's exceptions, with a number of its own and four words: a
//! version, the object, its `ThrowInfo`, and an image base. `ThrowInfo` and what it leads to say
//! how the object is destroyed, and as which classes it may be caught. They name each other by
//! 32-bit distances from the image base, so all of them are statics of ours, and PyTorch's
//! functions are called through functions of ours. A `catch` compares the decorated names of
//! classes, not addresses: descriptions of our own are as good as PyTorch's.
//!
//! ```text
//!   ThrowInfo ──▶ CatchableTypeArray ──▶ CatchableType ──▶ TypeDescriptor    of the class itself
//!       │                           └──▶ CatchableType ──▶ TypeDescriptor    of each base
//!       └──▶ destroys the object              └──▶ copies the object
//! ```
//!
//! (The names are those of Microsoft's `ehdata.h`. Rust's panics on MSVC are made in the same way,
//! in `panic_unwind/src/seh.rs` of the standard library.)

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use libloading::Library;
use once_cell::sync::OnceCell;

use super::{Exception, HERE, ROOM, SourceLocation};
use crate::platform::system;

/// The system's number of C++ exceptions, and the version of their descriptions.
const CPP_EXCEPTION: u32 = 0xE06D_7363;
const VERSION: usize = 0x1993_0520;
/// `EXCEPTION_NONCONTINUABLE`.
const NONCONTINUABLE: u32 = 1;
/// Longer texts are cut: a `std::string` of 4096 bytes or more is allocated in another way.
const LONGEST: usize = 4000;

#[link(name = "kernel32")]
unsafe extern "system-unwind" {
    fn RaiseException(code: u32, flags: u32, count: u32, arguments: *const usize);
}

unsafe extern "C" {
    /// Where this library begins in memory: made by the linker.
    static __ImageBase: u8;
}

fn image_base() -> usize {
    (&raw const __ImageBase) as usize
}

/// The distance of something in this library from its image base.
fn distance(address: usize) -> i32 {
    (address - image_base()) as i32
}

#[repr(C)]
struct TypeDescriptor {
    functions: usize,
    /// Where the C++ runtime may store a readable name.
    readable: AtomicUsize,
    name: [u8; 32],
}

#[repr(C)]
struct CatchableType {
    properties: u32,
    descriptor: AtomicI32,
    /// No base is at another address than the object, and none is virtual.
    displacement: [i32; 3],
    size: u32,
    copy: AtomicI32,
}

#[repr(C)]
struct CatchableTypeArray {
    count: i32,
    types: [AtomicI32; 3],
}

#[repr(C)]
struct ThrowInfo {
    attributes: u32,
    destroy: AtomicI32,
    forward_compatible: i32,
    catchable: AtomicI32,
}

/// Copied bit by bit where it is caught by value.
const SIMPLE: u32 = 1;

static OUT_OF_MEMORY: TypeDescriptor = TypeDescriptor::new(b".?AVOutOfMemoryError@c10@@");
static ERROR: TypeDescriptor = TypeDescriptor::new(b".?AVError@c10@@");
static EXCEPTION: TypeDescriptor = TypeDescriptor::new(b".?AVexception@std@@");

static CATCHABLE_OUT_OF_MEMORY: CatchableType = CatchableType::new(0, ROOM as u32);
static CATCHABLE_ERROR: CatchableType = CatchableType::new(0, ROOM as u32);
/// PyTorch's exceptions keep nothing in this base, so its bytes can be copied.
static CATCHABLE_EXCEPTION: CatchableType = CatchableType::new(SIMPLE, 24);

static BASES_OF_OUT_OF_MEMORY: CatchableTypeArray = CatchableTypeArray::new(3);
static BASES_OF_ERROR: CatchableTypeArray = CatchableTypeArray::new(2);

static THROW_OUT_OF_MEMORY: ThrowInfo = ThrowInfo::new();
static THROW_ERROR: ThrowInfo = ThrowInfo::new();

impl TypeDescriptor {
    const fn new(decorated: &[u8]) -> TypeDescriptor {
        let mut name = [0; 32];
        name.split_at_mut(decorated.len()).0.copy_from_slice(decorated);
        TypeDescriptor { functions: 0, readable: AtomicUsize::new(0), name }
    }
}

impl CatchableType {
    const fn new(properties: u32, size: u32) -> CatchableType {
        let (descriptor, copy) = (AtomicI32::new(0), AtomicI32::new(0));
        CatchableType { properties, descriptor, displacement: [0, -1, 0], size, copy }
    }

    fn link(&self, descriptor: &'static TypeDescriptor, copy: Option<Copy>) {
        self.descriptor.store(distance_of(descriptor), Ordering::Relaxed);
        self.copy.store(copy.map_or(0, |copy| distance(copy as usize)), Ordering::Relaxed);
    }
}

impl CatchableTypeArray {
    const fn new(count: i32) -> CatchableTypeArray {
        CatchableTypeArray { count, types: [const { AtomicI32::new(0) }; 3] }
    }

    fn link(&self, types: &[&'static CatchableType]) {
        for (slot, &found) in self.types.iter().zip(types) {
            slot.store(distance_of(found), Ordering::Relaxed);
        }
    }
}

impl ThrowInfo {
    const fn new() -> ThrowInfo {
        let (destroy, catchable) = (AtomicI32::new(0), AtomicI32::new(0));
        ThrowInfo { attributes: 0, destroy, forward_compatible: 0, catchable }
    }

    fn link(&self, destroy: Destroy, catchable: &'static CatchableTypeArray) {
        self.destroy.store(distance(destroy as usize), Ordering::Relaxed);
        self.catchable.store(distance_of(catchable), Ordering::Relaxed);
    }
}

fn distance_of<T>(of: &'static T) -> i32 {
    distance(std::ptr::from_ref(of) as usize)
}

/// `std::string` in release builds: up to 15 bytes in place, or a pointer to more.
#[repr(C)]
struct Text {
    place: [usize; 2],
    length: usize,
    capacity: usize,
}

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
/// A constructor with `(SourceLocation, std::string)`. Both are passed by hidden references, and
/// the constructor destroys the string.
type Construct = unsafe extern "C-unwind" fn(*mut c_void, *const SourceLocation, *mut Text) -> *mut c_void;
type Copy = unsafe extern "C-unwind" fn(*mut c_void, *const c_void) -> *mut c_void;
type Destroy = unsafe extern "C" fn(*mut c_void);

/// The functions of a class of PyTorch.
struct Class {
    construct: Construct,
    copy: Copy,
    destroy: Destroy,
}

/// What is needed to throw.
struct Thrower {
    /// Of the C runtime whose `free` destroys strings in PyTorch.
    malloc: Malloc,
    out_of_memory: Class,
    error: Class,
}

static THROWER: OnceCell<Thrower> = OnceCell::new();

impl Class {
    fn find(c10: &Library, name: &str) -> Option<Class> {
        const STRING: &str = "V?$basic_string@DU?$char_traits@D@std@@V?$allocator@D@2@@std@@";
        // SAFETY: the decorated names have the types of the arguments.
        unsafe {
            Some(Class {
                construct: *c10.get(format!("??0{name}@c10@@QEAA@USourceLocation@1@{STRING}@Z")).ok()?,
                copy: *c10.get(format!("??0{name}@c10@@QEAA@AEBV01@@Z")).ok()?,
                destroy: *c10.get(format!("??1{name}@c10@@UEAA@XZ")).ok()?,
            })
        }
    }
}

impl Thrower {
    /// Finds the functions in the PyTorch of the process, and completes the descriptions.
    fn find() -> Option<Thrower> {
        let (c10, runtime) = (system::loaded("c10.dll")?, system::loaded("ucrtbase.dll")?);
        let thrower = Thrower {
            // SAFETY: the function is the one of the C standard.
            malloc: unsafe { *runtime.get("malloc").ok()? },
            out_of_memory: Class::find(&c10, "OutOfMemoryError")?,
            error: Class::find(&c10, "Error")?,
        };
        CATCHABLE_OUT_OF_MEMORY.link(&OUT_OF_MEMORY, Some(copy_out_of_memory));
        CATCHABLE_ERROR.link(&ERROR, Some(copy_error));
        CATCHABLE_EXCEPTION.link(&EXCEPTION, None);
        BASES_OF_OUT_OF_MEMORY.link(&[&CATCHABLE_OUT_OF_MEMORY, &CATCHABLE_ERROR, &CATCHABLE_EXCEPTION]);
        BASES_OF_ERROR.link(&[&CATCHABLE_ERROR, &CATCHABLE_EXCEPTION]);
        THROW_OUT_OF_MEMORY.link(destroy_out_of_memory, &BASES_OF_OUT_OF_MEMORY);
        THROW_ERROR.link(destroy_error, &BASES_OF_ERROR);
        // The functions are in the libraries, so these stay loaded.
        std::mem::forget((c10, runtime));
        Some(thrower)
    }

    /// The thrower that has thrown: only what it threw is copied and destroyed.
    fn of_a_thrown_exception() -> &'static Thrower {
        THROWER.get().expect("nothing was thrown")
    }
}

unsafe extern "C-unwind" fn copy_out_of_memory(to: *mut c_void, from: *const c_void) -> *mut c_void {
    // SAFETY: the C++ runtime passes an object of the class, and room for a copy.
    unsafe { (Thrower::of_a_thrown_exception().out_of_memory.copy)(to, from) }
}

unsafe extern "C-unwind" fn copy_error(to: *mut c_void, from: *const c_void) -> *mut c_void {
    // SAFETY: as above.
    unsafe { (Thrower::of_a_thrown_exception().error.copy)(to, from) }
}

unsafe extern "C" fn destroy_out_of_memory(object: *mut c_void) {
    // SAFETY: the C++ runtime passes an object of the class that nobody uses any more.
    unsafe { (Thrower::of_a_thrown_exception().out_of_memory.destroy)(object) }
}

unsafe extern "C" fn destroy_error(object: *mut c_void) {
    // SAFETY: as above.
    unsafe { (Thrower::of_a_thrown_exception().error.destroy)(object) }
}

/// Throws. Returns only if the process has no PyTorch, or one whose exceptions are not found.
pub(in crate::abi::torch) fn throw(exception: Exception, text: &CStr) {
    /// The object that is thrown. It lives in the frame that throws until it has been caught and
    /// destroyed.
    #[repr(C, align(16))]
    struct Object([u8; ROOM]);

    let Ok(thrower) = THROWER.get_or_try_init(|| Thrower::find().ok_or(())) else { return };
    let (class, info) = match exception {
        Exception::OutOfMemory => (&thrower.out_of_memory, &THROW_OUT_OF_MEMORY),
        Exception::Error => (&thrower.error, &THROW_ERROR),
    };
    let text = &text.to_bytes()[..text.to_bytes().len().min(LONGEST)];
    let mut object = Object([0; ROOM]);
    let object = (&raw mut object).cast::<c_void>();
    // SAFETY: the string is laid out as the C++ library has it, in memory of the `malloc` whose
    // `free` the constructor calls. The object has room for any version of the class. No frame of
    // ours that is unwound has anything to destroy.
    unsafe {
        let capacity = text.len().max(16);
        let place = (thrower.malloc)(capacity + 1).cast::<u8>();
        if place.is_null() {
            return;
        }
        place.copy_from_nonoverlapping(text.as_ptr(), text.len());
        place.add(text.len()).write(0);
        let mut string = Text { place: [place as usize, 0], length: text.len(), capacity };
        (class.construct)(object, &HERE, &mut string);
        let arguments = [VERSION, object as usize, std::ptr::from_ref(info) as usize, image_base()];
        RaiseException(CPP_EXCEPTION, NONCONTINUABLE, 4, arguments.as_ptr());
    }
}
