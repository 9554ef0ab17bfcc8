//! Functions by which a test in another language controls the machine. No driver has them.

use std::ffi::{CStr, c_char, c_int};

use kitten_sim::Completion;

use crate::machine;

/// Writes every use of memory that came too early, a line each, as much as fits, with a zero byte
/// at the end. Returns the length of the whole text.
///
/// # Safety
/// `text` is null or has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_cuda_faults(text: *mut c_char, length: usize) -> usize {
    let Ok(machine) = machine::current() else { return 0 };
    let faults: String = machine.gpu.faults().iter().map(|fault| format!("{fault}\n")).collect();
    if !text.is_null() && length > 0 {
        let kept = faults.len().min(length - 1);
        // SAFETY: the caller's promise; it fits.
        unsafe {
            std::ptr::copy_nonoverlapping(faults.as_ptr().cast::<c_char>(), text, kept);
            text.add(kept).write(0);
        }
    }
    faults.len()
}

/// Chooses whether work is done at once (0) or as late as possible (1).
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_complete_late(late: c_int) {
    if let Ok(machine) = machine::current() {
        machine.gpu.set_completion(if late == 0 { Completion::Immediate } else { Completion::Late });
    }
}

/// Makes the n-th use of a driver call from now on fail with a code. An empty name means any call.
///
/// # Safety
/// `call` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_cuda_fail(call: *const c_char, nth: u64, code: c_int) {
    if let Ok(machine) = machine::current() {
        // SAFETY: the caller's promise.
        machine.gpu.fail(&unsafe { CStr::from_ptr(call) }.to_string_lossy(), nth, code);
    }
}

/// Sets what the system grants the program of a card's dedicated and of its shared memory, as
/// Windows does.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_grant(device: c_int, dedicated: u64, shared: u64) {
    if let (Ok(machine), Ok(device)) = (machine::current(), usize::try_from(device)) {
        machine.gpu.grant(device, Some([dedicated, shared]));
    }
}

/// The bytes of dedicated memory that were created in the host's, because the card was full.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_spilled() -> u64 {
    machine::current().map_or(0, |machine| machine.gpu.spilled())
}

/// Sets how much of a card's memory other programs have taken.
#[unsafe(no_mangle)]
pub extern "C" fn fake_cuda_take(device: c_int, bytes: u64) {
    if let (Ok(machine), Ok(device)) = (machine::current(), usize::try_from(device)) {
        machine.gpu.set_dedicated_taken(device, bytes);
    }
}
