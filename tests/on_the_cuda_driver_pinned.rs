//! The part of the suite for drivers that can only pin host memory, on the CUDA driver over a fake
//! `libcuda.so.1` without host-located backing.

mod fake;
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

use fake_cuda::Setup;
use giant_kitten::driver::Driver;
use kitten_sim::Gpu;

/// Whether shared memory is backing that can change tier, rather than pinned.
pub const MIGRATES: bool = false;

/// Whether the driver of this run knows a system that keeps an account of what it grants.
pub const KNOWS_GRANTS: bool = cfg!(windows);

/// Waits until what the system has said is asked for again.
pub fn answers_grow_old() {
    std::thread::sleep(std::time::Duration::from_millis(2100));
}

/// The driver of this run of the suite.
fn driver(gpu: &Gpu) -> Arc<dyn Driver> {
    let setup = Setup { host_numa: false, host: false, ..Setup::new(gpu.clone()) };
    Arc::new(fake::cuda_driver(setup).unwrap())
}
