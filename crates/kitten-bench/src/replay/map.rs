//! The memory map at the busiest moment of a phase.

use anyhow::Result;
use giant_kitten::{Allocator, MemoryMap, Stats};

use super::asked::Asked;
use super::modules::{Module, by_module};
use super::run::{Moment, replay_watched};
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
    let mut busiest: Option<(u64, Result<Busiest>)> = None;
    let wanted = |name: &str| phase.map_or(is_step(name), |phase| phase == name);
    replay_watched(source, setup, &mut |moment, allocator| {
        if moment.begins {
            asked.see(moment.phase);
        }
        // Of equally busy steps the last: the automatic mode knows most by then.
        let busier = |bytes: u64| moment.live_bytes > bytes || (phase.is_none() && moment.live_bytes == bytes);
        if moment.ended.is_none() && wanted(moment.phase) && busiest.as_ref().is_none_or(|(bytes, ..)| busier(*bytes)) {
            busiest = Some((moment.live_bytes, look(moment, allocator)));
        }
    })?;
    match busiest {
        Some((_, found)) => found,
        None => Err(asked.missing("step")),
    }
}

/// What there is to see at a moment.
fn look(moment: Moment<'_>, allocator: &Allocator) -> Result<Busiest> {
    let weights = moment.weights().map(|(name, address)| Ok((name, allocator.residency(address)?)));
    Ok(Busiest {
        phase: moment.phase.to_owned(),
        map: allocator.map(0)?,
        stats: allocator.stats(0)?,
        modules: by_module(weights.collect::<Result<_>>()?),
    })
}
