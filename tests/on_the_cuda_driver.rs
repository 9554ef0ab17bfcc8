//! The suite on the CUDA driver, over a fake `libcuda.so.1` backed by the simulated GPU.

mod fake;
mod suite;

use std::sync::Arc;

use fake_cuda::Setup;
use giant_kitten::driver::Driver;
use kitten_sim::Gpu;

/// Whether shared memory is backing that can change tier.
pub const MIGRATES: bool = true;

/// Whether the driver of this run knows a system that keeps an account of what it grants.
pub const KNOWS_GRANTS: bool = cfg!(windows);

/// Waits until what the system has said is asked for again.
pub fn answers_grow_old() {
    std::thread::sleep(std::time::Duration::from_millis(2100));
}

/// The driver of this run of the suite.
fn driver(gpu: &Gpu) -> Arc<dyn Driver> {
    Arc::new(fake::cuda_driver(Setup::new(gpu.clone())).unwrap())
}
