//! The machine: every call that a driver offers, counted, priced, and made to fail on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::code::{self, Result, error};
use crate::memory::{Memory, Tier};
use crate::profile::Profile;
use crate::streams::{Access, Completion, Fault, Streams};
use crate::time::Load;

/// What is held from the machine at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Backing that was created and is not gone.
    pub handles: usize,
    /// Mappings.
    pub mappings: usize,
    /// Reserved address ranges.
    pub reservations: usize,
    /// Events.
    pub events: usize,
}

/// A failure to come. `call` is empty for any call.
#[derive(Clone, Debug)]
struct Failure {
    call: String,
    after: u64,
    code: i32,
    lasting: bool,
}

struct State {
    memory: Memory,
    streams: Streams,
    profiles: Vec<Profile>,
    calls: BTreeMap<&'static str, u64>,
    total_calls: u64,
    seconds: f64,
    /// The modelled time of each event's last record.
    recorded: BTreeMap<u64, f64>,
    failures: Vec<Failure>,
}

impl State {
    /// Charges a copy by the tiers it reads and writes.
    fn charge_copy(&mut self, device: usize, to: u64, from: u64, bytes: u64) {
        let load = Load {
            bytes: 2.0 * bytes as f64,
            flops: 0.0,
            link_to_device: self.memory.shared_bytes(from, bytes) as f64,
            link_to_host: self.memory.shared_bytes(to, bytes) as f64,
        };
        let Some(profile) = self.profiles.get(device) else { return };
        // The copy engine reads one side while it writes the other: a copy over the link takes the link's time.
        let over_link = profile.seconds(&Load { bytes: 0.0, ..load });
        self.seconds += if over_link > 0.0 { over_link } else { profile.seconds(&load) };
    }
}

/// A simulated machine with a device for each hardware profile. Clones are the same machine; calls come from any thread.
///
/// Every call that a driver may refuse can be made to fail: by [`fail`](Gpu::fail), [`fail_from`](Gpu::fail_from) and
/// [`fail_any`](Gpu::fail_any). A call that fails, for whatever reason, changes nothing.
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
    /// Where the operating system refuses the files that hold the memory.
    pub fn new(profiles: &[Profile]) -> Result<Gpu> {
        Ok(Gpu(Arc::new(Mutex::new(State {
            memory: Memory::new(profiles)?,
            streams: Streams::new(),
            profiles: profiles.to_vec(),
            calls: BTreeMap::new(),
            total_calls: 0,
            seconds: 0.0,
            recorded: BTreeMap::new(),
            failures: Vec::new(),
        }))))
    }

    /// A test that panics while it holds the machine must not hide its own words behind those of a poisoned lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and prices a call, and fails it if it is to fail.
    fn enter(&self, call: &'static str, seconds: f64) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        *state.calls.entry(call).or_default() += 1;
        state.total_calls += 1;
        state.seconds += seconds;
        let mut failed = None;
        state.failures.retain_mut(|failure| {
            if !(failure.call.is_empty() || failure.call == call) {
                return true;
            }
            failure.after = failure.after.saturating_sub(1);
            if failure.after == 0 && failed.is_none() {
                failed = Some(failure.code);
                return failure.lasting;
            }
            true
        });
        match failed {
            Some(code) => error(call, code, "made to fail by a test"),
            None => Ok(state),
        }
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

    /// Gives up the machine's memory, addresses and streams: from now on it has no devices. For programs that make many machines
    /// and cannot see to it that nobody holds an old one.
    pub fn dismantle(&self) {
        let mut state = self.state();
        if let Ok(nothing) = Memory::new(&[]) {
            state.memory = nothing;
        }
        state.streams = Streams::new();
        state.profiles.clear();
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

    /// Capacity and free bytes of a tier.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn memory_info(&self, device: usize, tier: Tier) -> Result<(u64, u64)> {
        Ok(self.device_call("cuMemGetInfo", device, |_| 0.0)?.memory.info(device, tier))
    }

    /// Reserves addresses: real ones of this process.
    ///
    /// # Errors
    /// A length or alignment that cannot be; no addresses left.
    pub fn reserve(&self, device: usize, bytes: u64, align: u64) -> Result<u64> {
        self.device_call("cuMemAddressReserve", device, |p| p.seconds.reserve)?.memory.reserve(device, bytes, align)
    }

    /// Gives a whole reservation back, with nothing mapped in it.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn unreserve(&self, address: u64, bytes: u64) -> Result<()> {
        self.enter("cuMemAddressFree", 0.0)?.memory.unreserve(address, bytes)
    }

    /// Creates backing, which reads as zeros.
    ///
    /// # Errors
    /// A length that is no multiple of the granularity; out of memory.
    pub fn create(&self, device: usize, tier: Tier, bytes: u64) -> Result<u64> {
        let cost = |p: &Profile| match tier {
            Tier::Dedicated => p.seconds.create_dedicated,
            Tier::Shared => p.seconds.create_shared,
        };
        self.device_call("cuMemCreate", device, cost)?.memory.create(device, tier, bytes)
    }

    /// Pins host memory, in whole pages, at an address of its own that the device reads and writes as well. Reads as zeros.
    ///
    /// # Errors
    /// No bytes; out of memory.
    pub fn pin(&self, device: usize, bytes: u64) -> Result<u64> {
        let cost = |p: &Profile| p.seconds.create_shared * bytes.div_ceil(p.granularity) as f64;
        self.device_call("cuMemHostAlloc", device, cost)?.memory.pin(device, bytes)
    }

    /// Gives pinned memory back. A fault if work touches it that is not sure to be done.
    ///
    /// # Errors
    /// An address that was not given by [`pin`](Gpu::pin).
    pub fn unpin(&self, address: u64) -> Result<()> {
        let mut state = self.enter("cuMemFreeHost", 0.0)?;
        let bytes = state.memory.unpin(address)?;
        state.streams.host_use("cuMemFreeHost", Access::write(address, bytes));
        Ok(())
    }

    /// Whether memory pinned for a device begins at an address.
    pub fn is_pinned(&self, address: u64) -> bool {
        self.state().memory.is_pinned(address)
    }

    /// Gives backing up; it goes with its last mapping.
    ///
    /// # Errors
    /// A handle that is unknown or released.
    pub fn release(&self, device: usize, handle: u64) -> Result<()> {
        self.device_call("cuMemRelease", device, |p| p.seconds.release)?.memory.release(handle)
    }

    /// Maps the whole of a handle. Unreadable until access is set.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn map(&self, device: usize, address: u64, bytes: u64, handle: u64) -> Result<()> {
        self.device_call("cuMemMap", device, |p| p.seconds.map)?.memory.map(device, address, bytes, handle)
    }

    /// Unmaps whole mappings. A fault if work touches them that is not sure to be done.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn unmap(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        let mut state = self.device_call("cuMemUnmap", device, |p| p.seconds.unmap)?;
        state.memory.unmap(address, bytes)?;
        state.streams.host_use("cuMemUnmap", Access::write(address, bytes));
        Ok(())
    }

    /// Makes a mapped range readable and writable.
    ///
    /// # Errors
    /// The rule that was broken.
    pub fn set_access(&self, device: usize, address: u64, bytes: u64) -> Result<()> {
        self.device_call("cuMemSetAccess", device, |p| p.seconds.set_access)?.memory.set_access(address, bytes)
    }

    /// Copies at once, on the host's behalf. A fault if work touches either range that is not sure to be done.
    ///
    /// # Errors
    /// A range that is not mapped with access; ranges that overlap.
    pub fn copy(&self, device: usize, to: u64, from: u64, bytes: u64) -> Result<()> {
        let mut state = self.device_call("cuMemcpyDtoD", device, |_| 0.0)?;
        state.memory.copy(to, from, bytes)?;
        state.charge_copy(device, to, from, bytes);
        state.streams.host_use("cuMemcpyDtoD", Access::read(from, bytes));
        state.streams.host_use("cuMemcpyDtoD", Access::write(to, bytes));
        Ok(())
    }

    /// Puts a copy in a stream, done when its turn comes.
    ///
    /// # Errors
    /// A range that is not mapped with access; ranges that overlap; a stream that does not exist.
    pub fn copy_in_stream(&self, stream: u64, to: u64, from: u64, bytes: u64) -> Result<()> {
        const CALL: &str = "cuMemcpyDtoDAsync";
        let mut state = self.enter(CALL, 0.0)?;
        state.memory.can_copy(CALL, to, from, bytes)?;
        state.charge_copy(0, to, from, bytes);
        let effect = Box::new(move |memory: &Memory| drop(memory.copy(to, from, bytes)));
        let State { memory, streams, .. } = &mut *state;
        streams.launch(stream, CALL, &[Access::read(from, bytes), Access::write(to, bytes)], Some(effect), memory)
    }

    /// Puts a copy from host memory in a stream. Pages of zeros cost nothing.
    ///
    /// # Errors
    /// A range that is not mapped with access; a stream that does not exist.
    ///
    /// # Safety
    /// `from` can be read for `bytes` until the copy is done.
    pub unsafe fn upload(&self, stream: u64, to: u64, from: *const u8, bytes: u64) -> Result<()> {
        const CALL: &str = "cuMemcpyHtoDAsync";
        let mut state = self.enter(CALL, 0.0)?;
        state.memory.accessible(CALL, to, bytes)?;
        let from = from as usize;
        // SAFETY: the caller's promise.
        let effect = Box::new(move |memory: &Memory| unsafe { memory.upload(to, from as *const u8, bytes) });
        let State { memory, streams, .. } = &mut *state;
        streams.launch(stream, CALL, &[Access::write(to, bytes)], Some(effect), memory)
    }

    /// Puts a copy to host memory in a stream.
    ///
    /// # Errors
    /// A range that is not mapped with access; a stream that does not exist.
    ///
    /// # Safety
    /// `to` can be written for `bytes` until the copy is done.
    pub unsafe fn download(&self, stream: u64, to: *mut u8, from: u64, bytes: u64) -> Result<()> {
        const CALL: &str = "cuMemcpyDtoHAsync";
        let mut state = self.enter(CALL, 0.0)?;
        state.memory.accessible(CALL, from, bytes)?;
        let to = to as usize;
        // SAFETY: the caller's promise.
        let effect = Box::new(move |memory: &Memory| unsafe { memory.download(to as *mut u8, from, bytes) });
        let State { memory, streams, .. } = &mut *state;
        streams.launch(stream, CALL, &[Access::read(from, bytes)], Some(effect), memory)
    }

    /// Whether an address lies in a reservation: it is a device's, not the host's.
    pub fn is_device_address(&self, address: u64) -> bool {
        self.state().memory.is_reserved(address)
    }

    /// Puts work in a stream, and charges what it takes: the bytes it touches by the tier they lie in, those it reads from the
    /// shared tier `rereads` times over the link.
    ///
    /// # Errors
    /// As for [`launch`](Gpu::launch).
    pub fn work(&self, stream: u64, name: &str, accesses: &[Access], flops: f64, rereads: f64) -> Result<()> {
        self.launch(stream, name, accesses)?;
        let mut state = self.state();
        let mut load = Load { flops, ..Load::default() };
        for access in accesses {
            load.bytes += access.bytes as f64;
            let shared = state.memory.shared_bytes(access.address, access.bytes) as f64;
            match access.write {
                true => load.link_to_host += shared,
                false => load.link_to_device += shared * rereads,
            }
        }
        let seconds = state.profiles.first().map_or(0.0, |profile| profile.seconds(&load));
        state.seconds += seconds;
        Ok(())
    }

    /// The modelled time at which an event was recorded last. Modelled, not measured.
    pub fn recorded_at(&self, event: u64) -> Option<f64> {
        self.state().recorded.get(&event).copied()
    }

    /// Counts a call that the machine does nothing for, and fails it if it is to fail.
    ///
    /// # Errors
    /// Only when made to fail.
    pub fn note(&self, call: &'static str) -> Result<()> {
        self.enter(call, 0.0).map(drop)
    }

    /// Puts work in a stream that touches some ranges.
    ///
    /// # Errors
    /// A range that is not mapped with access; a stream that does not exist.
    pub fn launch(&self, stream: u64, name: &str, accesses: &[Access]) -> Result<()> {
        let mut state = self.enter("cuLaunchKernel", 0.0)?;
        for access in accesses {
            state.memory.accessible("cuLaunchKernel", access.address, access.bytes)?;
        }
        let State { memory, streams, .. } = &mut *state;
        streams.launch(stream, name, accesses, None, memory)
    }

    /// Puts work in a stream that fills a range with a byte, when it is done and not before.
    ///
    /// # Errors
    /// As for [`launch`](Gpu::launch).
    pub fn fill(&self, stream: u64, address: u64, bytes: u64, value: u8) -> Result<()> {
        let mut state = self.enter("cuMemsetD8Async", 0.0)?;
        state.memory.accessible("cuMemsetD8Async", address, bytes)?;
        let effect = Box::new(move |memory: &Memory| memory.fill(address, bytes, value));
        let State { memory, streams, .. } = &mut *state;
        streams.launch(stream, "fill", &[Access::write(address, bytes)], Some(effect), memory)
    }

    /// Makes a stream. Handles of destroyed streams come again.
    ///
    /// # Errors
    /// Only when made to fail.
    pub fn create_stream(&self) -> Result<u64> {
        Ok(self.enter("cuStreamCreate", 0.0)?.streams.create_stream())
    }

    /// Unmakes a stream; its work goes on.
    ///
    /// # Errors
    /// A stream that does not exist.
    pub fn destroy_stream(&self, stream: u64) -> Result<()> {
        self.enter("cuStreamDestroy", 0.0)?.streams.destroy_stream(stream)
    }

    /// Waits for a stream.
    ///
    /// # Errors
    /// A stream that does not exist, or is captured.
    pub fn synchronize_stream(&self, stream: u64) -> Result<()> {
        let mut state = self.enter("cuStreamSynchronize", 0.0)?;
        let State { memory, streams, .. } = &mut *state;
        streams.synchronize_stream(stream, memory)
    }

    /// Waits for everything.
    ///
    /// # Errors
    /// While a stream is captured; a device that does not exist.
    pub fn synchronize(&self, device: usize) -> Result<()> {
        let mut state = self.device_call("cuCtxSynchronize", device, |p| p.seconds.synchronize)?;
        let State { memory, streams, .. } = &mut *state;
        streams.synchronize(memory)
    }

    /// Makes an event.
    ///
    /// # Errors
    /// Only when made to fail.
    pub fn create_event(&self) -> Result<u64> {
        Ok(self.enter("cuEventCreate", 0.0)?.streams.create_event())
    }

    /// Unmakes an event.
    ///
    /// # Errors
    /// An event that does not exist.
    pub fn destroy_event(&self, event: u64) -> Result<()> {
        let mut state = self.enter("cuEventDestroy", 0.0)?;
        state.recorded.remove(&event);
        state.streams.destroy_event(event)
    }

    /// Puts an event behind all work in a stream.
    ///
    /// # Errors
    /// A stream or event that does not exist; a captured stream.
    pub fn record(&self, event: u64, stream: u64) -> Result<()> {
        let mut state = self.enter("cuEventRecord", 0.0)?;
        state.streams.record(event, stream)?;
        let now = state.seconds;
        state.recorded.insert(event, now);
        Ok(())
    }

    /// Whether the work before an event is done.
    ///
    /// # Errors
    /// An event that does not exist; while a stream is captured.
    pub fn query(&self, event: u64) -> Result<bool> {
        self.enter("cuEventQuery", 0.0)?.streams.query(event)
    }

    /// Whether all work in a stream is done.
    ///
    /// # Errors
    /// A stream that does not exist, or is captured.
    pub fn query_stream(&self, stream: u64) -> Result<bool> {
        self.enter("cuStreamQuery", 0.0)?.streams.query_stream(stream)
    }

    /// Waits for an event.
    ///
    /// # Errors
    /// An event that does not exist.
    pub fn synchronize_event(&self, event: u64) -> Result<()> {
        let mut state = self.enter("cuEventSynchronize", 0.0)?;
        let State { memory, streams, .. } = &mut *state;
        streams.synchronize_event(event, memory)
    }

    /// Makes later work in a stream wait for an event.
    ///
    /// # Errors
    /// A stream or event that does not exist.
    pub fn wait(&self, stream: u64, event: u64) -> Result<()> {
        self.enter("cuStreamWaitEvent", 0.0)?.streams.wait(stream, event)
    }

    /// Begins to capture a stream: what is launched in it is recorded, not done.
    ///
    /// # Errors
    /// The default stream; a stream that is captured already.
    pub fn begin_capture(&self, stream: u64) -> Result<()> {
        self.enter("cuStreamBeginCapture", 0.0)?.streams.begin_capture(stream)
    }

    /// Ends a capture. The graph is known by the number returned.
    ///
    /// # Errors
    /// A stream that is not captured.
    pub fn end_capture(&self, stream: u64) -> Result<u64> {
        self.enter("cuStreamEndCapture", 0.0)?.streams.end_capture(stream)
    }

    /// The number of the capture that a stream is in, which its graph will have.
    ///
    /// # Errors
    /// A stream that does not exist.
    pub fn capture_of(&self, stream: u64) -> Result<Option<u64>> {
        self.state().streams.capture_of(stream)
    }

    /// How many pieces of work a graph has.
    ///
    /// # Errors
    /// A graph that does not exist.
    pub fn graph_length(&self, graph: u64) -> Result<usize> {
        self.state().streams.graph_length(graph)
    }

    /// Does a graph's work in a stream: it touches what the captured work touched. Bytes do not change.
    ///
    /// # Errors
    /// A graph or stream that does not exist; a range that is no longer mapped with access.
    pub fn replay(&self, graph: u64, stream: u64) -> Result<()> {
        let work = self.enter("cuGraphLaunch", 0.0)?.streams.graph(graph)?;
        work.iter().try_for_each(|(name, accesses)| self.launch(stream, name, accesses))
    }

    /// Unmakes a graph.
    pub fn destroy_graph(&self, graph: u64) {
        self.state().streams.destroy_graph(graph);
    }

    /// Whether a stream is captured.
    ///
    /// # Errors
    /// A stream that does not exist.
    pub fn is_capturing(&self, stream: u64) -> Result<bool> {
        self.enter("cuStreamIsCapturing", 0.0)?.streams.is_capturing(stream)
    }

    /// Chooses when work is done from now on.
    pub fn set_completion(&self, completion: Completion) {
        let mut state = self.state();
        let State { memory, streams, .. } = &mut *state;
        streams.set_completion(completion, memory);
    }

    /// Does one piece of late work, on a stream that the seed picks among those that may go on; whether there was one.
    pub fn complete_one(&self, seed: u64) -> bool {
        let mut state = self.state();
        let State { memory, streams, .. } = &mut *state;
        streams.complete_one(seed, memory)
    }

    /// How many pieces of work are not done.
    pub fn pending(&self) -> usize {
        self.state().streams.pending()
    }

    /// Everything that came too early.
    pub fn faults(&self) -> Vec<Fault> {
        self.state().streams.faults()
    }

    /// Has a function told of each fault at once, besides. It may not ask anything of the machine.
    pub fn tell_faults(&self, tell: fn(&Fault)) {
        self.state().streams.tell_faults(tell);
    }

    /// How often each call was made.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.state().calls.clone()
    }

    /// How many calls were made.
    pub fn total_calls(&self) -> u64 {
        self.state().total_calls
    }

    /// What all calls cost, by the profiles: modelled, not measured.
    pub fn modelled_seconds(&self) -> f64 {
        self.state().seconds
    }

    /// Makes the n-th use of a call from now on fail (1 is the next).
    pub fn fail(&self, call: &str, nth: u64, code: i32) {
        self.arm(call, nth, code, false);
    }

    /// Makes every use of a call fail from the n-th on.
    pub fn fail_from(&self, call: &str, nth: u64, code: i32) {
        self.arm(call, nth, code, true);
    }

    /// Makes the n-th call of any kind from now on fail.
    pub fn fail_any(&self, nth: u64, code: i32) {
        self.arm("", nth, code, false);
    }

    fn arm(&self, call: &str, nth: u64, code: i32, lasting: bool) {
        self.state().failures.push(Failure { call: call.into(), after: nth.max(1), code, lasting });
    }

    /// Lets everything work again.
    pub fn clear_failures(&self) {
        self.state().failures.clear();
    }

    /// Another process takes dedicated memory of a device.
    pub fn set_dedicated_taken(&self, device: usize, bytes: u64) {
        self.state().memory.set_taken(device, bytes);
    }

    /// What is held from the machine.
    pub fn outstanding(&self) -> Outstanding {
        let state = self.state();
        let (handles, mappings, reservations) = state.memory.outstanding();
        Outstanding { handles, mappings, reservations, events: state.streams.live_events() }
    }

    /// Reads bytes, as a test may.
    ///
    /// # Errors
    /// A range that is not mapped with access.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.state().memory.read(address, bytes)
    }

    /// Writes bytes, as a test may.
    ///
    /// # Errors
    /// A range that is not mapped with access.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.state().memory.write(address, bytes)
    }
}
