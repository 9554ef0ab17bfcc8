//! Why a call is refused: a code of the driver, and the rule that was broken.

use std::ffi::c_int;

/// A refusal: the code, and the rule that was broken.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The code.
    pub(crate) code: c_int,
    /// The rule.
    pub(crate) rule: String,
}

/// The result of a call.
pub(crate) type Result<T = ()> = std::result::Result<T, Refusal>;

impl From<kitten_sim::Error> for Refusal {
    fn from(why: kitten_sim::Error) -> Self {
        Refusal { code: why.code, rule: why.to_string() }
    }
}

/// Refuses a call.
pub(crate) fn refuse<T>(code: c_int, rule: impl Into<String>) -> Result<T> {
    Err(Refusal { code, rule: rule.into() })
}
