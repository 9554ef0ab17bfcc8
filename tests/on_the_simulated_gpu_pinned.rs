//! What the suite asks of a driver that can only pin host memory: on a simulated GPU without host-located backing.

mod suite {
    mod actions_pinned;
    pub mod common;
    mod contents;
    mod failures;
    mod others;
    mod pools;
    mod streams;
}

use std::sync::Arc;

use giant_kitten::driver::{Driver, sim::SimDriver};
use kitten_sim::Gpu;

/// Whether its shared memory is backing, which can change tier, and not pinned.
pub const MIGRATES: bool = false;

/// The driver that this run of the suite is about.
fn driver(gpu: &Gpu) -> Arc<dyn Driver> {
    Arc::new(SimDriver::new(gpu.clone()))
}
