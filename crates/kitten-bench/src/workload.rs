//! Workloads: one trace as it is, or several as one run, such as twenty steps of a UNet and one decode, again and again.

use std::collections::{HashMap, VecDeque};

use anyhow::{Context, Result, bail, ensure};

use crate::snapshot::Snapshot;
use crate::text::plain;
use crate::trace::{Event, Kind, Op, Trace};

/// Where the events of a replay come from.
pub trait Source {
    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// Whatever is wrong with it.
    fn next_event(&mut self) -> Result<Option<Event>>;
    /// Adds where an error happened.
    fn at(&self) -> String;
    /// What is replayed.
    fn name(&self) -> &str;
    /// Which kind of work a phase is: the trace, and the phase's name without a number.
    fn kind(&self, phase: &str) -> String;
    /// How often the whole of the work has been done before.
    fn generation(&self) -> u64;
}

impl Source for Trace {
    fn next_event(&mut self) -> Result<Option<Event>> {
        Trace::next_event(self)
    }

    fn at(&self) -> String {
        Trace::at(self)
    }

    fn name(&self) -> &str {
        Trace::name(self)
    }

    fn kind(&self, phase: &str) -> String {
        kind_of(phase).to_owned()
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// No work may have more steps, with all its repetitions.
pub(crate) const MOST_STEPS: u64 = 1_000_000;

/// Whether work has not begun yet in a phase of this name.
pub fn is_loading(phase: &str) -> bool {
    matches!(phase, "load" | "inputs")
}

/// The kind of work of a phase: its name without the number.
fn kind_of(phase: &str) -> &str {
    phase.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end()
}

/// Opens what the command line names: one trace as it is, or traces with how many steps of each (`unet:20 vae:1`; otherwise all of
/// them), all of it `loops` times. PyTorch's snapshots of memory are traces too.
///
/// # Errors
/// A count of 0; whatever is wrong with a trace.
pub fn open(names: &[String], loops: u64) -> Result<Box<dyn Source>> {
    ensure!(loops > 0, "--loop 0 replays nothing: give 1 or more");
    if let [name] = names
        && loops == 1
        && split_count(name)?.1.is_none()
        && !Snapshot::is_one(name)?
    {
        return Ok(Box::new(Trace::open(name)?));
    }
    ensure!(!names.is_empty(), "no trace is named");
    workload(names, loops)
}

/// Opens the same as so many generations, each trace with all of its steps or its count of them.
///
/// # Errors
/// As for [`open`].
pub fn open_generations(names: &[String], generations: u64) -> Result<Box<dyn Source>> {
    ensure!(!names.is_empty(), "no trace is named");
    workload(names, generations)
}

fn workload(names: &[String], loops: u64) -> Result<Box<dyn Source>> {
    let parts = parts(names)?;
    let steps = parts.iter().fold(0, |steps: u64, part| steps.saturating_add(part.times)).saturating_mul(loops);
    ensure!(steps <= MOST_STEPS, "this is work of {steps} steps: no more than {MOST_STEPS} are replayed");
    Ok(Box::new(Workload::new(parts, loops)))
}

/// Whether any of the names is a snapshot of PyTorch's.
///
/// # Errors
/// A file that cannot be read.
pub fn has_snapshot(names: &[String]) -> Result<bool> {
    names.iter().try_fold(false, |found, name| Ok(found || Snapshot::is_one(split_count(name)?.0)?))
}

/// What the command line names, taken apart: each with a count of its own, or with all of its steps.
fn parts(names: &[String]) -> Result<Vec<Part>> {
    let parts = names.iter().map(|name| {
        let (path, count) = split_count(name)?;
        ensure!(count != Some(0), "{}: 0 steps of it are nothing to replay", plain(name));
        let part = match Snapshot::open(path)? {
            Some(snapshot) => snapshot.into_part(),
            None => Part::read(&mut Trace::open(path)?)?,
        };
        Ok(Part { times: count.unwrap_or(part.steps.len() as u64), ..part })
    });
    parts.collect()
}

/// `unet.zst:20` is the trace and the count; a name without digits behind its last colon has no count.
fn split_count(name: &str) -> Result<(&str, Option<u64>)> {
    match name.rsplit_once(':') {
        Some((path, digits)) if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) => {
            let count = digits.parse();
            Ok((path, Some(count.with_context(|| format!("{}: {digits} steps are too many", plain(name)))?)))
        }
        _ => Ok((name, None)),
    }
}

/// A trace taken apart.
pub(crate) struct Part {
    pub(crate) name: String,
    /// How many of its steps are one generation.
    pub(crate) times: u64,
    pub(crate) load: Vec<Event>,
    /// Each with its phase.
    pub(crate) steps: Vec<(String, Vec<Event>)>,
}

impl Part {
    fn read(trace: &mut Trace) -> Result<Part> {
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
            bail!("{} has no step to repeat: it has no phase besides loading", part.name);
        }
        Ok(part)
    }
}

/// Several traces as one run: all are loaded first; then the steps of each in turn. A step beyond a trace's last repeats that.
pub struct Workload {
    parts: Vec<Part>,
    loops: u64,
    name: String,
    /// The step to come.
    next_generation: u64,
    part: usize,
    step: u64,
    loaded: bool,
    queue: VecDeque<Event>,
    kind: String,
    generation: u64,
    next_id: u64,
    /// By part: the blocks that live, from the trace's names to ours, and whether a step made them.
    live: Vec<HashMap<u64, (u64, bool)>>,
}

impl Workload {
    fn new(parts: Vec<Part>, loops: u64) -> Workload {
        let names: Vec<String> = parts.iter().map(|part| format!("{}:{}", part.name, part.times)).collect();
        Workload {
            live: parts.iter().map(|_| HashMap::new()).collect(),
            parts,
            loops,
            name: format!("{}, {loops} times", names.join(" ")),
            next_generation: 0,
            part: 0,
            step: 0,
            loaded: false,
            queue: VecDeque::new(),
            kind: String::new(),
            generation: 0,
            next_id: 0,
        }
    }

    fn load(&mut self) {
        self.queue.push_back(Event::Phase("load".into()));
        for part in 0..self.parts.len() {
            let events = std::mem::take(&mut self.parts[part].load);
            events.iter().for_each(|event| self.enqueue(part, event, false));
        }
    }

    /// Queues the next step; whether there was one.
    fn next_step(&mut self) -> bool {
        if self.next_generation == self.loops {
            return false;
        }
        let (part, step) = (self.part, self.step);
        self.generation = self.next_generation;
        let of = &mut self.parts[part];
        let name = format!("{} {}.{step}", of.name, self.generation);
        let at = (step as usize).min(of.steps.len() - 1);
        self.kind = format!("{} {}", of.name, kind_of(&of.steps[at].0));
        let events = std::mem::take(&mut of.steps[at].1);
        self.queue.push_back(Event::Phase(name));
        events.iter().for_each(|event| self.enqueue(part, event, true));
        self.parts[part].steps[at].1 = events;
        self.step += 1;
        if self.step == self.parts[part].times {
            self.step = 0;
            self.free_leftovers(part);
            self.part = (part + 1) % self.parts.len();
            self.next_generation += u64::from(self.part == 0);
        }
        true
    }

    /// Frees what the steps of a part have left behind: its caller is done with it.
    fn free_leftovers(&mut self, part: usize) {
        let mut left: Vec<_> = self.live[part].iter().filter(|(_, (_, made))| *made).map(|(id, _)| *id).collect();
        left.sort_unstable();
        for id in left {
            self.enqueue(part, &Event::Free { id }, true);
        }
    }

    /// Queues an event with names of our own. What a repeated step expects of the step before it and does not find is left out.
    fn enqueue(&mut self, part: usize, event: &Event, made: bool) {
        match event {
            Event::Phase(_) => {}
            Event::Alloc { id, bytes, stream, kind } => {
                self.enqueue(part, &Event::Free { id: *id }, made);
                self.next_id += 1;
                self.live[part].insert(*id, (self.next_id, made));
                let kind = if made { Kind::Act } else { *kind };
                self.queue.push_back(Event::Alloc { id: self.next_id, bytes: *bytes, stream: *stream, kind });
            }
            Event::Free { id } => {
                if let Some((id, _)) = self.live[part].remove(id) {
                    self.queue.push_back(Event::Free { id });
                }
            }
            Event::Op(op) => {
                let live = &self.live[part];
                let named = |touched: &[(u64, u64)]| {
                    touched.iter().filter_map(|(id, bytes)| Some((live.get(id)?.0, *bytes))).collect()
                };
                let (reads, writes) = (named(&op.reads), named(&op.writes));
                self.queue.push_back(Event::Op(Op { name: op.name.clone(), flops: op.flops, reads, writes }));
            }
        }
    }
}

impl Source for Workload {
    fn next_event(&mut self) -> Result<Option<Event>> {
        if !self.loaded {
            self.loaded = true;
            self.load();
        }
        if self.queue.is_empty() && !self.next_step() {
            return Ok(None);
        }
        Ok(self.queue.pop_front())
    }

    fn at(&self) -> String {
        format!("{}, generation {}", self.name, self.generation)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self, _: &str) -> String {
        self.kind.clone()
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = r#"{"ev":"header","format":"gpu-op-trace/1","trace":"t"}
{"ev":"phase","name":"load"}
{"ev":"alloc","id":1,"bytes":512,"kind":"param"}
{"ev":"phase","name":"step 0"}
{"ev":"alloc","id":2,"bytes":1024}
{"ev":"op","name":"aten::mm","reads":[1],"read_bytes":[512],"writes":[2],"write_bytes":[1024]}
{"ev":"phase","name":"step 1"}
{"ev":"alloc","id":3,"bytes":2048}
{"ev":"op","name":"aten::mm","reads":[1,2],"read_bytes":[512,1024],"writes":[3],"write_bytes":[2048]}
{"ev":"free","id":2}
{"ev":"phase","name":"end"}
{"ev":"free","id":1}
{"ev":"free","id":3}
{"ev":"end"}
"#;

    fn part(times: u64) -> Part {
        let bytes = Box::new(std::io::Cursor::new(TRACE.as_bytes()));
        Part { times, ..Part::read(&mut Trace::read(bytes, "test").unwrap()).unwrap() }
    }

    #[test]
    fn counts_are_told_from_names() {
        assert_eq!(split_count("unet.zst:20").unwrap(), ("unet.zst", Some(20)));
        assert_eq!(split_count("unet").unwrap(), ("unet", None));
        assert_eq!(split_count("C:trace").unwrap(), ("C:trace", None));
        assert!(split_count("unet:18446744073709551616").is_err());
    }

    #[test]
    fn steps_repeat_and_nothing_is_freed_twice() {
        let mut workload = Workload::new(vec![part(3), part(1)], 2);
        let (mut live, mut phases, mut most) = (HashMap::new(), Vec::new(), 0);
        while let Some(event) = workload.next_event().unwrap() {
            match event {
                Event::Phase(name) => phases.push((name.clone(), workload.kind(&name), workload.generation())),
                Event::Alloc { id, bytes, .. } => assert!(live.insert(id, bytes).is_none()),
                Event::Free { id } => assert!(live.remove(&id).is_some(), "{id} freed twice"),
                Event::Op(op) => {
                    assert!(op.reads.iter().chain(&op.writes).all(|(id, _)| live.contains_key(id)));
                    most = most.max(op.reads.len());
                }
            }
        }
        assert_eq!(live.len(), 2, "the two parameters");
        assert_eq!(most, 2, "a step reads what the one before it left");
        let expected: Vec<(String, String, u64)> = [
            ("load", "", 0),
            ("t 0.0", "t step", 0),
            ("t 0.1", "t step", 0),
            ("t 0.2", "t step", 0),
            ("t 0.0", "t step", 0),
            ("t 1.0", "t step", 1),
            ("t 1.1", "t step", 1),
            ("t 1.2", "t step", 1),
            ("t 1.0", "t step", 1),
        ]
        .map(|(name, kind, generation)| (name.to_owned(), kind.to_owned(), generation))
        .into();
        assert_eq!(phases, expected);
    }
}
