//! The simulated GPU as a driver.

use std::time::Duration;

use kitten_sim::{Gpu, Profile, code};

use super::{DeviceInfo, Driver, DriverError, Event, Granted, Handle, Result, Rung, Stream, insist};
use crate::core::{Grant, PerTier, Tier};

/// A driver over a simulated machine.
#[derive(Clone, Debug)]
pub struct SimDriver {
    gpu: Gpu,
}

impl SimDriver {
    /// A driver over `gpu`.
    pub fn new(gpu: Gpu) -> SimDriver {
        SimDriver { gpu }
    }

    /// A driver over a new machine with one device, of a built-in hardware profile or of one in a
    /// file.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the profile.
    pub fn of_profile(name_or_path: &str) -> std::result::Result<SimDriver, String> {
        let profile = Profile::load(name_or_path)?;
        Ok(SimDriver::new(Gpu::new(&[profile]).map_err(|why| why.to_string())?))
    }

    /// The simulated machine.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }
}

/// The result of a call, as this trait has it.
fn simulated<T>(result: std::result::Result<T, kitten_sim::Error>) -> Result<T> {
    result.map_err(|why| DriverError {
        call: why.call,
        code: why.code,
        name: code::name(why.code).into(),
        detail: why.rule,
    })
}

fn tier_of(tier: Tier) -> kitten_sim::Tier {
    match tier {
        Tier::Dedicated => kitten_sim::Tier::Dedicated,
        Tier::Shared => kitten_sim::Tier::Shared,
    }
}

impl Driver for SimDriver {
    fn device_count(&self) -> Result<usize> {
        Ok(self.gpu.device_count())
    }

    fn device_info(&self, device: usize) -> Result<DeviceInfo> {
        let profile = simulated(self.gpu.device_profile(device))?;
        let (dedicated_total, dedicated_free) = simulated(self.gpu.memory_info(device, kitten_sim::Tier::Dedicated))?;
        let (shared_total, _) = simulated(self.gpu.memory_info(device, kitten_sim::Tier::Shared))?;
        let (rung, refused) = match (shared_total, profile.migrates) {
            (0, _) => (Rung::Nothing, Vec::new()),
            (_, true) => (Rung::HostNuma, Vec::new()),
            (_, false) => {
                (Rung::Pinned, vec!["host_numa, host: the hardware profile says \"migrates = false\"".into()])
            }
        };
        Ok(DeviceInfo {
            name: format!("simulated {}", profile.name),
            granularity: profile.granularity,
            total: PerTier::new(dedicated_total, shared_total),
            free: PerTier::new(dedicated_free, shared_total),
            headroom: profile.headroom_bytes,
            shared_is_the_hosts: false,
            rung,
            refused,
        })
    }

    fn dedicated_free(&self, device: usize) -> Result<u64> {
        simulated(self.gpu.memory_info(device, kitten_sim::Tier::Dedicated)).map(|(_, free)| free)
    }

    fn granted(&self, device: usize) -> Result<Option<Granted>, String> {
        let told = self.gpu.granted(device).map_err(|why| why.to_string())?;
        let of = |told: kitten_sim::Budgets| told.map(|(budget, usage)| Grant::of(budget, usage));
        Ok(told.map(|told| Granted { of: PerTier(of(told)), lasts: Duration::ZERO }))
    }

    fn reserve(&self, device: usize, bytes: u64, align: u64) -> Result<u64> {
        simulated(self.gpu.reserve(device, bytes, align))
    }

    fn unreserve(&self, _device: usize, address: u64, bytes: u64) -> Result<()> {
        simulated(self.gpu.unreserve(address, bytes))
    }

    fn create(&self, device: usize, tier: Tier, bytes: u64) -> Result<Handle> {
        simulated(self.gpu.create(device, tier_of(tier), bytes)).map(Handle)
    }

    fn release(&self, device: usize, handle: Handle) -> Result<()> {
        simulated(self.gpu.release(device, handle.0))
    }

    fn map(&self, device: usize, address: u64, bytes: u64, handle: Handle) -> Result<()> {
        simulated(self.gpu.map(device, address, bytes, handle.0))
    }

    fn unmap(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        simulated(self.gpu.unmap(device, address, bytes))
    }

    fn set_access(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        simulated(self.gpu.set_access(device, address, bytes))
    }

    fn pin(&self, device: usize, bytes: u64) -> Result<u64> {
        simulated(self.gpu.pin(device, bytes))
    }

    fn unpin(&self, _device: usize, address: u64) -> Result<()> {
        simulated(self.gpu.unpin(address))
    }

    fn begin_copy(&self, device: usize, to: u64, from: u64, bytes: u64) -> Result<()> {
        simulated(self.gpu.begin_copy(device, to, from, bytes))
    }

    fn finish_copies(&self, device: usize) -> Result<()> {
        // Where the stream cannot be waited for, the device can be.
        insist(|| simulated(self.gpu.finish_copies(device))).or_else(|_| insist(|| self.synchronize(device)))
    }

    fn copy_in_stream(&self, device: usize, to: u64, from: u64, bytes: u64, stream: Stream) -> Result<()> {
        simulated(self.gpu.copy_in_stream(device, stream.0, to, from, bytes))
    }

    fn create_stream(&self, _device: usize) -> Result<Stream> {
        simulated(self.gpu.create_stream()).map(Stream)
    }

    fn destroy_stream(&self, _device: usize, stream: Stream) -> Result<()> {
        simulated(self.gpu.destroy_stream(stream.0))
    }

    fn create_event(&self, _device: usize) -> Result<Event> {
        simulated(self.gpu.create_event()).map(Event)
    }

    fn create_timer(&self, _device: usize) -> Result<Event> {
        simulated(self.gpu.create_timer()).map(Event)
    }

    fn destroy_event(&self, _device: usize, event: Event) -> Result<()> {
        simulated(self.gpu.destroy_event(event.0))
    }

    fn record(&self, _device: usize, event: Event, stream: Stream) -> Result<()> {
        simulated(self.gpu.record(event.0, stream.0))
    }

    fn record_all(&self, device: usize, event: Event) -> Result<()> {
        simulated(self.gpu.record_all(device, event.0))
    }

    fn is_done(&self, _device: usize, event: Event) -> Result<bool> {
        simulated(self.gpu.query(event.0))
    }

    fn seconds_between(&self, _device: usize, from: Event, to: Event) -> Result<f64> {
        simulated(self.gpu.seconds_between(from.0, to.0))
    }

    fn wait(&self, _device: usize, stream: Stream, event: Event) -> Result<()> {
        simulated(self.gpu.wait(stream.0, event.0))
    }

    fn synchronize(&self, device: usize) -> Result<()> {
        simulated(self.gpu.synchronize(device))
    }

    fn is_idle(&self, _device: usize, stream: Stream) -> Result<bool> {
        simulated(self.gpu.query_stream(stream.0))
    }

    fn is_capturing(&self, _device: usize, stream: Stream) -> Result<bool> {
        simulated(self.gpu.is_capturing(stream.0))
    }
}
