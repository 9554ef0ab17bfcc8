//! Where the large blocks of a step lie, and when.

use std::collections::HashMap;

use anyhow::{Result, anyhow};
use giant_kitten::Allocator;
use giant_kitten::history::{Action, History, Recording};

use super::asked::Asked;
use super::run::{Moment, replay_watched};
use super::setup::Setup;
use crate::work::Source;

/// A block: where it lies, and from which call of the step to which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Laid {
    /// Its offset in the arena.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// The call that allocates it; 0 where it lives when the step begins.
    pub from: u64,
    /// The call that frees it; that of the step's end where none does.
    pub to: u64,
}

/// The large blocks of one step, in the arena that has most of them. Sizes are in bytes.
#[derive(Clone, Debug, Default)]
pub struct StepLayout {
    /// The step.
    pub step: String,
    /// The blocks.
    pub blocks: Vec<Laid>,
    /// How many calls allocate or free in the step.
    pub calls: u64,
    /// The most bytes of blocks that live at once.
    pub live_bytes: u64,
    /// Bytes of the arena that are backed at the step's end.
    pub backed_bytes: u64,
}

/// What lives when a step begins: where each block lies, by its address, and how long it is.
type Residents = HashMap<u64, u64>;

/// The layout of a step, by its name; without a name, of the last one.
///
/// # Errors
/// As for [`replay`](super::replay); a step that the work does not have; work that runs out of
/// memory.
pub fn layout_of(source: &mut dyn Source, setup: &Setup, step: Option<&str>) -> Result<StepLayout> {
    let (mut asked, mut found) = (Asked::new("step", step), None);
    let mut residents = Residents::new();
    let outcome = replay_watched(source, setup, &mut |moment: Moment<'_>, allocator| {
        if moment.begins {
            residents = begin(allocator);
        }
        if moment.ended.is_none() {
            return;
        }
        if asked.see(moment.phase) {
            found = of_step(moment.phase, allocator, &residents);
        }
    })?;
    if let Some(oom) = outcome.oom {
        return Err(anyhow!("{oom}"));
    }
    found.ok_or_else(|| asked.missing("step with large blocks"))
}

/// Begins to record a step.
fn begin(allocator: &Allocator) -> Residents {
    allocator.record(Recording::default());
    allocator.record(Recording { most: History::MOST, ..Recording::default() });
    let segments = allocator.segments(0).unwrap_or_default();
    let blocks = segments.iter().flat_map(|segment| &segment.blocks).filter(|block| block.requested > 0);
    blocks.map(|block| (block.address, block.size)).collect()
}

/// The large arena that has most blocks of the step, with these.
fn of_step(step: &str, allocator: &Allocator, residents: &Residents) -> Option<StepLayout> {
    let map = allocator.map(0).ok()?;
    let events = allocator.history(0).ok()?;
    let arenas = map.arenas.iter().filter(|arena| arena.class == "large");
    let layouts = arenas.map(|arena| {
        let backed = arena.granules.iter().filter(|granule| granule.tier.is_some()).count() as u64;
        let end = arena.base + arena.granules.len() as u64 * map.granule;
        let is_here = |address: u64| (arena.base..end).contains(&address);
        let mut layout = StepLayout { step: step.into(), backed_bytes: backed * map.granule, ..StepLayout::default() };
        let mut live: HashMap<u64, (u64, u64)> =
            residents.iter().filter(|(at, _)| is_here(**at)).map(|(at, bytes)| (*at, (*bytes, 0))).collect();
        let mut bytes: u64 = live.values().map(|(bytes, _)| bytes).sum();
        layout.live_bytes = bytes;
        let put = |layout: &mut StepLayout, at: u64, (bytes, from): (u64, u64)| {
            layout.blocks.push(Laid { offset: at - arena.base, bytes, from, to: layout.calls });
        };
        for event in events.iter().filter(|event| is_here(event.address)) {
            match event.action {
                Action::Alloc => {
                    layout.calls += 1;
                    live.insert(event.address, (event.bytes, layout.calls));
                    bytes += event.bytes;
                    layout.live_bytes = layout.live_bytes.max(bytes);
                }
                Action::FreeRequested => {
                    layout.calls += 1;
                    if let Some(block) = live.remove(&event.address) {
                        bytes -= block.0;
                        put(&mut layout, event.address, block);
                    }
                }
                _ => {}
            }
        }
        layout.calls += 1;
        live.into_iter().for_each(|(at, block)| put(&mut layout, at, block));
        layout.blocks.sort_by_key(|block| (block.from, block.offset));
        layout
    });
    layouts.max_by_key(|layout| layout.calls)
}

#[cfg(test)]
mod tests {
    use giant_kitten::Layout;
    use kitten_sim::Profile;

    use super::*;
    use crate::replay::Policy;
    use crate::work;

    #[test]
    fn no_two_blocks_of_a_step_lie_in_one_place_at_one_time() {
        let profile = Profile { dedicated_bytes: 64 << 30, ..Profile::builtin("nominal-6g").unwrap() };
        for layout in [Layout::Fit, Layout::Learned] {
            let setup = Setup { layout, ..Setup::new(profile.clone(), Policy::FirstCome) };
            let laid = layout_of(&mut *work::open(&["sd15_unet_1024".into()], 2).unwrap(), &setup, None).unwrap();
            assert!(laid.live_bytes <= laid.backed_bytes, "{} in {}", laid.live_bytes, laid.backed_bytes);
            assert!(laid.blocks.iter().any(|block| block.from > 0 && block.to < laid.calls), "{layout:?}");
            for (at, one) in laid.blocks.iter().enumerate() {
                let meets = |other: &&Laid| {
                    let in_time = one.from < other.to && other.from < one.to;
                    in_time && one.offset < other.offset + other.bytes && other.offset < one.offset + one.bytes
                };
                assert_eq!(laid.blocks[..at].iter().find(meets), None, "{one:?}");
            }
        }
        let setup = Setup::new(profile, Policy::FirstCome);
        let mut work = work::open(&["sd15_unet_512".into()], 1).unwrap();
        let why = layout_of(&mut *work, &setup, Some("nine")).unwrap_err();
        assert!(why.to_string().contains("no step \"nine\"; it has"), "{why}");
    }
}
