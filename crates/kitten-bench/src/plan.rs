//! What some work will do on a card: whether it fits, what it takes, and which setting to use.

use anyhow::{Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use giant_kitten::show_size;
use kitten_sim::Profile;
use serde::Serialize;

use crate::replay::{Outcome, Policy, Setup, Step, replay};
use crate::workload::Source;

/// How often the work is done to see where the automatic reserve settles.
pub const GENERATIONS: u64 = 4;

/// A card that everything fits: for the limit.
pub(crate) const LARGER_THAN_ANY: u64 = 1 << 40;

/// Where work fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fits {
    /// All of it in dedicated memory.
    Dedicated,
    /// With the help of shared memory.
    BothTiers,
    /// Not at all.
    No,
}

/// A plan. Bytes; seconds are modelled, of one generation: the whole of the work once.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The work.
    pub work: String,
    /// The profile's name.
    pub profile: String,
    /// Where it fits.
    pub fits: Fits,
    /// Dedicated memory of the card.
    pub dedicated_bytes: u64,
    /// Shared memory.
    pub shared_bytes: u64,
    /// The most that lives at once.
    pub peak_live_bytes: u64,
    /// Of it, what lives when the work begins: weights.
    pub resident_bytes: u64,
    /// The most that lives besides.
    pub scratch_bytes: u64,
    /// The reserve that finds itself; 0 where none is needed.
    pub reserve_bytes: u64,
    /// How many steps a generation has.
    pub steps: usize,
    /// Whether operations are not known, so that the seconds are those of memory traffic alone, and the least that it can be.
    pub traffic_only: bool,
    /// Everything dedicated.
    pub limit_seconds: f64,
    /// First come, first served.
    pub first_come_seconds: Option<f64>,
    /// With the automatic reserve, the first time.
    pub first_seconds: Option<f64>,
    /// With the automatic reserve, once it has settled.
    pub seconds: Option<f64>,
    /// Over the link then, and first come.
    pub link_bytes: [u64; 2],
    /// Why it does not fit.
    pub out_of_memory: Option<String>,
}

/// Plans work. `open` opens it, so many generations of it.
///
/// # Errors
/// As for [`replay`]; work without steps.
pub fn plan(open: impl Fn(u64) -> Result<Box<dyn Source>>, setup: &Setup, traffic_only: bool) -> Result<Plan> {
    let run = |policy, generations, dedicated_bytes| {
        let profile = Profile { dedicated_bytes, ..setup.profile.clone() };
        let setup = Setup { policy, profile, ..setup.clone() };
        replay(&mut *open(generations)?, &setup, &mut |_, _| {})
    };
    let dedicated_bytes = setup.profile.dedicated_bytes;
    let whole = run(Policy::FirstCome, 1, LARGER_THAN_ANY)?;
    if let Some(oom) = &whole.oom {
        bail!("{} needs more than any card has: {oom}", whole.trace);
    }
    ensure!(!whole.steps.is_empty(), "{} has no step: there is nothing to plan for", whole.trace);
    let first = run(Policy::FirstCome, 2, dedicated_bytes)?;
    let ours = run(Policy::Auto, GENERATIONS, dedicated_bytes)?;
    let last = |outcome: &Outcome, generation: u64| -> Option<Vec<Step>> {
        let steps: Vec<Step> = outcome.steps.iter().filter(|step| step.generation == generation).cloned().collect();
        (outcome.oom.is_none() && !steps.is_empty()).then_some(steps)
    };
    let seconds = |steps: &Option<Vec<Step>>| steps.as_ref().map(|steps| steps.iter().map(|step| step.seconds).sum());
    let link = |steps: &Option<Vec<Step>>| steps.iter().flatten().map(|step| step.link_bytes).sum();
    let (settled, usual) = (last(&ours, GENERATIONS - 1), last(&first, 1));
    let fits = match (&ours.oom, first.peak_shared_bytes > 0) {
        (Some(_), _) => Fits::No,
        (None, true) => Fits::BothTiers,
        (None, false) => Fits::Dedicated,
    };
    Ok(Plan {
        work: first.trace.rsplit_once(", ").map_or(first.trace.clone(), |(work, _)| work.into()),
        profile: first.profile,
        fits,
        dedicated_bytes: first.dedicated_bytes,
        shared_bytes: first.shared_bytes,
        peak_live_bytes: whole.peak_live_bytes,
        resident_bytes: whole.resident_bytes,
        scratch_bytes: whole.peak_live_bytes - whole.resident_bytes,
        reserve_bytes: ours.reserve_bytes,
        steps: whole.steps.len(),
        traffic_only,
        limit_seconds: whole.steps.iter().map(|step| step.compute_seconds).sum(),
        first_come_seconds: seconds(&usual),
        first_seconds: seconds(&last(&ours, 0)),
        seconds: seconds(&settled),
        link_bytes: [link(&settled), link(&usual)],
        out_of_memory: ours.oom,
    })
}

impl Plan {
    /// The plan for people.
    pub fn text(&self) -> String {
        let size = show_size;
        let mut text = format!(
            "{} on {} ({} dedicated, {} shared). All seconds are modelled.\n\n",
            self.work,
            self.profile,
            size(self.dedicated_bytes),
            size(self.shared_bytes)
        );
        text += &format!(
            "It takes {} at its peak: {} stay (weights), {} come and go (scratch).\n",
            size(self.peak_live_bytes),
            size(self.resident_bytes),
            size(self.scratch_bytes)
        );
        text += &match self.fits {
            Fits::Dedicated => "It fits the card: nothing overflows, and giant-kitten moves nothing.\n".to_owned(),
            Fits::BothTiers => format!(
                "It does not fit the card, but both tiers together: the rest lies in shared memory. The right reserve is {}.\n",
                size(self.reserve_bytes)
            ),
            Fits::No => format!(
                "It does not fit, not even both tiers together: {}\n",
                self.out_of_memory.as_deref().unwrap_or("out of memory")
            ),
        };
        if self.traffic_only {
            text += "A snapshot knows no operations: the seconds are those of its memory traffic alone, and the least that it can be.\n";
        }
        text.push('\n');
        text += &self.table().to_string();
        text += "\n\n";
        text += &match self.fits {
            Fits::Dedicated => {
                "Use: anything. GIANT_KITTEN=1 costs nothing here, and helps once something larger comes.\n".to_owned()
            }
            Fits::BothTiers => format!(
                "Use: GIANT_KITTEN=1. The reserve finds itself; by hand it would be GIANT_KITTEN=reserve:{}MiB and activate().\n",
                self.reserve_bytes.div_ceil(1 << 20)
            ),
            Fits::No => "Use: a smaller picture, batch or precision, or more shared memory (the option \"shared\").\n"
                .to_owned(),
        };
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["placement", "seconds", "a step", "vs first-come", "over the link"]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut row = |name: &str, seconds: Option<f64>, link: Option<u64>| {
            let text =
                |value: Option<f64>, digits: usize| value.map_or("-".into(), |value| format!("{value:.digits$}"));
            let ratio = seconds.and_then(|seconds| self.first_come_seconds.map(|first| first / seconds));
            table.add_row([
                name.to_owned(),
                text(seconds, 2),
                text(seconds.map(|seconds| seconds / self.steps as f64), 3),
                ratio.map_or("-".into(), |ratio| format!("{ratio:.2}x")),
                link.map_or("-".into(), show_size),
            ]);
        };
        if self.fits != Fits::No {
            row("first-come (a driver's fallback)", self.first_come_seconds, Some(self.link_bytes[1]));
            row("giant-kitten, the first time", self.first_seconds, None);
            row("giant-kitten, from then on", self.seconds, Some(self.link_bytes[0]));
        }
        row("all dedicated (the limit)", Some(self.limit_seconds), Some(0));
        table
    }
}
