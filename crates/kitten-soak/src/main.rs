//! The command line of kitten-soak.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use kitten_soak::{Part, Parts, Plan, Report, run, watch};

/// Calls giant-kitten's C interface on simulated machines and compares every byte and all books. If
/// something fails, it ends with the seed and the position. With the same seed and episode it fails
/// again in the same way, if one thread played
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// How long, in hours; 0.5 is thirty minutes
    #[arg(default_value_t = f64::INFINITY)]
    hours: f64,
    /// How many calls of the library, at most
    #[arg(long, default_value_t = u64::MAX)]
    operations: u64,
    /// The seed that everything follows from; by default from the clock
    #[arg(long)]
    seed: Option<u64>,
    /// The first episode, such as the one that failed
    #[arg(long, default_value_t = 0)]
    episode: u64,
    /// How many episodes, at most
    #[arg(long, default_value_t = u64::MAX)]
    episodes: u64,
    /// Threads of the episodes that are not played by one thread
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Leave these parts out, to find what a failure needs
    #[arg(long, value_delimiter = ',')]
    without: Vec<Part>,
    /// Continue after a failure with the next episode
    #[arg(long)]
    keep_going: bool,
}

/// How often progress is printed.
const INTERVAL: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    let seed = cli.seed.unwrap_or(clock % 1_000_000_007);
    println!("seed {seed}");
    watch();
    let start = Instant::now();
    let time = Duration::try_from_secs_f64(cli.hours * 3600.0).unwrap_or(Duration::MAX);
    let mut plan = Plan {
        seed,
        first: cli.episode,
        episodes: cli.episodes,
        operations: cli.operations,
        time,
        threads: cli.threads.into(),
        parts: Parts::without(&cli.without),
    };
    let mut report = Report::default();
    let mut failures = 0;
    let mut reported = (Instant::now(), 0);
    loop {
        let result = run(&plan, &mut report, |report| {
            let (since, operations) = (reported.0.elapsed(), report.tally.operations());
            if since >= INTERVAL {
                let rate = (operations - reported.1) as f64 / since.as_secs_f64();
                println!("{operations} operations, {} episodes, {:.2} million/s", report.episodes, rate / 1e6);
                reported = (Instant::now(), operations);
            }
        });
        let Err(stopped) = result else { break };
        failures += 1;
        eprint!("{}", stopped.notes);
        println!("FAILED: seed {seed}, {}", stopped.what);
        println!(
            "  again: scripts/soak --seed {seed} --episode {} --episodes 1 --threads {}",
            stopped.episode, cli.threads
        );
        let done = stopped.episode + 1 - plan.first;
        if !cli.keep_going || plan.episodes <= done {
            break;
        }
        plan = Plan {
            first: plan.first + done,
            episodes: plan.episodes - done,
            time: time.saturating_sub(start.elapsed()),
            ..plan
        };
    }
    conclude(&report, failures, start.elapsed());
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the results that the record keeps.
fn conclude(report: &Report, failures: u64, spent: Duration) {
    let tally = &report.tally;
    let rate = tally.operations() as f64 / spent.as_secs_f64() / 1e6;
    println!("outcome     {}", if failures == 0 { "nothing failed".into() } else { format!("{failures} FAILED") });
    println!("operations  {} in {:.0} s, {rate:.2} million/s", tally.operations(), spent.as_secs_f64());
    println!("episodes    {} that ended well", report.episodes);
    println!("blocks      {} allocated, {} freed, {} refused", tally.mallocs, tally.frees, tally.refused);
    println!("compared    {} contents, {:.1} GiB", tally.compared, tally.compared_bytes as f64 / (1u64 << 30) as f64);
    println!("actions     {}, {} weights lent from a ring", tally.actions, tally.lent);
    println!("captures    {}, {} replays", tally.captures, tally.replays);
    println!("wrong       {} orders and arguments", tally.wrong);
    println!("failures    {} armed, {} driver calls", tally.armed, report.driver_calls);
}
