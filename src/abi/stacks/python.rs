//! Reads the Python stack of a thread, through the interpreter that the process has loaded. Its
//! functions are found at run time, and nothing is linked.
//!
//! None of the functions used runs code of the program. While a stack is read, a pending exception
//! is set aside and the garbage collector is disabled: Python 3.11 could start it when it creates a
//! frame object. No reference to a Python object is kept. The names of a code object are stored
//! with it, in one of the slots for extra data that debuggers and PyTorch's compiler use too.
//!
//! A thread that has released Python's lock (the GIL), as PyTorch does before it allocates, takes
//! it for the time of reading. A thread that Python does not know has no frames, and is not
//! registered with Python.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, OnceLock};

use libloading::Library;

use super::frame::{Code, Frame};
use crate::platform::system;

/// `PyObject`, `PyFrameObject` or `PyCodeObject`.
type Object = *mut c_void;
/// `PyThreadState`.
type ThreadState = *mut c_void;
/// `PyInterpreterState`.
type Interpreter = *mut c_void;
/// The function that the interpreter calls when a code object is destroyed.
type Forget = unsafe extern "C" fn(*mut c_void);

/// Declares the table of functions and the function that fills it. Of several names, the first that
/// the interpreter has is used.
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
                            // SAFETY: Python's C API declares these functions with these types.
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
    // The state of this thread, and the current one if the thread has Python's lock. Neither needs
    // it.
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

/// The functions that disable the garbage collector (Python 3.10 or later; earlier versions create
/// no objects for a stack).
struct Collector {
    disable: unsafe extern "C" fn() -> c_int,
    enable: unsafe extern "C" fn() -> c_int,
}

impl Collector {
    fn find(library: &Library) -> Option<Collector> {
        // SAFETY: Python's C API declares these functions with these types.
        unsafe {
            Some(Collector {
                disable: *library.get(b"PyGC_Disable\0").ok()?,
                enable: *library.get(b"PyGC_Enable\0").ok()?,
            })
        }
    }
}

/// The interpreter whose stacks are read: the one in which a recording first wanted stacks.
struct Python {
    functions: Functions,
    collector: Option<Collector>,
    interpreter: Interpreter,
    /// The index of our slot in each code object. The slot holds an `Arc<Code>`, or null.
    slot: isize,
    /// Whether the current thread state is the thread's own (Python 3.12 or later), not the
    /// process's.
    per_thread: bool,
}

// SAFETY: the interpreter is only compared, and the rest are functions.
unsafe impl Send for Python {}
// SAFETY: as above.
unsafe impl Sync for Python {}

static PYTHON: OnceLock<Python> = OnceLock::new();

/// Finds the interpreter, whose lock the calling thread holds. Without one, threads have no frames.
pub(super) fn find() {
    if PYTHON.get().is_none()
        && let Some(python) = Python::find()
    {
        // Where another thread was first, the slot requested here stays empty.
        let _ = PYTHON.set(python);
    }
}

/// The frames of the calling thread, the innermost first.
pub(super) fn frames() -> Vec<Frame> {
    PYTHON.get().and_then(Python::frames).unwrap_or_default()
}

/// Runs a function after releasing Python's lock, if this thread has it.
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
        let library = system::python()?;
        let functions = Functions::find(&library)?;
        let collector = Collector::find(&library);
        // The functions stay loaded as long as the interpreter runs.
        std::mem::forget(library);
        // SAFETY: the function takes nothing, and returns a constant text.
        let version = unsafe { CStr::from_ptr((functions.version)()) }.to_string_lossy().into_owned();
        if version.contains("free-threading") {
            log::warn!(
                "histories have no stacks on a free-threaded Python ({version}): extra data of code objects is not safe there"
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
        // SAFETY: neither function has a precondition.
        unsafe {
            let known = (self.functions.known_thread)();
            !known.is_null() && known == (self.functions.current)()
        }
    }

    /// The frames of the calling thread; `None` if they cannot be read.
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
        // SAFETY: Python knows the thread, which does not have the lock. Before the interpreter
        // ends, the recording is ended, and that waits for this.
        unsafe {
            let before = (functions.ensure)();
            let frames = self.frames_of(known);
            (functions.release)(before);
            frames
        }
    }

    /// Whether this thread, which does not have the lock of its own interpreter, may have that of
    /// another interpreter. Waiting for its own lock would deadlock then.
    fn is_elsewhere(&self, current: ThreadState) -> bool {
        if self.per_thread {
            return !current.is_null();
        }
        // SAFETY: the interpreters are counted, and not used.
        unsafe { !(self.functions.next_interpreter)((self.functions.first_interpreter)()).is_null() }
    }

    /// # Safety
    /// `state` is that of the calling thread, which has Python's lock.
    unsafe fn frames_of(&self, state: ThreadState) -> Option<Vec<Frame>> {
        let functions = &self.functions;
        // SAFETY: the thread has Python's lock. The exception that is set aside is restored below,
        // and replaces any that was raised in between.
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
    /// The thread has Python's lock, and passes its reference to the frame.
    unsafe fn walk(&self, mut frame: Object) -> Vec<Frame> {
        let functions = &self.functions;
        let mut frames = Vec::new();
        while !frame.is_null() {
            // SAFETY: the frame and its code are alive. Neither is destroyed with our reference,
            // because the frame is running.
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

    /// The names of a code object. They are in our slot after the first call.
    ///
    /// # Safety
    /// The thread has Python's lock, and the object is alive.
    unsafe fn known(&self, code: Object) -> Option<Arc<Code>> {
        let mut held = null_mut();
        // SAFETY: the slot is empty, or holds the `Arc` that is stored below until the code object
        // ends.
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

    /// A text attribute. Surrogates, which names of files may have, are escaped.
    ///
    /// # Safety
    /// The thread has Python's lock, and the object is alive.
    unsafe fn text(&self, of: Object, name: &CStr) -> Option<String> {
        let functions = &self.functions;
        // SAFETY: every reference that is obtained here is released here.
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

/// Frees the content of our slot when its code object is destroyed.
///
/// # Safety
/// `held` is null, or was stored in the slot.
unsafe extern "C" fn forget(held: *mut c_void) {
    if !held.is_null() {
        // SAFETY: this is the slot's reference.
        drop(unsafe { Arc::from_raw(held.cast::<Code>()) });
    }
}
