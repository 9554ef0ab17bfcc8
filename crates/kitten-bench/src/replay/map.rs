//! The memory map at the busiest moment of a phase.

use anyhow::Result;
use giant_kitten::{Error, MemoryMap, PerTier, Stats};

use super::asked::Asked;
use super::modules::{Module, by_module};
use super::run::replay_watched;
use super::setup::Setup;
use crate::work::Source;
use crate::work::trace::is_step;

/// A memory map at the busiest moment of a phase.
pub struct Busiest {
    /// The phase.
    pub phase: String,
    /// The map.
    pub map: MemoryMap,
    /// The statistics at that moment.
    pub stats: Stats,
    /// The weights by module, where work names them.
    pub modules: Vec<Module>,
}

/// The memory map of a phase at its busiest moment; without a phase, of the busiest step.
///
/// # Errors
/// As for [`replay`](super::replay); a phase that the trace does not have.
pub fn map_at(source: &mut dyn Source, setup: &Setup, phase: Option<&str>) -> Result<Busiest> {
    let mut asked = Asked::new("phase", phase);
    let mut busiest: Option<(u64, String, _, _, _)> = None;
    let wanted = |name: &str| phase.map_or(is_step(name), |phase| phase == name);
    replay_watched(source, setup, &mut |moment, allocator| {
        if moment.begins {
            asked.see(moment.phase);
        }
        // Of equally busy steps the last: the automatic mode knows most by then.
        let busier = |bytes: u64| moment.live_bytes > bytes || (phase.is_none() && moment.live_bytes == bytes);
        if moment.ended.is_none() && wanted(moment.phase) && busiest.as_ref().is_none_or(|(bytes, ..)| busier(*bytes)) {
            let weights: Result<Vec<(&str, PerTier<u64>)>, Error> =
                moment.weights().map(|(name, address)| Ok((name, allocator.residency(address)?))).collect();
            let modules = weights.map(|weights| by_module(weights.into_iter()));
            busiest = Some((moment.live_bytes, moment.phase.to_owned(), allocator.map(0), allocator.stats(0), modules));
        }
    })?;
    match busiest {
        Some((_, phase, map, stats, modules)) => Ok(Busiest { phase, map: map?, stats: stats?, modules: modules? }),
        None => Err(asked.missing("step")),
    }
}
