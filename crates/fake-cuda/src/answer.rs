//! From a result to the code that a C function returns. No panic crosses it.

use std::cell::RefCell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kitten_sim::code;

use crate::machine::{self, Machine};
use crate::refusal::{Refusal, Result, refuse};

thread_local! {
    /// The rule that this thread's last refused call broke.
    static LAST_RULE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The rule that this thread's last refused call broke.
pub(crate) fn last_rule() -> String {
    LAST_RULE.try_with(|rule| rule.borrow().clone()).unwrap_or_default()
}

/// Runs a call on the machine, and remembers the rule that it breaks.
pub(crate) fn answer(call: impl FnOnce(&Machine) -> Result) -> c_int {
    let refusal = match catch_unwind(AssertUnwindSafe(|| call(machine::current()?))) {
        Ok(Ok(())) => return 0,
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal { code: code::UNKNOWN, rule: "the fake driver panicked".into() },
    };
    let _ = LAST_RULE.try_with(|rule| *rule.borrow_mut() = refusal.rule);
    refusal.code
}

/// Writes a result to the caller's memory.
///
/// # Safety
/// `to` is null or may be written to.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Result {
    if to.is_null() {
        return refuse(code::INVALID_VALUE, "the pointer for the result is null");
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}
