//! The segments and blocks of a device as JSON, in the words of PyTorch's memory snapshots, with the tiers besides.

use std::fmt::Write;

use crate::core::history::{Action, Event};
use crate::core::{Class, Tier};
use crate::heap::{BlockState, Segment};

/// A list of segments, each with its blocks.
pub(super) fn json(segments: &[Segment]) -> String {
    let mut text = String::from("[");
    for (number, segment) in segments.iter().enumerate() {
        let separator = if number == 0 { "" } else { "," };
        let kind = match segment.class {
            Class::Small => "small",
            Class::Large => "large",
        };
        let (pool_a, pool_b) = segment.pool.map_or((0, 0), |pool| (pool.0, pool.1));
        let stream =
            segment.blocks.iter().find(|block| block.state != BlockState::Free).map_or(0, |block| block.stream);
        let _ = write!(
            text,
            "{separator}{{\"address\":{},\"total_size\":{},\"segment_type\":\"{kind}\",\"stream\":{stream},\
             \"segment_pool_id\":[{pool_a},{pool_b}],\"blocks\":[",
            segment.address, segment.bytes
        );
        for (number, block) in segment.blocks.iter().enumerate() {
            let separator = if number == 0 { "" } else { "," };
            let state = match block.state {
                BlockState::Live => "active_allocated",
                BlockState::Retired => "active_pending_free",
                BlockState::Free => "inactive",
            };
            let _ = write!(
                text,
                "{separator}{{\"address\":{},\"size\":{},\"requested_size\":{},\"state\":\"{state}\",\"stream\":{},\
                 \"dedicated_size\":{},\"shared_size\":{}}}",
                block.address,
                block.size,
                block.requested,
                block.stream,
                block.residency[Tier::Dedicated],
                block.residency[Tier::Shared]
            );
        }
        text.push_str("]}");
    }
    text.push(']');
    text
}

/// A list of events, the oldest first. `stack` is the number that whoever asked has given.
pub(super) fn history(events: &[Event]) -> String {
    let mut text = String::from("[");
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
        let _ = write!(
            text,
            "{separator}{{\"action\":\"{action}\",\"{place}\":{},\"size\":{},\"stream\":{},\"time_us\":{},\"stack\":{}}}",
            event.address, event.bytes, event.stream, event.time_us, event.stack
        );
    }
    text.push(']');
    text
}
