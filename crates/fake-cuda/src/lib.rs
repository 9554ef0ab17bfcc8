//! A fake `libcuda.so.1` over the simulated GPU: the driver's C functions with its calling convention and its rules. And those of
//! the CUDA runtime that a genuine PyTorch needs, over the same machine.
//!
//! ```text
//!   machine.rs   which simulated machine this copy of the library stands for, and how old or poor a driver it acts as
//!   control.rs   what a test in another language may ask of the machine
//!   answer.rs    from a result to a code; no panic gets out
//!   driver/      the driver's functions, by what they are about, and how they are found by name
//!   runtime/     the runtime's functions
//! ```
//!
//! A program that loads the library gets a machine as the environment says (see [`machine`]). A test in Rust loads its own copy of
//! the file and installs a machine in it ([`install_in`]), which it then holds the other end of.
//!
//! It proves that the calls are made rightly and in the right order. It proves nothing about a real driver's speed or faults.

mod answer;
pub mod control;
pub mod driver;
pub mod machine;
pub mod runtime;

pub use machine::{Setup, built_library, install_in};
