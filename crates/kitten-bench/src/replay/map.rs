//! The memory map at the busiest moment of a phase.

use anyhow::{Result, anyhow};
use giant_kitten::{MemoryMap, Stats};

use super::run::replay_watched;
use super::setup::Setup;
use crate::text::plain;
use crate::work::Source;
use crate::work::trace::is_step;

/// How many phases an error names when the one asked for does not exist.
const MOST_PHASES: usize = 40;

/// A memory map at the busiest moment of a phase.
pub struct Busiest {
    /// The phase.
    pub phase: String,
    /// The map.
    pub map: MemoryMap,
    /// The statistics at that moment.
    pub stats: Stats,
}

/// The memory map of a phase at its busiest moment; without a phase, of the busiest step.
///
/// # Errors
/// As for [`replay`](super::replay); a phase that the trace does not have.
pub fn map_at(source: &mut dyn Source, setup: &Setup, phase: Option<&str>) -> Result<Busiest> {
    let (mut seen, mut more) = (Vec::new(), 0u64);
    let mut busiest: Option<(u64, String, _, _)> = None;
    let wanted = |name: &str| phase.map_or(is_step(name), |phase| phase == name);
    replay_watched(source, setup, &mut |moment, allocator| {
        if moment.begins && seen.len() < MOST_PHASES {
            seen.push(moment.phase.to_owned());
        } else if moment.begins {
            more += 1;
        }
        // Of equally busy steps the last: the automatic mode knows most by then.
        let busier = |bytes: u64| moment.live_bytes > bytes || (phase.is_none() && moment.live_bytes == bytes);
        if moment.ended.is_none() && wanted(moment.phase) && busiest.as_ref().is_none_or(|(bytes, ..)| busier(*bytes)) {
            busiest = Some((moment.live_bytes, moment.phase.to_owned(), allocator.map(0), allocator.stats(0)));
        }
    })?;
    match busiest {
        Some((_, phase, map, stats)) => Ok(Busiest { phase, map: map?, stats: stats? }),
        None => {
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let asked = phase.map_or("no step".to_owned(), |phase| format!("no phase \"{}\"", plain(phase)));
            Err(anyhow!("the trace has {asked}; it has {}{more}", seen.join(", ")))
        }
    }
}
