//! The recorded events of a device, in the words of PyTorch's memory snapshots.

use serde::Serialize;

use crate::core::history::{Action, Event};

use super::stacks::Stacks;
use super::write::{Rows, text_of};

#[derive(Serialize)]
struct History<'a, R: Serialize> {
    events: R,
    stacks: &'a Stacks<'a>,
}

#[derive(Serialize)]
struct EventRow {
    action: &'static str,
    #[serde(flatten)]
    place: Place,
    size: u64,
    stream: u64,
    time_us: u64,
    /// Two zeros for no pool.
    pool_id: (u64, u64),
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<usize>,
}

/// The address of an event. An out-of-memory has a number of free bytes in its place.
#[derive(Serialize)]
enum Place {
    #[serde(rename = "addr")]
    Address(u64),
    #[serde(rename = "device_free")]
    Free(u64),
}

impl EventRow {
    fn of(event: &Event, stacks: &Stacks) -> EventRow {
        let (action, place) = match event.action {
            Action::Alloc => ("alloc", Place::Address(event.address)),
            Action::FreeRequested => ("free_requested", Place::Address(event.address)),
            Action::FreeCompleted => ("free_completed", Place::Address(event.address)),
            Action::SegmentMap => ("segment_map", Place::Address(event.address)),
            Action::SegmentUnmap => ("segment_unmap", Place::Address(event.address)),
            Action::OutOfMemory => ("oom", Place::Free(event.address)),
        };
        EventRow {
            action,
            place,
            size: event.bytes,
            stream: event.stream,
            time_us: event.time_us,
            pool_id: event.pool,
            stack: stacks.number(event.who.as_ref()),
        }
    }
}

/// Events, the oldest first, and the stacks that led to them.
pub(in crate::abi) fn json(events: &[Event]) -> String {
    let stacks = Stacks::of(events.iter().filter_map(|event| event.who.as_ref()));
    let rows = Rows(events.iter().map(|event| EventRow::of(event, &stacks)));
    text_of(&History { events: rows, stacks: &stacks })
}
