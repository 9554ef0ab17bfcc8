//! Blocks given back while work on streams besides their own may still use them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::Heap;
use crate::core::{BlockId, PerTier, StreamId};
use crate::driver::{self, Event};
use crate::error::Error;

#[derive(Debug)]
struct RetiredBlock {
    index: usize,
    id: BlockId,
    stream: StreamId,
    bytes: PerTier<u64>,
    /// How many streams it waits for.
    waits: usize,
}

/// The retired blocks of a device, and what is known of blocks in use that will be.
#[derive(Debug, Default)]
pub(super) struct RetiredBlocks {
    uses: HashMap<u64, Vec<StreamId>>,
    /// By the order in which they were retired.
    blocks: BTreeMap<u64, RetiredBlock>,
    /// How many ever were.
    count: u64,
    /// Of each stream the events behind the work that a block waits for, in their order: the first to be done is the first.
    queues: Vec<(StreamId, VecDeque<(Event, u64)>)>,
    /// Waits for streams that could not be marked yet: a capture is under way, or the stream is gone, or it is another
    /// thread's own. Whoever waits for the whole device settles them in any case.
    unmarked: Vec<(StreamId, u64)>,
    /// How many of these waits can never be marked, since their stream is gone or is another thread's own.
    unmarkable: usize,
}

/// So many waits that can never be marked are put up with before the device is waited for.
const MOST_UNMARKABLE: usize = 4;

impl RetiredBlocks {
    /// How many blocks are retired.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The streams besides its own that use the block at `address`.
    pub(super) fn uses_of(&self, address: u64) -> &[StreamId] {
        self.uses.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The streams that blocks in use are known to be used on.
    pub(super) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.uses.values().flatten().copied()
    }

    /// Notes that the block at `address` is used on `stream`.
    pub(super) fn add_use(&mut self, address: u64, stream: StreamId) {
        let streams = self.uses.entry(address).or_default();
        if !streams.contains(&stream) {
            streams.push(stream);
        }
    }

    /// Puts an event behind those of its stream.
    fn push(&mut self, stream: StreamId, event: Event, block: u64) {
        match self.queues.iter_mut().find(|(known, _)| *known == stream) {
            Some((_, queue)) => queue.push_back((event, block)),
            None => self.queues.push((stream, VecDeque::from([(event, block)]))),
        }
    }

    /// One thing less that a block waits for; the block, if it was the last.
    fn settle(&mut self, number: u64) -> Option<RetiredBlock> {
        let block = self.blocks.get_mut(&number)?;
        block.waits -= 1;
        if block.waits == 0 { self.blocks.remove(&number) } else { None }
    }
}

impl Heap {
    /// Takes back a block that was used on other streams: for reuse on `stream` once their work is done.
    pub(super) fn retire(&mut self, index: usize, id: BlockId, address: u64, stream: StreamId) {
        let mut uses = self.retired.uses.remove(&address).unwrap_or_default();
        uses.retain(|used| *used != stream);
        let core = &mut self.arenas[index].core;
        let (bytes, class, requested) = (core.residency(id), core.class(), core.requested(id));
        if uses.is_empty() {
            // Freed on the one other stream that used it: what reuses it there comes after.
            self.stats.release(class, bytes, requested);
            core.release(id, stream);
            return;
        }
        core.retire(id);
        let number = self.retired.count;
        self.retired.count += 1;
        self.retired.blocks.insert(number, RetiredBlock { index, id, stream, bytes, waits: uses.len() });
        self.retired.unmarked.extend(uses.into_iter().map(|used| (used, number)));
        self.mark_waits();
    }

    /// Puts events behind what could not be marked before. Not while a capture is under way.
    fn mark_waits(&mut self) {
        if self.retired.unmarked.is_empty() || self.is_capturing() {
            return;
        }
        self.retired.unmarkable = 0;
        for (stream, block) in std::mem::take(&mut self.retired.unmarked) {
            let marked = match self.streams.is_captured(stream) {
                Some(true) => None,
                Some(false) | None => Some(self.streams.mark(stream)),
            };
            match marked {
                Some(Ok(event)) => self.retired.push(stream, event, block),
                Some(Err(why)) => {
                    self.retired.unmarkable += usize::from(why.code == driver::INVALID_HANDLE);
                    self.retired.unmarked.push((stream, block));
                }
                None => self.retired.unmarked.push((stream, block)),
            }
        }
    }

    /// Frees the retired blocks whose work is done, as PyTorch's own allocator does at each request; whether there were any. One
    /// question to the driver for each stream that is waited for, and one more for each thing that is done. Asks nothing while a
    /// capture is under way.
    #[cold]
    pub(super) fn reclaim_retired(&mut self) -> bool {
        if self.is_capturing() {
            return false;
        }
        self.mark_waits();
        if self.retired.unmarkable >= MOST_UNMARKABLE {
            return self.quiesce().is_ok();
        }
        let mut any = false;
        for queue in 0..self.retired.queues.len() {
            while let Some((event, block)) = self.retired.queues[queue].1.front().copied()
                && self.streams.is_done(event)
            {
                self.retired.queues[queue].1.pop_front();
                self.streams.recycle(event);
                if let Some(block) = self.retired.settle(block) {
                    self.release_one(block);
                    any = true;
                }
            }
        }
        any
    }

    /// Frees all retired blocks. Only after the device was waited for.
    pub(super) fn release_retired(&mut self) {
        self.retired.unmarked.clear();
        self.retired.unmarkable = 0;
        for (event, _) in self.retired.queues.drain(..).flat_map(|(_, queue)| queue) {
            self.streams.recycle(event);
        }
        for block in std::mem::take(&mut self.retired.blocks).into_values() {
            self.release_one(block);
        }
    }

    fn release_one(&mut self, block: RetiredBlock) {
        let core = &self.arenas[block.index].core;
        self.stats.release(core.class(), block.bytes, core.requested(block.id));
        self.record_release(block.index, block.id, block.stream);
        self.arenas[block.index].core.release(block.id, block.stream);
    }

    /// Waits until the device has done all its work, and frees what waited for it. Whatever is free then is touched by
    /// nobody: who launches work beside this has live blocks alone.
    ///
    /// # Errors
    /// While a graph is being captured; the driver's.
    pub(super) fn quiesce(&mut self) -> Result<(), Error> {
        if self.is_capturing() {
            return Err(self.capture_in_the_way());
        }
        self.driver.synchronize(self.device)?;
        self.release_retired();
        self.mend();
        Ok(())
    }
}
