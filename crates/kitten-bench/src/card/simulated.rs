//! The simulated GPU as a card: its clock is the sum of what everything is modelled to take.

use std::cell::Cell;
use std::sync::Arc;

use anyhow::Result;
use giant_kitten::driver::{Driver, Stream, sim::SimDriver};
use kitten_sim::{Access, Elapsed, Gpu, Load, Profile, Span};

use super::{Card, Range, timed};

/// The legacy default stream.
const STREAM: u64 = 0;

/// A card of a hardware profile. All its times are modelled.
pub struct Simulated {
    gpu: Gpu,
    driver: Arc<SimDriver>,
    name: String,
    started: Cell<f64>,
}

impl Simulated {
    /// A card.
    ///
    /// # Errors
    /// The operating system refuses memory for the simulator.
    pub fn new(profile: &Profile) -> Result<Simulated> {
        let gpu = Gpu::new(std::slice::from_ref(profile))?;
        let driver = Arc::new(SimDriver::new(gpu.clone()));
        Ok(Simulated { driver, gpu, name: format!("simulated {}", profile.name), started: Cell::new(0.0) })
    }

    /// A card of which nobody reads the bytes: only the time of copies and zeros counts.
    ///
    /// # Errors
    /// As for [`new`](Simulated::new).
    pub fn without_contents(profile: &Profile) -> Result<Simulated> {
        let card = Simulated::new(profile)?;
        card.gpu.ignore_contents();
        Ok(card)
    }

    /// Keeps the spans of work from now on.
    pub fn watch_work(&self) {
        self.gpu.watch_work();
    }

    /// The spans of work since the last time.
    pub fn spans(&self) -> Vec<Span> {
        self.gpu.spans()
    }
}

impl Card for Simulated {
    fn driver(&self) -> Arc<dyn Driver> {
        self.driver.clone()
    }

    fn device(&self) -> usize {
        0
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn is_real(&self) -> bool {
        false
    }

    fn time_calls(&self, calls: &mut dyn FnMut(&dyn Driver) -> Result<()>) -> Result<f64> {
        let before = self.gpu.modelled_seconds();
        calls(&*self.driver)?;
        Ok(self.gpu.modelled_seconds() - before)
    }

    fn time_moves(&self, calls: &mut dyn FnMut(&dyn Driver) -> Result<()>) -> Result<f64> {
        let before = self.gpu.modelled_clock();
        calls(&*self.driver)?;
        Ok(self.gpu.modelled_clock() - before)
    }

    fn stream(&self) -> Stream {
        Stream(STREAM)
    }

    fn create_stream(&self) -> Result<Stream> {
        Ok(Stream(self.gpu.create_stream()?))
    }

    fn start_clock(&self) -> Result<()> {
        self.started.set(self.gpu.modelled_clock());
        Ok(())
    }

    fn stop_clock(&self) -> Result<f64> {
        let seconds = self.gpu.modelled_clock() - self.started.get();
        self.gpu.synchronize_stream(STREAM)?;
        Ok(seconds)
    }

    fn read(&self, (address, bytes): Range, _stride: u64, passes: u32) -> Result<()> {
        let access = [Access::read(address, bytes)];
        (0..passes).try_for_each(|_| Ok(self.gpu.work(STREAM, "read", &access, 0.0, 1.0)?))
    }

    fn write(&self, (address, bytes): Range, _stride: u64) -> Result<()> {
        Ok(self.gpu.work(STREAM, "write", &[Access::write(address, bytes)], 0.0, 1.0)?)
    }

    fn operate(&self, reads: &[Range], writes: &[Range]) -> Result<()> {
        let reads = reads.iter().map(|(address, bytes)| Access::read(*address, *bytes));
        let writes = writes.iter().map(|(address, bytes)| Access::write(*address, *bytes));
        let accesses: Vec<_> = reads.chain(writes).collect();
        Ok(self.gpu.work(STREAM, "operation", &accesses, 0.0, 1.0)?)
    }

    fn charge(&self, name: &str, load: &Load) -> Result<()> {
        Ok(self.gpu.charge(STREAM, name, load)?)
    }

    fn timeline(&self) -> Elapsed {
        self.gpu.elapsed()
    }

    fn copy(&self, copies: &[(u64, u64, u64)]) -> Result<()> {
        copies.iter().try_for_each(|(to, from, bytes)| Ok(self.gpu.copy_on_device(0, STREAM, *to, *from, *bytes)?))
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<()> {
        self.gpu.synchronize_stream(STREAM)?;
        Ok(self.gpu.write(to, bytes)?)
    }

    fn download(&self, bytes: &mut [u8], from: u64) -> Result<()> {
        self.gpu.synchronize_stream(STREAM)?;
        Ok(self.gpu.read(from, bytes)?)
    }

    fn multiply(&self) -> Result<f64> {
        const OPERATIONS: f64 = 1e12;
        Ok(OPERATIONS / timed(self, || Ok(self.gpu.work(STREAM, "multiply", &[], OPERATIONS, 1.0)?))?)
    }

    fn product(&self, (weight, bytes): Range) -> Result<Option<f64>> {
        let rereads = self.gpu.device_profile(0)?.in_place_reread;
        let access = [Access::read(weight, bytes)];
        timed(self, || Ok(self.gpu.work(STREAM, "product", &access, 0.0, rereads)?)).map(Some)
    }
}
