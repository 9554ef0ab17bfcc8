//! A plan of work on a card: whether it fits, its seconds, and which setting to use.

use anyhow::{Result, bail, ensure};
use comfy_table::{CellAlignment, Table, presets};
use giant_kitten::show_size;
use kitten_sim::Profile;
use serde::Serialize;

use super::otherwise::{Alternative, Way, Whole, memory, otherwise};
use super::outcome::Outcome;
use super::run::replay;
use super::setup::{LARGER_THAN_ANY, Policy, Setup};
use crate::text;
use crate::work::{RECIPE, Source};

/// How many times the work is done to see where the automatic reserve settles.
pub const GENERATIONS: u64 = 4;

/// How many times faster than giant-kitten another way is before the advice names it.
const WORTH_A_WORD: f64 = 1.01;

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
    /// The most bytes that live at once.
    pub peak_live_bytes: u64,
    /// The most bytes mapped in shared memory, with the automatic reserve.
    pub peak_shared_bytes: u64,
    /// Those that live when the work begins: weights.
    pub resident_bytes: u64,
    /// The most that live in addition to these.
    pub scratch_bytes: u64,
    /// The automatic reserve; 0 where none is needed.
    pub reserve_bytes: u64,
    /// How many steps a generation has.
    pub steps: usize,
    /// Whether operations are unknown, so that the seconds cover memory traffic only and are a
    /// lower bound.
    pub traffic_only: bool,
    /// Everything dedicated.
    pub limit_seconds: f64,
    /// First come, first served.
    pub first_come_seconds: Option<f64>,
    /// With the automatic reserve, the first time.
    pub first_seconds: Option<f64>,
    /// With the automatic reserve, once it has settled.
    pub seconds: Option<f64>,
    /// Bytes over the link with the settled reserve, and first come, first served.
    pub link_bytes: [u64; 2],
    /// Why it does not fit.
    pub out_of_memory: Option<String>,
    /// What one would do without giant-kitten, other than a driver's fallback.
    pub otherwise: Vec<Alternative>,
}

/// Plans work. `open` opens a number of generations of it.
///
/// # Errors
/// As for [`replay`]; work without steps.
pub fn plan(open: impl Fn(u64) -> Result<Box<dyn Source>>, setup: &Setup, traffic_only: bool) -> Result<Plan> {
    let run = |policy, generations, dedicated_bytes| {
        let profile = Profile { dedicated_bytes, ..setup.profile.clone() };
        replay(&mut *open(generations)?, &Setup { policy, profile, ..setup.clone() })
    };
    let dedicated_bytes = setup.profile.dedicated_bytes;
    let whole = run(Policy::FirstCome, 1, LARGER_THAN_ANY)?;
    if let Some(oom) = &whole.oom {
        bail!("{} needs more than any card has: {oom}", whole.trace);
    }
    ensure!(!whole.steps.is_empty(), "{} has no step: there is nothing to plan for", whole.trace);
    ensure!(
        !(traffic_only && whole.resident_bytes == 0),
        "{}: the snapshot has no weights, because everything in it is freed by its end. Record one generation, and \
         keep the model until the snapshot is written:\n\n{RECIPE}\n",
        whole.trace
    );
    ensure!(
        !(traffic_only && whole.peak_live_bytes == whole.resident_bytes),
        "{}: the snapshot has no work, because its history is empty or was not recorded. Record one generation:\n\n\
         {RECIPE}\n",
        whole.trace
    );
    let first_come = run(Policy::FirstCome, 2, dedicated_bytes)?;
    let ours = run(Policy::Auto, GENERATIONS, dedicated_bytes)?;
    let [first, settled] = [0, GENERATIONS - 1].map(|generation| Generation::of(&ours, generation));
    let usual = Generation::of(&first_come, 1);
    let fits = match (&ours.oom, first_come.peak_shared_bytes > 0) {
        (Some(_), _) => Fits::No,
        (None, true) => Fits::BothTiers,
        (None, false) => Fits::Dedicated,
    };
    let limit_seconds = whole.steps.iter().map(|step| step.compute_seconds).sum();
    let dedicated_bytes = first_come.dedicated_bytes;
    Ok(Plan {
        otherwise: otherwise(
            || open(1),
            &setup.profile,
            dedicated_bytes,
            Whole { peak_live_bytes: whole.peak_live_bytes, seconds: limit_seconds },
        )?,
        work: first_come.trace.rsplit_once(", ").map_or(first_come.trace.clone(), |(work, _)| work.into()),
        profile: first_come.profile,
        fits,
        dedicated_bytes,
        shared_bytes: first_come.shared_bytes,
        peak_live_bytes: whole.peak_live_bytes,
        peak_shared_bytes: ours.peak_shared_bytes,
        resident_bytes: whole.resident_bytes,
        scratch_bytes: whole.peak_live_bytes - whole.resident_bytes,
        reserve_bytes: ours.reserve_bytes,
        steps: whole.steps.len(),
        traffic_only,
        limit_seconds,
        first_come_seconds: usual.seconds,
        first_seconds: first.seconds,
        seconds: settled.seconds,
        link_bytes: [settled.link_bytes, usual.link_bytes],
        out_of_memory: ours.oom,
    })
}

/// The steps of one generation, added up.
struct Generation {
    /// None if there are no steps.
    seconds: Option<f64>,
    link_bytes: u64,
}

impl Generation {
    fn of(outcome: &Outcome, generation: u64) -> Generation {
        let steps: Vec<_> = outcome.generation(generation).collect();
        Generation {
            seconds: (!steps.is_empty()).then(|| steps.iter().map(|step| step.seconds).sum()),
            link_bytes: steps.iter().map(|step| step.link_bytes).sum(),
        }
    }
}

impl Plan {
    /// The plan as text for people.
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
            "It needs {} at its peak: {} resident (weights) and {} scratch.\n",
            size(self.peak_live_bytes),
            size(self.resident_bytes),
            size(self.scratch_bytes)
        );
        text += &self.verdict();
        if self.steps > 1 {
            text += &format!("The seconds are those of all {} steps; \"a step\" is their mean.\n", self.steps);
        }
        if self.traffic_only {
            text +=
                "A snapshot contains no operations, so these times cover memory traffic only and are a lower bound.\n";
        }
        format!("{text}\n{}\n\n{}{}", self.table(), self.advice(), self.better_advice())
    }

    /// The largest reserve that a sweep should try: twice the scratch, as far as the card goes.
    pub fn largest_reserve(&self) -> u64 {
        self.scratch_bytes.saturating_mul(2).min(self.dedicated_bytes)
    }

    /// The reserve as text for people.
    pub fn reserve(&self) -> String {
        match self.fits {
            Fits::Dedicated => "it fits the card, and needs no reserve".to_owned(),
            Fits::BothTiers => format!("the right reserve is {}", show_size(self.reserve_bytes)),
            Fits::No => "it does not fit both tiers together".to_owned(),
        }
    }

    /// Whether it fits.
    fn verdict(&self) -> String {
        match self.fits {
            Fits::Dedicated if self.link_bytes[0] == 0 => {
                "It fits the card: nothing overflows, and giant-kitten moves nothing.\n".to_owned()
            }
            Fits::Dedicated => "It fits the card: nothing overflows.\n".to_owned(),
            Fits::BothTiers => format!(
                "It does not fit the card, but it fits both tiers together: the rest, at most {}, lies in shared memory, \
                 which is the host's.\nThe right reserve is {}.\n",
                show_size(self.peak_shared_bytes),
                show_size(self.reserve_bytes)
            ),
            Fits::No => format!(
                "It does not fit, not even both tiers together: {}\n",
                self.out_of_memory.as_deref().unwrap_or("out of memory")
            ),
        }
    }

    /// Which setting to use.
    fn advice(&self) -> String {
        match self.fits {
            Fits::Dedicated => {
                "Use: anything. GIANT_KITTEN=1 costs nothing here, and helps as soon as the work grows.\n".to_owned()
            }
            Fits::BothTiers => format!(
                "Use: GIANT_KITTEN=1 and giant_kitten.follow(model), as the extensions of WebUIs do: the reserve finds \
                 itself. Without\nthat line, GIANT_KITTEN=reserve:remembered has a reserve from the second start on. \
                 By hand, without copies of weights\nahead of their use: GIANT_KITTEN=reserve:{}MiB and activate().\n",
                self.reserve_bytes.div_ceil(1 << 20)
            ),
            Fits::No => "Use: a smaller picture, batch or precision, or more shared memory (the option \"shared\").\n"
                .to_owned(),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["way (modelled)", "memory", "seconds", "a step", "vs first-come", "over the link"]);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut row = |name: &str, memory: String, seconds: Option<f64>, link: Option<u64>| {
            let text = |value: Option<f64>, decimals| value.map_or("-".into(), |value| text::seconds(value, decimals));
            let ratio = seconds.and_then(|seconds| self.first_come_seconds.map(|first| first / seconds));
            table.add_row([
                name.to_owned(),
                memory,
                text(seconds, 2),
                text(seconds.map(|seconds| seconds / self.steps as f64), 3),
                ratio.map_or("-".into(), |ratio| format!("{ratio:.2}x")),
                link.map_or("-".into(), show_size),
            ]);
        };
        for other in &self.otherwise {
            row(other.way.name(), other.memory(), other.seconds, other.link_bytes);
        }
        let link_bytes = self.link_bytes.map(|bytes| (self.fits != Fits::No).then_some(bytes));
        row("first-come (a driver's fallback)", self.memory(), self.first_come_seconds, link_bytes[1]);
        row("giant-kitten, the first time", self.memory(), self.first_seconds, None);
        row("giant-kitten, from then on", self.memory(), self.seconds, link_bytes[0]);
        let limit = if self.fits == Fits::Dedicated { "fits" } else { "a larger card" };
        row("all dedicated (the limit)", limit.into(), Some(self.limit_seconds), Some(0));
        table
    }

    /// Whether it fits with a shared tier, for people.
    fn memory(&self) -> String {
        match self.fits {
            Fits::Dedicated => memory(0),
            Fits::BothTiers => "fits both tiers".to_owned(),
            // Where fragments alone are in the way, no bytes are missing.
            Fits::No => match self.peak_live_bytes.saturating_sub(self.dedicated_bytes + self.shared_bytes) {
                0 => "out of memory".to_owned(),
                missing => memory(missing),
            },
        }
    }

    /// What one would do without giant-kitten, in a way.
    pub fn without(&self, way: Way) -> Option<&Alternative> {
        self.otherwise.iter().find(|other| other.way == way)
    }

    /// The way without giant-kitten that is worth a word: the fastest, if it fits and giant-kitten
    /// does not, or is slower.
    fn better(&self) -> Option<(&Alternative, f64)> {
        let timed = self.otherwise.iter().filter_map(|other| Some((other, other.seconds?)));
        let (best, seconds) = timed.min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        let ours = self.seconds.filter(|_| self.fits != Fits::No);
        ours.is_none_or(|ours| seconds * WORTH_A_WORD < ours).then_some((best, seconds))
    }

    /// The sentence about it.
    fn better_advice(&self) -> String {
        self.better().map_or(String::new(), |(other, seconds)| {
            let seconds = text::seconds(seconds, 2);
            format!("Or: {}, which fits and takes {seconds} s, if the host holds all weights.\n", other.way.name())
        })
    }
}
