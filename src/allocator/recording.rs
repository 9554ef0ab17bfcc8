//! The history of events, on all devices.

use super::Allocator;
use crate::core::history::{Event, Recording, Who};
use crate::driver::Stream;
use crate::error::Error;
use crate::sync::{AtomicU32, Mutex, Ordering};

/// The recording on each device.
#[derive(Default)]
pub(super) struct Recorded {
    /// The recording that is in force.
    pub(super) recording: Mutex<Recording>,
    /// 1 while anything is recorded or a caller of a live block is known; 0 otherwise.
    observed: AtomicU32,
}

impl Allocator {
    /// Records the events of each device in another way from now on. Recorded events stay, up to
    /// the new limit, so a limit of 0 forgets all of them. The caller that allocated a live block
    /// is known as long as the block lives.
    pub fn record(&self, recording: Recording) {
        let mut current = self.recorded.recording.lock();
        *current = recording;
        self.devices.heaps().for_each(|heap| heap.lock().record(recording));
        self.look_whether_observed(*current);
    }

    /// Whether events are recorded or a caller of a live block is known. If so, allocations are
    /// followed by [`record_malloc`](Allocator::record_malloc), and blocks are freed by
    /// [`recorded_free`](Allocator::recorded_free).
    #[inline]
    pub fn is_observed(&self) -> bool {
        self.recorded.observed.load(Ordering::Relaxed) != 0
    }

    /// Updates `observed`. The caller makes sure that `recording` does not change during the call.
    fn look_whether_observed(&self, recording: Recording) {
        let observed = recording.most > 0 || self.devices.heaps().any(|heap| !heap.lock().is_unobserved());
        self.recorded.observed.store(u32::from(observed), Ordering::Release);
    }

    /// The recorded events of a device, the oldest first.
    ///
    /// # Errors
    /// As for [`stats`](Allocator::stats).
    pub fn history(&self, device: usize) -> Result<Vec<Event>, Error> {
        Ok(self.devices.in_use(device)?.map_or_else(Vec::new, |heap| heap.history()))
    }

    /// Records the result of a request of `bytes` by the caller `who`.
    pub fn record_malloc(
        &self,
        result: &Result<u64, Error>,
        bytes: usize,
        device: usize,
        stream: Stream,
        who: Option<Who>,
    ) {
        if bytes > 0
            && let Ok(Some(mut heap)) = self.devices.in_use(device)
        {
            heap.record_malloc(result, bytes as u64, stream, who);
        }
    }

    /// [`free`](Allocator::free), recorded before the block can be allocated again.
    ///
    /// # Errors
    /// As for [`free`](Allocator::free).
    pub fn recorded_free(&self, address: u64, stream: Stream, who: Option<Who>) -> Result<(), Error> {
        let last = self.devices.with_owner(address, |heap| {
            heap.recorded_free(address, stream, who)?;
            Ok(heap.is_unobserved())
        })?;
        if last {
            let recording = self.recorded.recording.lock();
            self.look_whether_observed(*recording);
        }
        Ok(())
    }
}
