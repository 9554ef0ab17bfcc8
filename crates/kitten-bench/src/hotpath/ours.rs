//! giant-kitten as one of the allocators that are measured.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use giant_kitten::driver::sim::SimDriver;
use giant_kitten::{Allocator, Options, abi};
use kitten_sim::{Gpu, Profile};

use super::peers::Peer;
use crate::c_interface;

/// giant-kitten, through its C interface, on a simulated 8 GB card.
pub struct Ours {
    gpu: Gpu,
}

impl Ours {
    /// Installs a new allocator in this process.
    ///
    /// # Errors
    /// A simulated GPU that cannot be created.
    pub fn new() -> Result<Ours> {
        let profile = Profile::builtin("nominal-8g").ok_or_else(|| anyhow!("the profile nominal-8g is missing"))?;
        let gpu = Gpu::new(&[profile])?;
        abi::install(Allocator::new(Options::default(), Arc::new(SimDriver::new(gpu.clone())))?);
        Ok(Ours { gpu })
    }

    /// Its simulated GPU.
    pub(super) fn gpu(&self) -> Gpu {
        self.gpu.clone()
    }
}

impl Peer for Ours {
    fn name(&self) -> &'static str {
        "giant-kitten"
    }

    #[inline]
    fn malloc(&mut self, bytes: u64) -> Option<u64> {
        c_interface::malloc(bytes, 0, 0)
    }

    fn why(&self) -> String {
        c_interface::last_error()
    }

    #[inline]
    fn free(&mut self, token: u64, bytes: u64) {
        c_interface::free(token, bytes, 0, 0);
    }
}
