//! kitten-bench: from a command line to an exit code.

mod cli;
mod commands;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use kitten_bench::output::{Closed, Output};
use kitten_bench::text::plain_lines;

use cli::Cli;

/// Reports why the program ends. Control characters in names are written out. An error of the
/// standard error has nowhere to go.
fn complain(why: &str) {
    let _ = writeln!(std::io::stderr(), "{}", plain_lines(why.trim_end()));
}

/// Runs the command line, or answers it if it asks for help or is wrong.
fn answer(out: &mut Output<impl Write>) -> Result<ExitCode> {
    match Cli::try_parse() {
        Ok(cli) => commands::run(cli, out).map(|()| ExitCode::SUCCESS),
        Err(asked) if !asked.use_stderr() => out.say(asked).map(|()| ExitCode::SUCCESS),
        Err(wrong) => {
            complain(&wrong.to_string());
            Ok(ExitCode::from(2))
        }
    }
}

/// Chooses which signals end the program and which are errors of a call.
fn settle_signals() {
    // A reader that closes its end of a pipe, such as `head`, ends this program as it ends any
    // other.
    sigpipe::reset();
    // A file at the limit of its size is like a full disk: the write fails, and nothing is left of
    // it.
    #[cfg(unix)]
    // SAFETY: an ignored signal runs no code.
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
