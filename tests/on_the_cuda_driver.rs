//! The suite on the CUDA driver, over a fake `libcuda.so.1` that the simulated GPU is under.

mod fake;
mod suite;

use std::sync::Arc;

use fake_cuda::Setup;
use giant_kitten::driver::Driver;
use kitten_sim::Gpu;

/// Whether its shared memory is backing, which can change tier.
pub const MIGRATES: bool = true;

/// The driver that this run of the suite is about.
fn driver(gpu: &Gpu) -> Arc<dyn Driver> {
    Arc::new(fake::cuda_driver(Setup::new(gpu.clone())).unwrap())
}
