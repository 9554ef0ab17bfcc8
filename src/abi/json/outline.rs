//! The outline of a snapshot whose blocks are C structs: the segments, and what many blocks share.

use std::collections::HashMap;

use serde::Serialize;

use crate::abi::snapshot::GkBlock;
use crate::core::Tier;
use crate::core::history::Who;
use crate::heap::{BlockState, Segment, SegmentBlock};

use super::snapshot::{Callers, SegmentRow, state_name};
use super::stacks::Stacks;
use super::write::text_of;

#[derive(Serialize)]
struct Outline<'a> {
    segments: Vec<OutlineRow>,
    kinds: Vec<Kind>,
    stacks: &'a Stacks<'a>,
}

/// A segment with the number of its blocks, and sums over them.
#[derive(Serialize)]
struct OutlineRow {
    #[serde(flatten)]
    segment: SegmentRow<usize>,
    /// Bytes of live blocks.
    allocated_size: u64,
    /// Bytes of live blocks, and of freed ones that wait for other streams.
    active_size: u64,
    /// The bytes that were requested for live blocks.
    requested_size: u64,
    dedicated_size: u64,
    shared_size: u64,
}

impl OutlineRow {
    fn of(segment: &Segment) -> OutlineRow {
        let sum = |of: fn(&SegmentBlock) -> u64| segment.blocks.iter().map(of).sum();
        OutlineRow {
            segment: SegmentRow::of(segment, segment.blocks.len()),
            allocated_size: sum(|block| if block.state == BlockState::Live { block.size } else { 0 }),
            active_size: sum(|block| if block.state == BlockState::Free { 0 } else { block.size }),
            requested_size: sum(|block| if block.state == BlockState::Live { block.requested } else { 0 }),
            dedicated_size: sum(|block| block.residency[Tier::Dedicated]),
            shared_size: sum(|block| block.residency[Tier::Shared]),
        }
    }
}

/// What many blocks share.
#[derive(Clone, Copy, Serialize, PartialEq, Eq, Hash)]
struct Kind {
    state: &'static str,
    stream: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<usize>,
}

/// The kinds of blocks, numbered in the order of their first blocks.
#[derive(Default)]
struct Kinds {
    numbers: HashMap<Kind, u64>,
    rows: Vec<Kind>,
    /// That of the block before: neighbours are mostly of one kind.
    last: u64,
}

impl Kinds {
    fn number(&mut self, kind: Kind) -> u64 {
        if self.rows.get(self.last as usize) != Some(&kind) {
            self.last = *self.numbers.entry(kind).or_insert_with(|| {
                self.rows.push(kind);
                self.rows.len() as u64 - 1
            });
        }
        self.last
    }
}

/// One object, and the blocks of all segments, one segment after another.
pub(in crate::abi) fn json(segments: &[Segment], callers: &HashMap<u64, Who>) -> (String, Vec<GkBlock>) {
    let callers = Callers::new(segments, callers);
    let mut kinds = Kinds::default();
    let blocks = segments.iter().flat_map(|segment| &segment.blocks).map(|block| {
        let (state, stack) = (state_name(block.state), callers.stack_of(block));
        GkBlock::of(block, kinds.number(Kind { state, stream: block.stream, stack }))
    });
    let blocks = blocks.collect();
    let segments = segments.iter().map(OutlineRow::of).collect();
    (text_of(&Outline { segments, kinds: kinds.rows, stacks: &callers.stacks }), blocks)
}
