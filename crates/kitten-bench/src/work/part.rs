//! A trace or a snapshot cut into loading and steps.

use anyhow::{Context, Result, bail};

use super::trace::{Event, Trace, is_loading};

/// Work cut into loading and steps.
pub(super) struct Part {
    pub(super) name: String,
    /// How many of its steps make one generation.
    pub(super) times: u64,
    pub(super) load: Vec<Event>,
    /// The events of each step, with its phase.
    pub(super) steps: Vec<(String, Vec<Event>)>,
}

impl Part {
    /// Reads a trace to its end. One generation has all of its steps.
    ///
    /// # Errors
    /// A trace that is wrong, or has no step.
    pub(super) fn read(trace: &mut Trace) -> Result<Part> {
        let mut part = Part { name: trace.name().to_owned(), times: 0, load: Vec::new(), steps: Vec::new() };
        let mut loading = true;
        let mut ended = false;
        while let Some(event) = trace.next_event()? {
            if let Event::Phase(name) = &event {
                ended = name == "end";
                loading = is_loading(name);
                if !loading && !ended {
                    part.steps.push((name.clone(), Vec::new()));
                }
            } else if loading {
                part.load.push(event);
            } else if !ended {
                part.steps.last_mut().context("a step")?.1.push(event);
            }
        }
        if part.steps.is_empty() {
            bail!("{} has no step to repeat: it has no phase other than loading", part.name);
        }
        part.times = part.steps.len() as u64;
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::trace::{BUNDLED, Kind};

    #[test]
    fn every_bundled_trace_has_weights_before_its_steps() {
        for name in BUNDLED {
            let part = Part::read(&mut Trace::open(name).unwrap()).unwrap();
            let is_weight = |event: &Event| matches!(event, Event::Alloc { kind: Kind::Param, .. });
            assert!(part.load.iter().any(is_weight), "{name}");
            assert!(part.steps.len() >= 2, "{name}");
            assert!(part.steps.iter().all(|(_, events)| !events.iter().any(is_weight)), "{name}");
        }
    }
}
