//! What a step does when: its operations, the copies of its weights, its waits, and what the ring
//! holds.

use anyhow::{Result, anyhow};
use kitten_sim::Span;

use super::asked::Asked;
use super::lending::SlotUse;
use super::run::{Moment, run};
use super::setup::Setup;
use crate::card::Simulated;
use crate::work::Source;

/// A stretch of time, in seconds from the beginning of the step.
pub type Stretch = (f64, f64);

/// A step on the modelled timeline. Seconds and bytes.
#[derive(Clone, Debug, Default)]
pub struct StepTimeline {
    /// The step.
    pub step: String,
    /// When the card computes.
    pub computes: Vec<Stretch>,
    /// When its operations read and write the shared tier in place.
    pub in_place: Vec<Stretch>,
    /// When weights are copied ahead.
    pub copies: Vec<Stretch>,
    /// When its operations wait for copies.
    pub waits: Vec<Stretch>,
    /// What the ring holds from each moment on: copies that are begun and not used up.
    pub held: Vec<(f64, u64)>,
    /// The length of the ring.
    pub ring_bytes: u64,
    /// Bytes that were copied ahead over the link.
    pub copied_bytes: u64,
    /// How long the step takes.
    pub seconds: f64,
}

impl StepTimeline {
    /// Seconds of the stretches of a kind.
    pub fn total(stretches: &[Stretch]) -> f64 {
        stretches.iter().fold(0.0, |sum, (begin, end)| sum + end - begin)
    }

    /// The part of the copies' time in which the card works, or `None` where nothing is copied.
    pub fn hidden(&self) -> Option<f64> {
        let copying = Self::total(&self.copies);
        (copying > 0.0).then(|| (1.0 - Self::total(&self.waits) / copying).max(0.0))
    }
}

/// The timeline of a step, by its name; without a name, of the last one.
///
/// # Errors
/// As for [`replay`](super::replay); a step that the work does not have; work that runs out of
/// memory.
pub fn timeline_of(source: &mut dyn Source, setup: &Setup, step: Option<&str>) -> Result<StepTimeline> {
    let setup = Setup { keeps_time: true, ..setup.clone() };
    let card = Simulated::without_contents(&setup.profile)?;
    card.watch_work();
    let (mut asked, mut found) = (Asked::new("step", step), None);
    let outcome = run(&card, false, source, &setup, &mut |moment: Moment<'_>, allocator| {
        let Some(uses) = moment.ended else { return };
        let spans = card.spans();
        if asked.see(moment.phase) {
            let ring = allocator.stats(0).map_or(0, |stats| stats.staging);
            found = Some(of_step(moment.phase, &spans, uses, ring));
        }
    })?;
    if let Some(oom) = outcome.oom {
        return Err(anyhow!("{oom}"));
    }
    found.ok_or_else(|| asked.missing("step"))
}

fn of_step(step: &str, spans: &[Span], uses: &[SlotUse], ring_bytes: u64) -> StepTimeline {
    let origin = spans.iter().map(|span| span.begin).fold(f64::INFINITY, f64::min);
    let end = spans.iter().map(|span| span.end).fold(0.0, f64::max);
    let at = |time: f64| time - origin;
    let mut line =
        StepTimeline { step: step.into(), ring_bytes, seconds: (end - origin).max(0.0), ..Default::default() };
    let mut free_at = origin;
    for span in spans.iter().filter(|span| span.copies_to.is_none()) {
        let crosses = span.link.unwrap_or(span.end);
        add(&mut line.waits, (at(free_at), at(span.begin)));
        add(&mut line.computes, (at(span.begin), at(crosses)));
        add(&mut line.in_place, (at(crosses), at(span.end)));
        free_at = span.end;
    }
    let copies: Vec<&Span> = spans.iter().filter(|span| span.copies_to.is_some()).collect();
    for copy in &copies {
        add(&mut line.copies, (at(copy.begin), at(copy.end)));
        line.copied_bytes += copy.crosses;
    }
    line.held = held(spans, &copies, uses).into_iter().map(|(time, bytes)| (at(time), bytes)).collect();
    line
}

/// Adds a stretch, or makes the last one longer where it goes on.
fn add(stretches: &mut Vec<Stretch>, (begin, end): Stretch) {
    if end <= begin {
        return;
    }
    match stretches.last_mut() {
        Some(last) if begin <= last.1 => last.1 = last.1.max(end),
        _ => stretches.push((begin, end)),
    }
}

/// What the ring holds from each moment on. A slot is held from the beginning of its copy to the
/// end of the last operation that it was lent for.
fn held(spans: &[Span], copies: &[&Span], uses: &[SlotUse]) -> Vec<(f64, u64)> {
    let operations: Vec<&Span> = spans.iter().filter(|span| span.copies_to.is_none()).collect();
    let mut changes: Vec<(f64, i64)> = Vec::new();
    for used in uses {
        let (Some(first), Some(last)) = (operations.get(used.operations.0), operations.get(used.operations.1 - 1))
        else {
            continue;
        };
        let is_its = |copy: &&&Span| copy.copies_to.is_some_and(|(to, _)| to == used.slot) && copy.end <= first.begin;
        if let Some(copy) = copies.iter().rev().find(is_its) {
            changes.push((copy.begin, used.bytes as i64));
            changes.push((last.end, -(used.bytes as i64)));
        }
    }
    // At one moment what is given back goes first.
    changes.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut bytes = 0i64;
    changes
        .into_iter()
        .map(|(time, change)| {
            bytes += change;
            (time, bytes.max(0) as u64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use giant_kitten::CopyAhead;
    use kitten_sim::Profile;

    use super::*;
    use crate::replay::Policy;
    use crate::work;

    fn timeline(copy_ahead: CopyAhead) -> StepTimeline {
        let profile = Profile { dedicated_bytes: 1326 << 20, ..Profile::builtin("nominal-6g").unwrap() };
        let setup = Setup { copy_ahead, ..Setup::new(profile, Policy::Auto) };
        timeline_of(&mut *work::open(&["sd15_unet_512".into()], 3).unwrap(), &setup, None).unwrap()
    }

    #[test]
    fn every_moment_of_a_step_is_shown() {
        for copy_ahead in [CopyAhead::Auto, CopyAhead::Off] {
            let line = timeline(copy_ahead);
            let works = [&line.computes, &line.in_place, &line.waits].map(|kind| StepTimeline::total(kind));
            assert!((works.iter().sum::<f64>() - line.seconds).abs() < 1e-9, "{works:?} of {}", line.seconds);
            let is_copied = copy_ahead == CopyAhead::Auto;
            assert_eq!(
                (line.copies.is_empty(), line.held.is_empty(), line.ring_bytes == 0),
                (!is_copied, !is_copied, !is_copied)
            );
            let in_place = StepTimeline::total(&line.in_place);
            assert_eq!(in_place > 0.1 * line.seconds, !is_copied, "{in_place}");
            assert!(line.held.iter().all(|(_, bytes)| *bytes <= line.ring_bytes));
            assert_eq!(line.held.last().map_or(0, |last| last.1), 0, "everything is given back");
        }
        let setup = Setup::new(Profile::builtin("nominal-6g").unwrap(), Policy::FirstCome);
        let why =
            timeline_of(&mut *work::open(&["sd15_unet_512".into()], 1).unwrap(), &setup, Some("nine")).unwrap_err();
        assert!(why.to_string().contains("no step \"nine\"; it has"), "{why}");
    }
}
