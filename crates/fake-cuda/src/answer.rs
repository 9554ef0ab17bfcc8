//! From a result to the code that a C function answers with.

use std::cell::RefCell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kitten_sim::code;

use crate::machine::{self, Machine};

/// A refusal: the code, and the rule that was broken.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: c_int,
    rule: String,
}

impl Refusal {
    /// The code.
    pub(crate) fn code(&self) -> c_int {
        self.code
    }
}

pub(crate) type Result<T = ()> = std::result::Result<T, Refusal>;

impl From<kitten_sim::Error> for Refusal {
    fn from(why: kitten_sim::Error) -> Self {
        Refusal { code: why.code, rule: why.to_string() }
    }
}

/// A shorthand for a refusal.
pub(crate) fn refuse<T>(code: c_int, rule: impl Into<String>) -> Result<T> {
    Err(Refusal { code, rule: rule.into() })
}

thread_local! {
    /// The rule that this thread's last refused call broke.
    static LAST_RULE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The rule that this thread's last refused call broke.
pub(crate) fn last_rule() -> String {
    LAST_RULE.try_with(|rule| rule.borrow().clone()).unwrap_or_default()
}

/// Runs a call on the machine. `name` counts it, for calls that the machine itself does not count.
pub(crate) fn answer(call: impl FnOnce(&Machine) -> Result) -> c_int {
    let refusal = match catch_unwind(AssertUnwindSafe(|| call(machine::current()?))) {
        Ok(Ok(())) => return 0,
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal { code: code::UNKNOWN, rule: "the fake driver panicked".into() },
    };
    let _ = LAST_RULE.try_with(|rule| *rule.borrow_mut() = refusal.rule);
    refusal.code
}

/// Writes an answer where the caller wants it.
///
/// # Safety
/// `to` is null or may be written to.
pub(crate) unsafe fn put<T>(to: *mut T, value: T) -> Result {
    if to.is_null() {
        return refuse(code::INVALID_VALUE, "a place for the answer is missing: null was given");
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}
