//! What one would do on a card without giant-kitten, by closed formulas over the same operations
//! and the same profile as a replay. All of it is modelled.
//!
//! * Plain PyTorch takes the seconds with everything dedicated. Its peak is everything that lives
//!   at once.
//! * Model offload takes the same, and each model over the link when it is used, and back. Its peak
//!   is the model in use, and what lives beside weights.
//! * Group offload with streams takes, of each step, the longer of its work and its weights over
//!   the link. Its peak is the weights outside blocks, two blocks, and what lives beside weights.
//! * Sequential offload takes, of each step, its work and then its weights over the link. Its peak
//!   is the weights of one module, and what lives beside weights.
//!
//! Model offload is `enable_model_cpu_offload` of diffusers and `cpu_offload_with_hook` of
//! accelerate: a model's first call moves it to the card whole and the model before it back, and
//! the end of a generation moves the last one back. Group offload is `enable_group_offload` of
//! diffusers with `use_stream`, by blocks: a pass copies what is in no list of modules when it
//! begins, then each block while the one before it runs, and drops what it has used, because the
//! host keeps all weights. Sequential offload is `cpu_offload` of accelerate and
//! `enable_sequential_cpu_offload` of diffusers: each module's own weights are copied just before
//! it runs.
//!
//! All of them are bounds in favour of these ways: the link runs at the profile's rate although
//! weights may lie in pageable memory, hooks and calls cost nothing, memory has no fragments, and
//! the host has memory for all weights.

use std::collections::HashMap;

use anyhow::Result;
use giant_kitten::show_size;
use kitten_sim::Profile;
use serde::Serialize;

use super::outcome::is_a_time;
use super::weights::{KindOfWork, Weights, block_of};
use crate::work::Source;
use crate::work::trace::{Event, Kind, Op, is_step};

/// A way to do work without giant-kitten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Everything in dedicated memory, or an error.
    PlainPytorch,
    /// The model in use lies on the card, the others on the host.
    ModelOffload,
    /// Blocks are copied to the card while the block before them runs.
    GroupOffload,
    /// Modules are copied to the card just before they run.
    SequentialOffload,
}

impl Way {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Way::PlainPytorch => "plain PyTorch (no shared tier)",
            Way::ModelOffload => "model offload (the model in use)",
            Way::GroupOffload => "group offload with streams",
            Way::SequentialOffload => "sequential offload (no streams)",
        }
    }
}

/// Work done in one of these ways, on a card. All of it is modelled, of one generation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// The way.
    pub way: Way,
    /// Bytes in dedicated memory at the peak; `None` where unknown.
    pub peak_bytes: Option<u64>,
    /// How many of these the card does not have: 0 if the work fits.
    pub missing_bytes: u64,
    /// The seconds; `None` where it does not fit, or they are unknown.
    pub seconds: Option<f64>,
    /// Bytes over the link, both ways; `None` as for the seconds.
    pub link_bytes: Option<u64>,
    /// Why it is unknown.
    pub unknown: Option<String>,
}

impl Alternative {
    fn new(way: Way, dedicated_bytes: u64, cost: Cost) -> Alternative {
        if !is_a_time(cost.seconds) {
            return Alternative::unknown(way, format!("it would take {:e} s, which no work does", cost.seconds));
        }
        let missing_bytes = cost.peak_bytes.saturating_sub(dedicated_bytes);
        let fits = missing_bytes == 0;
        Alternative {
            way,
            peak_bytes: Some(cost.peak_bytes),
            missing_bytes,
            seconds: fits.then_some(cost.seconds),
            link_bytes: fits.then_some(cost.link_bytes),
            unknown: None,
        }
    }

    fn unknown(way: Way, why: String) -> Alternative {
        Alternative { way, peak_bytes: None, missing_bytes: 0, seconds: None, link_bytes: None, unknown: Some(why) }
    }

    /// Whether it fits, for people.
    pub fn memory(&self) -> String {
        match &self.unknown {
            Some(why) => format!("unknown: {why}"),
            None => memory(self.missing_bytes),
        }
    }
}

/// Whether work fits that lacks so many bytes, for people.
pub(super) fn memory(missing_bytes: u64) -> String {
    match missing_bytes {
        0 => "fits".to_owned(),
        missing => format!("out of memory: {} missing", show_size(missing)),
    }
}

/// What a way costs where it fits.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cost {
    peak_bytes: u64,
    seconds: f64,
    link_bytes: u64,
}

/// Work with everything dedicated: its most live bytes and its seconds, as a replay finds them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole {
    pub peak_live_bytes: u64,
    pub seconds: f64,
}

/// Work in each of the ways, in the order of [`Way`]. `open` opens one generation of it.
///
/// # Errors
/// Work that is wrong.
pub(super) fn otherwise(
    open: impl Fn() -> Result<Box<dyn Source>>,
    profile: &Profile,
    dedicated_bytes: u64,
    whole: Whole,
) -> Result<Vec<Alternative>> {
    let weights = Weights::of(&mut *open()?)?;
    let walked = Walk::of(&mut *open()?, &weights, profile)?;
    let plain = Cost { peak_bytes: whole.peak_live_bytes, seconds: whole.seconds, link_bytes: 0 };
    let unnamed = unnamed(&weights);
    let no_blocks = (!weights.has_blocks()).then(|| "the trace names no blocks".to_owned());
    let known = |way, unknown: Option<String>, cost| match unknown {
        Some(why) => Alternative::unknown(way, why),
        None => Alternative::new(way, dedicated_bytes, cost),
    };
    Ok(vec![
        known(Way::PlainPytorch, None, plain),
        known(Way::ModelOffload, None, walked.models.cost(profile, whole.seconds)),
        known(Way::GroupOffload, unnamed.clone().or(no_blocks), walked.blocks.cost),
        known(Way::SequentialOffload, unnamed, walked.modules.cost),
    ])
}

/// Why nothing is known about modules, if so.
fn unnamed(weights: &Weights) -> Option<String> {
    match (weights.has_modules(), weights.unnamed_bytes) {
        (false, _) => Some("the trace names no modules".to_owned()),
        (true, 0) => None,
        (true, bytes) => Some(format!("the trace names no module for reads of {}", show_size(bytes))),
    }
}

/// One generation of work, walked through in all the ways at once.
struct Walk<'a> {
    weights: &'a Weights,
    profile: &'a Profile,
    /// Blocks that live, except weights.
    live: HashMap<u64, u64>,
    /// Their bytes.
    other_bytes: u64,
    /// The kind of the step under way.
    kind: Option<&'a KindOfWork>,
    /// Seconds of its work with everything dedicated.
    compute_seconds: f64,
    models: Models,
    blocks: Passing,
    modules: Passing,
}

impl<'a> Walk<'a> {
    fn of(source: &mut dyn Source, weights: &'a Weights, profile: &'a Profile) -> Result<Walk<'a>> {
        let mut walk = Walk {
            weights,
            profile,
            live: HashMap::new(),
            other_bytes: 0,
            kind: None,
            compute_seconds: 0.0,
            models: Models::default(),
            blocks: Passing { ahead: true, ..Passing::default() },
            modules: Passing::default(),
        };
        while let Some(event) = source.next_event()? {
            match event {
                Event::Phase(name) => {
                    walk.end_step();
                    if is_step(&name) {
                        walk.begin_step(&source.kind(&name));
                    }
                }
                Event::Alloc { kind: Kind::Param, .. } => {}
                Event::Alloc { id, bytes, .. } => walk.alloc(id, bytes),
                Event::Free { id } => walk.other_bytes -= walk.live.remove(&id).unwrap_or(0),
                Event::Op(op) => walk.operate(&op),
            }
        }
        walk.end_step();
        walk.models.end(weights);
        Ok(walk)
    }

    fn begin_step(&mut self, name: &str) {
        self.kind = self.weights.kind(name);
        if let Some(kind) = self.kind {
            self.models.begin_step(kind, self.weights);
            self.blocks.begin_step(kind.block_bytes(""));
            self.modules.begin_step(0);
        }
        self.note();
    }

    fn alloc(&mut self, id: u64, bytes: u64) {
        self.live.insert(id, bytes);
        self.other_bytes += bytes;
        self.note();
    }

    /// Notes what lives beside the weights.
    fn note(&mut self) {
        if self.kind.is_some() {
            self.models.note(self.other_bytes);
            self.blocks.note(self.other_bytes);
            self.modules.note(self.other_bytes);
        }
    }

    fn operate(&mut self, op: &Op) {
        let Some(kind) = self.kind else { return };
        self.compute_seconds += self.profile.compute_seconds(&op.load());
        // What no module runs belongs to the one before it.
        if !op.module.is_empty() {
            let block = block_of(&op.module);
            let bytes = if block.is_empty() { 0 } else { kind.block_bytes(block) };
            self.blocks.enter(block, bytes, self.other_bytes);
            self.modules.enter(&op.module, kind.module_bytes(&op.module), self.other_bytes);
        }
    }

    fn end_step(&mut self) {
        if self.kind.take().is_some() {
            let compute = std::mem::take(&mut self.compute_seconds);
            self.blocks.end_step(compute, self.profile);
            self.modules.end_step(compute, self.profile);
        }
    }
}

/// Models that are moved to the card and back.
#[derive(Default)]
struct Models {
    current: Option<usize>,
    current_bytes: u64,
    to_device: u64,
    to_host: u64,
    peak_bytes: u64,
}

impl Models {
    fn begin_step(&mut self, kind: &KindOfWork, weights: &Weights) {
        if kind.model.is_some() && kind.model != self.current {
            self.end(weights);
            self.current = kind.model;
            self.current_bytes = kind.model.map_or(0, |model| weights.model_bytes(model));
            self.to_device += self.current_bytes;
        }
    }

    fn note(&mut self, other_bytes: u64) {
        self.peak_bytes = self.peak_bytes.max(self.current_bytes + other_bytes);
    }

    /// Moves the current model back.
    fn end(&mut self, weights: &Weights) {
        self.to_host += self.current.take().map_or(0, |model| weights.model_bytes(model));
        self.current_bytes = 0;
    }

    fn cost(&self, profile: &Profile, whole_seconds: f64) -> Cost {
        Cost {
            peak_bytes: self.peak_bytes,
            seconds: whole_seconds
                + self.to_device as f64 / profile.link_to_device
                + self.to_host as f64 / profile.link_to_host,
            link_bytes: self.to_device + self.to_host,
        }
    }
}

/// Weights that pass through the card, a part of the model at a time.
#[derive(Default)]
struct Passing {
    /// Whether a part is copied while the one before it runs.
    ahead: bool,
    /// Bytes that are copied when a pass begins and stay until it ends.
    staying_bytes: u64,
    /// The part that runs, its bytes, and the most that lived beside weights meanwhile.
    part: String,
    part_bytes: u64,
    most_other_bytes: u64,
    /// How often each part of the step has begun.
    begun: HashMap<String, u64>,
    copied_bytes: u64,
    cost: Cost,
}

impl Passing {
    fn begin_step(&mut self, staying_bytes: u64) {
        self.staying_bytes = staying_bytes;
        self.part.clear();
        self.part_bytes = 0;
        self.most_other_bytes = 0;
        self.begun = HashMap::new();
        self.copied_bytes = 0;
    }

    fn note(&mut self, other_bytes: u64) {
        self.most_other_bytes = self.most_other_bytes.max(other_bytes);
    }

    /// A part runs next.
    fn enter(&mut self, part: &str, bytes: u64, other_bytes: u64) {
        if part == self.part {
            return;
        }
        self.leave(bytes);
        part.clone_into(&mut self.part);
        self.part_bytes = bytes;
        self.most_other_bytes = other_bytes;
        self.copied_bytes = self.copied_bytes.saturating_add(bytes);
        *self.begun.entry(self.part.clone()).or_default() += 1;
    }

    /// The part that runs ends, and one of so many bytes is next.
    fn leave(&mut self, next_bytes: u64) {
        let ahead = if self.ahead { next_bytes } else { 0 };
        let peak = self.staying_bytes + self.part_bytes + ahead + self.most_other_bytes;
        self.cost.peak_bytes = self.cost.peak_bytes.max(peak);
    }

    fn end_step(&mut self, compute_seconds: f64, profile: &Profile) {
        self.leave(0);
        // A step may call the model several times, such as with and without a prompt: as often as
        // any of its blocks runs.
        let blocks = self.begun.iter().filter(|(part, _)| !part.is_empty());
        let passes = blocks.map(|(_, times)| *times).max().unwrap_or(1);
        let bytes = self.copied_bytes.saturating_add(self.staying_bytes.saturating_mul(passes));
        let link_seconds = bytes as f64 / profile.link_to_device;
        self.cost.link_bytes = self.cost.link_bytes.saturating_add(bytes);
        self.cost.seconds +=
            if self.ahead { compute_seconds.max(link_seconds) } else { compute_seconds + link_seconds };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::trace::Trace;

    const MIB: u64 = 1 << 20;

    /// An operation that reads no weight, of no module that the trace names.
    const NAMELESS: &str = "{\"ev\":\"op\",\"name\":\"cat\",\"flops\":1e9}\n";

    /// Two blocks of 100 and 200 MiB, 10 MiB outside them and 20 MiB that nothing reads, with
    /// 50 MiB of scratch in the second block. It is called `passes` times in each of two steps.
    fn unet(passes: u64) -> String {
        let weights = [(1, 100), (2, 200), (3, 10), (4, 20)];
        let loaded: String = weights.map(|(id, mib)| alloc(id, mib, "param")).concat();
        let pass = |scratch: u64| {
            let free = format!("{{\"ev\":\"free\",\"id\":{scratch}}}\n");
            let first = [read(3, 10, "conv_in"), read(1, 100, "blocks.0.linear"), NAMELESS.to_owned()].concat();
            [first, read(2, 200, "blocks.1.linear"), alloc(scratch, 50, "act"), free].concat()
        };
        let step = |at: u64| {
            let passes: String = (0..passes).map(|number| pass(100 + 10 * at + number)).collect();
            [phase(&format!("step {at}")), passes].concat()
        };
        [phase("load"), loaded, step(0), step(1)].concat()
    }

    fn phase(name: &str) -> String {
        format!("{{\"ev\":\"phase\",\"name\":\"{name}\"}}\n")
    }

    fn alloc(id: u64, mib: u64, kind: &str) -> String {
        format!("{{\"ev\":\"alloc\",\"id\":{id},\"bytes\":{},\"kind\":\"{kind}\"}}\n", mib * MIB)
    }

    /// An operation of a module, with 1e9 floating-point operations, that reads some of a block.
    fn read(id: u64, mib: u64, module: &str) -> String {
        let bytes = mib * MIB;
        format!(
            "{{\"ev\":\"op\",\"name\":\"mm\",\"mod\":\"{module}\",\"reads\":[{id}],\"read_bytes\":[{bytes}],\"flops\":1e9}}\n"
        )
    }

    /// A card on which every operation above takes a second, and the link moves so much a second.
    fn card(link: u64) -> Profile {
        let rate = link as f64;
        let card = Profile::builtin("nominal-6g").unwrap();
        Profile { fp16_rate: 1e9, vram_bandwidth: 1e15, link_to_device: rate, link_to_host: 2.0 * rate, ..card }
    }

    fn found(lines: &str, profile: &Profile, dedicated_bytes: u64, whole: Whole) -> Vec<Alternative> {
        let text =
            format!("{{\"ev\":\"header\",\"format\":\"gpu-op-trace/1\",\"trace\":\"t\"}}\n{lines}{{\"ev\":\"end\"}}\n");
        let open = || -> Result<Box<dyn Source>> {
            Ok(Box::new(Trace::read(Box::new(std::io::Cursor::new(text.clone().into_bytes())), "test")?))
        };
        otherwise(open, profile, dedicated_bytes, whole).unwrap()
    }

    fn way(found: &[Alternative], way: Way) -> &Alternative {
        found.iter().find(|other| other.way == way).unwrap()
    }

    const WHOLE: Whole = Whole { peak_live_bytes: 380 * MIB, seconds: 8.0 };

    #[test]
    fn plain_pytorch_fits_or_lacks_its_peak_less_the_card() {
        let on = |dedicated| found(&unet(1), &card(MIB), dedicated, WHOLE)[0].clone();
        let fits = on(380 * MIB);
        assert_eq!((fits.way, fits.missing_bytes, fits.seconds), (Way::PlainPytorch, 0, Some(8.0)));
        assert_eq!((fits.memory().as_str(), fits.link_bytes), ("fits", Some(0)));
        let short = on(250 * MIB);
        assert_eq!((short.missing_bytes, short.seconds), (130 * MIB, None));
        assert_eq!(short.memory(), "out of memory: 130.00 MiB missing");
    }

    #[test]
    fn a_step_of_group_offload_is_the_longer_of_its_work_and_its_weights() {
        // Both blocks and what is outside them, in each of two steps; not what nothing reads.
        let copied = 2 * (100 + 200 + 10);
        for (link, seconds) in [(MIB, copied as f64), (1000 * MIB, 8.0)] {
            let found = found(&unet(1), &card(link), 1 << 40, WHOLE);
            let streams = way(&found, Way::GroupOffload);
            assert_eq!((streams.seconds, streams.link_bytes), (Some(seconds), Some(copied * MIB)));
            assert_eq!(streams.peak_bytes, Some((10 + 100 + 200) * MIB), "the second is on its way in the first");
            let one_by_one = way(&found, Way::SequentialOffload);
            let expected = 8.0 + (copied * MIB) as f64 / link as f64;
            assert!((one_by_one.seconds.unwrap() - expected).abs() < 1e-9, "{one_by_one:?}, not {expected} s");
            assert_eq!(one_by_one.peak_bytes, Some((200 + 50) * MIB), "one module, and the scratch in it");
        }
        let short = found(&unet(1), &card(MIB), 300 * MIB, WHOLE);
        assert_eq!(way(&short, Way::GroupOffload).missing_bytes, 10 * MIB);
    }

    #[test]
    fn every_pass_of_a_step_copies_all_weights_again() {
        let twice = found(&unet(2), &card(MIB), 1 << 40, WHOLE);
        for of in [Way::GroupOffload, Way::SequentialOffload] {
            assert_eq!(way(&twice, of).link_bytes, Some(2 * 2 * (100 + 200 + 10) * MIB), "{of:?}");
        }
    }

    #[test]
    fn model_offload_moves_the_model_in_use_once_and_back() {
        let alone = found(&unet(1), &card(MIB), 1 << 40, WHOLE);
        let alone = way(&alone, Way::ModelOffload);
        // Also what nothing reads; twice as fast on the way back.
        assert_eq!((alone.seconds, alone.peak_bytes), (Some(8.0 + 330.0 * 1.5), Some((330 + 50) * MIB)));
        assert_eq!(alone.link_bytes, Some(2 * 330 * MIB));

        let both = [
            phase("load"),
            [(1, 100), (2, 30), (3, 5)].map(|(id, mib)| alloc(id, mib, "param")).concat(),
            [phase("text 0"), read(2, 30, "encoder")].concat(),
            [phase("prefill"), read(1, 100, "layers.0")].concat(),
            // It shares a weight with the prompt, so both are one model.
            [phase("decode 0"), read(1, 100, "layers.0"), read(3, 5, "head")].concat(),
        ];
        let both = found(&both.concat(), &card(MIB), 120 * MIB, WHOLE);
        let both = way(&both, Way::ModelOffload);
        assert_eq!((both.peak_bytes, both.link_bytes), (Some(105 * MIB), Some(2 * (30 + 105) * MIB)));
    }

    #[test]
    fn what_a_trace_does_not_say_is_unknown() {
        let steps = |modules: &[&str]| {
            let ops: String = modules.iter().map(|module| read(1, 100, module)).collect();
            [phase("load"), alloc(1, 100, "param"), phase("step 0"), ops].concat()
        };
        let some = "unknown: the trace names no module for reads of 100.00 MiB";
        for (modules, group, sequential) in [
            (&[""] as &[&str], "unknown: the trace names no modules", "unknown: the trace names no modules"),
            (&["linear"], "unknown: the trace names no blocks", "fits"),
            (&["layers.0"], "fits", "fits"),
            (&["layers.0", ""], some, some),
        ] {
            let found = found(&steps(modules), &card(MIB), 1 << 40, WHOLE);
            assert_eq!(way(&found, Way::GroupOffload).memory(), group, "{modules:?}");
            assert_eq!(way(&found, Way::SequentialOffload).memory(), sequential, "{modules:?}");
            assert_eq!(way(&found, Way::ModelOffload).memory(), "fits", "{modules:?}");
        }
    }
}
