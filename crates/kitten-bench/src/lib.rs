//! Replays traces of real models through the allocator on a simulated GPU, and reports what
//! placement is worth. It also measures a real GPU and compares it with the model.
//!
//! ```text
//!   main.rs, cli.rs, commands.rs   the program: its arguments, and one function for each command
//!   input.rs        files that are read, within bounds
//!   output.rs       files that are written whole or not at all, and the standard output
//!   text.rs         text from files, made harmless for terminals and pages
//!   c_interface.rs  the allocator's C interface, as its callers see it
//!   work/           work to replay: traces, PyTorch's snapshots, and several of them as one run
//!   card/           a card, real or simulated: kernels, copies, a clock; the probe and the check
//!   replay/         work through the allocator, the time it takes, and the reserve that suits it
//!   hotpath/        nanoseconds per malloc and free, compared with other allocators
//!   show/           pictures and pages
//! ```
//!
//! Each line uses only those above it, and `replay` and `hotpath` do not know each other.
//!
//! All seconds of a replay on the simulated GPU are modelled, from a hardware profile. `hotpath`
//! measures this machine's processor. `probe`, `check` and `replay --device` measure a real card,
//! if there is one.

mod c_interface;
pub mod card;
pub mod hotpath;
mod input;
pub mod output;
pub mod replay;
pub mod show;
pub mod text;
pub mod work;
