//! Work on the device: waiting for it, and seeing whether it goes on.

use std::collections::HashSet;

use super::Heap;
use super::memory::HOME;
use super::retired::RetiredBlock;
use crate::core::{StreamId, ThreadId};
use crate::driver::Stream;
use crate::error::Error;
use crate::sync::this_thread;

impl Heap {
    /// The number of a stream. O(1) for one that is known.
    #[inline]
    pub(super) fn stream_number(&mut self, stream: Stream) -> Result<StreamId, Error> {
        match self.streams.known(stream) {
            Some(known) => Ok(known),
            None => self.add_stream(stream),
        }
    }

    /// Numbers a new stream. Where many are known, those that nothing belongs to are forgotten
    /// first: streams come and go, above all those of threads, and each costs memory and time.
    #[cold]
    pub(super) fn add_stream(&mut self, stream: Stream) -> Result<StreamId, Error> {
        if self.streams.is_crowded() {
            self.forget_streams();
        }
        self.streams.add(stream)
    }

    /// Strips idle backing, which serves every stream from then on, and forgets the streams that no
    /// block belongs to or was used on. Waits for the device; does nothing while that is
    /// impossible.
    fn forget_streams(&mut self) {
        if self.quiesce().is_err() {
            return self.streams.expect_more();
        }
        self.strip();
        for id in self.memory.arenas.ids() {
            // Free space in a pool stays its streams': a capture finds it by them.
            if !self.memory.arenas.is_pools(id) {
                self.memory.arenas[id].core.set_tiers([], HOME);
            }
        }
        let used: HashSet<StreamId> =
            self.pools.streams().chain(self.retired.streams()).chain(self.memory.arenas.streams()).collect();
        self.streams.forget(|id| used.contains(&id));
        self.ahead.forget_borrowers();
        self.memory.arenas.forget_lent(u32::MAX);
    }

    /// Whether a graph is being captured on this device, as far as is known.
    pub(super) fn is_capturing(&mut self) -> bool {
        self.pools.is_capturing(&self.streams)
    }

    /// Waits until the device has done all its work, and releases the blocks that waited for it.
    /// Free space is touched by nobody then: whoever launches work meanwhile has only live blocks.
    ///
    /// # Errors
    /// While a graph is being captured; the driver's.
    pub(super) fn quiesce(&mut self) -> Result<(), Error> {
        if self.is_capturing() {
            return Err(self.pools.capture_in_the_way(self.memory.device(), &self.streams));
        }
        self.memory.synchronize()?;
        self.release_retired();
        self.ahead.work_is_done();
        self.memory.backing.mend();
        Ok(())
    }

    /// Releases the retired blocks whose work is done, as PyTorch's own allocator does at each
    /// request. Returns whether there were any. Asks nothing while a capture is under way.
    #[cold]
    pub(super) fn reclaim_retired(&mut self) -> bool {
        if self.is_capturing() {
            return false;
        }
        self.retired.mark(&mut self.streams);
        if self.retired.is_stuck() {
            return self.quiesce().is_ok();
        }
        let done = self.retired.take_done(&mut self.streams);
        let any = !done.is_empty();
        done.into_iter().for_each(|block| self.release(block));
        any
    }

    /// Releases all retired blocks. Only after the device was waited for.
    pub(super) fn release_retired(&mut self) {
        let all = self.retired.take_all(&mut self.streams);
        all.into_iter().for_each(|block| self.release(block));
    }

    fn release(&mut self, retired: RetiredBlock) {
        let RetiredBlock { place: (arena, block), stream, bytes } = retired;
        let core = &self.memory.arenas[arena].core;
        self.layout.freed(core.owner(block).1.request);
        self.stats.release(core.class(), bytes, core.requested(block));
        self.record_release((arena, block), stream);
        self.memory.arenas[arena].core.release(block, stream);
    }

    /// What is seen of work that goes on beside a safe point, in words; `None` where nothing is.
    /// Waits for the device.
    pub(super) fn unquiet(&mut self) -> Option<String> {
        if self.is_capturing() {
            return Some("a CUDA graph is being captured".into());
        }
        if self.witness.others(this_thread()) {
            return Some("another thread has used the card since the last safe point".into());
        }
        match self.quiesce() {
            Err(why) => Some(why.to_string()),
            Ok(()) => self.streams.is_any_busy().then(|| "the device is at work again".into()),
        }
    }

    /// Whether a thread other than the calling one is inside a piece of work.
    pub fn is_other_at_work(&self) -> bool {
        self.witness.others_at_work(this_thread())
    }

    /// Notes, in words, what an action cannot be sure of: it waits for all work that was launched,
    /// and a thread that was seen may launch more meanwhile.
    pub(super) fn note_threads(&mut self) {
        let seen = self.witness.others(this_thread()).then_some(
            "the last action has waited for the work launched before it, and relies on the caller that the other \
             threads, which have used the card since the last safe point, launched none during it",
        );
        if let Some(words) = seen {
            log::info!("device {}: {words}", self.memory.device());
        }
        self.automatic.set_remark(seen.map(String::from));
    }

    /// Begins a piece of work of a thread, which may launch without allocating: no other thread's
    /// safe point moves anything before it ends.
    pub fn begin_work(&mut self, thread: ThreadId) {
        self.witness.begin_work(thread);
    }

    /// Ends the piece of work that a thread began last.
    pub fn end_work(&mut self, thread: ThreadId) {
        self.witness.end_work(thread);
    }

    /// Reports that the calling thread is at rest: it launches nothing before it allocates, frees
    /// or begins a piece of work again.
    pub fn rest(&mut self) {
        self.witness.rest(this_thread());
    }

    /// Takes the caller's word that all other threads are at rest, except those inside a piece of
    /// work.
    pub fn vouch(&mut self) {
        self.witness.vouch(this_thread());
    }
}
