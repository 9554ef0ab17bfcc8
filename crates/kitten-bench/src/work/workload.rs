//! Several parts as one run, such as twenty steps of a UNet and one decode, again and again.

use std::collections::{HashMap, VecDeque};

use anyhow::Result;

use super::part::Part;
use super::source::Source;
use super::trace::{Event, Kind, Op, kind_of};

/// The most steps that work may have, with all its repetitions.
pub(crate) const MOST_STEPS: u64 = 1_000_000;

/// Several parts as one run. All are loaded first; then come the steps of each in turn. A step
/// beyond a part's last repeats its last.
pub(super) struct Workload {
    parts: Vec<Part>,
    loops: u64,
    name: String,
    /// The generation of the next step.
    next_generation: u64,
    part: usize,
    step: u64,
    loaded: bool,
    queue: VecDeque<Event>,
    kind: String,
    generation: u64,
    next_id: u64,
    /// The live blocks of each part: from the trace's ids to ours, and whether a step made them.
    live: Vec<HashMap<u64, (u64, bool)>>,
}

impl Workload {
    /// A run of these parts, `loops` times.
    pub(super) fn new(parts: Vec<Part>, loops: u64) -> Workload {
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
        let at = (step as usize).min(of.steps.len() - 1);
        let recorded = &of.steps[at].0;
        let kind = kind_of(recorded);
        // Steps that are only numbered in the trace are numbered here.
        let told = if kind == "step" { String::new() } else { format!(" {kind}") };
        let name = format!("{} {}.{step}{told}", of.name, self.generation);
        self.kind = format!("{} {kind}", of.name);
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

    /// Frees the blocks that the steps of a part have left behind: their caller is done with them.
    fn free_leftovers(&mut self, part: usize) {
        let mut left: Vec<_> = self.live[part].iter().filter(|(_, (_, made))| *made).map(|(id, _)| *id).collect();
        left.sort_unstable();
        for id in left {
            self.enqueue(part, &Event::Free { id }, true);
        }
    }

    /// Queues an event with our own ids. A repeated step may name blocks that the step before it
    /// did not leave; these are left out.
    fn enqueue(&mut self, part: usize, event: &Event, made: bool) {
        match event {
            Event::Phase(_) => {}
            Event::Alloc { id, bytes, stream, kind, name } => {
                self.enqueue(part, &Event::Free { id: *id }, made);
                self.next_id += 1;
                self.live[part].insert(*id, (self.next_id, made));
                let kind = if made { Kind::Act } else { *kind };
                // Several models may name their weights alike.
                let name = match self.parts.len() > 1 && !name.is_empty() {
                    true => format!("{}.{name}", self.parts[part].name).into(),
                    false => name.clone(),
                };
                self.queue.push_back(Event::Alloc { id: self.next_id, bytes: *bytes, stream: *stream, kind, name });
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
                self.queue.push_back(Event::Op(Op {
                    name: op.name.clone(),
                    module: op.module.clone(),
                    flops: op.flops,
                    reads,
                    writes,
                }));
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
    use crate::work::trace::Trace;

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
