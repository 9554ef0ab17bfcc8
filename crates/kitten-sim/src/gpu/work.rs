//! Calls about copies, kernels, streams, events and graphs.

use super::{Gpu, State};
use crate::code::Result;
use crate::memory::Memory;
use crate::races::Access;
use crate::streams::{CaptureStatus, copy_stream};
use crate::time::Load;
use crate::timeline::{Cost, Elapsed, Span};

impl State {
    /// Queues work in a stream and charges the time of a load.
    fn charge(&mut self, stream: u64, name: &str, accesses: &[Access], load: &Load) -> Result<()> {
        let cost = self.cost(0, load);
        let State { memory, streams, .. } = self;
        streams.launch(stream, name, accesses, None, cost, memory)?;
        self.work_seconds += cost.seconds();
        Ok(())
    }
}

impl Gpu {
    /// Copies at once, on behalf of the host. It is a fault if work that touches either range is
    /// not sure to be done.
    ///
    /// # Errors
    /// A range that is not mapped with access; ranges that overlap.
    pub fn copy(&self, device: usize, to: u64, from: u64, bytes: u64) -> Result<()> {
        let mut state = self.device_call("cuMemcpyDtoD", device, |_| 0.0)?;
        state.memory.copy(to, from, bytes)?;
        let seconds = state.copy_cost(device, to, from, bytes).seconds();
        state.calls.seconds += seconds;
        state.streams.spend(seconds);
        for access in state.memory.with_places(&[Access::read(from, bytes), Access::write(to, bytes)]) {
            state.streams.host_use("cuMemcpyDtoD", access);
        }
        Ok(())
    }

    /// Begins a copy, behind those that were begun before. The bytes are copied when its turn
    /// comes.
    ///
    /// # Errors
    /// A range that is not mapped with access; ranges that overlap.
    pub fn begin_copy(&self, device: usize, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.copy_on_device(device, copy_stream(device), to, from, bytes)
    }

    /// Waits for all copies that [`begin_copy`](Gpu::begin_copy) has begun.
    ///
    /// # Errors
    /// Only when made to fail.
    pub fn finish_copies(&self, device: usize) -> Result<()> {
        self.synchronize_stream(copy_stream(device))
    }

    /// Queues a copy in a stream, between any memory of the machine. The bytes are copied when its
    /// turn comes.
    ///
    /// # Errors
    /// A range that is not mapped with access; ranges that overlap; a stream that does not exist.
    pub fn copy_in_stream(&self, device: usize, stream: u64, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.queue_copy("cuMemcpyAsync", device, stream, to, from, bytes)
    }

    /// The same by the driver's older call, whose addresses are all a device's.
    ///
    /// # Errors
    /// As for [`copy_in_stream`](Gpu::copy_in_stream).
    pub fn copy_on_device(&self, device: usize, stream: u64, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.queue_copy("cuMemcpyDtoDAsync", device, stream, to, from, bytes)
    }

    fn queue_copy(&self, call: &'static str, device: usize, stream: u64, to: u64, from: u64, bytes: u64) -> Result<()> {
        let mut state = self.device_call(call, device, |p| p.seconds.copy)?;
        state.memory.can_copy(call, to, from, bytes)?;
        let effect = Box::new(move |memory: &Memory| drop(memory.copy(to, from, bytes)));
        let cost = state.copy_cost(device, to, from, bytes);
        // Beginning a copy takes time in its engine as well.
        let begins = if cost.engine.is_some() { state.profiles[device].seconds.copy } else { 0.0 };
        let timed = Cost { compute: cost.compute + begins, ..cost };
        let State { memory, streams, .. } = &mut *state;
        let accesses = [Access::read(from, bytes), Access::write(to, bytes)];
        streams.launch(stream, call, &accesses, Some(effect), timed, memory)?;
        state.work_seconds += cost.seconds();
        Ok(())
    }

    /// Queues a copy from host memory in a stream. Pages of zeros take no memory.
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
        streams.launch(stream, CALL, &[Access::write(to, bytes)], Some(effect), Cost::default(), memory)
    }

    /// Queues a copy to host memory in a stream.
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
        streams.launch(stream, CALL, &[Access::read(from, bytes)], Some(effect), Cost::default(), memory)
    }

    /// Queues work in a stream and charges its time: the bytes that it touches by the tier in which
    /// they lie, and those that it reads from the shared tier `rereads` times over the link.
    ///
    /// # Errors
    /// As for [`launch`](Gpu::launch).
    pub fn work(&self, stream: u64, name: &str, accesses: &[Access], flops: f64, rereads: f64) -> Result<()> {
        let mut state = self.enter("cuLaunchKernel", 0.0)?;
        for access in accesses {
            state.memory.accessible("cuLaunchKernel", access.address, access.bytes)?;
        }
        let mut load = Load { flops, ..Load::default() };
        for access in accesses {
            load.bytes += access.bytes as f64;
            let shared = state.memory.shared_bytes(access.address, access.bytes) as f64;
            match access.write {
                true => load.link_to_host += shared,
                false => load.link_to_device += shared * rereads,
            }
        }
        state.charge(stream, name, accesses, &load)
    }

    /// Queues work in a stream that takes the time of a load and touches no memory which is looked
    /// at. It counts as no call of the driver.
    ///
    /// # Errors
    /// A stream that does not exist.
    pub fn charge(&self, stream: u64, name: &str, load: &Load) -> Result<()> {
        self.state().charge(stream, name, &[], load)
    }

    /// Queues work in a stream that touches some ranges.
    ///
    /// # Errors
    /// A range that is not mapped with access; a stream that does not exist.
    pub fn launch(&self, stream: u64, name: &str, accesses: &[Access]) -> Result<()> {
        let mut state = self.enter("cuLaunchKernel", 0.0)?;
        for access in accesses {
            state.memory.accessible("cuLaunchKernel", access.address, access.bytes)?;
        }
        let State { memory, streams, .. } = &mut *state;
        streams.launch(stream, name, accesses, None, Cost::default(), memory)
    }

    /// Queues work in a stream that fills a range with a byte when its turn comes.
    ///
    /// # Errors
    /// As for [`launch`](Gpu::launch).
    pub fn fill(&self, stream: u64, address: u64, bytes: u64, value: u8) -> Result<()> {
        let mut state = self.enter("cuMemsetD8Async", 0.0)?;
        state.memory.accessible("cuMemsetD8Async", address, bytes)?;
        let effect = Box::new(move |memory: &Memory| memory.fill(address, bytes, value));
        let State { memory, streams, .. } = &mut *state;
        streams.launch(stream, "fill", &[Access::write(address, bytes)], Some(effect), Cost::default(), memory)
    }

    /// Creates a stream. Handles of destroyed streams are used again.
    ///
    /// # Errors
    /// Only when made to fail.
    pub fn create_stream(&self) -> Result<u64> {
        Ok(self.enter("cuStreamCreate", 0.0)?.streams.create_stream())
    }

    /// Destroys a stream. Its work goes on.
    ///
    /// # Errors
    /// A stream that does not exist, or is a default stream.
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

    /// Whether all work in a stream is done.
    ///
    /// # Errors
    /// A stream that does not exist, or is captured.
    pub fn query_stream(&self, stream: u64) -> Result<bool> {
        self.enter("cuStreamQuery", 0.0)?.streams.query_stream(stream)
    }

    /// Waits for everything.
    ///
    /// # Errors
    /// While a stream is captured, which invalidates the capture; a device that does not exist.
    pub fn synchronize(&self, device: usize) -> Result<()> {
        let mut state = self.device_call("cuCtxSynchronize", device, |p| p.seconds.synchronize)?;
        let spoils = state.knows_device_of_streams();
        let State { memory, streams, .. } = &mut *state;
        streams.synchronize(spoils, memory)
    }

    /// Creates an event that keeps no time.
    ///
    /// # Errors
    /// Only when made to fail.
    pub fn create_event(&self) -> Result<u64> {
        Ok(self.enter("cuEventCreate", 0.0)?.streams.create_event())
    }

    /// Creates an event that keeps the time of its last record.
    ///
    /// # Errors
    /// Only when made to fail.
    pub fn create_timer(&self) -> Result<u64> {
        Ok(self.enter("cuEventCreate", 0.0)?.streams.create_timer())
    }

    /// Destroys an event.
    ///
    /// # Errors
    /// An event that does not exist.
    pub fn destroy_event(&self, event: u64) -> Result<()> {
        self.enter("cuEventDestroy", 0.0)?.streams.destroy_event(event)
    }

    /// Records an event behind all work in a stream.
    ///
    /// # Errors
    /// A stream or event that does not exist; a captured stream.
    pub fn record(&self, event: u64, stream: u64) -> Result<()> {
        self.enter("cuEventRecord", 0.0)?.streams.record(event, stream)
    }

    /// Records an event behind all work in all streams.
    ///
    /// # Errors
    /// An event that does not exist; while a stream is captured, which invalidates the capture.
    pub fn record_all(&self, device: usize, event: u64) -> Result<()> {
        let mut state = self.device_call("cuCtxRecordEvent", device, |_| 0.0)?;
        let spoils = state.knows_device_of_streams();
        state.streams.record_all(event, spoils)
    }

    /// Whether the work before an event is done.
    ///
    /// # Errors
    /// An event that does not exist; while a stream is captured.
    pub fn query(&self, event: u64) -> Result<bool> {
        self.enter("cuEventQuery", 0.0)?.streams.query(event)
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

    /// Begins the capture of a stream. Work launched in it is recorded and not done.
    ///
    /// # Errors
    /// The default stream; a stream that is captured already.
    pub fn begin_capture(&self, stream: u64) -> Result<()> {
        self.enter("cuStreamBeginCapture", 0.0)?.streams.begin_capture(stream)
    }

    /// Ends a capture. Returns the number of its graph.
    ///
    /// # Errors
    /// A stream that is not captured.
    pub fn end_capture(&self, stream: u64) -> Result<u64> {
        self.enter("cuStreamEndCapture", 0.0)?.streams.end_capture(stream)
    }

    /// The number of the capture that a stream is in. Its graph will have the same number.
    ///
    /// # Errors
    /// A stream that does not exist.
    pub fn capture_of(&self, stream: u64) -> Result<Option<u64>> {
        self.state().streams.capture_of(stream)
    }

    /// Whether a stream is captured.
    ///
    /// # Errors
    /// A stream that does not exist.
    pub fn is_capturing(&self, stream: u64) -> Result<bool> {
        Ok(self.capture_status(stream)? != CaptureStatus::None)
    }

    /// Whether a stream is being captured, and validly.
    ///
    /// # Errors
    /// A stream that does not exist.
    pub fn capture_status(&self, stream: u64) -> Result<CaptureStatus> {
        self.enter("cuStreamIsCapturing", 0.0)?.streams.capture_status(stream)
    }

    /// How many pieces of work a graph has.
    ///
    /// # Errors
    /// A graph that does not exist.
    pub fn graph_length(&self, graph: u64) -> Result<usize> {
        self.state().streams.graph_length(graph)
    }

    /// Launches a graph's work in a stream. It touches the same memory as the captured work. Bytes
    /// do not change.
    ///
    /// # Errors
    /// A graph or stream that does not exist; a range that is no longer mapped with access.
    pub fn replay(&self, graph: u64, stream: u64) -> Result<()> {
        let work = self.enter("cuGraphLaunch", 0.0)?.streams.graph(graph)?;
        work.iter().try_for_each(|(name, accesses)| self.launch(stream, name, accesses))
    }

    /// Destroys a graph.
    pub fn destroy_graph(&self, graph: u64) {
        self.state().streams.destroy_graph(graph);
    }

    /// Seconds between the last records of two timers: modelled, not measured.
    ///
    /// # Errors
    /// An event that does not exist, keeps no time or was never recorded; work before it that is
    /// not done.
    pub fn seconds_between(&self, from: u64, to: u64) -> Result<f64> {
        let mut state = self.enter("cuEventElapsedTime", 0.0)?;
        let from = state.streams.recorded_at(from)?;
        Ok(state.streams.recorded_at(to)? - from)
    }

    /// Seconds of all work and calls so far, on the timeline: modelled, not measured. Whoever asks
    /// waits for the work.
    pub fn elapsed(&self) -> Elapsed {
        self.state().streams.elapsed()
    }

    /// Keeps the spans of work from now on, for [`spans`](Gpu::spans).
    pub fn watch_work(&self) {
        self.state().streams.watch_work();
    }

    /// The spans of work since the last time, in the order of their ends.
    pub fn spans(&self) -> Vec<Span> {
        self.state().streams.spans()
    }
}
