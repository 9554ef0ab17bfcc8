//! The memory map at the busiest moment of a phase.

use anyhow::{Result, anyhow};
use giant_kitten::{MemoryMap, Stats};

use super::run::replay_watched;
use super::setup::Setup;
use crate::text::plain;
use crate::work::Source;

/// How many phases an error names when the one asked for does not exist.
const MOST_PHASES: usize = 40;

/// The memory map of a phase at its busiest moment, and the statistics at that moment.
///
/// # Errors
/// As for [`replay`](super::replay); a phase that the trace does not have.
pub fn map_at(source: &mut dyn Source, setup: &Setup, phase: &str) -> Result<(MemoryMap, Stats)> {
    let (mut seen, mut more) = (Vec::new(), 0u64);
    let mut busiest: Option<(u64, _, _)> = None;
    replay_watched(source, setup, &mut |moment, allocator| {
        if moment.begins && seen.len() < MOST_PHASES {
            seen.push(moment.phase.to_owned());
        } else if moment.begins {
            more += 1;
        }
        if moment.phase == phase && busiest.as_ref().is_none_or(|(bytes, ..)| moment.live_bytes > *bytes) {
            busiest = Some((moment.live_bytes, allocator.map(0), allocator.stats(0)));
        }
    })?;
    match busiest {
        Some((_, map, stats)) => Ok((map?, stats?)),
        None => {
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Err(anyhow!("the trace has no phase \"{}\"; it has {}{more}", plain(phase), seen.join(", ")))
        }
    }
}
