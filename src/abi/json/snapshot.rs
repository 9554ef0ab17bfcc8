//! The segments and blocks of a device, and what was recorded, as JSON: in the words of PyTorch's memory snapshots, with the tiers
//! besides.

use std::collections::HashMap;
use std::fmt::Write;

use crate::abi::stacks::Stack;
use crate::core::history::{Action, Event, Who};
use crate::core::{Class, Tier};
use crate::heap::{BlockState, Segment, SegmentBlock};

use super::text::{list, quoted};

/// Stacks, numbered as they are named.
#[derive(Default)]
struct Stacks<'a> {
    numbers: HashMap<*const Stack, usize>,
    named: Vec<&'a Stack>,
}

impl<'a> Stacks<'a> {
    /// `,"stack":NUMBER`; nothing where nobody wanted to know who it was.
    fn name(&mut self, who: Option<&'a Who>) -> String {
        let Some(stack) = who.and_then(|who| who.downcast_ref::<Stack>()) else { return String::new() };
        let number = *self.numbers.entry(stack).or_insert_with(|| {
            self.named.push(stack);
            self.named.len() - 1
        });
        format!(",\"stack\":{number}")
    }

    /// A list of stacks in the order of their numbers, each a list of frames, the innermost first.
    fn json(&self) -> String {
        list(self.named.iter().map(|stack| {
            list(stack.frames.iter().map(|frame| {
                let (filename, name) = (quoted(&frame.code.filename), quoted(&frame.code.name));
                format!("{{\"filename\":{filename},\"line\":{},\"name\":{name}}}", frame.line)
            }))
        }))
    }
}

/// Segments, each with its blocks, and the stacks of those who asked for what lives in them.
pub(in crate::abi) fn json(segments: &[Segment], askers: &HashMap<u64, Who>) -> String {
    let mut stacks = Stacks::default();
    let segments = list(segments.iter().map(|segment| {
        let kind = match segment.class {
            Class::Small => "small",
            Class::Large => "large",
        };
        let (pool_a, pool_b) = segment.pool.map_or((0, 0), |pool| (pool.0, pool.1));
        let used = segment.blocks.iter().find(|block| block.state != BlockState::Free);
        let blocks = list(segment.blocks.iter().map(|block| json_of(block, askers, &mut stacks)));
        format!(
            "{{\"address\":{},\"total_size\":{},\"segment_type\":\"{kind}\",\"stream\":{},\
             \"segment_pool_id\":[{pool_a},{pool_b}],\"blocks\":{blocks}}}",
            segment.address,
            segment.bytes,
            used.map_or(0, |block| block.stream)
        )
    }));
    format!("{{\"segments\":{segments},\"stacks\":{}}}", stacks.json())
}

fn json_of<'a>(block: &SegmentBlock, askers: &'a HashMap<u64, Who>, stacks: &mut Stacks<'a>) -> String {
    let (state, asker) = match block.state {
        BlockState::Live => ("active_allocated", askers.get(&block.address)),
        BlockState::Retired => ("active_pending_free", askers.get(&block.address)),
        BlockState::Free => ("inactive", None),
    };
    format!(
        "{{\"address\":{},\"size\":{},\"requested_size\":{},\"state\":\"{state}\",\"stream\":{},\
         \"dedicated_size\":{},\"shared_size\":{}{}}}",
        block.address,
        block.size,
        block.requested,
        block.stream,
        block.residency[Tier::Dedicated],
        block.residency[Tier::Shared],
        stacks.name(asker)
    )
}

/// Events, the oldest first, and the stacks of those who did it.
pub(in crate::abi) fn history(events: &[Event]) -> String {
    let (mut stacks, mut text) = (Stacks::default(), String::from("{\"events\":["));
    for (number, event) in events.iter().enumerate() {
        let separator = if number == 0 { "" } else { "," };
        let (action, place) = match event.action {
            Action::Alloc => ("alloc", "addr"),
            Action::FreeRequested => ("free_requested", "addr"),
            Action::FreeCompleted => ("free_completed", "addr"),
            Action::SegmentMap => ("segment_map", "addr"),
            Action::SegmentUnmap => ("segment_unmap", "addr"),
            Action::OutOfMemory => ("oom", "device_free"),
        };
        let (stack, (pool_a, pool_b)) = (stacks.name(event.who.as_ref()), event.pool);
        let _ = write!(
            text,
            "{separator}{{\"action\":\"{action}\",\"{place}\":{},\"size\":{},\"stream\":{},\"time_us\":{},\
             \"pool_id\":[{pool_a},{pool_b}]{stack}}}",
            event.address, event.bytes, event.stream, event.time_us
        );
    }
    let _ = write!(text, "],\"stacks\":{}}}", stacks.json());
    text
}
