//! The part of the suite for drivers that can only pin host memory, on a simulated GPU without
//! host-located backing.

mod suite {
    mod actions_pinned;
    mod careless;
    pub mod common;
    mod contents;
    mod copies;
    mod failures;
    mod granted;
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

/// Whether the driver of this run knows a system that keeps an account of what it grants.
pub const KNOWS_GRANTS: bool = true;

/// Waits until what the system has said is asked for again.
pub fn answers_grow_old() {}

/// The driver of this run of the suite.
fn driver(gpu: &Gpu) -> Arc<dyn Driver> {
    Arc::new(SimDriver::new(gpu.clone()))
}
