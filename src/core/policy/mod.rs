//! What should lie where, and how much dedicated memory is kept for scratch: pure functions and
//! pure knowledge.
//!
//! ```text
//!   placement   which granules are dedicated, for an action that places everything
//!   demand      what scratch asks for in one interval, by level
//!   forecast    what one kind of work is expected to ask for
//!   balance     what moves before a run, if that pays
//!   lending     what moves before a run whose weights are copied ahead
//!   learner     the knowledge of the automatic mode: demand and forecasts over intervals
//!   standstill  what a safe point saw that moved nothing
//!   steady      what stays and what comes and goes, where nobody reports steps
//!   hindsight   what this run would have wanted from its start
//!   opening     when a reserve opens by itself
//!   spill       which blocks go to the shared tier while a program loads
//! ```

pub mod balance;
mod demand;
mod forecast;
mod hindsight;
mod learner;
mod lending;
mod opening;
pub mod placement;
mod spill;
mod standstill;
mod steady;

pub use forecast::Forecast;
pub use hindsight::{Hindsight, Wanted};
pub use learner::{Expected, Learner, Value};
pub use lending::{Lending, Lent, Turn};
pub use opening::Opening;
pub use spill::Spill;
pub use standstill::Standstill;
pub use steady::WORKS;
