//! One page about a check of a GPU: Markdown over the files that `scripts/gpu-check` has left in a
//! folder.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use giant_kitten::show_size;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::chart::plot_compared;
use crate::card::check::{Checked, Proof};
use crate::card::probe::{HandleCosts, Measured, Rates};
use crate::input;
use crate::output;
use crate::replay::{Compared, Outcome, Policy, is_a_time};
use crate::text::{markdown, plain_lines, shown};

/// The page's name in the folder.
pub const PAGE: &str = "README.md";
/// The plot's name in the folder.
pub const PLOT: &str = "measured-against-modelled.svg";
/// The last line of both. A file that does not end with it is not overwritten.
const MARK: &str = "<!-- Written by kitten-bench report, which writes over it. -->\n";

/// The figures that `scripts/gpu_check_products.py` writes.
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

/// The figures that `scripts/gpu_check_copies.py` writes, as far as the page shows them.
#[derive(Deserialize)]
struct Copies {
    stack: Vec<Stack>,
}

#[derive(Deserialize)]
struct Stack {
    rows: u64,
    layers: u64,
    weight_bytes: u64,
    dedicated: f64,
    #[serde(rename = "in place")]
    in_place: f64,
    #[serde(rename = "copied ahead")]
    copied_ahead: f64,
}

/// Reads one of the files; `None` if it does not exist.
fn part<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let Some(text) = input::whole(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).with_context(|| format!("{} does not have the expected format", shown(path)))
}

/// The replays in a folder, by name.
fn replays(folder: &Path) -> Result<Vec<(String, Outcome)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", shown(folder)))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if name.starts_with("replay-") && path.extension().is_some_and(|extension| extension == "json") {
            let Some(outcome) = part::<Outcome>(&path)? else { continue };
            let times =
                outcome.steps.iter().chain(&outcome.steady).flat_map(|step| [Some(step.seconds), step.card_seconds]);
            let good = times.flatten().all(is_a_time);
            ensure!(
                good,
                "{} does not have the expected format: a step in it takes a time that no step takes",
                shown(&path)
            );
            found.push((name, outcome));
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

fn add_check(page: &mut String, checked: &Checked) -> Result<()> {
    writeln!(
        page,
        "## The allocator\n\nGranules of {}; shared memory by {}.\n",
        show_size(checked.granule),
        markdown(&checked.rung)
    )?;
    let row = |proof: &Proof| {
        let holds = proof.error.as_ref().map_or("holds".into(), |why| format!("**fails**: {}", markdown(why)));
        [markdown(&proof.name), holds, format!("{:.2}", proof.seconds)]
    };
    page.push_str(&table(["what", "", "s"], checked.proofs.iter().map(row)));
    Ok(())
}

fn add_probe(page: &mut String, measured: &Measured) -> Result<()> {
    writeln!(page, "## The card\n\nBytes per second, in GB/s.\n")?;
    let row = |rates: &Rates| {
        let [read, strided, again, write] =
            [rates.read, rates.read_strided, rates.read_again, rates.write].map(gigabytes);
        [markdown(&rates.memory), read, strided, again, write]
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
    writeln!(page, "Calls of the driver, in microseconds for each handle. A call of a run is one for all handles.\n")?;
    let row = |costs: &HandleCosts| {
        let [create, map, access, unmap, release] =
            [costs.create, costs.map, costs.set_access, costs.unmap, costs.release].map(microseconds);
        let [access_run, unmap_run] =
            [costs.set_access_run, costs.unmap_run].map(|seconds| seconds.map_or("-".into(), microseconds));
        let size = show_size(costs.handle_bytes);
        [markdown(&costs.tier), size, create, map, access, access_run, unmap, unmap_run, release]
    };
    let header = ["tier", "handle", "create", "map", "set access", "of a run", "unmap", "of a run", "release"];
    page.push_str(&table(header, measured.calls.iter().map(row)));
    let unmapping = &measured.unmapping;
    let verdict = match &unmapping.why {
        None => format!("was sound {} times of {}: an event is enough", unmapping.rounds, unmapping.rounds),
        Some(why) => format!("**was not sound**: {}", markdown(why)),
    };
    writeln!(
        page,
        "Unmapping behind an event, while a kernel of {:.1} ms ran on other memory,\n{verdict}.\nThe call took up to \
         {} microseconds.\n",
        unmapping.kernel_seconds * 1e3,
        microseconds(unmapping.unmap_seconds)
    )?;
    Ok(())
}

fn add_replays(page: &mut String, replays: &[(String, Outcome)], clock: &str) -> Result<()> {
    writeln!(
        page,
        "## Traces replayed\n\nEach operation is a kernel that reads and writes what the real one does, where it lies; nothing\n\
         is computed. The model beside it has the same bytes and the probe's profile.\n"
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
        [markdown(&outcome.trace), show_size(outcome.dedicated_bytes), policy, seconds(modelled), seconds(card), ratio]
    };
    let header = ["trace", "budget", "placement", "modelled s/step", clock, "ratio"];
    page.push_str(&table(header, replays.iter().map(row)));
    Ok(())
}

fn add_products(page: &mut String, products: &Products) -> Result<()> {
    writeln!(
        page,
        "## Products with their weights in each tier\n\nPyTorch {} on {}; how often each byte of the weight crossed the link.\n",
        markdown(&products.torch),
        markdown(&products.device)
    )?;
    let row = |row: &Product| {
        let [near, far] = [row.dedicated, row.shared].map(microseconds);
        [markdown(&row.name), show_size(row.weight_bytes), near, far, format!("{:.2}", row.reread)]
    };
    let header = ["product", "weight", "dedicated, us", "shared, us", "times over the link"];
    page.push_str(&table(header, products.rows.iter().map(row)));
    Ok(())
}

fn add_copies(page: &mut String, copies: &Copies) -> Result<()> {
    writeln!(
        page,
        "## Layers with their weights copied ahead\n\nSeconds of all layers, one after the other, in milliseconds; the ring has three weights.\n"
    )?;
    let milliseconds = |seconds: f64| format!("{:.2}", seconds * 1e3);
    let row = |row: &Stack| {
        let [near, far, ahead] = [row.dedicated, row.in_place, row.copied_ahead].map(milliseconds);
        [row.layers.to_string(), show_size(row.weight_bytes), row.rows.to_string(), near, far, ahead]
    };
    let header = ["layers", "weight", "rows", "dedicated", "read in place", "copied ahead"];
    page.push_str(&table(header, copies.stack.iter().map(row)));
    Ok(())
}

/// Whether a file may be written: it does not exist, or this command has written it.
fn check_ours(path: &Path) -> Result<()> {
    let there = std::fs::symlink_metadata(path);
    if there.as_ref().is_err_and(|why| why.kind() == std::io::ErrorKind::NotFound) {
        return Ok(());
    }
    let is_file = there.with_context(|| format!("cannot read {}", shown(path)))?.is_file();
    let ours = is_file && input::whole(path).is_ok_and(|text| text.is_some_and(|text| text.ends_with(MARK)));
    ensure!(
        ours,
        "{} exists and was not written by kitten-bench report, so it is not overwritten. Move it away, or report on \
         another folder",
        shown(path)
    );
    Ok(())
}

/// Text in a fenced block that nothing in the text can end.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}text\n{}\n{fence}\n\n", plain_lines(text.trim_end()))
}

/// The files that `scripts/gpu-check` has left in a folder, those that exist.
struct Found {
    machine: Option<String>,
    checked: Option<Checked>,
    measured: Option<Measured>,
    replays: Vec<(String, Outcome)>,
    products: Option<Products>,
    copies: Option<Copies>,
}

impl Found {
    fn read(folder: &Path) -> Result<Found> {
        let found = Found {
            replays: replays(folder)?,
            machine: input::whole(&folder.join("machine.txt"))?,
            checked: part(&folder.join("check.json"))?,
            measured: part(&folder.join("probe.json"))?,
            products: part(&folder.join("products.json"))?,
            copies: part(&folder.join("copies.json"))?,
        };
        let nothing = found.replays.is_empty()
            && found.machine.is_none()
            && found.checked.is_none()
            && found.measured.is_none()
            && found.products.is_none()
            && found.copies.is_none();
        ensure!(!nothing, "there is nothing in {} from scripts/gpu-check: no page is written", shown(folder));
        Ok(found)
    }

    /// Whether a real card was measured.
    fn is_real(&self) -> bool {
        self.measured.as_ref().is_some_and(|measured| measured.real)
    }

    /// The page; it shows the plot if there is one.
    fn page(&self, has_plot: bool) -> Result<String> {
        let card = self.checked.as_ref().map(|checked| &checked.card);
        let card = card.or(self.measured.as_ref().map(|measured| &measured.card));
        let mut page = format!("# GPU check: {}\n\n", card.map_or("no card".into(), |card| markdown(card)));
        if !self.is_real() {
            page.push_str(
                "**Not a real card: every figure of its clock is modelled, and nothing here is a measurement.**\n\n",
            );
        }
        if let Some(machine) = &self.machine {
            page.push_str(&fenced(machine));
        }
        if let Some(found) = &self.checked {
            add_check(&mut page, found)?;
        }
        if let Some(measured) = &self.measured {
            add_probe(&mut page, measured)?;
        }
        if !self.replays.is_empty() {
            let clock = if self.is_real() { "measured s/step" } else { "fake card's s/step" };
            add_replays(&mut page, &self.replays, clock)?;
        }
        if has_plot {
            write!(page, "![The card's seconds against the model's]({PLOT})\n\n")?;
        }
        if let Some(products) = &self.products {
            add_products(&mut page, products)?;
        }
        if let Some(copies) = &self.copies {
            add_copies(&mut page, copies)?;
        }
        Ok(format!("{}\n\n{MARK}", page.trim_end()))
    }
}

/// Writes the page and the plot of a folder with any of `machine.txt`, `check.json`, `probe.json`,
/// `replay-*.json`, `products.json` and `copies.json`. Only files that this command has written are
/// overwritten.
///
/// # Errors
/// A folder with none of these; a folder or file that cannot be read or written; a file that does
/// not have the expected format; another page or plot in the way.
pub fn write(folder: &Path) -> Result<()> {
    let found = Found::read(folder)?;
    let (page, plot) = (folder.join(PAGE), folder.join(PLOT));
    let points: Vec<Compared> = found.replays.iter().flat_map(|(_, outcome)| outcome.compared()).collect();
    check_ours(&page)?;
    let text = found.page(!points.is_empty())?;
    if !points.is_empty() {
        check_ours(&plot)?;
        let mut drawn = plot_compared(&points, found.is_real())?;
        drawn.extend_from_slice(MARK.as_bytes());
        output::write(&plot, &drawn)?;
    }
    output::write(&page, text.as_bytes())
}
