//! The suite on the simulated GPU itself.

mod suite;

use std::sync::Arc;

use giant_kitten::driver::{Driver, sim::SimDriver};
use kitten_sim::Gpu;

/// Whether shared memory is backing that can change tier.
pub const MIGRATES: bool = true;

/// Whether the driver of this run knows a system that keeps an account of what it grants.
pub const KNOWS_GRANTS: bool = true;

/// Waits until what the system has said is asked for again.
pub fn answers_grow_old() {}

/// The driver of this run of the suite.
fn driver(gpu: &Gpu) -> Arc<dyn Driver> {
    Arc::new(SimDriver::new(gpu.clone()))
}
