//! A driver that leaves waits out on purpose. The simulated GPU has to notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use giant_kitten::Tier;
use giant_kitten::driver::{DeviceInfo, Driver, Event, Granted, Handle, Result, Stream};

/// The waits that are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omitted {
    /// Those of the work, for the copies that it reads.
    Work,
    /// Those of the copies, for the work before them.
    Copies,
    /// Those of the host, for the copies of granules that change tier.
    Host,
}

/// A driver without some of its waits.
#[derive(Debug)]
pub struct Careless(pub Arc<dyn Driver>, pub Omitted, AtomicU64);

impl Careless {
    pub fn new(driver: Arc<dyn Driver>, omitted: Omitted) -> Careless {
        Careless(driver, omitted, AtomicU64::new(0))
    }
}

impl Driver for Careless {
    fn create_stream(&self, device: usize) -> Result<Stream> {
        let stream = self.0.create_stream(device)?;
        self.2.store(stream.0, Ordering::Relaxed);
        Ok(stream)
    }

    fn wait(&self, device: usize, stream: Stream, event: Event) -> Result<()> {
        let of = if stream.0 == self.2.load(Ordering::Relaxed) { Omitted::Copies } else { Omitted::Work };
        if of == self.1 { Ok(()) } else { self.0.wait(device, stream, event) }
    }

    fn device_count(&self) -> Result<usize> {
        self.0.device_count()
    }

    fn device_info(&self, device: usize) -> Result<DeviceInfo> {
        self.0.device_info(device)
    }

    fn dedicated_free(&self, device: usize) -> Result<u64> {
        self.0.dedicated_free(device)
    }

    fn granted(&self, device: usize) -> Result<Option<Granted>, String> {
        self.0.granted(device)
    }

    fn reserve(&self, device: usize, bytes: u64, align: u64) -> Result<u64> {
        self.0.reserve(device, bytes, align)
    }

    fn unreserve(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        self.0.unreserve(device, address, bytes)
    }

    fn create(&self, device: usize, tier: Tier, bytes: u64) -> Result<Handle> {
        self.0.create(device, tier, bytes)
    }

    fn release(&self, device: usize, handle: Handle) -> Result<()> {
        self.0.release(device, handle)
    }

    fn map(&self, device: usize, address: u64, bytes: u64, handle: Handle) -> Result<()> {
        self.0.map(device, address, bytes, handle)
    }

    fn unmap(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        self.0.unmap(device, address, bytes)
    }

    fn set_access(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        self.0.set_access(device, address, bytes)
    }

    fn pin(&self, device: usize, bytes: u64) -> Result<u64> {
        self.0.pin(device, bytes)
    }

    fn unpin(&self, device: usize, address: u64) -> Result<()> {
        self.0.unpin(device, address)
    }

    fn begin_copy(&self, device: usize, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.0.begin_copy(device, to, from, bytes)
    }

    fn finish_copies(&self, device: usize) -> Result<()> {
        if self.1 == Omitted::Host { Ok(()) } else { self.0.finish_copies(device) }
    }

    fn copy_in_stream(&self, device: usize, to: u64, from: u64, bytes: u64, stream: Stream) -> Result<()> {
        self.0.copy_in_stream(device, to, from, bytes, stream)
    }

    fn destroy_stream(&self, device: usize, stream: Stream) -> Result<()> {
        self.0.destroy_stream(device, stream)
    }

    fn create_event(&self, device: usize) -> Result<Event> {
        self.0.create_event(device)
    }

    fn create_timer(&self, device: usize) -> Result<Event> {
        self.0.create_timer(device)
    }

    fn destroy_event(&self, device: usize, event: Event) -> Result<()> {
        self.0.destroy_event(device, event)
    }

    fn record(&self, device: usize, event: Event, stream: Stream) -> Result<()> {
        self.0.record(device, event, stream)
    }

    fn record_all(&self, device: usize, event: Event) -> Result<()> {
        self.0.record_all(device, event)
    }

    fn is_done(&self, device: usize, event: Event) -> Result<bool> {
        self.0.is_done(device, event)
    }

    fn seconds_between(&self, device: usize, from: Event, to: Event) -> Result<f64> {
        self.0.seconds_between(device, from, to)
    }

    fn synchronize(&self, device: usize) -> Result<()> {
        self.0.synchronize(device)
    }

    fn is_idle(&self, device: usize, stream: Stream) -> Result<bool> {
        self.0.is_idle(device, stream)
    }

    fn is_capturing(&self, device: usize, stream: Stream) -> Result<bool> {
        self.0.is_capturing(device, stream)
    }
}
