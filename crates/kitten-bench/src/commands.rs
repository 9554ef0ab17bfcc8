//! The commands, a function each.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum as _;
use giant_kitten::show_size;
use indicatif::{ProgressBar, ProgressStyle};
use kitten_bench::card::probe::Measured;
use kitten_bench::card::{Cuda, check, probe};
use kitten_bench::hotpath;
use kitten_bench::output::{self, Output};
use kitten_bench::replay::layout::layout_of;
use kitten_bench::replay::plan::{self, Plan};
use kitten_bench::replay::timeline::timeline_of;
use kitten_bench::replay::{Outcome, Policy, Setup, choose, compare, demo, map_at, replay, replay_on, sweep};
use kitten_bench::show::{self, page, report};
use kitten_bench::text::{self, shown};
use kitten_bench::work;
use kitten_sim::{Card, Profile};
use serde::Serialize;

use crate::cli::{Cli, Command, On, Placed, Run, StepPicture, Sweep};

/// Runs the command of a command line.
pub fn run(cli: Cli, out: &mut Output<impl Write>) -> Result<()> {
    match cli.command {
        None => run_demo(out),
        Some(Command::Replay { run, placed, device, json }) => run_replay(&run, &placed, device, json, out),
        Some(Command::Sweep(sweep)) => run_sweep(&sweep, out),
        Some(Command::Map { run, placed, at, out }) => run_map(&run, &placed, at.as_deref(), &out),
        Some(Command::Timeline { policy, step }) => run_timeline(policy, &step, out),
        Some(Command::Layout { policy, step }) => run_layout(policy, &step, out),
        Some(Command::Plan { run, cards, json }) => run_plan(&run, cards.as_deref(), json, out),
        Some(Command::Cards { json }) => run_cards(json, out),
        Some(Command::Compare { json }) => run_compare(json, out),
        Some(Command::Hotpath { log, live, rounds, json }) => run_hotpath(log.as_deref(), live, rounds, json, out),
        Some(Command::Costs { blocks, json }) => run_costs(&blocks, json, out),
        Some(Command::Probe { on, name, out: path, json }) => run_probe(&on, name, &path, json, out),
        Some(Command::Check { on, json }) => run_check(&on, json, out),
        Some(Command::Report { folder }) => {
            report::write(&folder)?;
            out.say(format_args!("the page is {}", shown(&folder.join(report::PAGE))))
        }
        Some(Command::Options) => out.say(giant_kitten::reference()),
    }
}

fn run_demo(out: &mut Output<impl Write>) -> Result<()> {
    let bar = progress(demo::replays());
    let text = demo::demo(|| bar.inc(1))?;
    bar.finish_and_clear();
    out.say(text)
}

fn run_replay(
    run: &Run,
    placed: &Placed,
    device: Option<usize>,
    json: bool,
    out: &mut Output<impl Write>,
) -> Result<()> {
    let mut setup = run.setup(placed.policy_or(Policy::Reserve), placed.reserve())?;
    if setup.policy == Policy::Remembered {
        // The start before always runs on the simulated GPU: what it wants does not depend on time.
        let before = Setup { policy: Policy::Untold, ..setup.clone() };
        setup.wanted = replay(&mut *run.open()?, &before)?.wanted;
    }
    let mut source = run.open()?;
    let outcome = match device {
        None => replay(&mut *source, &setup)?,
        Some(_) if run.in_place_reread.is_some() => {
            bail!("--in-place-reread belongs to the model, and a card reads nothing twice: leave it out with --device")
        }
        Some(device) => replay_on(&Cuda::new(device)?, &mut *source, &setup)?,
    };
    if json {
        out.json(&outcome)?;
    } else {
        show_outcome(&outcome, out)?;
    }
    match outcome.oom {
        Some(oom) => bail!("{oom}"),
        None => Ok(()),
    }
}

fn show_outcome(outcome: &Outcome, out: &mut Output<impl Write>) -> Result<()> {
    out.say(format_args!(
        "{} on {} ({} dedicated, {} shared; {}; modelled{})",
        outcome.trace,
        outcome.profile,
        show_size(outcome.dedicated_bytes),
        show_size(outcome.shared_bytes),
        placement(outcome),
        match outcome.steps.first().is_some_and(|step| step.card_seconds.is_some()) {
            true => format!(" next to {}, for the bytes alone", outcome.card),
            false => " on the simulated GPU".into(),
        }
    ))?;
    let width = outcome.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0).max(12);
    for step in &outcome.steps {
        out.say(format_args!(
            "  {:<width$} {:>8} s{}  (compute {} s, {} over the link; {} dedicated, {} shared)",
            step.name,
            text::seconds(step.seconds, 3),
            step.card_seconds
                .map_or(String::new(), |taken| format!(", the card's clock {} s", text::seconds(taken, 3))),
            text::seconds(step.compute_seconds, 3),
            show_size(step.link_bytes),
            show_size(step.peak_dedicated_bytes),
            show_size(step.peak_shared_bytes)
        ))?;
    }
    out.say(format_args!(
        "  fragmentation {:.4} ({} mapped over {} live at their peaks), {} mallocs, {} stitched, {} migrated{}",
        outcome.fragmentation,
        show_size(outcome.peak_mapped_bytes),
        show_size(outcome.peak_live_bytes),
        outcome.mallocs,
        show_size(outcome.stitched_bytes),
        show_size(outcome.migrated_bytes),
        match outcome.moving_seconds {
            seconds if seconds > 0.0 && outcome.migrated_bytes > 0 => format!(
                " in {} s ({} s over the link alone)",
                text::seconds(seconds, 3),
                text::seconds(outcome.moving_link_seconds, 3)
            ),
            _ => String::new(),
        }
    ))
}

/// How memory was placed, as the arguments name it.
fn placement(outcome: &Outcome) -> String {
    let policy =
        outcome.policy.to_possible_value().map_or(String::new(), |value| format!("--policy {}", value.get_name()));
    match outcome.policy {
        Policy::Reserve => format!("{policy} --reserve {}", show_size(outcome.reserve_bytes).replace(' ', "")),
        _ => policy,
    }
}

fn run_sweep(arguments: &Sweep, out: &mut Output<impl Write>) -> Result<()> {
    let setup = arguments.run.setup(Policy::Reserve, 0)?;
    let planned = match arguments.to {
        Some(_) => None,
        None => Some(planned(&arguments.run)?),
    };
    let to = arguments.to.or(planned.as_ref().map(Plan::largest_reserve)).unwrap_or(arguments.from);
    let step = arguments.step.unwrap_or_else(|| sweep::step(arguments.from, to, setup.profile.granularity));
    let reserves = sweep::reserves(arguments.from, to, step)?;
    if let Some(plot) = &arguments.plot {
        show::check_extension(plot)?;
    }
    let bar = progress(reserves.len() as u64);
    let sweep = sweep::sweep(|| arguments.run.open(), &setup, &reserves, || bar.inc(1))?;
    bar.finish_and_clear();
    if let Some(path) = &arguments.csv {
        let mut text = Vec::new();
        sweep.write_csv(&mut text)?;
        output::write(path, &text)?;
    }
    if let Some(path) = &arguments.plot {
        show::plot_sweep(&sweep, path)?;
    }
    if arguments.json {
        out.json(&sweep)?;
    }
    let best = sweep.need_best()?;
    if arguments.json {
        return Ok(());
    }
    let (low, high) = sweep.plateau().unwrap_or((best.reserve_bytes, best.reserve_bytes));
    out.say(format_args!(
        "best: {} s per step with a reserve of {} (good from {} to {}); first-come {} s; all dedicated {} s",
        text::seconds(best.seconds.unwrap_or(f64::NAN), 3),
        show_size(best.reserve_bytes),
        show_size(low),
        show_size(high),
        text::seconds(sweep.first_come.unwrap_or(f64::NAN), 3),
        text::seconds(sweep.limit.unwrap_or(f64::NAN), 3)
    ))?;
    match planned {
        Some(plan) => out.say(format_args!(
            "tried: {} to {}, every {}; plan, for the same work: {}",
            show_size(arguments.from),
            show_size(to),
            show_size(step),
            plan.reserve()
        )),
        None => Ok(()),
    }
}

fn run_map(run: &Run, placed: &Placed, at: Option<&str>, path: &Path) -> Result<()> {
    if !page::is_page(path) {
        show::check_extension(path)?;
    }
    let setup = run.setup(placed.policy_or(Policy::Auto), placed.reserve())?;
    let mut source = run.open()?;
    let busiest = map_at(&mut *source, &setup, at)?;
    let title = format!("{}, {}", source.name(), busiest.phase);
    match page::is_page(path) {
        true => page::write_map(&busiest, &title, path),
        false => show::draw_map(&busiest, &title, path),
    }
}

fn run_timeline(policy: Policy, step: &StepPicture, out: &mut Output<impl Write>) -> Result<()> {
    show::check_extension(&step.out)?;
    let setup = step.setup(policy)?;
    // The work is done as often as the automatic mode needs to settle.
    let mut source = work::open_generations(&step.run.trace, plan::GENERATIONS)?;
    let line = timeline_of(&mut *source, &setup, step.at.as_deref())?;
    show::draw_timeline(&line, &on_card(&line.step, &setup), &step.out)?;
    out.say(format_args!("{} takes {}", line.step, show::in_words(&line)))
}

fn run_layout(policy: Policy, step: &StepPicture, out: &mut Output<impl Write>) -> Result<()> {
    show::check_extension(&step.out)?;
    let setup = step.setup(policy)?;
    let layout = layout_of(&mut *step.run.open()?, &setup, step.at.as_deref())?;
    show::draw_layout(&layout, &on_card(&layout.step, &setup), &step.out)?;
    out.say(format_args!("{}: {}", layout.step, show::layout_in_words(&layout)))
}

/// A step, and the card that it runs on.
fn on_card(step: &str, Setup { profile, .. }: &Setup) -> String {
    format!("{step} on {}, {} dedicated", profile.name, show_size(profile.dedicated_bytes))
}

fn run_plan(run: &Run, cards: Option<&str>, json: bool, out: &mut Output<impl Write>) -> Result<()> {
    if let Some(cards) = cards {
        let open = |generations| work::open_generations(&run.trace, generations);
        let traffic_only = work::has_snapshot(&run.trace)?;
        let setups = run.setups_on(cards)?;
        let bar = progress(setups.len() as u64);
        let choice = choose::choose(open, &setups, traffic_only, || bar.inc(1))?;
        bar.finish_and_clear();
        return if json { out.json(&choice) } else { out.say(choice.text()) };
    }
    let plan = planned(run)?;
    if json {
        return out.json(&plan);
    }
    out.say(plan.text())?;
    match run.speeds_of_another() {
        Some(profile) => out.say(format_args!(
            "The speeds are those of {profile}, with other memory: --card \"RTX 4060 8GB\" has a card's own \
             (kitten-bench cards lists them)."
        )),
        None => Ok(()),
    }
}

/// The plan for one card.
fn planned(run: &Run) -> Result<Plan> {
    let open = |generations| work::open_generations(&run.trace, generations);
    plan::plan(open, &run.setup(Policy::Auto, 0)?, work::has_snapshot(&run.trace)?)
}

fn run_cards(json: bool, out: &mut Output<impl Write>) -> Result<()> {
    let cards = Card::all();
    if json { out.json(&cards) } else { out.say(show::cards::text(&cards)) }
}

fn run_compare(json: bool, out: &mut Output<impl Write>) -> Result<()> {
    let bar = progress(compare::replays());
    let rows = compare::compare(|| bar.inc(1))?;
    bar.finish_and_clear();
    if json { out.json(&rows) } else { out.say(compare::text(&rows)) }
}

fn run_hotpath(log: Option<&str>, live: usize, rounds: usize, json: bool, out: &mut Output<impl Write>) -> Result<()> {
    let figures = hotpath::measure(&hotpath::Log::open(log)?, live, rounds)?;
    if json {
        return out.json(&figures);
    }
    let ours = figures.ns_per_pair;
    out.say(format_args!("{ours:.1} ns per malloc and free through gk_malloc and gk_free"))?;
    for (name, ns) in &figures.peers {
        out.say(format_args!("{ns:.1} ns {name} (ours is {:.2} of it)", ours / ns))?;
    }
    out.say(format_args!(
        "{} driver calls in {} rounds of {} pairs",
        figures.driver_calls_steady, figures.rounds, figures.pairs
    ))
}

fn run_costs(blocks: &[u64], json: bool, out: &mut Output<impl Write>) -> Result<()> {
    let costs = blocks.iter().map(|blocks| hotpath::costs::measure(*blocks)).collect::<Result<Vec<_>>>()?;
    if json { out.json(&costs) } else { out.say(show::costs::text(&costs)) }
}

fn run_probe(
    on: &On,
    name: Option<String>,
    path: &Path,
    json: Option<PathBuf>,
    out: &mut Output<impl Write>,
) -> Result<()> {
    let card = on.card()?;
    let (measured, profile) = probe::measure(&*card, name.as_deref().unwrap_or(&card.name()))?;
    output::write(path, profile.to_toml().as_bytes())?;
    write_json(json, &measured)?;
    show_measured(&measured, &profile, out)?;
    out.say(format_args!("the profile is in {}", shown(path)))
}

fn show_measured(measured: &Measured, profile: &Profile, out: &mut Output<impl Write>) -> Result<()> {
    let gigabytes = |rate: f64| rate / 1e9;
    out.say(format_args!(
        "{} ({}): memory {:.1} GB/s, link {:.1} GB/s to the device and {:.1} GB/s to the host, read in place {:.1} GB/s",
        measured.card,
        if measured.real { "measured" } else { "modelled" },
        gigabytes(profile.vram_bandwidth),
        gigabytes(measured.copy_to_device),
        gigabytes(measured.copy_to_host),
        gigabytes(measured.rates[1].read)
    ))
}

fn run_check(on: &On, json: Option<PathBuf>, out: &mut Output<impl Write>) -> Result<()> {
    let card = on.card()?;
    out.say(card.name())?;
    let checked = check::check(&*card, |proof| match &proof.error {
        None => out.say(format_args!("  holds: {}", proof.name)),
        Some(why) => out.say(format_args!("  FAILS: {}: {why}", proof.name)),
    })?;
    write_json(json, &checked)?;
    if !checked.is_good() {
        bail!("the allocator is not right on {}", checked.card);
    }
    Ok(())
}

/// Writes something as JSON to a file, if one is named.
fn write_json(path: Option<PathBuf>, of: &impl Serialize) -> Result<()> {
    match path {
        Some(path) => output::write(&path, serde_json::to_string_pretty(of)?.as_bytes()),
        None => Ok(()),
    }
}

/// A progress bar on a terminal; a hidden one elsewhere.
fn progress(replays: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(replays);
    bar.set_style(
        ProgressStyle::with_template("{bar:40} {pos}/{len} replays, {eta} left")
            .unwrap_or(ProgressStyle::default_bar()),
    );
    bar
}
