//! Runs events through the allocator, and charges the time that its placement costs.
//!
//! The model, per operation: `max(flops / rate, bytes touched / VRAM bandwidth)`, plus its bytes
//! that lie in the shared tier over the link. What a matmul or convolution reads in shared memory
//! crosses the link `in_place_reread` times. Of a block in both tiers the touched bytes are shared
//! in proportion. Nothing overlaps. So the sum is an upper bound for hardware that reads ahead, and
//! a lower bound for kernels that re-read more than the profile says.
//!
//! On a card nothing is computed and nothing is re-read, so there the model counts bytes only as
//! well.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, ensure};
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Allocator, CopyAhead, Limits, Moved, Options, Reserve, SortBy, Stats, Tier};
use kitten_sim::{Load, Profile};

use super::lending::{Lending, SlotUse};
use super::outcome::{Outcome, Step, is_a_time};
use super::setup::{Policy, Setup};
use crate::card::{Card, Range, Simulated};
use crate::work::trace::{Event, Kind, Op, is_step};
use crate::work::{MOST_STEPS, Source};

/// The most streams that work may use.
const MOST_STREAMS: usize = 4096;

#[derive(Debug)]
struct LiveBlock {
    address: u64,
    bytes: u64,
    stream: u64,
    /// How many phases had begun when it was allocated.
    born: usize,
    /// Whether it is a weight of the model.
    is_weight: bool,
    /// The name of a weight; empty where it is unknown.
    name: Box<str>,
}

/// A replay under way.
struct Replay<'a> {
    setup: &'a Setup,
    card: &'a dyn Card,
    /// Whether operations are done on the card.
    operating: bool,
    allocator: &'a Allocator,
    live: HashMap<u64, LiveBlock>,
    streams: HashMap<u64, u64>,
    step: Step,
    in_step: bool,
    phases: usize,
    /// How often it has been activated.
    placements: u64,
    resident_bytes: u64,
    steps: Vec<Step>,
    live_bytes: u64,
    peak_live: u64,
    peak_mapped: u64,
    peak_shared: u64,
    generation: Generation,
    lending: Lending,
    moving: Moving,
}

/// What activations and safe points have taken, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Moving {
    seconds: f64,
    /// Those of the bytes over the link alone.
    link_seconds: f64,
}

impl Moving {
    fn add(&mut self, moved: Moved, seconds: f64, profile: &Profile) {
        self.seconds += seconds;
        self.link_seconds +=
            moved.demoted as f64 / profile.link_to_host + moved.promoted as f64 / profile.link_to_device;
    }
}

/// The peaks of the generation under way, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Generation {
    number: u64,
    peak_live: u64,
    peak_mapped: u64,
}

/// A moment of a replay: the beginning of a phase, just after an allocation, or the end of a step.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The phase.
    pub phase: &'a str,
    /// Whether it begins.
    pub begins: bool,
    /// Bytes of live blocks.
    pub live_bytes: u64,
    /// If a step ends, the slots that it was lent.
    pub ended: Option<&'a [SlotUse]>,
    /// The live blocks, by their ids.
    live: &'a HashMap<u64, LiveBlock>,
}

impl<'a> Moment<'a> {
    /// The live weights that have a name: it, and the address.
    pub fn weights(&self) -> impl Iterator<Item = (&'a str, u64)> + use<'a> {
        self.live.values().filter(|block| !block.name.is_empty()).map(|block| (&*block.name, block.address))
    }
}

/// Called at every moment of a replay.
pub type Watch<'a> = &'a mut dyn FnMut(Moment<'_>, &Allocator);

/// Replays work on the simulated GPU.
///
/// # Errors
/// A trace that is wrong; an allocator that fails for any reason other than out of memory, which is
/// an outcome.
pub fn replay(source: &mut dyn Source, setup: &Setup) -> Result<Outcome> {
    replay_watched(source, setup, &mut |_, _| {})
}

/// Replays work on the simulated GPU. `watch` is called at every moment.
///
/// # Errors
/// As for [`replay`].
pub fn replay_watched(source: &mut dyn Source, setup: &Setup, watch: Watch<'_>) -> Result<Outcome> {
    run(&Simulated::without_contents(&setup.profile)?, false, source, setup, watch)
}

/// Replays work on a card. Its operations run there, and are timed.
///
/// # Errors
/// As for [`replay`]; the card's.
pub fn replay_on(card: &dyn Card, source: &mut dyn Source, setup: &Setup) -> Result<Outcome> {
    let mut setup = setup.clone();
    setup.profile.in_place_reread = 1.0;
    run(card, true, source, &setup, &mut |_, _| {})
}

pub(super) fn run(
    card: &dyn Card,
    operating: bool,
    source: &mut dyn Source,
    setup: &Setup,
    watch: Watch<'_>,
) -> Result<Outcome> {
    let reserve = match setup.policy {
        Policy::FirstCome => Reserve::Fixed(0),
        Policy::Reserve => setup.activation.reserve,
        Policy::Auto | Policy::AutoBlind | Policy::Untold | Policy::Remembered => Reserve::Auto,
    };
    let options = Options {
        activation: Activation { reserve, ..Activation::default() },
        limits: Limits {
            granule: setup.granule,
            dedicated: Some(setup.profile.dedicated_bytes),
            shared: Some(setup.profile.shared_bytes),
            ..Limits::default()
        },
        copy_ahead: setup.copy_ahead,
        layout: setup.layout,
        remembered: setup.wanted.filter(|_| setup.policy == Policy::Remembered),
        ..Options::default()
    };
    let allocator = &Allocator::new(options, card.driver())?;
    let mut replay = Replay {
        setup,
        card,
        operating,
        allocator,
        live: HashMap::new(),
        streams: HashMap::from([(0, card.stream().0)]),
        step: Step::default(),
        in_step: false,
        phases: 0,
        placements: 0,
        resident_bytes: 0,
        steps: Vec::new(),
        live_bytes: 0,
        peak_live: 0,
        peak_mapped: 0,
        moving: Moving::default(),
        peak_shared: 0,
        generation: Generation::default(),
        lending: Lending::default(),
    };
    let ended = replay.run(source, watch);
    let outcome = ended.and_then(|oom| replay.outcome(source.name(), oom));
    allocator.shutdown();
    outcome
}

impl Replay<'_> {
    /// Runs to the end. Returns the text of the out-of-memory error that ended it early, if one
    /// did.
    fn run(&mut self, source: &mut dyn Source, watch: Watch<'_>) -> Result<Option<String>> {
        while let Some(event) = source.next_event()? {
            match event {
                Event::Phase(name) => {
                    if let Some(oom) = self.begin_phase(name, source, watch)? {
                        return Ok(Some(oom));
                    }
                }
                Event::Alloc { id, bytes, stream, kind, name } => {
                    if let Some(oom) = self.alloc(id, bytes, stream, kind, name).with_context(|| source.at())? {
                        return Ok(Some(oom));
                    }
                    watch(self.moment(&self.step.name), self.allocator);
                }
                Event::Free { id } => self.free(id)?,
                Event::Op(op) => {
                    self.charge(&op)?;
                    self.operate(&op).with_context(|| source.at())?;
                }
            }
        }
        self.end_step(watch)?;
        Ok(None)
    }

    /// A moment within a phase.
    fn moment<'a>(&'a self, phase: &'a str) -> Moment<'a> {
        Moment { phase, begins: false, live_bytes: self.live_bytes, ended: None, live: &self.live }
    }

    /// Begins a phase. Memory moves before it as the policy says.
    fn begin_phase(&mut self, name: String, source: &dyn Source, watch: Watch<'_>) -> Result<Option<String>> {
        self.end_step(watch)?;
        self.phases += 1;
        let is_step = is_step(&name);
        if is_step && self.steps.is_empty() {
            self.resident_bytes = self.live_bytes;
        }
        let mut moving_seconds = if is_step { self.safe_point(&source.kind(&name))? } else { 0.0 };
        if is_step && self.placements < self.wanted_placements() && source.generation() >= self.placements {
            self.placements += 1;
            match self.activate()? {
                Ok(seconds) => moving_seconds += if self.placements > 1 { seconds } else { 0.0 },
                Err(why) => return Ok(Some(why.to_string())),
            }
        }
        watch(Moment { begins: true, ..self.moment(&name) }, self.allocator);
        self.in_step = is_step;
        if is_step && self.copies_ahead() {
            self.lending.begin(self.allocator, self.card, &source.kind(&name))?;
        }
        if source.generation() != self.generation.number {
            self.generation = Generation { number: source.generation(), ..Generation::default() };
        }
        self.step = Step { name, generation: source.generation(), moving_seconds, ..Step::default() };
        // A step that allocates nothing still holds the blocks that live when it begins.
        self.update_peaks()?;
        if self.in_step && self.operating {
            self.card.start_clock()?;
        }
        Ok(None)
    }

    /// How often memory is placed by an activation. Orders that sort by reads know none in the
    /// first generation, so memory is placed again after it.
    fn wanted_placements(&self) -> u64 {
        match (self.setup.policy, self.reports_reads()) {
            (Policy::Reserve, true) => 2,
            (Policy::Reserve, false) => 1,
            _ => 0,
        }
    }

    /// Whether reads are reported to the allocator.
    fn reports_reads(&self) -> bool {
        self.setup.policy == Policy::Auto
            || (self.setup.policy == Policy::Reserve && self.setup.activation.order.sort_by != SortBy::Size)
    }

    /// Activates. Returns the seconds that it takes, or why it is refused.
    fn activate(&mut self) -> Result<Result<f64, giant_kitten::Error>> {
        let (allocator, device, activation) = (self.allocator, self.card.device(), &self.setup.activation);
        let mut done = Ok(Moved::default());
        let seconds = self.card.time_moves(&mut |_| {
            done = allocator.activate(device, activation);
            Ok(())
        })?;
        if let Ok(moved) = done {
            self.moving.add(moved, seconds, &self.setup.profile);
        }
        Ok(match done {
            Ok(Moved { stayed: 0, .. }) => Ok(seconds),
            Ok(_) => self.out_and_back(activation).map(|moving| seconds + moving),
            Err(why) => Err(why),
        })
    }

    /// Does what the Python package does where nothing can move: every block is copied out and back
    /// in the order of its claim, while the allocator keeps the reserve. Returns the seconds over
    /// the link, without those of the host's own copies.
    fn out_and_back(&mut self, activation: &Activation) -> Result<f64, giant_kitten::Error> {
        let (allocator, device) = (self.allocator, self.card.device());
        let claims = allocator.claims(device, activation.order)?;
        let dedicated = |address: u64| allocator.residency(address).map(|bytes| bytes[Tier::Dedicated] as f64);
        let ids: HashMap<u64, u64> = self.live.iter().map(|(id, block)| (block.address, *id)).collect();
        let mut seconds = 0.0;
        for claim in &claims {
            seconds += dedicated(claim.address)? / self.setup.profile.link_to_host;
            allocator.free(claim.address, device, Stream(claim.stream))?;
        }
        allocator.begin_loading(device, activation.reserve, activation.persist)?;
        for claim in &claims {
            let block = ids.get(&claim.address).and_then(|id| self.live.get_mut(id));
            let block = block.ok_or(giant_kitten::Error::NotAllocated { address: claim.address })?;
            block.address = allocator.malloc(block.bytes as usize, device, Stream(claim.stream))?;
            allocator.mark(block.address, claim.model)?;
            seconds += dedicated(block.address)? / self.setup.profile.link_to_device;
        }
        allocator.activate(device, activation).map(|_| seconds)
    }

    /// Reports a safe point before work of a kind. Returns the seconds that it takes.
    fn safe_point(&mut self, kind: &str) -> Result<f64> {
        if self.setup.policy != Policy::AutoBlind && !self.reports_reads() {
            return Ok(0.0);
        }
        let (allocator, device) = (self.allocator, self.card.device());
        let mut moved = Moved::default();
        let seconds = self.card.time_moves(&mut |_| {
            moved = allocator.safe_point(device, kind)?;
            Ok(())
        })?;
        self.moving.add(moved, seconds, &self.setup.profile);
        if self.reports_reads() {
            // A block that no operation reads is known to be read by none.
            self.live.values().try_for_each(|block| self.allocator.touch(block.address, 0))?;
        }
        Ok(seconds)
    }

    fn alloc(&mut self, id: u64, bytes: u64, stream: u64, kind: Kind, name: Box<str>) -> Result<Option<String>> {
        let stream = self.stream(stream)?;
        let mut allocated = Ok(0);
        self.step.call_seconds += self.card.time_calls(&mut |_| {
            let (bytes, device, stream) = (bytes as usize, self.card.device(), Stream(stream));
            allocated = self.allocator.malloc(bytes, device, stream);
            if self.allocator.is_observed() {
                self.allocator.record_malloc(&allocated, bytes, device, stream, None);
            }
            Ok(())
        })?;
        let address = match allocated {
            Ok(address) => address,
            Err(why) => return Ok(Some(why.to_string())),
        };
        if kind == Kind::Param {
            self.allocator.mark(address, true)?;
        }
        let is_weight = kind == Kind::Param;
        self.live.insert(id, LiveBlock { address, bytes, stream, born: self.phases, is_weight, name });
        self.live_bytes += bytes;
        self.peak_live = self.peak_live.max(self.live_bytes);
        self.update_peaks()?;
        Ok(None)
    }

    /// The card's stream for a stream of the trace.
    fn stream(&mut self, number: u64) -> Result<u64> {
        if let Some(handle) = self.streams.get(&number) {
            return Ok(*handle);
        }
        ensure!(self.streams.len() < MOST_STREAMS, "the work uses more than {MOST_STREAMS} streams");
        let handle = self.card.create_stream()?.0;
        self.streams.insert(number, handle);
        Ok(handle)
    }

    fn free(&mut self, id: u64) -> Result<()> {
        if let Some(block) = self.live.remove(&id) {
            match self.allocator.is_observed() {
                true => self.allocator.recorded_free(block.address, Stream(block.stream), None)?,
                false => self.allocator.free(block.address, self.card.device(), Stream(block.stream))?,
            }
            self.live_bytes -= block.bytes;
        }
        Ok(())
    }

    /// Updates the peaks.
    fn update_peaks(&mut self) -> Result<()> {
        let stats = self.allocator.stats(self.card.device())?;
        let mapped = |tier: Tier| stats.tiers[tier].mapped.current();
        let both = mapped(Tier::Dedicated) + mapped(Tier::Shared);
        self.peak_mapped = self.peak_mapped.max(both);
        self.generation.peak_mapped = self.generation.peak_mapped.max(both);
        self.generation.peak_live = self.generation.peak_live.max(self.live_bytes);
        self.peak_shared = self.peak_shared.max(mapped(Tier::Shared));
        self.step.peak_dedicated_bytes = self.step.peak_dedicated_bytes.max(mapped(Tier::Dedicated));
        self.step.peak_shared_bytes = self.step.peak_shared_bytes.max(mapped(Tier::Shared));
        Ok(())
    }

    /// Charges the time of an operation to the step.
    fn charge(&mut self, op: &Op) -> Result<()> {
        if !self.in_step {
            return Ok(());
        }
        let profile = &self.setup.profile;
        let load = op.load();
        let load = Load { flops: if self.operating { 0.0 } else { load.flops }, ..load };
        self.step.compute_seconds += profile.compute_seconds(&load);
        if self.reports_reads() {
            for (id, bytes) in &op.reads {
                if let Some(block) = self.live.get(id).filter(|block| block.born < self.phases) {
                    self.allocator.touch(block.address, *bytes)?;
                }
            }
        }
        let reread = if rereads(&op.name) { profile.in_place_reread } else { 1.0 };
        let in_place = self.read_in_place(op)?;
        let (read, written) = (self.shared_bytes(&in_place)? * reread, self.shared_bytes(&op.writes)?);
        if self.copies_ahead() || self.setup.keeps_time {
            self.lending.note_operation();
            self.card.charge(&op.name, &Load { link_to_device: read, link_to_host: written, ..load })?;
        }
        self.step.link_read_bytes = self.step.link_read_bytes.saturating_add(read.round() as u64);
        self.step.link_write_bytes = self.step.link_write_bytes.saturating_add(written.round() as u64);
        Ok(())
    }

    /// Whether weights may be copied ahead in this replay.
    fn copies_ahead(&self) -> bool {
        self.setup.copy_ahead != CopyAhead::Off && self.setup.policy == Policy::Auto && !self.operating
    }

    /// What an operation reads where it lies: everything except the weights that are lent.
    fn read_in_place(&mut self, op: &Op) -> Result<Vec<(u64, u64)>> {
        if !self.copies_ahead() {
            return Ok(op.reads.clone());
        }
        self.lending.enter(self.allocator, self.card, &op.module)?;
        let mut in_place = Vec::with_capacity(op.reads.len());
        for (id, bytes) in &op.reads {
            // What no module runs, such as a backward pass, is lent nothing.
            let takes = |block: &&LiveBlock| block.is_weight && Lending::takes(block.bytes, *bytes);
            let block = self.live.get(id).filter(|block| !op.module.is_empty() && takes(block));
            let is_lent = match block {
                Some(block) => self.lending.lend(self.allocator, self.card, block.address, block.bytes)?,
                None => false,
            };
            if !is_lent {
                in_place.push((*id, *bytes));
            }
        }
        Ok(in_place)
    }

    /// Queues an operation in the card's stream.
    fn operate(&self, op: &Op) -> Result<()> {
        if !(self.in_step && self.operating) {
            return Ok(());
        }
        let place = |touched: &[(u64, u64)]| -> Result<Vec<Range>> {
            touched.iter().map(|(id, bytes)| Ok((self.block(*id)?.address, *bytes))).collect()
        };
        self.card.operate(&place(&op.reads)?, &place(&op.writes)?)
    }

    fn block(&self, id: u64) -> Result<&LiveBlock> {
        self.live.get(&id).ok_or_else(|| anyhow!("block {id} is not allocated"))
    }

    /// How many of the touched bytes lie in the shared tier.
    fn shared_bytes(&self, touched: &[(u64, u64)]) -> Result<f64> {
        let mut shared = 0.0;
        for (id, bytes) in touched {
            let lies = self.allocator.residency(self.block(*id)?.address)?;
            let all = lies[Tier::Dedicated] + lies[Tier::Shared];
            shared += *bytes as f64 * lies[Tier::Shared] as f64 / all as f64;
        }
        Ok(shared)
    }

    fn end_step(&mut self, watch: Watch<'_>) -> Result<()> {
        let timed =
            if self.in_step && self.copies_ahead() { self.lending.end(self.allocator, self.card)? } else { None };
        let mut step = std::mem::take(&mut self.step);
        if !self.in_step || step.compute_seconds == 0.0 {
            return Ok(());
        }
        if self.operating {
            step.card_seconds = Some(self.card.stop_clock()?);
        }
        let profile = &self.setup.profile;
        step.link_bytes = step.link_read_bytes.saturating_add(step.link_write_bytes);
        step.seconds = step.moving_seconds
            + step.compute_seconds
            + profile.seconds(&Load {
                link_to_device: step.link_read_bytes as f64,
                link_to_host: step.link_write_bytes as f64,
                ..Load::default()
            });
        if let Some(timed) = timed {
            step.seconds = step.moving_seconds + timed.seconds;
            step.copy_bytes = timed.copy_bytes;
            step.waited_seconds = timed.waited;
            step.link_seconds = timed.link;
            step.link_read_bytes = step.link_read_bytes.saturating_add(timed.copy_bytes);
            step.link_bytes = step.link_bytes.saturating_add(timed.copy_bytes);
        }
        ensure!(
            is_a_time(step.seconds),
            "\"{}\" would take {:e} s, which no step does: check the operations of the trace and the rates of the profile",
            step.name,
            step.seconds
        );
        ensure!((self.steps.len() as u64) < MOST_STEPS, "the work has more than {MOST_STEPS} steps");
        watch(Moment { ended: Some(self.lending.uses()), ..self.moment(&step.name) }, self.allocator);
        self.steps.push(step);
        Ok(())
    }

    fn outcome(&mut self, trace: &str, oom: Option<String>) -> Result<Outcome> {
        self.end_step(&mut |_, _| {})?;
        let stats: Stats = self.allocator.stats(self.card.device())?;
        let active = self.setup.policy == Policy::Reserve;
        let activation = &self.setup.activation;
        Ok(Outcome {
            trace: trace.into(),
            profile: self.setup.profile.name.clone(),
            card: self.card.name(),
            policy: self.setup.policy,
            wanted: self.allocator.wanted(self.card.device())?,
            reserve_bytes: stats.reserve,
            resident_bytes: self.resident_bytes,
            dedicated_bytes: stats.capacity[Tier::Dedicated],
            shared_bytes: stats.capacity[Tier::Shared],
            persist_bytes: if active { activation.persist } else { 0 },
            peak_live_bytes: self.peak_live,
            peak_mapped_bytes: self.peak_mapped,
            peak_shared_bytes: self.peak_shared,
            fragmentation: self.peak_mapped as f64 / self.peak_live.max(1) as f64,
            steady_fragmentation: self.generation.peak_mapped as f64 / self.generation.peak_live.max(1) as f64,
            stitched_bytes: stats.stitched_bytes,
            mallocs: stats.blocks.count.total(),
            frees: stats.blocks.count.taken(),
            migrated_bytes: stats.migrated_bytes,
            moving_seconds: self.moving.seconds,
            moving_link_seconds: self.moving.link_seconds,
            in_place_reread: self.setup.profile.in_place_reread,
            steady: self.steps.last().cloned(),
            steps: std::mem::take(&mut self.steps),
            oom,
        })
    }
}

/// Whether an operator reads its operands more than once: matmuls and convolutions, by their names
/// in ATen.
fn rereads(op: &str) -> bool {
    let name = op.strip_prefix("aten::").unwrap_or(op);
    let name = name.split('.').next().unwrap_or(name);
    matches!(name, "mm" | "addmm" | "bmm" | "baddbmm" | "linear" | "matmul" | "_scaled_mm")
        || name.contains("convolution")
        || name.starts_with("conv")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matmuls_and_convolutions_reread() {
        for name in ["aten::mm", "aten::addmm", "aten::bmm", "aten::convolution", "aten::conv2d.padding"] {
            assert!(rereads(name), "{name}");
        }
        for name in
            ["aten::add.Tensor", "aten::mul", "aten::native_group_norm", "aten::_scaled_dot_product_flash_attention"]
        {
            assert!(!rereads(name), "{name}");
        }
    }
}
