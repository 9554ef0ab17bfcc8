//! The demo: what placement is worth for an image of 2048 by 2048 on a 6 GB card.

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table, presets};
use giant_kitten::{CopyAhead, show_size};
use kitten_sim::Profile;

use super::outcome::Outcome;
use super::run::replay;
use super::setup::{Policy, Setup};
use crate::work::{open, trace::Trace};

/// The trace of the demo.
pub const TRACE: &str = "sdxl_unet_2048";
/// The card of the demo.
pub const PROFILE: &str = "nominal-6g";
/// The reserves that it shows, in MiB.
pub const RESERVES: [u64; 5] = [0, 500, 1000, 1300, 2000];
/// How often a matmul or convolution reads each shared byte: the optimistic bound, and a
/// pessimistic guess.
pub const REREADS: [f64; 2] = [1.0, 8.0];

/// How many replays the demo takes.
pub fn replays() -> u64 {
    (REREADS.len() * (RESERVES.len() + 3)) as u64
}

/// Runs the demo; `tick` is called after each replay.
///
/// # Errors
/// As for [`replay`].
pub fn demo(mut tick: impl FnMut()) -> Result<String> {
    let profile = Profile::builtin(PROFILE).ok_or_else(|| anyhow::anyhow!("the profile {PROFILE} is missing"))?;
    let mut text = format!(
        "SDXL at 2048x2048 (trace {TRACE}: the real UNet's allocations and operations) on a 6 GB card (profile {PROFILE}: nominal,\n\
         not measured). The allocator is the real one, the GPU is simulated, and all seconds are modelled.\n"
    );
    for reread in REREADS {
        let profile = Profile { in_place_reread: reread, ..profile.clone() };
        let mut run = |policy, reserve| {
            let setup = Setup::new(profile.clone(), policy).with_reserve(reserve);
            let outcome = replay(&mut Trace::open(TRACE)?, &setup);
            tick();
            outcome
        };
        let first = run(Policy::FirstCome, 0)?;
        let placed = RESERVES.map(|mib| run(Policy::Reserve, mib << 20));
        let automatic = run(Policy::Auto, 0)?;
        let ahead = ahead(&profile)?;
        tick();
        let meaning =
            if reread == 1.0 { "once, the best case".into() } else { format!("{reread} times, a guess at a bad case") };
        text += &format!(
            "\nAssuming that each shared byte that a matmul or convolution reads crosses the link {meaning}:\n"
        );
        text += &table(&first, placed.into_iter().collect::<Result<Vec<_>>>()?, &automatic, &ahead).to_string();
        text.push('\n');
    }
    text += "\nNext: kitten-bench sweep sdxl_unet_2048 --from 0 --to 3GiB --step 50MiB --plot sweep.svg\n";
    Ok(text)
}

/// The replay with weights copied ahead, done twice: the first time is for learning.
fn ahead(profile: &Profile) -> Result<Outcome> {
    let setup = Setup { copy_ahead: CopyAhead::Auto, ..Setup::new(profile.clone(), Policy::Auto) };
    replay(&mut *open(&[TRACE.to_owned()], 2)?, &setup)
}

fn table(first: &Outcome, placed: Vec<Outcome>, automatic: &Outcome, ahead: &Outcome) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["placement", "s/step", "vs first-come", "dedicated", "shared", "over the link per step"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let reference = first.steady.as_ref().map_or(f64::NAN, |step| step.seconds);
    if let Some(step) = &first.steady {
        let speedup = format!("{:.2}x", reference / step.compute_seconds);
        table.add_row([
            "all dedicated (the limit)",
            &format!("{:.2}", step.compute_seconds),
            &speedup,
            "-",
            "-",
            "0 bytes",
        ]);
    }
    let mut row = |name: String, outcome: &Outcome| {
        let Some(step) = outcome.last_step() else {
            table.add_row([Cell::new(name), Cell::new("out of memory")]);
            return;
        };
        table.add_row([
            name,
            format!("{:.2}", step.seconds),
            format!("{:.2}x", reference / step.seconds),
            show_size(step.peak_dedicated_bytes),
            show_size(step.peak_shared_bytes),
            show_size(step.link_bytes),
        ]);
    };
    row("first-come (a driver's fallback)".into(), first);
    for outcome in &placed {
        row(format!("reserve {}", show_size(outcome.reserve_bytes)), outcome);
    }
    row(format!("reserve auto: finds {}", show_size(automatic.reserve_bytes)), automatic);
    row("the same, weights copied ahead".into(), ahead);
    table
}
