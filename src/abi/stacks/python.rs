//! What a thread does in Python, by the interpreter that the process has: its functions are found at run time, and nothing is linked.
//!
//! None of those that are called runs code of a program. An exception that flies is set aside meanwhile, the garbage collector rests
//! (Python 3.11 could begin it for a frame that has to be made), and no reference to anything of Python's is kept: what a code object is
//! called is kept beside it, in the slot for others that it has for debuggers and for PyTorch's compiler.
//!
//! Python's lock is taken where the thread has given it back, as PyTorch does before it allocates. A thread that Python does not know
//! has no frames, and is not made known to it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, OnceLock};

use libloading::Library;

use super::frame::{Code, Frame};

/// `PyObject`, `PyFrameObject` or `PyCodeObject`.
type Object = *mut c_void;
/// `PyThreadState`.
type ThreadState = *mut c_void;
/// `PyInterpreterState`.
type Interpreter = *mut c_void;
/// What the interpreter calls when a code object ends.
type Forget = unsafe extern "C" fn(*mut c_void);

/// Makes the table of functions, and how it is filled. Of several names the first that the interpreter has is taken.
macro_rules! functions {
    ($($field:ident: $($name:literal)|+ => fn($($argument:ty),*) $(-> $result:ty)?;)+) => {
        /// Functions of the interpreter.
        struct Functions {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)+
        }

        impl Functions {
            fn find(library: &Library) -> Option<Functions> {
                Some(Functions {
                    $($field: {
                        let named = |name: &CStr| {
                            // SAFETY: Python's C API declares the functions of these names so.
                            let found = unsafe {
                                library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>(name.to_bytes_with_nul())
                            };
                            found.ok().map(|found| *found)
                        };
                        None$(.or_else(|| named($name)))+?
                    },)+
                })
            }
        }
    };
}

functions! {
    version: c"Py_GetVersion" => fn() -> *const c_char;
    is_finalizing: c"Py_IsFinalizing" | c"_Py_IsFinalizing" => fn() -> c_int;
    // That of this thread, and whether it has Python's lock; neither needs it.
    known_thread: c"PyGILState_GetThisThreadState" => fn() -> ThreadState;
    current: c"PyThreadState_GetUnchecked" | c"_PyThreadState_UncheckedGet" => fn() -> ThreadState;
    ensure: c"PyGILState_Ensure" => fn() -> c_int;
    release: c"PyGILState_Release" => fn(c_int);
    save_thread: c"PyEval_SaveThread" => fn() -> ThreadState;
    restore_thread: c"PyEval_RestoreThread" => fn(ThreadState);
    interpreter_of: c"PyThreadState_GetInterpreter" => fn(ThreadState) -> Interpreter;
    first_interpreter: c"PyInterpreterState_Head" => fn() -> Interpreter;
    next_interpreter: c"PyInterpreterState_Next" => fn(Interpreter) -> Interpreter;
    set_exception_aside: c"PyErr_Fetch" => fn(*mut Object, *mut Object, *mut Object);
    restore_exception: c"PyErr_Restore" => fn(Object, Object, Object);
    frame_of: c"PyThreadState_GetFrame" => fn(ThreadState) -> Object;
    caller_of: c"PyFrame_GetBack" => fn(Object) -> Object;
    code_of: c"PyFrame_GetCode" => fn(Object) -> Object;
    line_of: c"PyFrame_GetLineNumber" => fn(Object) -> c_int;
    request_slot: c"PyUnstable_Eval_RequestCodeExtraIndex" | c"_PyEval_RequestCodeExtraIndex" => fn(Forget) -> isize;
    slot: c"PyUnstable_Code_GetExtra" | c"_PyCode_GetExtra" => fn(Object, isize, *mut *mut c_void) -> c_int;
    set_slot: c"PyUnstable_Code_SetExtra" | c"_PyCode_SetExtra" => fn(Object, isize, *mut c_void) -> c_int;
    attribute: c"PyObject_GetAttrString" => fn(Object, *const c_char) -> Object;
    encode: c"PyUnicode_AsEncodedString" => fn(Object, *const c_char, *const c_char) -> Object;
    bytes: c"PyBytes_AsString" => fn(Object) -> *const c_char;
    let_go: c"Py_DecRef" => fn(Object);
}

/// What lets the garbage collector rest, where there is such a thing (Python 3.10 or later; nothing is made for a stack before).
struct Collector {
    disable: unsafe extern "C" fn() -> c_int,
    enable: unsafe extern "C" fn() -> c_int,
}

impl Collector {
    fn find(library: &Library) -> Option<Collector> {
        // SAFETY: Python's C API declares them so.
        unsafe {
            Some(Collector {
                disable: *library.get(b"PyGC_Disable\0").ok()?,
                enable: *library.get(b"PyGC_Enable\0").ok()?,
            })
        }
    }
}

/// The interpreter of the process, in which stacks are looked at: the one that first wanted them.
struct Python {
    functions: Functions,
    collector: Option<Collector>,
    interpreter: Interpreter,
    /// Our slot of each code object. It holds an `Arc<Code>`, or null.
    slot: isize,
    /// Whether each thread knows by itself whether it has Python's lock (Python 3.12 or later).
    per_thread: bool,
}

// SAFETY: the interpreter is compared and no more; the rest are functions.
unsafe impl Send for Python {}
// SAFETY: as above.
unsafe impl Sync for Python {}

static PYTHON: OnceLock<Python> = OnceLock::new();

/// Looks for the interpreter, once the calling thread has its lock. Where there is none, threads have no frames.
pub(super) fn find() {
    if PYTHON.get().is_none()
        && let Some(python) = Python::find()
    {
        // Whoever was first has a slot of their own that stays empty.
        let _ = PYTHON.set(python);
    }
}

/// The frames of the calling thread, the innermost first.
pub(super) fn frames() -> Vec<Frame> {
    PYTHON.get().and_then(Python::frames).unwrap_or_default()
}

/// Runs something without Python's lock, if this thread has it.
pub(super) fn without_its_lock(run: impl FnOnce()) {
    let Some(python) = PYTHON.get().filter(|python| python.has_lock()) else { return run() };
    // SAFETY: the thread has the lock, and has it again afterwards.
    let state = unsafe { (python.functions.save_thread)() };
    run();
    // SAFETY: as above.
    unsafe { (python.functions.restore_thread)(state) };
}

impl Python {
    fn find() -> Option<Python> {
        let library = loaded()?;
        let functions = Functions::find(&library)?;
        let collector = Collector::find(&library);
        // The interpreter is there as long as its code runs: what was found stays.
        std::mem::forget(library);
        // SAFETY: it takes nothing, and returns a constant text.
        let version = unsafe { CStr::from_ptr((functions.version)()) }.to_string_lossy().into_owned();
        if version.contains("free-threading") {
            log::warn!(
                "a history has no stacks on a free-threaded Python ({version}): what is kept with code is not safe there"
            );
            return None;
        }
        let minor: u32 = version.strip_prefix("3.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        // SAFETY: none of them needs Python's lock.
        let (known, current) = unsafe { ((functions.known_thread)(), (functions.current)()) };
        if known.is_null() || known != current {
            return None;
        }
        // SAFETY: the thread has Python's lock.
        let (interpreter, slot) = unsafe { ((functions.interpreter_of)(known), (functions.request_slot)(forget)) };
        (slot >= 0).then_some(Python { functions, collector, interpreter, slot, per_thread: minor >= 12 })
    }

    fn has_lock(&self) -> bool {
        // SAFETY: neither needs anything.
        unsafe {
            let known = (self.functions.known_thread)();
            !known.is_null() && known == (self.functions.current)()
        }
    }

    /// `None` where the thread has none that could be looked at.
    fn frames(&self) -> Option<Vec<Frame>> {
        let functions = &self.functions;
        // SAFETY: none of them needs Python's lock.
        let (known, current) = unsafe { ((functions.known_thread)(), (functions.current)()) };
        // SAFETY: as above.
        if known.is_null() || unsafe { (functions.is_finalizing)() } != 0 {
            return None;
        }
        if known == current {
            // SAFETY: the thread has Python's lock.
            return unsafe { self.frames_of(known) };
        }
        if self.is_elsewhere(current) {
            return None;
        }
        // SAFETY: Python knows the thread, which does not have the lock, and the interpreter does not end before it has been told to
        // record no more, which waits for this.
        unsafe {
            let before = (functions.ensure)();
            let frames = self.frames_of(known);
            (functions.release)(before);
            frames
        }
    }

    /// Whether this thread, which has not the lock of the interpreter that it belongs to, may have that of another one: to wait would be
    /// for ever.
    fn is_elsewhere(&self, current: ThreadState) -> bool {
        if self.per_thread {
            return !current.is_null();
        }
        // SAFETY: interpreters are looked at, not into.
        unsafe { !(self.functions.next_interpreter)((self.functions.first_interpreter)()).is_null() }
    }

    /// # Safety
    /// `state` is the calling thread's, and it has Python's lock.
    unsafe fn frames_of(&self, state: ThreadState) -> Option<Vec<Frame>> {
        let functions = &self.functions;
        // SAFETY: the thread has Python's lock. What is set aside is restored below, whatever was raised meanwhile.
        unsafe {
            if (functions.interpreter_of)(state) != self.interpreter {
                return None;
            }
            let (mut kind, mut value, mut traceback) = (null_mut(), null_mut(), null_mut());
            (functions.set_exception_aside)(&mut kind, &mut value, &mut traceback);
            let collected = self.collector.as_ref().is_some_and(|collector| (collector.disable)() != 0);
            let frames = self.walk((functions.frame_of)(state));
            if let Some(collector) = self.collector.as_ref().filter(|_| collected) {
                (collector.enable)();
            }
            (functions.restore_exception)(kind, value, traceback);
            Some(frames)
        }
    }

    /// # Safety
    /// The thread has Python's lock, and a reference to the frame, which it gives away.
    unsafe fn walk(&self, mut frame: Object) -> Vec<Frame> {
        let functions = &self.functions;
        let mut frames = Vec::new();
        while !frame.is_null() {
            // SAFETY: the frame is alive, and so is its code. Neither ends with our reference: the frame is at work.
            frame = unsafe {
                let code = (functions.code_of)(frame);
                if let Some(code) = self.known(code) {
                    let line = u32::try_from((functions.line_of)(frame)).unwrap_or(0);
                    frames.push(Frame { code, line });
                }
                (functions.let_go)(code);
                let caller = (functions.caller_of)(frame);
                (functions.let_go)(frame);
                caller
            };
        }
        frames
    }

    /// What is known of a code object: it lies in our slot from the first time on.
    ///
    /// # Safety
    /// The thread has Python's lock, and the object is alive.
    unsafe fn known(&self, code: Object) -> Option<Arc<Code>> {
        let mut held = null_mut();
        // SAFETY: what lies in the slot was put there below, and lives as long as the code object.
        unsafe {
            if (self.functions.slot)(code, self.slot, &mut held) != 0 {
                return None;
            }
            if !held.is_null() {
                Arc::increment_strong_count(held.cast::<Code>());
                return Some(Arc::from_raw(held.cast::<Code>()));
            }
            let made =
                Arc::new(Code { filename: self.text(code, c"co_filename")?, name: self.text(code, c"co_name")? });
            let held = Arc::into_raw(made.clone()).cast_mut().cast::<c_void>();
            if (self.functions.set_slot)(code, self.slot, held) != 0 {
                forget(held);
            }
            Some(made)
        }
    }

    /// An attribute that is a text. What no Unicode has, as names of files may, is escaped.
    ///
    /// # Safety
    /// The thread has Python's lock, and the object is alive.
    unsafe fn text(&self, of: Object, name: &CStr) -> Option<String> {
        let functions = &self.functions;
        // SAFETY: the references that are got are given away.
        unsafe {
            let text = NonNull::new((functions.attribute)(of, name.as_ptr()))?;
            let encoded =
                NonNull::new((functions.encode)(text.as_ptr(), c"utf-8".as_ptr(), c"backslashreplace".as_ptr()));
            (functions.let_go)(text.as_ptr());
            let encoded = encoded?;
            let bytes = (functions.bytes)(encoded.as_ptr());
            let text = (!bytes.is_null()).then(|| CStr::from_ptr(bytes).to_string_lossy().into_owned());
            (functions.let_go)(encoded.as_ptr());
            text
        }
    }
}

/// What the interpreter calls when a code object ends that has something in our slot.
///
/// # Safety
/// `held` is what was put there, or null.
unsafe extern "C" fn forget(held: *mut c_void) {
    if !held.is_null() {
        // SAFETY: the reference that the slot had.
        drop(unsafe { Arc::from_raw(held.cast::<Code>()) });
    }
}

/// The library of the interpreter that the process has, if there is one.
#[cfg(unix)]
fn loaded() -> Option<Library> {
    Some(libloading::os::unix::Library::this().into())
}

/// The library of the interpreter that the process has, if there is one. Each release has its own name.
#[cfg(windows)]
fn loaded() -> Option<Library> {
    let name = |minor: u32| format!("python3{minor}.dll");
    (9..32).find_map(|minor| libloading::os::windows::Library::open_already_loaded(name(minor)).ok()).map(Into::into)
}
