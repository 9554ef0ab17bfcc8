//! The simulated GPU as a card: its clock is the sum of what everything is modelled to take.

use anyhow::Result;
use giant_kitten::driver::{Driver, sim::SimDriver};
use kitten_sim::{Access, Gpu, Profile};

use super::card::Card;

/// A card of a hardware profile. What it is timed at is modelled.
pub struct Simulated {
    gpu: Gpu,
    driver: SimDriver,
    name: String,
}

impl Simulated {
    /// A card.
    ///
    /// # Errors
    /// Where the simulator cannot have its memory.
    pub fn new(profile: &Profile) -> Result<Simulated> {
        let gpu = Gpu::new(std::slice::from_ref(profile))?;
        Ok(Simulated { driver: SimDriver::new(gpu.clone()), gpu, name: profile.name.clone() })
    }

    fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let before = self.gpu.modelled_seconds();
        work()?;
        Ok(self.gpu.modelled_seconds() - before)
    }
}

impl Card for Simulated {
    fn driver(&self) -> &dyn Driver {
        &self.driver
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn time_calls(&self, calls: &mut dyn FnMut(&dyn Driver) -> Result<()>) -> Result<f64> {
        self.time(|| calls(&self.driver))
    }

    fn read(&self, address: u64, bytes: u64, _stride: u64, passes: u32) -> Result<f64> {
        let access = [Access::read(address, bytes)];
        self.time(|| (0..passes).try_for_each(|_| Ok(self.gpu.work(0, "read", &access, 0.0, 1.0)?)))
    }

    fn begin_read(&self, address: u64, bytes: u64, passes: u32) -> Result<()> {
        self.read(address, bytes, 16, passes).map(drop)
    }

    fn write(&self, address: u64, bytes: u64, _stride: u64) -> Result<f64> {
        self.time(|| Ok(self.gpu.work(0, "write", &[Access::write(address, bytes)], 0.0, 1.0)?))
    }

    fn copy(&self, copies: &[(u64, u64, u64)]) -> Result<f64> {
        self.time(|| copies.iter().try_for_each(|(to, from, bytes)| Ok(self.gpu.copy(0, *to, *from, *bytes)?)))
    }

    fn multiply(&self) -> Result<f64> {
        const OPERATIONS: f64 = 1e12;
        Ok(OPERATIONS / self.time(|| Ok(self.gpu.work(0, "multiply", &[], OPERATIONS, 1.0)?))?)
    }

    fn product(&self, weight: u64, bytes: u64) -> Result<Option<f64>> {
        let rereads = self.gpu.device_profile(0)?.in_place_reread;
        self.time(|| Ok(self.gpu.work(0, "product", &[Access::read(weight, bytes)], 0.0, rereads)?)).map(Some)
    }
}
