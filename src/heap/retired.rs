//! Retired blocks: freed while work on other streams may still use them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::memory::Place;
use super::streams::{Mark, Streams};
use crate::core::{PerTier, StreamId};
use crate::driver::Event;

/// A block that waits for work on other streams before it can be reused.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetiredBlock {
    pub(super) place: Place,
    /// The stream that may reuse it.
    pub(super) stream: StreamId,
    /// Its bytes in each tier.
    pub(super) bytes: PerTier<u64>,
}

/// A retired block, and how many streams it still waits for.
#[derive(Debug)]
struct Waiting {
    block: RetiredBlock,
    waits: usize,
}

/// The number of a retired block, in the order in which blocks were retired.
type Number = u64;

/// The retired blocks of a device, and the streams that use blocks which will be retired.
#[derive(Debug, Default)]
pub(super) struct Retired {
    /// The streams that use a block besides its own, by its address.
    uses: HashMap<u64, Vec<StreamId>>,
    blocks: BTreeMap<Number, Waiting>,
    /// Total number of blocks ever retired; the next number.
    count: Number,
    /// For each stream, the events behind the work that a block waits for, oldest first.
    queues: Vec<(StreamId, VecDeque<(Event, Number)>)>,
    /// Waits that have no event yet: a capture is under way, or the stream is another thread's own.
    /// Waiting for the whole device settles them in any case.
    unmarked: Vec<(StreamId, Number)>,
    /// How many of these are for another thread's own stream.
    unnamed: usize,
    /// How many waits are for streams that the driver has called destroyed. Nobody asks about them
    /// again; waiting for the whole device settles them.
    lost: usize,
}

/// How many waits without any hope of an event are tolerated before the device is waited for.
const MOST_UNMARKABLE: usize = 4;

impl Retired {
    /// How many blocks are retired.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether so many waits can never get an event that the device should be waited for instead.
    pub(super) fn is_stuck(&self) -> bool {
        self.unnamed + self.lost >= MOST_UNMARKABLE
    }

    /// The streams besides its own that use the block at `address`.
    pub(super) fn uses_of(&self, address: u64) -> &[StreamId] {
        self.uses.get(&address).map_or(&[], Vec::as_slice)
    }

    /// The streams that any block is used on besides its own.
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

    /// Takes the streams that a block is used on besides `own`: it is freed.
    pub(super) fn take_uses(&mut self, address: u64, own: StreamId) -> Vec<StreamId> {
        let mut uses = self.uses.remove(&address).unwrap_or_default();
        uses.retain(|used| *used != own);
        uses
    }

    /// Retires a block that waits for `uses`.
    pub(super) fn push(&mut self, block: RetiredBlock, uses: Vec<StreamId>) {
        let number = self.count;
        self.count += 1;
        self.blocks.insert(number, Waiting { block, waits: uses.len() });
        self.unmarked.extend(uses.into_iter().map(|used| (used, number)));
    }

    /// Records events for the waits that have none yet. Not while a capture is under way.
    pub(super) fn mark(&mut self, streams: &mut Streams) {
        if self.unmarked.is_empty() {
            return;
        }
        self.unnamed = 0;
        for (stream, number) in std::mem::take(&mut self.unmarked) {
            match streams.mark(stream) {
                Mark::Event(event) => self.enqueue(stream, event, number),
                Mark::Lost => self.lost += 1,
                Mark::Unnamed => {
                    self.unnamed += 1;
                    self.unmarked.push((stream, number));
                }
                Mark::Later => self.unmarked.push((stream, number)),
            }
        }
    }

    fn enqueue(&mut self, stream: StreamId, event: Event, number: Number) {
        match self.queues.iter_mut().find(|(known, _)| *known == stream) {
            Some((_, queue)) => queue.push_back((event, number)),
            None => self.queues.push((stream, VecDeque::from([(event, number)]))),
        }
    }

    /// Takes the blocks whose work is done. One question to the driver for each stream that is
    /// waited for, and one more for each event that is done. Not while a capture is under way.
    pub(super) fn take_done(&mut self, streams: &mut Streams) -> Vec<RetiredBlock> {
        let mut done = Vec::new();
        for (_, queue) in &mut self.queues {
            while let Some((event, number)) = queue.front().copied()
                && streams.is_done(event)
            {
                queue.pop_front();
                streams.recycle(event);
                done.extend(settle(&mut self.blocks, number));
            }
        }
        done
    }

    /// Takes all retired blocks. Only after the device was waited for.
    pub(super) fn take_all(&mut self, streams: &mut Streams) -> Vec<RetiredBlock> {
        self.unmarked.clear();
        (self.unnamed, self.lost) = (0, 0);
        for (event, _) in self.queues.drain(..).flat_map(|(_, queue)| queue) {
            streams.recycle(event);
        }
        std::mem::take(&mut self.blocks).into_values().map(|waiting| waiting.block).collect()
    }
}

/// Settles one wait of a block. Returns the block, if it was the last.
fn settle(blocks: &mut BTreeMap<Number, Waiting>, number: Number) -> Option<RetiredBlock> {
    let waiting = blocks.get_mut(&number)?;
    waiting.waits -= 1;
    if waiting.waits > 0 {
        return None;
    }
    blocks.remove(&number).map(|waiting| waiting.block)
}
