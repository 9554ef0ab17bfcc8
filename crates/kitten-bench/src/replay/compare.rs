//! The orders of placement compared with each other, on bundled traces.
//!
//! Each piece of work runs on a card three quarters as large as its peak, so that something has to
//! be shared. It runs with each order, each with the best fixed reserve of a sweep, and with the
//! automatic mode, which is given no reserve.

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use giant_kitten::{Activation, Order, Reserve, SortBy};
use kitten_sim::Profile;
use serde::Serialize;

use super::cores::on_all_cores;
use super::run::replay;
use super::setup::{LARGER_THAN_ANY, Policy, Setup};
use crate::{text, work};

/// The work.
pub const WORK: [&str; 8] = [
    "sd15_unet_512",
    "sd15_unet_1024",
    "sdxl_unet_1024",
    "sdxl_unet_2048",
    "sdvae_dec_1024",
    "llama3_8b_p2048_d16",
    "sdxl_unet_1024:20 sdvae_dec_1024:1",
    "sdxl_unet_1024:20 sdvae_dec_1024_fp32:1",
];
/// The size of the card, as a part of the work's peak.
pub const CARD: f64 = 0.75;
/// How many reserves each sweep tries, from none to a quarter more than the work's scratch.
pub const RESERVES: u64 = 9;
/// How many times the work is done; the last one counts.
const GENERATIONS: u64 = 3;

/// The orders, by name.
const ORDERS: [(&str, SortBy, bool); 4] = [
    ("size", SortBy::Size, false),
    ("size, reversed", SortBy::Size, true),
    ("reads", SortBy::Reads, false),
    ("recency", SortBy::Recency, false),
];

/// One piece of work. Seconds are modelled, of its last generation.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The work.
    pub work: String,
    /// Dedicated bytes of its card.
    pub dedicated_bytes: u64,
    /// Everything dedicated.
    pub limit: f64,
    /// First come, first served.
    pub first_come: f64,
    /// For each order, the best of its sweep.
    pub orders: Vec<(String, f64)>,
    /// The automatic mode.
    pub automatic: f64,
}

/// How many replays it takes.
pub fn replays() -> u64 {
    WORK.len() as u64 * (3 + ORDERS.len() as u64 * RESERVES)
}

/// Compares, on all cores; `tick` is called after each replay.
///
/// # Errors
/// As for [`replay`].
pub fn compare(tick: impl Fn() + Sync) -> Result<Vec<Row>> {
    on_all_cores(&WORK, |work| row(work, &tick)).into_iter().collect()
}

fn row(work: &str, tick: &impl Fn()) -> Result<Row> {
    let names: Vec<String> = work.split(' ').map(str::to_owned).collect();
    let nominal = Profile::builtin("nominal-6g").context("the profile nominal-6g is missing")?;
    let run = |dedicated_bytes: u64, policy, activation: Activation| {
        let profile = Profile { dedicated_bytes, ..nominal.clone() };
        let setup = Setup { activation, ..Setup::new(profile, policy) };
        let outcome = replay(&mut *work::open_generations(&names, GENERATIONS)?, &setup)?;
        tick();
        let last = outcome.steps.iter().filter(|step| step.generation == GENERATIONS - 1);
        let seconds = outcome.oom.is_none().then(|| last.map(|step| step.seconds).sum::<f64>());
        Ok::<_, anyhow::Error>((outcome, seconds.unwrap_or(f64::INFINITY)))
    };
    let (whole, limit) = run(LARGER_THAN_ANY, Policy::FirstCome, Activation::default())?;
    let granule = nominal.granularity;
    let card = (whole.peak_live_bytes as f64 * CARD) as u64 / granule * granule;
    let scratch = whole.peak_live_bytes - whole.resident_bytes;
    let most = (scratch + scratch / 4).min(card);
    let orders = ORDERS.iter().map(|(name, sort_by, sort_reversed)| {
        let mut best = f64::INFINITY;
        for i in 0..RESERVES {
            let reserve = Reserve::Fixed(most * i / (RESERVES - 1) / granule * granule);
            let order = Order { sort_by: *sort_by, sort_reversed: *sort_reversed, ..Order::default() };
            let activation = Activation { reserve, order, ..Activation::default() };
            best = best.min(run(card, Policy::Reserve, activation)?.1);
        }
        Ok(((*name).to_owned(), best))
    });
    let orders = orders.collect::<Result<Vec<_>>>()?;
    Ok(Row {
        work: work.into(),
        dedicated_bytes: card,
        limit,
        first_come: run(card, Policy::FirstCome, Activation::default())?.1,
        orders,
        automatic: run(card, Policy::Auto, Activation::default())?.1,
    })
}

/// The rows as a table, each in multiples of its limit.
pub fn text(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let mut header = vec!["work".to_owned(), "the limit".into(), "first-come".into()];
    header.extend(ORDERS.iter().map(|(name, _, _)| (*name).to_owned()));
    header.push("automatic".into());
    table.set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for row in rows {
        let times = |seconds: f64| format!("{:.3}", seconds / row.limit);
        let mut cells = vec![row.work.clone(), format!("{} s", text::seconds(row.limit, 3)), times(row.first_come)];
        cells.extend(row.orders.iter().map(|(_, seconds)| times(*seconds)));
        cells.push(times(row.automatic));
        table.add_row(cells);
    }
    format!("{table}\n")
}
