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

/// The driver of this run of the suite.
fn driver(gpu: &Gpu) -> Arc<dyn Driver> {
    let setup = Setup { host_numa: false, host: false, ..Setup::new(gpu.clone()) };
    Arc::new(fake::cuda_driver(setup).unwrap())
}
