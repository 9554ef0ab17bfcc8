//! The codes of the CUDA driver, as integers, and the error that carries them.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $value:literal;)*) => {
        $(#[doc = concat!("`CUDA_ERROR_", stringify!($name), "`.")] pub const $name: i32 = $value;)*

        /// The driver's name of a code; `unknown` for one it does not have.
        pub fn name(code: i32) -> &'static str {
            match code {
                $($value => concat!("CUDA_ERROR_", stringify!($name)),)*
                _ => "unknown",
            }
        }
    };
}

codes! {
    INVALID_VALUE = 1;
    OUT_OF_MEMORY = 2;
    NOT_INITIALIZED = 3;
    DEINITIALIZED = 4;
    NO_DEVICE = 100;
    INVALID_DEVICE = 101;
    INVALID_CONTEXT = 201;
    MAP_FAILED = 205;
    INVALID_HANDLE = 400;
    ILLEGAL_STATE = 401;
    NOT_FOUND = 500;
    NOT_READY = 600;
    ILLEGAL_ADDRESS = 700;
    CONTEXT_IS_DESTROYED = 709;
    NOT_PERMITTED = 800;
    NOT_SUPPORTED = 801;
    STREAM_CAPTURE_UNSUPPORTED = 900;
    STREAM_CAPTURE_INVALIDATED = 901;
    CAPTURED_EVENT = 907;
    UNKNOWN = 999;
}

/// A call that broke a rule, ran out of something, or was made to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The call, by the CUDA driver's name for it.
    pub call: &'static str,
    /// The driver's code.
    pub code: i32,
    /// The rule that was broken, with the values.
    pub rule: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({}): {}", self.call, name(self.code), self.code, self.rule)
    }
}

impl std::error::Error for Error {}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Returns an error.
pub(crate) fn error<T>(call: &'static str, code: i32, rule: impl Into<String>) -> Result<T> {
    Err(Error { call, code, rule: rule.into() })
}
