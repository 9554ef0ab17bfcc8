//! Work planned on several cards, and the smallest card that will do.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use giant_kitten::show_size;
use serde::Serialize;

use super::cores::on_all_cores;
use super::otherwise::{Alternative, Way};
use super::plan::{Fits, Plan, plan};
use super::setup::Setup;
use crate::text;
use crate::work::Source;

/// How far above the seconds with everything dedicated a card still counts as large enough.
pub const LARGE_ENOUGH: f64 = 1.05;

/// Plans of the same work on several cards.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// The plans, in the order of the cards.
    pub plans: Vec<Plan>,
    /// The cards on which the replay failed, and why.
    pub failed: Vec<Failed>,
    /// The cards with the least dedicated memory that is large enough.
    pub smallest: Vec<String>,
}

/// A card without a plan.
#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    /// The card.
    pub card: String,
    /// Why the replay failed.
    pub why: String,
}

/// Plans work on each card, on all cores. `open` opens a number of generations of it; `tick` is
/// called after each card.
///
/// # Errors
/// As for [`plan`], if it fails on every card.
pub fn choose(
    open: impl Fn(u64) -> Result<Box<dyn Source>> + Sync,
    setups: &[Setup],
    traffic_only: bool,
    tick: impl Fn() + Sync,
) -> Result<Choice> {
    let planned = on_all_cores(setups, |setup| {
        let planned = plan(&open, setup, traffic_only);
        tick();
        planned
    });
    let (mut plans, mut failed) = (Vec::new(), Vec::new());
    for (setup, planned) in setups.iter().zip(planned) {
        match planned {
            Ok(plan) => plans.push(plan),
            Err(why) if failed.len() + 1 == setups.len() => return Err(why),
            Err(why) => failed.push(Failed { card: setup.profile.name.clone(), why: format!("{why:#}") }),
        }
    }
    Ok(Choice { smallest: smallest(&plans), plans, failed })
}

/// The smallest cards that are large enough.
fn smallest(plans: &[Plan]) -> Vec<String> {
    let enough: Vec<&Plan> = plans.iter().filter(|plan| lost(plan).is_some_and(|lost| lost <= LARGE_ENOUGH)).collect();
    let least = enough.iter().map(|plan| plan.dedicated_bytes).min();
    enough.iter().filter(|plan| Some(plan.dedicated_bytes) == least).map(|plan| plan.profile.clone()).collect()
}

/// The settled seconds over those with everything dedicated; `None` where the work does not fit.
fn lost(plan: &Plan) -> Option<f64> {
    plan.seconds.filter(|_| plan.fits != Fits::No).map(|seconds| seconds / plan.limit_seconds)
}

impl Choice {
    /// The plans as one table, and the answer.
    pub fn text(&self) -> String {
        let work = self.plans.first().map_or("", |plan| plan.work.as_str());
        let failed: String =
            self.failed.iter().map(|Failed { card, why }| format!("{card} has no plan: {why}\n")).collect();
        format!(
            "{work}: seconds of one generation. All seconds are modelled.\n\n{}\n\n{failed}{}\n",
            self.table(),
            self.answer()
        )
    }

    fn answer(&self) -> String {
        let percent = (LARGE_ENOUGH - 1.0) * 100.0;
        match &self.smallest[..] {
            [] => format!("None of these cards is within {percent:.0} % of having everything dedicated."),
            cards => format!(
                "The smallest card that is within {percent:.0} % of having everything dedicated: {}.\n\
                 More memory alone would gain no more than that there; a faster card may still be faster.",
                cards.join(" or ")
            ),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header([
            "card",
            "dedicated",
            "fits",
            "first-come",
            "giant-kitten",
            "model offload",
            "group offload",
            "all dedicated",
            "lost",
            "reserve",
        ]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for plan in &self.plans {
            table.add_row(row(plan));
        }
        table
    }
}

fn row(plan: &Plan) -> [String; 10] {
    let seconds = |seconds: Option<f64>| seconds.filter(|_| plan.fits != Fits::No).map_or("-".into(), time);
    let (fits, reserve) = match plan.fits {
        Fits::Dedicated => ("the card", "none needed".into()),
        Fits::BothTiers => ("both tiers", show_size(plan.reserve_bytes)),
        Fits::No => ("no", "-".into()),
    };
    [
        plan.profile.clone(),
        show_size(plan.dedicated_bytes),
        fits.into(),
        seconds(plan.first_come_seconds),
        seconds(plan.seconds),
        without(plan, Way::ModelOffload),
        without(plan, Way::GroupOffload),
        time(plan.limit_seconds),
        lost(plan).map_or("-".into(), |lost| format!("{:.0} %", (lost - 1.0).max(0.0) * 100.0)),
        reserve,
    ]
}

/// A time, for people.
fn time(seconds: f64) -> String {
    format!("{} s", text::seconds(seconds, 2))
}

/// The seconds of a way without giant-kitten.
fn without(plan: &Plan, way: Way) -> String {
    match plan.without(way) {
        Some(Alternative { seconds: Some(seconds), .. }) => time(*seconds),
        Some(Alternative { unknown: None, .. }) => "out of memory".into(),
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(card: &str, dedicated_bytes: u64, fits: Fits, seconds: f64) -> Plan {
        Plan {
            work: "w".into(),
            profile: card.into(),
            fits,
            dedicated_bytes,
            shared_bytes: 0,
            peak_live_bytes: 0,
            peak_shared_bytes: 0,
            resident_bytes: 0,
            scratch_bytes: 0,
            reserve_bytes: 0,
            steps: 1,
            traffic_only: false,
            limit_seconds: 1.0,
            first_come_seconds: Some(9.0),
            first_seconds: Some(seconds),
            seconds: Some(seconds),
            link_bytes: [0, 0],
            out_of_memory: None,
            otherwise: Vec::new(),
        }
    }

    #[test]
    fn the_smallest_cards_are_large_enough() {
        let plans = [
            on("tiny", 1, Fits::No, 1.0),
            on("small", 4, Fits::BothTiers, 1.06),
            on("right", 6, Fits::BothTiers, 1.05),
            on("fast", 6, Fits::Dedicated, 1.0),
            on("large", 8, Fits::Dedicated, 0.5),
        ];
        assert_eq!(smallest(&plans), ["right", "fast"]);
        let choice = Choice { plans: plans[..2].to_vec(), smallest: smallest(&plans[..2]), failed: Vec::new() };
        assert!(choice.text().contains("None of these cards is within 5 %"), "{}", choice.text());
        assert_eq!(choice.text().matches(" 6 %").count(), 1);
    }
}
