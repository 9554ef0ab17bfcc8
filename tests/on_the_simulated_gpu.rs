//! The suite on the simulated GPU itself.

mod suite;

use std::sync::Arc;

use giant_kitten::driver::{Driver, sim::SimDriver};
use kitten_sim::Gpu;

/// Whether its shared memory is backing, which can change tier.
pub const MIGRATES: bool = true;

/// The driver that this run of the suite is about.
fn driver(gpu: &Gpu) -> Arc<dyn Driver> {
    Arc::new(SimDriver::new(gpu.clone()))
}
