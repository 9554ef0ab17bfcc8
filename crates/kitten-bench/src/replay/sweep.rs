//! Seconds per step for each reserve of a range.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::cores::on_all_cores;
use super::outcome::{Outcome, Step};
use super::run::replay;
use super::setup::{Policy, Setup};
use crate::work::Source;

/// How far above the best a reserve still counts as good.
pub const PLATEAU: f64 = 1.03;

/// One reserve of a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// The reserve.
    pub reserve_bytes: u64,
    /// Modelled seconds of a step, on average over the last generation; none if the replay did not
    /// get there.
    pub seconds: Option<f64>,
    /// Bytes over the link in a step, likewise.
    pub link_bytes: u64,
    /// Why there are no seconds.
    pub oom: Option<String>,
}

/// A sweep, with its two lines of reference.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// The trace's name.
    pub trace: String,
    /// The profile's name.
    pub profile: String,
    /// First come, first served: seconds per step.
    pub first_come: Option<f64>,
    /// Everything dedicated: compute alone.
    pub limit: Option<f64>,
    /// The reserves, ascending.
    pub points: Vec<Point>,
}

/// The reserves from `from` to `to` in steps of `step`.
///
/// # Errors
/// A step of 0; a range in the wrong order; more than 10 000 points.
pub fn reserves(from: u64, to: u64, step: u64) -> Result<Vec<u64>> {
    ensure!(step > 0, "--step 0 never advances: give a size such as 50MiB");
    ensure!(from <= to, "--from {from} lies beyond --to {to}");
    let last = (to - from) / step;
    ensure!(last < 10_000, "more than {last} reserves are too many: give a larger --step");
    Ok((from..=to).step_by(step as usize).collect())
}

/// The distance between reserves for a range of which none is given: a fortieth, in whole granules.
pub fn step(from: u64, to: u64, granularity: u64) -> u64 {
    to.saturating_sub(from).div_ceil(40).next_multiple_of(granularity).max(granularity)
}

/// Replays work with each reserve, on all cores. `tick` is called after each.
///
/// # Errors
/// As for [`replay`].
pub fn sweep(
    open: impl Fn() -> Result<Box<dyn Source>> + Sync,
    setup: &Setup,
    reserves: &[u64],
    tick: impl Fn() + Sync,
) -> Result<Sweep> {
    let run = |setup: &Setup| replay(&mut *open()?, setup);
    let first = run(&Setup { policy: Policy::FirstCome, ..setup.clone() })?;
    let points = on_all_cores(reserves, |reserve| {
        let setup = Setup { policy: Policy::Reserve, ..setup.clone() };
        let outcome = run(&setup.with_reserve(*reserve))?;
        tick();
        Ok(Point {
            reserve_bytes: *reserve,
            seconds: mean(&outcome, |step| step.seconds),
            link_bytes: mean(&outcome, |step| step.link_bytes as f64).unwrap_or(0.0) as u64,
            oom: outcome.oom,
        })
    });
    Ok(Sweep {
        trace: first.trace.clone(),
        profile: first.profile.clone(),
        first_come: mean(&first, |step| step.seconds),
        limit: mean(&first, |step| step.compute_seconds),
        points: points.into_iter().collect::<Result<_>>()?,
    })
}

/// A figure of a step, on average over the last generation.
fn mean(outcome: &Outcome, figure: impl Fn(&Step) -> f64) -> Option<f64> {
    let steps: Vec<f64> = outcome.generation(outcome.last_step()?.generation).map(figure).collect();
    Some(steps.iter().sum::<f64>() / steps.len() as f64)
}

impl Sweep {
    /// The best point.
    pub fn best(&self) -> Option<&Point> {
        let timed = self.points.iter().filter(|point| point.seconds.is_some());
        timed.min_by(|a, b| a.seconds.unwrap_or(f64::MAX).total_cmp(&b.seconds.unwrap_or(f64::MAX)))
    }

    /// The best point, or why there is none.
    ///
    /// # Errors
    /// Every reserve ran out of memory.
    pub fn need_best(&self) -> Result<&Point> {
        let why = self.points.iter().find_map(|point| point.oom.as_deref()).unwrap_or("the work has no steps");
        self.best().with_context(|| format!("no reserve got through: {why}"))
    }

    /// The smallest and largest reserve around the best whose seconds are within [`PLATEAU`] of it.
    pub fn plateau(&self) -> Option<(u64, u64)> {
        let best = self.best()?;
        let limit = best.seconds? * PLATEAU;
        let at = self.points.iter().position(|point| point.reserve_bytes == best.reserve_bytes)?;
        let good = |point: &&Point| point.seconds.is_some_and(|seconds| seconds <= limit);
        let last = self.points[at..].iter().take_while(good).last()?;
        let first = self.points[..=at].iter().rev().take_while(good).last()?;
        Some((first.reserve_bytes, last.reserve_bytes))
    }

    /// Writes the points as CSV.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_csv(&self, mut to: impl Write) -> Result<()> {
        writeln!(to, "reserve_bytes,seconds,link_bytes,first_come_seconds,limit_seconds")?;
        let text = |seconds: Option<f64>| seconds.map_or(String::new(), |seconds| format!("{seconds:.6}"));
        for point in &self.points {
            let (seconds, first, limit) = (text(point.seconds), text(self.first_come), text(self.limit));
            writeln!(to, "{},{seconds},{},{first},{limit}", point.reserve_bytes, point.link_bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_of(seconds: &[Option<f64>]) -> Sweep {
        let point = |(i, seconds): (usize, &Option<f64>)| Point {
            reserve_bytes: i as u64,
            seconds: *seconds,
            link_bytes: 0,
            oom: None,
        };
        let points = seconds.iter().enumerate().map(point).collect();
        Sweep { trace: "t".into(), profile: "p".into(), first_come: Some(9.0), limit: Some(1.0), points }
    }

    #[test]
    fn the_plateau_lies_around_the_best() {
        let sweep = made_of(&[Some(5.0), Some(2.0), Some(2.05), Some(2.01), Some(3.0), Some(2.0), None]);
        assert_eq!(sweep.best().unwrap().reserve_bytes, 1);
        assert_eq!(sweep.plateau(), Some((1, 3)));
        assert_eq!(made_of(&[None]).plateau(), None);
    }

    #[test]
    fn wrong_ranges_are_rejected() {
        assert_eq!(reserves(0, 10, 5).unwrap(), [0, 5, 10]);
        assert_eq!((step(0, 0, 4), step(5, 165, 4), step(0, 161, 4)), (4, 4, 8));
        assert!(reserves(0, 10, 0).is_err());
        assert!(reserves(10, 0, 1).is_err());
        assert!(reserves(0, u64::MAX, 1).is_err());
    }

    #[test]
    fn csv_begins_with_the_promised_columns() {
        let mut text = Vec::new();
        made_of(&[Some(5.0), None]).write_csv(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("reserve_bytes,seconds"));
        assert!(text.contains("\n0,5.000000,"));
        assert!(text.contains("\n1,,"));
    }
}
