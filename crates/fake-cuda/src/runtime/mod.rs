//! The functions of the CUDA runtime whose arguments are the same in every version, as far as a
//! PyTorch wheel needs more of them than a code of success. The rest, and everything that depends
//! on a version's structs, is C code (`c/`).
//!
//! Kernels do nothing. Copies and fills are real, in stream order, and the simulated GPU knows what
//! they touch.

mod devices;
mod graphs;
mod launches;
mod memory;
mod streams;

use std::cell::Cell;
use std::ffi::c_int;

use crate::answer::answer;
use crate::machine::Machine;
use crate::refusal::Result;

thread_local! {
    static LAST_ERROR: Cell<c_int> = const { Cell::new(0) };
}

/// Runs a call of the runtime: it makes a device current if the thread has none, and remembers the
/// last error.
pub(crate) fn call(run: impl FnOnce(&Machine) -> Result) -> c_int {
    let code = answer(|machine| {
        crate::driver::have_context();
        run(machine)
    });
    if code != 0 {
        LAST_ERROR.with(|last| last.set(code));
    }
    code
}

/// Returns the last error of this thread, and forgets it.
#[unsafe(no_mangle)]
pub extern "C" fn cudaGetLastError() -> c_int {
    LAST_ERROR.with(|last| last.replace(0))
}

/// The last error of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn cudaPeekAtLastError() -> c_int {
    LAST_ERROR.with(Cell::get)
}
