//! The part of the suite for drivers that can only pin host memory, on a simulated GPU without
//! host-located backing.

mod suite {
    mod actions_pinned;
    mod careless;
    pub mod common;
    mod contents;
    mod copies;
    mod failures;
    mod others;
    mod passes;
    mod pools;
    mod streams;
}

use std::sync::Arc;

use giant_kitten::driver::{Driver, sim::SimDriver};
use kitten_sim::Gpu;

/// Whether shared memory is backing that can change tier, rather than pinned.
pub const MIGRATES: bool = false;

/// The driver of this run of the suite.
fn driver(gpu: &Gpu) -> Arc<dyn Driver> {
    Arc::new(SimDriver::new(gpu.clone()))
}
