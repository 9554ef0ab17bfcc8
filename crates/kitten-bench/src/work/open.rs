//! From the names on a command line to a source of events.

use anyhow::{Context, Result, ensure};

use super::part::Part;
use super::snapshot::Snapshot;
use super::source::Source;
use super::trace::Trace;
use super::workload::{MOST_STEPS, Workload};
use crate::text::plain;

/// Opens the work that a command line names: one trace as it is, or several traces, each with a
/// number of steps (`unet:20 vae:1`; all of its steps without a number), all of it `loops` times.
/// A name may also be that of a snapshot that PyTorch wrote.
///
/// # Errors
/// A count of 0; a trace that is wrong.
pub fn open(names: &[String], loops: u64) -> Result<Box<dyn Source>> {
    ensure!(loops > 0, "--loop 0 replays nothing: give 1 or more");
    if let [name] = names
        && loops == 1
        && split_count(name)?.1.is_none()
        && !Snapshot::is_one(name)?
    {
        return Ok(Box::new(Trace::open(name)?));
    }
    open_generations(names, loops)
}

/// Opens the same work as generations, each trace with all of its steps or its number of them.
///
/// # Errors
/// As for [`open`].
pub fn open_generations(names: &[String], generations: u64) -> Result<Box<dyn Source>> {
    ensure!(!names.is_empty(), "no trace is named");
    let parts = parts(names)?;
    let once = parts.iter().fold(0, |steps: u64, part| steps.saturating_add(part.times));
    let steps = once.saturating_mul(generations);
    ensure!(steps <= MOST_STEPS, "this is work of {steps} steps: no more than {MOST_STEPS} are replayed");
    Ok(Box::new(Workload::new(parts, generations)))
}

/// Whether any of the names is a snapshot that PyTorch wrote.
///
/// # Errors
/// A file that cannot be read.
pub fn has_snapshot(names: &[String]) -> Result<bool> {
    names.iter().try_fold(false, |found, name| Ok(found || Snapshot::is_one(split_count(name)?.0)?))
}

/// The parts that a command line names, each with its own number of steps or with all of them.
fn parts(names: &[String]) -> Result<Vec<Part>> {
    let parts = names.iter().map(|name| {
        let (path, count) = split_count(name)?;
        ensure!(count != Some(0), "{}: 0 steps replay nothing: give 1 or more", plain(name));
        let part = match Snapshot::open(path)? {
            Some(snapshot) => snapshot.into_part(),
            None => Part::read(&mut Trace::open(path)?)?,
        };
        Ok(Part { times: count.unwrap_or(part.times), ..part })
    });
    parts.collect()
}

/// `unet.zst:20` is the trace and the number. A name without digits after its last colon has none.
fn split_count(name: &str) -> Result<(&str, Option<u64>)> {
    match name.rsplit_once(':') {
        Some((path, digits)) if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) => {
            let count = digits.parse();
            Ok((path, Some(count.with_context(|| format!("{}: {digits} steps are too many", plain(name)))?)))
        }
        _ => Ok((name, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_from_names() {
        assert_eq!(split_count("unet.zst:20").unwrap(), ("unet.zst", Some(20)));
        assert_eq!(split_count("unet").unwrap(), ("unet", None));
        assert_eq!(split_count("C:trace").unwrap(), ("C:trace", None));
        assert!(split_count("unet:18446744073709551616").is_err());
    }
}
