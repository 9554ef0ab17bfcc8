//! The command line of kitten-bench.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use giant_kitten::core::placement::SortBy;
use giant_kitten::{Activation, parse_size, show_size};
use indicatif::{ProgressBar, ProgressStyle};
use kitten_bench::card::{Card, Cuda, Simulated};
use kitten_bench::output::{Closed, Output};
use kitten_bench::replay::{Outcome, Policy, Setup, map_at, replay, replay_on};
use kitten_bench::text::{plain, plain_lines, shown};
use kitten_bench::trace::BUNDLED;
use kitten_bench::workload::{self, Source};
use kitten_bench::{check, compare, demo, hotpath, output, page, picture, plan, probe, report, sweep};
use kitten_sim::Profile;

/// Replays traces of real models through giant-kitten on a simulated GPU, or a real one. Without a command: a demo.
#[derive(Parser)]
#[command(version, after_help = bundled())]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

fn bundled() -> String {
    format!("Bundled traces: {}.\nBuilt-in profiles: {}.", BUNDLED.join(", "), Profile::builtin_names().join(", "))
}

#[derive(Subcommand)]
enum Command {
    /// One trace, one placement: modelled seconds per step, and what crossed the link
    Replay {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        placed: Placed,
        /// Do it on this card (cuda:0) as well: memory in real tiers, each operation a kernel that reads and writes what the real one
        /// does. Its seconds stand beside those modelled for the same. The profile's capacities are the budget
        #[arg(long, value_parser = parse_device)]
        device: Option<usize>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Seconds per step against the reserve
    Sweep {
        #[command(flatten)]
        run: Run,
        /// The smallest reserve
        #[arg(long, value_parser = parse_size)]
        from: u64,
        /// The largest reserve
        #[arg(long, value_parser = parse_size)]
        to: u64,
        /// From one to the next
        #[arg(long, value_parser = parse_size)]
        step: u64,
        /// Write the points to this file
        #[arg(long)]
        csv: Option<PathBuf>,
        /// Draw them into this file (.svg or .png)
        #[arg(long)]
        plot: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// A picture of what lies where, at the busiest moment of a phase
    Map {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        placed: Placed,
        /// The phase
        #[arg(long)]
        at: String,
        /// Where to draw it (.svg or .png, or a page as .html)
        #[arg(long)]
        out: PathBuf,
    },
    /// What will this do on my card? Whether it fits, seconds first-come and ours, and which setting to use. Of traces, or of a snapshot of
    /// PyTorch's (torch.cuda.memory._dump_snapshot, with a history of one generation)
    Plan {
        #[command(flatten)]
        run: Run,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The orders of placement beside each other, on all bundled traces
    Compare {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Nanoseconds per malloc and free on a log of calls, beside other allocators: measured on this machine's processor
    Hotpath {
        /// A log of malloc and free calls; otherwise that of genuine PyTorch running SD1.5
        log: Option<String>,
        /// This many more small blocks alive throughout
        #[arg(long, default_value_t = 0)]
        live: usize,
        /// Rounds of each allocator
        #[arg(long, default_value_t = 400)]
        rounds: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure a card and write its hardware profile: a real one, or the simulated GPU, which gives back what it was given
    Probe {
        #[command(flatten)]
        on: On,
        /// The profile's name; otherwise the card's
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
        /// Where to write what was found (JSON)
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// One page of what scripts/gpu-check has left in a folder
    Report {
        /// The folder
        folder: PathBuf,
    },
    /// The options of giant-kitten, as Markdown
    Options,
}

/// Which card.
#[derive(Args)]
struct On {
    /// A real card
    #[arg(long, default_value = "cuda:0", value_parser = parse_device)]
    device: usize,
    /// The simulated GPU with this profile (a name or a file) instead
    #[arg(long, conflicts_with = "device")]
    profile: Option<String>,
}

impl On {
    fn card(&self) -> Result<Box<dyn Card>> {
        Ok(match &self.profile {
            Some(name) => Box::new(Simulated::new(&profile(name)?)?),
            None => Box::new(Cuda::new(self.device)?),
        })
    }
}

fn parse_device(text: &str) -> Result<usize, String> {
    let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("{text} is no device: write cuda:0 for the first"))
}

/// A hardware profile by its name or file.
fn profile(name: &str) -> Result<Profile> {
    let profile = Profile::load(name).map_err(anyhow::Error::msg)?;
    Ok(Profile { name: plain(&profile.name).into(), ..profile })
}

#[derive(Args)]
struct Run {
    /// A bundled trace, or a file in the format gpu-op-trace/1, plain or .zst; several, each with how many of its steps
    /// (sdxl_unet_1024:20 sdvae_dec_1024:1), are one run
    #[arg(required = true)]
    trace: Vec<String>,
    /// How often the whole run is done
    #[arg(long = "loop", default_value = "1")]
    loops: u64,
    /// A built-in hardware profile, or a file
    #[arg(long, default_value = "nominal-6g")]
    profile: String,
    /// Dedicated memory, instead of the profile's
    #[arg(long, value_parser = parse_size)]
    dedicated: Option<u64>,
    /// Shared memory, instead of the profile's
    #[arg(long, value_parser = parse_size)]
    shared: Option<u64>,
    /// Dedicated memory withheld while active
    #[arg(long, default_value = "0", value_parser = parse_size)]
    persist: u64,
    /// What blocks are sorted by when they claim dedicated memory. By reads or recency they are placed anew after the first generation
    /// (--loop), when those are known
    #[arg(long, value_name = "size|reads|recency", default_value = "size", value_parser = SortBy::parse)]
    sort_by: SortBy,
    /// Large blocks claim dedicated memory first
    #[arg(long)]
    sort_reversed: bool,
    /// The model's blocks are not put before the others
    #[arg(long)]
    ignore_model: bool,
    /// Size of a granule, instead of the profile's: a power of two, such as 32MiB
    #[arg(long, value_parser = parse_size)]
    granule: Option<u64>,
    /// How often a matmul or convolution reads each shared byte, instead of the profile's
    #[arg(long)]
    in_place_reread: Option<f64>,
}

#[derive(Args)]
struct Placed {
    /// How memory is placed
    #[arg(long, value_enum, default_value = "reserve")]
    policy: Policy,
    /// Dedicated memory kept for scratch
    #[arg(long, default_value = "0", value_parser = parse_size)]
    reserve: u64,
}

impl Run {
    fn open(&self) -> Result<Box<dyn Source>> {
        workload::open(&self.trace, self.loops)
    }

    fn setup(&self, policy: Policy, reserve: u64) -> Result<Setup> {
        let mut profile = profile(&self.profile)?;
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
        let activation = Activation {
            reserve: reserve.into(),
            persist: self.persist,
            sort_reversed: self.sort_reversed,
            ignore_model: self.ignore_model,
            sort_by: self.sort_by,
        };
        Ok(Setup { profile, granule: self.granule, policy, activation, wanted: None })
    }
}

fn progress(steps: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(steps);
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} replays, {eta} left")
            .unwrap_or(ProgressStyle::default_bar()),
    );
    bar
}

fn show(outcome: &Outcome, out: &mut Output<impl Write>) -> Result<()> {
    out.say(format_args!(
        "{} on {} ({} dedicated, {} shared; modelled{})",
        outcome.trace,
        outcome.profile,
        show_size(outcome.dedicated_bytes),
        show_size(outcome.shared_bytes),
        match outcome.steps.first().is_some_and(|step| step.card_seconds.is_some()) {
            true => format!(" beside {}, for the bytes alone", outcome.card),
            false => " on the simulated GPU".into(),
        }
    ))?;
    for step in &outcome.steps {
        out.say(format_args!(
            "  {:<12} {:>8.3} s{}  (compute {:.3} s, {} over the link; {} dedicated, {} shared)",
            step.name,
            step.seconds,
            step.card_seconds.map_or(String::new(), |seconds| format!(", the card's clock {seconds:.3} s")),
            step.compute_seconds,
            show_size(step.link_bytes),
            show_size(step.peak_dedicated_bytes),
            show_size(step.peak_shared_bytes)
        ))?;
    }
    out.say(format_args!(
        "  fragmentation {:.4} ({} mapped over {} live at their peaks), {} mallocs, {} stitched, {} migrated",
        outcome.fragmentation,
        show_size(outcome.peak_mapped_bytes),
        show_size(outcome.peak_live_bytes),
        outcome.mallocs,
        show_size(outcome.stitched_bytes),
        show_size(outcome.migrated_bytes)
    ))
}

fn run(cli: Cli, out: &mut Output<impl Write>) -> Result<()> {
    match cli.command {
        None => {
            let bar = progress(demo::replays());
            let text = demo::demo(|| bar.inc(1))?;
            bar.finish_and_clear();
            out.say(text)?;
        }
        Some(Command::Replay { run, placed, device, json }) => {
            let mut setup = run.setup(placed.policy, placed.reserve)?;
            if setup.policy == Policy::Remembered {
                // The start before, always on the simulated GPU: what it wants depends on no time.
                let before = Setup { policy: Policy::Untold, ..setup.clone() };
                setup.wanted = replay(&mut *run.open()?, &before, &mut |_, _| {})?.wanted;
            }
            let mut trace = run.open()?;
            let outcome = match device {
                None => replay(&mut *trace, &setup, &mut |_, _| {})?,
                Some(_) if run.in_place_reread.is_some() => {
                    bail!("--in-place-reread is the model's: a card does nothing twice, leave it out with --device")
                }
                Some(device) => replay_on(&Cuda::new(device)?, &mut *trace, &setup)?,
            };
            if json {
                out.json(&outcome)?;
            } else {
                show(&outcome, out)?;
            }
            if let Some(oom) = outcome.oom {
                bail!("{oom}");
            }
        }
        Some(Command::Sweep { run, from, to, step, csv, plot, json }) => {
            let reserves = sweep::reserves(from, to, step)?;
            let setup = run.setup(Policy::Reserve, 0)?;
            if let Some(plot) = &plot {
                picture::check_extension(plot)?;
            }
            let bar = progress(reserves.len() as u64);
            let sweep = sweep::sweep(|| run.open(), &setup, &reserves, || bar.inc(1))?;
            bar.finish_and_clear();
            if let Some(path) = &csv {
                let mut text = Vec::new();
                sweep.write_csv(&mut text)?;
                output::write(path, &text)?;
            }
            if let Some(path) = &plot {
                picture::plot_sweep(&sweep, path)?;
            }
            if json {
                out.json(&sweep)?;
            }
            let best = sweep.need_best()?;
            if !json {
                let (low, high) = sweep.plateau().unwrap_or((best.reserve_bytes, best.reserve_bytes));
                out.say(format_args!(
                    "best: {:.3} s per step with a reserve of {} (good from {} to {}); first-come {:.3} s; all dedicated {:.3} s",
                    best.seconds.unwrap_or(f64::NAN),
                    show_size(best.reserve_bytes),
                    show_size(low),
                    show_size(high),
                    sweep.first_come.unwrap_or(f64::NAN),
                    sweep.limit.unwrap_or(f64::NAN)
                ))?;
            }
        }
        Some(Command::Map { run, placed, at, out: path }) => {
            if !page::is_page(&path) {
                picture::check_extension(&path)?;
            }
            let setup = run.setup(placed.policy, placed.reserve)?;
            let mut trace = run.open()?;
            let (map, stats) = map_at(&mut *trace, &setup, &at)?;
            let title = format!("{}, {at}", trace.name());
            if page::is_page(&path) {
                page::write_map(&map, &stats, &title, &path)?;
            } else {
                picture::draw_map(&map, &stats, &title, &path)?;
            }
        }
        Some(Command::Plan { run, json }) => {
            let setup = run.setup(Policy::Auto, 0)?;
            let open = |generations| workload::open_generations(&run.trace, generations);
            let plan = plan::plan(open, &setup, workload::has_snapshot(&run.trace)?)?;
            if json {
                out.json(&plan)?;
            } else {
                out.say(plan.text())?;
            }
        }
        Some(Command::Compare { json }) => {
            let bar = progress(compare::replays());
            let rows = compare::compare(|| bar.inc(1))?;
            bar.finish_and_clear();
            if json {
                out.json(&rows)?;
            } else {
                out.say(compare::text(&rows))?;
            }
        }
        Some(Command::Hotpath { log, live, rounds, json }) => {
            let figures = hotpath::measure(&hotpath::Log::open(log.as_deref())?, live, rounds)?;
            if json {
                out.json(&figures)?;
            } else {
                let ours = figures.ns_per_pair;
                out.say(format_args!("{ours:.1} ns per malloc and free through gk_malloc and gk_free"))?;
                for (name, ns) in &figures.peers {
                    out.say(format_args!("{ns:.1} ns {name} (ours is {:.2} of it)", ours / ns))?;
                }
                out.say(format_args!(
                    "{} driver calls in {} rounds of {} pairs",
                    figures.driver_calls_steady, figures.rounds, figures.pairs
                ))?;
            }
        }
        Some(Command::Probe { on, name, out: path, json }) => {
            let card = on.card()?;
            let (measured, profile) = probe::measure(&*card, name.as_deref().unwrap_or(&card.name()))?;
            output::write(&path, profile.to_toml().as_bytes())?;
            if let Some(path) = &json {
                output::write(path, serde_json::to_string_pretty(&measured)?.as_bytes())?;
            }
            let gigabytes = |rate: f64| rate / 1e9;
            out.say(format_args!(
                "{} ({}): memory {:.1} GB/s, link {:.1} GB/s to the device and {:.1} GB/s to the host, read in place {:.1} GB/s",
                measured.card,
                if measured.real { "measured" } else { "modelled" },
                gigabytes(profile.vram_bandwidth),
                gigabytes(measured.copy_to_device),
                gigabytes(measured.copy_to_host),
                gigabytes(measured.rates[1].read)
            ))?;
            out.say(format_args!("the profile is in {}", shown(&path)))?;
        }
        Some(Command::Check { on, json }) => {
            let card = on.card()?;
            out.say(card.name())?;
            let checked = check::check(&*card, |proof| match &proof.error {
                None => out.say(format_args!("  holds: {}", proof.name)),
                Some(why) => out.say(format_args!("  FAILS: {}: {why}", proof.name)),
            })?;
            if let Some(path) = &json {
                output::write(path, serde_json::to_string_pretty(&checked)?.as_bytes())?;
            }
            if !checked.is_good() {
                bail!("the allocator is not right on {}", checked.card);
            }
        }
        Some(Command::Report { folder }) => {
            report::write(&folder)?;
            out.say(format_args!("the page is {}", shown(&folder.join(report::PAGE))))?;
        }
        Some(Command::Options) => out.say(giant_kitten::reference())?,
    }
    Ok(())
}

/// Says why it ended. What a terminal would obey in names is written out; there is nobody to tell where this cannot be said.
fn complain(why: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain_lines(why.trim_end()));
}

/// Does what the command line says, or answers it where it asks for help or is wrong.
fn answer(out: &mut Output<impl Write>) -> Result<ExitCode> {
    match Cli::try_parse() {
        Ok(cli) => run(cli, out).map(|()| ExitCode::SUCCESS),
        Err(asked) if !asked.use_stderr() => out.say(asked).map(|()| ExitCode::SUCCESS),
        Err(wrong) => {
            complain(&wrong.to_string());
            Ok(ExitCode::from(2))
        }
    }
}

/// What ends a program at a signal and what is told to it as an error.
fn settle_signals() {
    // A reader that has seen enough, such as `head`, ends this program as it ends any other.
    sigpipe::reset();
    // A file that may not grow any more is a full disk: the write fails, and what was written goes away.
    #[cfg(unix)]
    // SAFETY: a signal that is passed over runs no code.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

fn main() -> ExitCode {
    settle_signals();
    giant_kitten::abi::start_log();
    match answer(&mut Output::new(std::io::stdout())) {
        Ok(code) => code,
        Err(why) => {
            if !why.is::<Closed>() {
                complain(&format!("kitten-bench: {why:#}"));
            }
            ExitCode::FAILURE
        }
    }
}
