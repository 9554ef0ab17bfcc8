//! Functions that a PyTorch wants to find although it does not call them on the way through its tests: they are there, and refuse.

use std::ffi::c_int;

use kitten_sim::code;

use crate::answer::{answer, refuse};

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
