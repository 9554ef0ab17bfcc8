//! The machine: every call that a driver offers.
//!
//! ```text
//!   mod.rs       the machine and its lock
//!   memory.rs    calls about addresses and backing
//!   work.rs      calls about copies, kernels, streams, events and graphs
//!   control.rs   settings and observations for tests
//! ```

mod control;
mod memory;
mod work;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::calls::Calls;
use crate::code::{self, Result, error};
use crate::memory::Memory;
use crate::profile::Profile;
use crate::streams::Streams;
use crate::time::Load;
use crate::timeline::{Cost, Way};

pub use control::Outstanding;

struct State {
    memory: Memory,
    streams: Streams,
    profiles: Vec<Profile>,
    calls: Calls,
    /// Seconds of all work that was queued, as if each piece followed the one before.
    work_seconds: f64,
}

impl State {
    /// The cost of a load on the timeline, if it is no copy.
    fn cost(&self, device: usize, load: &Load) -> Cost {
        self.profiles.get(device).map_or(Cost::default(), |profile| Cost {
            compute: profile.compute_seconds(load),
            to_device: load.link_to_device / profile.link_to_device,
            to_host: load.link_to_host / profile.link_to_host,
            ..Cost::default()
        })
    }

    /// The cost of a copy, by the tiers that it reads and writes. The copy engine reads one side
    /// while it writes the other, so a copy over the link takes the link's time.
    fn copy_cost(&self, device: usize, to: u64, from: u64, bytes: u64) -> Cost {
        let link_to_device = self.memory.shared_bytes(from, bytes) as f64;
        let link_to_host = self.memory.shared_bytes(to, bytes) as f64;
        let over_link = link_to_device + link_to_host > 0.0;
        let bytes = if over_link { 0.0 } else { 2.0 * bytes as f64 };
        let cost = self.cost(device, &Load { bytes, flops: 0.0, link_to_device, link_to_host });
        let way = if link_to_device > 0.0 { Way::ToDevice } else { Way::ToHost };
        Cost { engine: over_link.then_some(way), copied: link_to_device, ..cost }
    }

    /// Whether it is known which device a stream belongs to: all streams belong to the machine.
    /// With several devices, a call about one of them may be none about a captured stream.
    fn knows_device_of_streams(&self) -> bool {
        self.profiles.len() == 1
    }
}

/// A simulated machine with a device for each hardware profile. Clones are the same machine, and
/// calls may come from any thread.
///
/// Every call that a driver may refuse can be made to fail, by [`fail`](Gpu::fail),
/// [`fail_from`](Gpu::fail_from) and [`fail_any`](Gpu::fail_any). A call that fails, for any
/// reason, changes nothing.
#[derive(Clone)]
pub struct Gpu(Arc<Mutex<State>>);

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("devices", &self.device_count()).finish_non_exhaustive()
    }
}

impl Gpu {
    /// A machine with one device for each profile.
    ///
    /// # Errors
    /// The operating system refuses the files that hold the memory.
    pub fn new(profiles: &[Profile]) -> Result<Gpu> {
        Ok(Gpu(Arc::new(Mutex::new(State {
            memory: Memory::new(profiles)?,
            streams: Streams::new(),
            profiles: profiles.to_vec(),
            calls: Calls::default(),
            work_seconds: 0.0,
        }))))
    }

    /// Locks the machine. A test that panics while it holds the lock must not hide its own message
    /// behind that of a poisoned lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and prices a call, and fails it if a test has made it fail.
    fn enter(&self, call: &'static str, seconds: f64) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.streams.spend(seconds);
        state.calls.enter(call, seconds)?;
        Ok(state)
    }

    fn device_call(
        &self,
        call: &'static str,
        device: usize,
        cost: impl Fn(&Profile) -> f64,
    ) -> Result<MutexGuard<'_, State>> {
        let seconds = self.profile(call, device).map(|profile| cost(&profile))?;
        self.enter(call, seconds)
    }

    fn profile(&self, call: &'static str, device: usize) -> Result<Profile> {
        let state = self.state();
        match state.profiles.get(device) {
            Some(profile) => Ok(profile.clone()),
            None => {
                let count = state.profiles.len();
                error(call, code::INVALID_DEVICE, format!("there is no device {device}: this machine has {count}"))
            }
        }
    }

    /// How many devices there are.
    pub fn device_count(&self) -> usize {
        self.state().profiles.len()
    }

    /// The profile of a device.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn device_profile(&self, device: usize) -> Result<Profile> {
        self.profile("cuDeviceGet", device)
    }

    /// Counts a call that has no effect on the machine, and fails it if a test has made it fail.
    ///
    /// # Errors
    /// Only when made to fail.
    pub fn note(&self, call: &'static str) -> Result<()> {
        self.enter(call, 0.0).map(drop)
    }
}
