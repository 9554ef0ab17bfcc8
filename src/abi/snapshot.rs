//! The segments and blocks of a device as JSON, in the words of PyTorch's memory snapshots, with the tiers besides.

use std::fmt::Write;

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
