//! A fake `libcuda.so.1` over the simulated GPU: the driver's C functions with its calling
//! convention and its rules. It also has the functions of the CUDA runtime that a genuine PyTorch
//! needs, over the same machine.
//!
//! ```text
//!   machine.rs   the simulated machine and the driver that this copy of the library stands for
//!   control.rs   functions by which a test in another language controls the machine
//!   refusal.rs   why a call is refused: a code, and the rule that was broken
//!   answer.rs    from a result to the code that a C function returns; no panic crosses it
//!   dxgi.rs      what Windows grants, by its graphics library
//!   driver/      the driver's functions by subject, and how they are found by name
//!   runtime/     the runtime's functions
//! ```
//!
//! A program that loads the library gets a machine that the environment describes (see
//! [`machine`]). A test in Rust loads its own copy of the file and installs a machine in it
//! ([`install_in`]), which it controls from then on.
//!
//! It shows that calls are correct and in the right order. It shows nothing about the speed or the
//! bugs of a real driver.

mod answer;
pub mod control;
pub mod driver;
pub mod dxgi;
pub mod machine;
mod refusal;
pub mod runtime;

pub use machine::{Setup, built_library, install_in};
