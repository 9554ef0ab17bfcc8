//! Blocks given back while work on streams besides their own may still use them.

use std::collections::{HashMap, VecDeque};

use super::Heap;
use crate::core::{BlockId, PerTier, StreamId};
use crate::driver::Event;
use crate::error::Error;

/// What a block waits for.
#[derive(Debug)]
enum Wait {
    /// An event behind the work.
    For(Event),
    /// A stream that could not be marked yet: a capture is under way, or the stream is another thread's own. A safe point,
    /// which waits for the whole device, settles it in any case.
    Unmarked(StreamId),
}

#[derive(Debug)]
struct RetiredBlock {
    index: usize,
    id: BlockId,
    stream: StreamId,
    bytes: PerTier<u64>,
    waits: Vec<Wait>,
}

/// The retired blocks of a device, and what is known of blocks in use that will be.
#[derive(Debug, Default)]
pub(super) struct RetiredBlocks {
    uses: HashMap<u64, Vec<StreamId>>,
    queue: VecDeque<RetiredBlock>,
}

impl RetiredBlocks {
    /// How many blocks are retired.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The streams besides its own that use the block at `address`.
    pub(super) fn uses_of(&self, address: u64) -> &[StreamId] {
        self.uses.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Notes that the block at `address` is used on `stream`.
    pub(super) fn add_use(&mut self, address: u64, stream: StreamId) {
        let streams = self.uses.entry(address).or_default();
        if !streams.contains(&stream) {
            streams.push(stream);
        }
    }
}

impl Heap {
    /// Takes back a block that was used on other streams: for reuse on `stream` once their work is done.
    pub(super) fn retire(&mut self, index: usize, id: BlockId, address: u64, stream: StreamId) {
        let core = &mut self.arenas[index].core;
        let bytes = core.residency(id);
        let uses = self.retired.uses.remove(&address).unwrap_or_default();
        core.retire(id);
        let mut waits: Vec<_> = uses.into_iter().filter(|used| *used != stream).map(Wait::Unmarked).collect();
        self.mark_waits(&mut waits);
        self.retired.queue.push_back(RetiredBlock { index, id, stream, bytes, waits });
    }

    /// Puts events behind what could not be marked before. Not while a capture is under way.
    fn mark_waits(&mut self, waits: &mut [Wait]) {
        if self.pools.is_capturing() {
            return;
        }
        for wait in waits {
            if let Wait::Unmarked(stream) = *wait
                && !self.streams.is_capturing(stream)
                && let Ok(event) = self.streams.mark(stream)
            {
                *wait = Wait::For(event);
            }
        }
    }

    /// Frees retired blocks whose work is done, from the first to be retired to the first that still waits, as PyTorch's own allocator
    /// does at each request: one question to the driver where nothing is done. Asks nothing while a capture is under way.
    #[cold]
    pub(super) fn poll_retired(&mut self) {
        while !self.pools.is_capturing()
            && let Some(mut first) = self.retired.queue.pop_front()
        {
            if !self.is_done(&mut first) {
                self.retired.queue.push_front(first);
                return;
            }
            self.release_one(first);
        }
    }

    /// Whether nothing that a retired block waits for is left.
    fn is_done(&mut self, block: &mut RetiredBlock) -> bool {
        self.mark_waits(&mut block.waits);
        let streams = &mut self.streams;
        block.waits.retain(|wait| match wait {
            Wait::For(event) if streams.is_done(*event) => {
                streams.recycle(*event);
                false
            }
            _ => true,
        });
        block.waits.is_empty()
    }

    /// Frees the retired blocks whose work is done; whether there were any. Asks nothing while a capture is under way.
    pub(super) fn reclaim_retired(&mut self) -> bool {
        if self.retired.queue.is_empty() || self.pools.is_capturing() {
            return false;
        }
        let mut any = false;
        for mut block in std::mem::take(&mut self.retired.queue) {
            if self.is_done(&mut block) {
                self.release_one(block);
                any = true;
            } else {
                self.retired.queue.push_back(block);
            }
        }
        any
    }

    /// Frees all retired blocks. Only after the device was waited for.
    pub(super) fn release_retired(&mut self) {
        for block in std::mem::take(&mut self.retired.queue) {
            self.release_one(block);
        }
    }

    fn release_one(&mut self, block: RetiredBlock) {
        for wait in block.waits {
            if let Wait::For(event) = wait {
                self.streams.recycle(event);
            }
        }
        let core = &self.arenas[block.index].core;
        self.stats.release(core.class(), block.bytes, core.requested(block.id));
        self.record_release(block.index, block.id, block.stream);
        self.arenas[block.index].core.release(block.id, block.stream);
    }

    /// Waits until the device has done all its work, and frees what waited for it: the beginning of every safe point.
    ///
    /// # Errors
    /// While a graph is being captured; the driver's.
    pub(super) fn quiesce(&mut self) -> Result<(), Error> {
        if self.pools.is_capturing() {
            return Err(Error::Refused(
                "a CUDA graph is being captured, and memory must not move under it: try again when the capture is over"
                    .into(),
            ));
        }
        self.driver.synchronize(self.device)?;
        self.release_retired();
        self.mend();
        Ok(())
    }
}
