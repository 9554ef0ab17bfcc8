//! The segments and blocks of a device, in the words of PyTorch's memory snapshots, with their
//! tiers.

use std::collections::HashMap;

use serde::Serialize;

use crate::core::history::Who;
use crate::core::{Class, Tier};
use crate::heap::{BlockState, Segment, SegmentBlock};

use super::stacks::Stacks;
use super::write::{Rows, text_of};

#[derive(Serialize)]
struct Snapshot<'a, R: Serialize> {
    segments: R,
    stacks: &'a Stacks<'a>,
}

#[derive(Serialize)]
pub(super) struct SegmentRow<B: Serialize> {
    address: u64,
    total_size: u64,
    segment_type: &'static str,
    /// The stream of the first block that is not free; 0 if all are free.
    stream: u64,
    /// Two zeros for no pool.
    segment_pool_id: (u64, u64),
    blocks: B,
}

impl<B: Serialize> SegmentRow<B> {
    pub(super) fn of(segment: &Segment, blocks: B) -> SegmentRow<B> {
        let used = segment.blocks.iter().find(|block| block.state != BlockState::Free);
        SegmentRow {
            address: segment.address,
            total_size: segment.bytes,
            segment_type: match segment.class {
                Class::Small => "small",
                Class::Large => "large",
            },
            stream: used.map_or(0, |block| block.stream),
            segment_pool_id: segment.pool.map_or((0, 0), |pool| (pool.0, pool.1)),
            blocks,
        }
    }
}

#[derive(Serialize)]
struct BlockRow {
    address: u64,
    size: u64,
    requested_size: u64,
    state: &'static str,
    stream: u64,
    dedicated_size: u64,
    shared_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<usize>,
}

/// The stacks that led to the allocations of blocks, as far as they are known.
pub(super) struct Callers<'a> {
    by_address: &'a HashMap<u64, Who>,
    pub(super) stacks: Stacks<'a>,
}

impl<'a> Callers<'a> {
    pub(super) fn new(segments: &[Segment], by_address: &'a HashMap<u64, Who>) -> Callers<'a> {
        let blocks = segments.iter().flat_map(|segment| &segment.blocks);
        let stacks = Stacks::of(blocks.filter_map(|block| caller(by_address, block)));
        Callers { by_address, stacks }
    }

    fn segment_row<'b>(&'b self, segment: &'b Segment) -> SegmentRow<impl Serialize + 'b> {
        SegmentRow::of(segment, Rows(segment.blocks.iter().map(|block| self.block_row(block))))
    }

    fn block_row(&self, block: &SegmentBlock) -> BlockRow {
        BlockRow {
            address: block.address,
            size: block.size,
            requested_size: block.requested,
            state: state_name(block.state),
            stream: block.stream,
            dedicated_size: block.residency[Tier::Dedicated],
            shared_size: block.residency[Tier::Shared],
            stack: self.stack_of(block),
        }
    }

    /// The number of the stack that led to a block, if it is known.
    pub(super) fn stack_of(&self, block: &SegmentBlock) -> Option<usize> {
        self.stacks.number(caller(self.by_address, block))
    }
}

/// The state of a block in PyTorch's words.
pub(super) fn state_name(state: BlockState) -> &'static str {
    match state {
        BlockState::Live => "active_allocated",
        BlockState::Retired => "active_pending_free",
        BlockState::Free => "inactive",
    }
}

fn caller<'a>(by_address: &'a HashMap<u64, Who>, block: &SegmentBlock) -> Option<&'a Who> {
    if block.state == BlockState::Free { None } else { by_address.get(&block.address) }
}

/// Segments with their blocks, and the stacks that led to the allocations of the blocks.
pub(in crate::abi) fn json(segments: &[Segment], callers: &HashMap<u64, Who>) -> String {
    let callers = Callers::new(segments, callers);
    let rows = Rows(segments.iter().map(|segment| callers.segment_row(segment)));
    text_of(&Snapshot { segments: rows, stacks: &callers.stacks })
}
