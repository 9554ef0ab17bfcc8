//! What a check of a GPU found, as one page: Markdown over the raw files that `scripts/gpu-check` has left in a folder.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use giant_kitten::show_size;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::check::Checked;
use crate::picture;
use crate::probe::Measured;
use crate::replay::{Outcome, Policy};

/// The page's name in the folder.
pub const PAGE: &str = "README.md";
/// The plot's name in the folder.
pub const PLOT: &str = "measured-against-modelled.svg";

/// What `scripts/gpu_check_products.py` writes.
#[derive(Deserialize)]
struct Products {
    device: String,
    torch: String,
    rows: Vec<Product>,
}

#[derive(Deserialize)]
struct Product {
    name: String,
    weight_bytes: u64,
    dedicated: f64,
    shared: f64,
    reread: f64,
}

/// A step of a replay on a card: what the model says and what the card took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// Modelled seconds.
    pub modelled: f64,
    /// The card's seconds.
    pub card: f64,
    /// Whether it was placed first come, first served.
    pub first_come: bool,
}

/// Reads a part; `None` where it is not there.
fn part<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).map(Some).with_context(|| format!("{} is not what it ought to be", path.display()))
}

/// The replays in a folder, by name.
fn replays(folder: &Path) -> Result<Vec<(String, Outcome)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if name.starts_with("replay-") && path.extension().is_some_and(|extension| extension == "json") {
            found.extend(part(&path)?.map(|outcome| (name, outcome)));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header).add_rows(rows);
    format!("{table}\n\n")
}

fn microseconds(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e6)
}

fn gigabytes(rate: f64) -> String {
    format!("{:.2}", rate / 1e9)
}

fn checked(page: &mut String, checked: &Checked) -> Result<()> {
    writeln!(
        page,
        "## The allocator\n\nGranules of {}; shared memory by {}.\n",
        show_size(checked.granule),
        checked.rung
    )?;
    let row = |proof: &crate::check::Proof| {
        let holds = proof.error.as_ref().map_or("holds".into(), |why| format!("**fails**: {why}"));
        [proof.name.clone(), holds, format!("{:.2}", proof.seconds)]
    };
    page.push_str(&table(["what", "", "s"], checked.proofs.iter().map(row)));
    Ok(())
}

fn probed(page: &mut String, measured: &Measured) -> Result<()> {
    writeln!(page, "## The card\n\nBytes per second, in GB/s.\n")?;
    let row = |rates: &crate::probe::Rates| {
        let [read, strided, again, write] =
            [rates.read, rates.read_strided, rates.read_again, rates.write].map(gigabytes);
        [rates.memory.clone(), read, strided, again, write]
    };
    let header = ["kernels on memory that is", "read", "read, 16 of 256 bytes", "read again and again", "write"];
    page.push_str(&table(header, measured.rates.iter().map(row)));
    let copies = [
        ("shared to dedicated", measured.copy_to_device),
        ("dedicated to shared", measured.copy_to_host),
        ("both at once, together", measured.copy_both_ways),
        ("a range in both tiers to dedicated", measured.copy_across_tiers),
    ];
    page.push_str(&table(["copies", "GB/s"], copies.map(|(what, rate)| [what.to_owned(), gigabytes(rate)])));
    writeln!(page, "Calls of the driver, in microseconds each.\n")?;
    let row = |costs: &crate::probe::HandleCosts| {
        let [create, map, access, unmap, release] =
            [costs.create, costs.map, costs.set_access, costs.unmap, costs.release].map(microseconds);
        [costs.tier.clone(), show_size(costs.handle_bytes), create, map, access, unmap, release]
    };
    let header = ["tier", "handle", "create", "map", "set access", "unmap", "release"];
    page.push_str(&table(header, measured.calls.iter().map(row)));
    let unmapping = &measured.unmapping;
    let verdict = match &unmapping.why {
        None => format!("was sound {} times of {}: an event is enough", unmapping.rounds, unmapping.rounds),
        Some(why) => format!("**was not sound**: {why}"),
    };
    writeln!(
        page,
        "Unmapping behind an event, while a kernel of {:.1} ms ran on other memory, {verdict}; the call took up to {} microseconds.\n",
        unmapping.kernel_seconds * 1e3,
        microseconds(unmapping.unmap_seconds)
    )?;
    Ok(())
}

/// The steps of replays that have both times.
fn compared(replays: &[(String, Outcome)]) -> Vec<Compared> {
    let steps = replays.iter().flat_map(|(_, outcome)| outcome.steps.iter().map(|step| (outcome.policy, step)));
    steps
        .filter_map(|(policy, step)| {
            Some(Compared { modelled: step.seconds, card: step.card_seconds?, first_come: policy == Policy::FirstCome })
        })
        .collect()
}

fn replayed(page: &mut String, replays: &[(String, Outcome)], clock: &str) -> Result<()> {
    writeln!(
        page,
        "## Traces replayed\n\nEach operation is a kernel that reads and writes what the real one does, where it lies; nothing is computed. \
         The model beside it has the same bytes and the probe's profile.\n"
    )?;
    let row = |(_, outcome): &(String, Outcome)| {
        let without = if outcome.oom.is_some() { "does not fit" } else { "-" };
        let seconds = |of: Option<f64>| of.map_or(without.into(), |seconds| format!("{seconds:.3}"));
        let (modelled, card) =
            outcome.steady.as_ref().map_or((None, None), |step| (Some(step.seconds), step.card_seconds));
        let ratio = modelled.zip(card).map_or("-".into(), |(modelled, card)| format!("{:.2}", card / modelled));
        let policy = match outcome.policy {
            Policy::FirstCome => "first-come".into(),
            _ => format!("reserve {}", show_size(outcome.reserve_bytes)),
        };
        [outcome.trace.clone(), show_size(outcome.dedicated_bytes), policy, seconds(modelled), seconds(card), ratio]
    };
    let header = ["trace", "budget", "placement", "modelled s/step", clock, "ratio"];
    page.push_str(&table(header, replays.iter().map(row)));
    Ok(())
}

/// Writes the page and the plot of what a folder holds: `machine.txt`, `check.json`, `probe.json`, `replay-*.json`,
/// `products.json`, each where it is there.
///
/// # Errors
/// A folder or file that cannot be read or written; a part that is not what it ought to be.
pub fn write(folder: &Path) -> Result<()> {
    let measured: Option<Measured> = part(&folder.join("probe.json"))?;
    let check: Option<Checked> = part(&folder.join("check.json"))?;
    let replays = replays(folder)?;
    let card = check.as_ref().map(|check| &check.card).or(measured.as_ref().map(|measured| &measured.card));
    let real = measured.as_ref().is_some_and(|measured| measured.real);
    let clock = if real { "measured s/step" } else { "fake card's s/step" };

    let mut page = format!("# GPU check: {}\n\n", card.map_or("no card", String::as_str));
    if !real {
        page.push_str(
            "**Not a real card: every figure of its clock is modelled, and nothing here is a measurement.**\n\n",
        );
    }
    if let Ok(machine) = std::fs::read_to_string(folder.join("machine.txt")) {
        write!(page, "```text\n{}\n```\n\n", machine.trim_end())?;
    }
    if let Some(check) = &check {
        checked(&mut page, check)?;
    }
    if let Some(measured) = &measured {
        probed(&mut page, measured)?;
    }
    if !replays.is_empty() {
        replayed(&mut page, &replays, clock)?;
        let points = compared(&replays);
        if !points.is_empty() {
            picture::plot_compared(&points, real, &folder.join(PLOT))?;
            write!(page, "![The card's seconds against the model's]({PLOT})\n\n")?;
        }
    }
    if let Some(products) = part::<Products>(&folder.join("products.json"))? {
        writeln!(
            page,
            "## Products with their weights in each tier\n\nPyTorch {} on {}; how often each byte of the weight crossed the link.\n",
            products.torch, products.device
        )?;
        let row = |row: &Product| {
            let [near, far] = [row.dedicated, row.shared].map(microseconds);
            [row.name.clone(), show_size(row.weight_bytes), near, far, format!("{:.2}", row.reread)]
        };
        let header = ["product", "weight", "dedicated, us", "shared, us", "times over the link"];
        page.push_str(&table(header, products.rows.iter().map(row)));
    }
    let path = folder.join(PAGE);
    std::fs::write(&path, page.trim_end().to_owned() + "\n").with_context(|| format!("cannot write {}", path.display()))
}
