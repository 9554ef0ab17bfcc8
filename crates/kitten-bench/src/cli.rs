//! The arguments of kitten-bench.

use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use giant_kitten::{Activation, CopyAhead, Layout, Order, SortBy, parse_size, show_size};
use kitten_bench::card::{Card, Cuda, Simulated};
use kitten_bench::replay::{Policy, Setup};
use kitten_bench::text::plain;
use kitten_bench::work::{self, Source, trace};
use kitten_sim::{Card as KnownCard, Profile};

/// Replays traces of real models through giant-kitten on a simulated GPU, or a real one. Without a
/// command: a demo.
#[derive(Parser)]
#[command(version, after_help = bundled())]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

fn bundled() -> String {
    let (traces, profiles) = (trace::BUNDLED.join(", "), Profile::builtin_names().join(", "));
    format!("Bundled traces: {traces}.\nBuilt-in profiles: {profiles}.")
}

#[derive(Subcommand)]
pub enum Command {
    /// One trace, one placement: modelled seconds per step, and bytes over the link
    Replay {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        placed: Placed,
        /// Run it on this card (cuda:0) as well: memory in real tiers, and for each operation a
        /// kernel that reads and writes the same bytes. The card's seconds are shown next to those
        /// modelled for the same bytes. The profile's capacities are the budget
        #[arg(long, value_parser = parse_device)]
        device: Option<usize>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Seconds per step for each reserve of a range
    Sweep(Sweep),
    /// A picture of the memory map at the busiest moment of a phase, or of all
    Map {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        placed: Placed,
        /// The phase; by default the busiest step
        #[arg(long)]
        at: Option<String>,
        /// The file to draw into (.svg or .png, or .html for a page)
        #[arg(long)]
        out: PathBuf,
    },
    /// A picture of what a step does when: the card's work, its waits, the copies of weights ahead
    /// of their use, and what the ring of copies holds
    Timeline {
        /// How memory is placed
        #[arg(long, value_enum, default_value = "auto")]
        policy: Policy,
        #[command(flatten)]
        step: StepPicture,
    },
    /// A picture of where the large blocks of a step lie, and when: address against calls
    Layout {
        /// How memory is placed
        #[arg(long, value_enum, default_value = "first-come")]
        policy: Policy,
        #[command(flatten)]
        step: StepPicture,
    },
    /// What will this do on my card? Whether it fits, the seconds with giant-kitten and otherwise
    /// (plain PyTorch, offloading, a driver's fallback), and which setting to use. Takes traces, or
    /// a snapshot that PyTorch wrote (torch.cuda.memory._dump_snapshot, with a history of one
    /// generation)
    Plan {
        #[command(flatten)]
        run: Run,
        /// Plan on several cards as one table, and name the smallest that is within 5 % of having
        /// everything dedicated: "all", or names such as "3060, 4060 Ti 16GB"
        #[arg(long, value_name = "all|NAMES", conflicts_with_all = ["card", "profile", "dedicated"])]
        cards: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The cards that --card knows, with their published figures
    Cards {
        /// Print JSON, with the source of each
        #[arg(long)]
        json: bool,
    },
    /// The orders of placement compared with each other, on bundled traces
    Compare {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Nanoseconds per malloc and free of a log of calls, compared with other allocators: measured
    /// on this machine's processor
    Hotpath {
        /// A log of malloc and free calls; by default that of genuine PyTorch running SD1.5
        log: Option<String>,
        /// How many more small blocks live throughout
        #[arg(long, default_value_t = 0)]
        live: usize,
        /// Rounds of each allocator
        #[arg(long, default_value_t = 400)]
        rounds: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// What calls off the hot path cost as more lives: loading that overflows, a malloc that falls
    /// to shared memory, a safe point, the statistics, a snapshot. Measured on this machine's
    /// processor
    Costs {
        /// How many blocks are loaded, each number measured by itself
        #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
        blocks: Vec<u64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure a card and write its hardware profile: a real card, or the simulated GPU, which
    /// gives its own profile
    Probe {
        #[command(flatten)]
        on: On,
        /// The profile's name; by default the card's
        #[arg(long)]
        name: Option<String>,
        /// Where to write the profile (TOML)
        #[arg(short, long)]
        out: PathBuf,
        /// Where to write everything that was measured (JSON)
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Prove the allocator on a card, byte for byte
    Check {
        #[command(flatten)]
        on: On,
        /// Where to write the results (JSON)
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// One page about everything that scripts/gpu-check has left in a folder
    Report {
        /// The folder
        folder: PathBuf,
    },
    /// The options of giant-kitten, as Markdown
    Options,
}

/// The arguments of a sweep.
#[derive(Args)]
pub struct Sweep {
    #[command(flatten)]
    pub run: Run,
    /// The smallest reserve
    #[arg(long, default_value = "0", value_parser = parse_size)]
    pub from: u64,
    /// The largest reserve; by default twice the scratch of the work, as plan finds it
    #[arg(long, value_parser = parse_size)]
    pub to: Option<u64>,
    /// The distance from one reserve to the next; by default a fortieth of the range
    #[arg(long, value_parser = parse_size)]
    pub step: Option<u64>,
    /// Write the points to this file
    #[arg(long)]
    pub csv: Option<PathBuf>,
    /// Draw them into this file (.svg or .png)
    #[arg(long)]
    pub plot: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Which card.
#[derive(Args)]
pub struct On {
    /// A real card
    #[arg(long, default_value = "cuda:0", value_parser = parse_device)]
    device: usize,
    /// The simulated GPU with this profile (a name or a file) instead
    #[arg(long, conflicts_with = "device")]
    profile: Option<String>,
}

impl On {
    /// Opens the card.
    pub fn card(&self) -> Result<Box<dyn Card>> {
        Ok(match &self.profile {
            Some(name) => Box::new(Simulated::new(&profile(name)?)?),
            None => Box::new(Cuda::new(self.device)?),
        })
    }
}

fn parse_device(text: &str) -> Result<usize, String> {
    let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("{text} is not a device: write cuda:0 for the first"))
}

/// A hardware profile by its name or file.
fn profile(name: &str) -> Result<Profile> {
    let profile = Profile::load(name).map_err(anyhow::Error::msg)?;
    Ok(Profile { name: plain(&profile.name).into(), ..profile })
}

/// A known card by its name.
fn find_card(name: &str) -> Result<KnownCard> {
    if name.trim().eq_ignore_ascii_case("all") {
        bail!("--card takes one card: plan --cards all is a table of all");
    }
    KnownCard::find(name).map_err(|why| anyhow!("{why} (kitten-bench cards lists all)"))
}

/// The profile of a known card.
fn card_profile(card: &KnownCard) -> Result<Profile> {
    card.profile().map_err(anyhow::Error::msg)
}

/// The work to replay, and the card.
#[derive(Args)]
pub struct Run {
    /// A bundled trace, or a file in the format gpu-op-trace/1, plain or .zst. Several traces, each
    /// with its number of steps (sdxl_unet_1024:20 sdvae_dec_1024:1), are one run
    #[arg(required = true)]
    pub trace: Vec<String>,
    /// How many times the whole run is done, one after another, as pictures are in a WebUI. The
    /// first has to find out what the next ones are told
    #[arg(long = "loop", default_value = "1")]
    loops: u64,
    /// A built-in hardware profile, or a file
    #[arg(long, default_value = "nominal-6g")]
    profile: String,
    /// A card by its name, such as "RTX 4060 8GB", instead of a profile: published figures, not
    /// measured ones (kitten-bench cards lists them)
    #[arg(long, conflicts_with = "profile")]
    card: Option<String>,
    /// Dedicated memory, instead of the profile's
    #[arg(long, value_parser = parse_size)]
    dedicated: Option<u64>,
    /// Shared memory, instead of the profile's
    #[arg(long, value_parser = parse_size)]
    shared: Option<u64>,
    /// Dedicated memory withheld while active
    #[arg(long, default_value = "0", value_parser = parse_size)]
    persist: u64,
    /// The order in which blocks claim dedicated memory. With reads or recency they are placed
    /// again after the first generation (--loop), when these are known
    #[arg(long, value_name = "size|reads|recency", default_value = "size", value_parser = SortBy::parse)]
    sort_by: SortBy,
    /// Large blocks claim dedicated memory first
    #[arg(long)]
    sort_reversed: bool,
    /// The model's blocks do not come before the others
    #[arg(long)]
    ignore_model: bool,
    /// Size of a granule, instead of the profile's: a power of two, such as 32MiB
    #[arg(long, value_parser = parse_size)]
    granule: Option<u64>,
    /// Whether weights are copied ahead of their use, with the policy auto: auto, off, or the size
    /// of the ring
    #[arg(long, default_value = "auto", value_parser = parse_copy_ahead)]
    copy_ahead: CopyAhead,
    /// How large blocks are laid out: as learned from earlier steps, or by the fit alone
    #[arg(long, value_name = "learned|fit", default_value = "fit", value_parser = Layout::parse)]
    layout: Layout,
    /// How often a matmul or convolution reads each shared byte, instead of the profile's
    #[arg(long)]
    pub in_place_reread: Option<f64>,
}

/// How memory is placed.
#[derive(Args)]
pub struct Placed {
    /// How memory is placed; by default a map shows auto, and a replay shows reserve, as both do
    /// where --reserve is given
    #[arg(long, value_enum)]
    policy: Option<Policy>,
    /// Dedicated memory kept for scratch; 0 by default
    #[arg(long, value_parser = parse_reserve)]
    reserve: Option<u64>,
}

impl Placed {
    /// How memory is placed: by `otherwise` if nothing was said.
    pub fn policy_or(&self, otherwise: Policy) -> Policy {
        self.policy.unwrap_or(if self.reserve.is_some() { Policy::Reserve } else { otherwise })
    }

    /// Dedicated memory kept for scratch.
    pub fn reserve(&self) -> u64 {
        self.reserve.unwrap_or(0)
    }
}

/// One step of work, and the file to draw it into.
#[derive(Args)]
pub struct StepPicture {
    #[command(flatten)]
    pub run: Run,
    /// Dedicated memory kept for scratch, with the policy reserve
    #[arg(long, default_value = "0", value_parser = parse_size)]
    reserve: u64,
    /// The step, as replay names it; by default the last
    #[arg(long)]
    pub at: Option<String>,
    /// The file to draw into (.svg or .png)
    #[arg(long)]
    pub out: PathBuf,
}

impl StepPicture {
    /// How the work is replayed.
    pub fn setup(&self, policy: Policy) -> Result<Setup> {
        self.run.setup(policy, self.reserve)
    }
}

impl Run {
    /// Opens the work.
    pub fn open(&self) -> Result<Box<dyn Source>> {
        work::open(&self.trace, self.loops)
    }

    /// The setup of a replay that places memory so.
    pub fn setup(&self, policy: Policy, reserve: u64) -> Result<Setup> {
        self.setup_on(self.card()?, policy, reserve)
    }

    fn setup_on(&self, profile: Profile, policy: Policy, reserve: u64) -> Result<Setup> {
        let activation = Activation {
            reserve: reserve.into(),
            persist: self.persist,
            order: Order { sort_by: self.sort_by, sort_reversed: self.sort_reversed, ignore_model: self.ignore_model },
        };
        Ok(Setup {
            granule: self.granule,
            activation,
            copy_ahead: self.copy_ahead,
            layout: self.layout,
            ..Setup::new(profile, policy)
        })
    }

    /// The profile whose speeds are taken for a size of dedicated memory that is not its own, where
    /// no card is named.
    pub fn speeds_of_another(&self) -> Option<&str> {
        (self.dedicated.is_some() && self.card.is_none()).then_some(&self.profile)
    }

    /// The setups of plans on the cards that a list names.
    pub fn setups_on(&self, cards: &str) -> Result<Vec<Setup>> {
        let cards = match cards.trim() {
            "all" => KnownCard::all(),
            names => names.split(',').map(find_card).collect::<Result<_>>()?,
        };
        cards.iter().map(|card| self.setup_on(self.changed(card_profile(card)?)?, Policy::Auto, 0)).collect()
    }

    /// The profile, with what the arguments change of it.
    fn card(&self) -> Result<Profile> {
        self.changed(match &self.card {
            Some(name) => card_profile(&find_card(name)?)?,
            None => profile(&self.profile)?,
        })
    }

    /// A profile, with what the arguments change of it.
    fn changed(&self, mut profile: Profile) -> Result<Profile> {
        profile.dedicated_bytes = self.dedicated.unwrap_or(profile.dedicated_bytes);
        profile.shared_bytes = self.shared.unwrap_or(profile.shared_bytes);
        if let Some(reread) = self.in_place_reread {
            if !(reread.is_finite() && reread > 0.0) {
                bail!("--in-place-reread {reread}: it must be a number above 0, such as 1 or 8");
            }
            profile.in_place_reread = reread;
        }
        if profile.dedicated_bytes < profile.granularity {
            bail!(
                "--dedicated {}: less than one granule of {}",
                profile.dedicated_bytes,
                show_size(profile.granularity)
            );
        }
        Ok(profile)
    }
}

fn parse_reserve(text: &str) -> Result<u64, String> {
    match text {
        "auto" => Err("a reserve of auto is a policy here: --policy auto".into()),
        size => parse_size(size),
    }
}

fn parse_copy_ahead(text: &str) -> Result<CopyAhead, String> {
    match text {
        "auto" => Ok(CopyAhead::Auto),
        "off" => Ok(CopyAhead::Off),
        size => parse_size(size).map(CopyAhead::Ring),
    }
}
