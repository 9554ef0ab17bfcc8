//! Functions that PyTorch needs to find although its tests do not call them. They exist, and
//! refuse.

use std::ffi::c_int;

use kitten_sim::code;

use crate::answer::answer;
use crate::refusal::refuse;

macro_rules! absent {
    ($($name:ident)*) => {$(
        /// Refuses, whatever its arguments.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> c_int {
            answer(|_| refuse(code::NOT_SUPPORTED, concat!(stringify!($name), " is not in the fake driver")))
        }
    )*};
}

absent! {
    cuMemExportToShareableHandle
    cuMemImportFromShareableHandle
    cuMemsetD32Async
    cuStreamWriteValue32
}
