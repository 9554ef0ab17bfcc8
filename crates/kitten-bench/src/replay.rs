//! A trace through the real allocator, and the time that its placement costs: modelled, on the simulated GPU; or on a real card, where
//! each operation is a kernel that reads and writes what it says where it lies, measured beside what is modelled for the same.
//!
//! The model, per operation: `max(flops / rate, bytes touched / VRAM bandwidth)`, plus the bytes of it that lie in the shared tier over
//! the link. What a matmul or convolution reads in shared memory crosses the link `in_place_reread` times.
//! Of a block in both tiers the touched bytes are shared in proportion. Nothing overlaps: the sum is an upper bound for
//! hardware that can read ahead, and a lower one for kernels that re-read more than the profile says.
//!
//! On a card nothing is computed and nothing re-read: there the model has bytes alone as well.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};

use anyhow::{Context, Result, anyhow, ensure};
use giant_kitten::Reserve;
use giant_kitten::core::placement::SortBy;
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Allocator, MemoryMap, Moved, Options, Stats, Tier, Wanted, abi};
use kitten_sim::{Load, Profile};
use serde::{Deserialize, Serialize};

use crate::card::{Card, Range, Simulated};
use crate::text::plain;
use crate::trace::{Event, Kind, Op};
use crate::workload::{MOST_STEPS, Source, is_loading};

/// How memory is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Blocks take dedicated memory as they come; nothing is activated. What a driver's own fallback amounts to.
    FirstCome,
    /// Loading leaves the reserve alone; activation after the load.
    Reserve,
    /// The reserve finds itself: each phase begins with a safe point that names the kind of work, and the reads of what was loaded are
    /// told.
    Auto,
    /// The same, with nothing told but the safe points.
    AutoBlind,
    /// The first start with the environment variable alone: nothing is told, and nothing moves.
    Untold,
    /// A later start with `reserve:remembered`: nothing is told, and the reserve is the one that the start before would have wanted.
    Remembered,
}

/// No step takes more seconds: some thirty thousand years.
const LONGEST_STEP: f64 = 1e12;

/// Whether a step can take so many seconds.
pub(crate) fn is_a_time(seconds: f64) -> bool {
    (0.0..=LONGEST_STEP).contains(&seconds)
}

/// No work may use more streams.
const MOST_STREAMS: usize = 4096;

/// What to replay, and on what.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the model takes from. Its capacities are what the allocator may use.
    pub profile: Profile,
    /// Bytes of a granule, if not the card's own.
    pub granule: Option<u64>,
    /// How memory is placed.
    pub policy: Policy,
    /// What the activation is to do.
    pub activation: Activation,
    /// With [`Policy::Remembered`], what the start before would have wanted ([`Outcome::wanted`]).
    pub wanted: Option<Wanted>,
}

/// What happened in one phase with operations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The phase's name.
    pub name: String,
    /// How often the whole of the work had been done before.
    pub generation: u64,
    /// Modelled: compute, link, and what moved before it.
    pub seconds: f64,
    /// Of these, what moved before it took.
    pub moving_seconds: f64,
    /// Modelled: as if everything were dedicated.
    pub compute_seconds: f64,
    /// Modelled: the driver's calls for memory within the step. Not in `seconds`: they keep the host, while the device has work in hand; by
    /// the host's clock on a card.
    pub call_seconds: f64,
    /// Measured on a real card, or timed on a fake one, from the first operation to the last; none where nothing is done.
    pub card_seconds: Option<f64>,
    /// Bytes over the link, both ways, with rereads.
    pub link_bytes: u64,
    /// Of these, to the device.
    pub link_read_bytes: u64,
    /// Of these, to the host.
    pub link_write_bytes: u64,
    /// The most bytes mapped in dedicated memory.
    pub peak_dedicated_bytes: u64,
    /// The most bytes mapped in shared memory.
    pub peak_shared_bytes: u64,
}

/// What a replay found. Sizes in bytes; all seconds are modelled but the card's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The trace's name.
    pub trace: String,
    /// The profile's name.
    pub profile: String,
    /// The card, and its driver.
    pub card: String,
    /// How memory was placed.
    pub policy: Policy,
    /// What this start would have wanted, for the next one.
    #[serde(skip)]
    pub wanted: Option<Wanted>,
    /// The reserve in force at the end.
    pub reserve_bytes: u64,
    /// Bytes that lived when the first step began.
    pub resident_bytes: u64,
    /// Capacity of the dedicated tier.
    pub dedicated_bytes: u64,
    /// Capacity of the shared tier.
    pub shared_bytes: u64,
    /// Persist of the activation.
    pub persist_bytes: u64,
    /// The most bytes of live blocks.
    pub peak_live_bytes: u64,
    /// The most bytes mapped.
    pub peak_mapped_bytes: u64,
    /// The most bytes mapped in shared memory, loading included.
    #[serde(default)]
    pub peak_shared_bytes: u64,
    /// Peak mapped over peak live.
    pub fragmentation: f64,
    /// Bytes of idle dedicated memory that were mapped elsewhere because they were too short apart.
    pub stitched_bytes: u64,
    /// Blocks given out.
    pub mallocs: u64,
    /// Blocks given back.
    pub frees: u64,
    /// Bytes that changed tier.
    pub migrated_bytes: u64,
    /// How often a matmul or convolution was taken to read each shared byte.
    pub in_place_reread: f64,
    /// Every phase with operations, in order, without loading.
    pub steps: Vec<Step>,
    /// The last step.
    pub steady: Option<Step>,
    /// Why the replay ended early, if it did.
    pub oom: Option<String>,
}

struct LiveBlock {
    address: u64,
    bytes: u64,
    stream: u64,
    /// How many phases had begun when it came to life.
    born: usize,
}

/// A replay under way.
struct Replay<'a> {
    setup: &'a Setup,
    card: &'a dyn Card,
    /// Whether operations are done on the card.
    operating: bool,
    allocator: &'static Allocator,
    live: HashMap<u64, LiveBlock>,
    streams: HashMap<u64, u64>,
    step: Step,
    in_step: bool,
    loading: bool,
    phases: usize,
    /// How often it was activated.
    placements: u64,
    resident_bytes: u64,
    steps: Vec<Step>,
    live_bytes: u64,
    peak_live: u64,
    peak_mapped: u64,
    peak_shared: u64,
}

/// A moment of a replay: the begin of a phase, or just after an allocation.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The phase.
    pub phase: &'a str,
    /// Whether it begins.
    pub begins: bool,
    /// Bytes of live blocks.
    pub live_bytes: u64,
}

/// Called at every moment of a replay.
pub type Watch<'a> = &'a mut dyn FnMut(Moment<'_>, &Allocator);

/// Replays a trace on the simulated GPU.
///
/// # Errors
/// A trace that is not good; an allocator that fails other than by running out of memory, which is an outcome.
pub fn replay(trace: &mut dyn Source, setup: &Setup, watch: Watch<'_>) -> Result<Outcome> {
    run(&Simulated::new(&setup.profile)?, false, trace, setup, watch)
}

/// Replays a trace on a card: its operations are done there, and timed.
///
/// # Errors
/// As for [`replay`]; the card's.
pub fn replay_on(card: &dyn Card, trace: &mut dyn Source, setup: &Setup) -> Result<Outcome> {
    let mut setup = setup.clone();
    setup.profile.in_place_reread = 1.0;
    run(card, true, trace, &setup, &mut |_, _| {})
}

fn run(card: &dyn Card, operating: bool, trace: &mut dyn Source, setup: &Setup, watch: Watch<'_>) -> Result<Outcome> {
    let reserve = match setup.policy {
        Policy::FirstCome => Reserve::Fixed(0),
        Policy::Reserve => setup.activation.reserve,
        Policy::Auto | Policy::AutoBlind | Policy::Untold | Policy::Remembered => Reserve::Auto,
    };
    let options = Options {
        reserve,
        granule: setup.granule,
        dedicated: Some(setup.profile.dedicated_bytes),
        shared: Some(setup.profile.shared_bytes),
        remembered: setup.wanted.filter(|_| setup.policy == Policy::Remembered),
        ..Options::default()
    };
    let allocator = abi::install(Allocator::new(options, card.driver())?);
    let mut replay = Replay {
        setup,
        card,
        operating,
        allocator,
        live: HashMap::new(),
        streams: HashMap::from([(0, card.stream().0)]),
        step: Step::default(),
        in_step: false,
        loading: true,
        phases: 0,
        placements: 0,
        resident_bytes: 0,
        steps: Vec::new(),
        live_bytes: 0,
        peak_live: 0,
        peak_mapped: 0,
        peak_shared: 0,
    };
    let ended = replay.run(trace, watch);
    let outcome = ended.and_then(|oom| replay.outcome(trace.name(), oom));
    allocator.shutdown();
    outcome
}

impl Replay<'_> {
    /// Runs to the end; the text of an out-of-memory that ended it early.
    fn run(&mut self, trace: &mut dyn Source, watch: Watch<'_>) -> Result<Option<String>> {
        // What sorts by reads knows none before the first generation, and places anew after it.
        let placements = match (self.setup.policy, self.tells()) {
            (Policy::Reserve, true) => 2,
            (Policy::Reserve, false) => 1,
            _ => 0,
        };
        while let Some(event) = trace.next_event()? {
            match event {
                Event::Phase(name) => {
                    self.end_step()?;
                    self.loading = is_loading(&name);
                    self.phases += 1;
                    let begins = !self.loading && name != "end";
                    if begins && self.steps.is_empty() {
                        self.resident_bytes = self.live_bytes;
                    }
                    let mut moving_seconds = if begins { self.safe_point(&trace.kind(&name))? } else { 0.0 };
                    if begins && placements > self.placements && trace.generation() >= self.placements {
                        self.placements += 1;
                        match self.activate()? {
                            Ok(seconds) => moving_seconds += if self.placements > 1 { seconds } else { 0.0 },
                            Err(why) => return Ok(Some(why.to_string())),
                        }
                    }
                    watch(Moment { phase: &name, begins: true, live_bytes: self.live_bytes }, self.allocator);
                    self.in_step = !is_loading(&name) && name != "end";
                    self.step = Step { name, generation: trace.generation(), moving_seconds, ..Step::default() };
                    // A step that allocates nothing holds what lives when it begins.
                    self.look()?;
                    if self.in_step && self.operating {
                        self.card.start_clock()?;
                    }
                }
                Event::Alloc { id, bytes, stream, kind } => {
                    if let Some(oom) = self.alloc(id, bytes, stream, kind).with_context(|| trace.at())? {
                        return Ok(Some(oom));
                    }
                    let moment = Moment { phase: &self.step.name, begins: false, live_bytes: self.live_bytes };
                    watch(moment, self.allocator);
                }
                Event::Free { id } => self.free(id),
                Event::Op(op) => {
                    self.charge(&op)?;
                    self.operate(&op).with_context(|| trace.at())?;
                }
            }
        }
        self.end_step()?;
        Ok(None)
    }

    /// Whether the allocator is told of reads.
    fn tells(&self) -> bool {
        self.setup.policy == Policy::Auto
            || (self.setup.policy == Policy::Reserve && self.setup.activation.sort_by != SortBy::Size)
    }

    /// Activates; the seconds that it takes, or why it could not be.
    fn activate(&mut self) -> Result<Result<f64, giant_kitten::Error>> {
        let (allocator, device, activation) = (self.allocator, self.card.device(), &self.setup.activation);
        let mut done = Ok(Moved::default());
        let seconds = self.card.time_calls(&mut |_| {
            done = allocator.activate(device, activation);
            Ok(())
        })?;
        Ok(match done {
            Ok(Moved { stayed: 0, .. }) => Ok(seconds),
            Ok(_) => self.out_and_back(activation).map(|moving| seconds + moving),
            Err(why) => Err(why),
        })
    }

    /// What the Python package does where nothing can move: every block goes out and comes back in the order of its claim, while the
    /// allocator keeps the reserve. The seconds over the link; those of the host's own copies are left out.
    fn out_and_back(&mut self, activation: &Activation) -> Result<f64, giant_kitten::Error> {
        let (allocator, device) = (self.allocator, self.card.device());
        let claims = allocator.claims(device, activation.order())?;
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

    /// A safe point before work of a kind; the seconds that it takes.
    fn safe_point(&mut self, kind: &str) -> Result<f64> {
        if self.setup.policy != Policy::AutoBlind && !self.tells() {
            return Ok(0.0);
        }
        let (allocator, device) = (self.allocator, self.card.device());
        let seconds = self.card.time_calls(&mut |_| Ok(allocator.safe_point(device, kind).map(drop)?))?;
        if self.tells() {
            // What no operation reads is read by none: that is known too.
            self.live.values().try_for_each(|block| self.allocator.touch(block.address, 0))?;
        }
        Ok(seconds)
    }

    fn alloc(&mut self, id: u64, bytes: u64, stream: u64, kind: Kind) -> Result<Option<String>> {
        let stream = match self.streams.get(&stream) {
            Some(handle) => *handle,
            None => {
                ensure!(self.streams.len() < MOST_STREAMS, "the work uses more than {MOST_STREAMS} streams");
                let handle = self.card.create_stream()?.0;
                self.streams.insert(stream, handle);
                handle
            }
        };
        let mut address = 0;
        self.step.call_seconds += self.card.time_calls(&mut |_| {
            address = abi::gk_malloc(bytes as usize, self.card.device() as c_int, stream as *mut c_void) as u64;
            Ok(())
        })?;
        if address == 0 {
            return Ok(Some(last_error()));
        }
        if kind == Kind::Param {
            self.allocator.mark(address, true)?;
        }
        self.live.insert(id, LiveBlock { address, bytes, stream, born: self.phases });
        self.live_bytes += bytes;
        self.peak_live = self.peak_live.max(self.live_bytes);
        self.look()?;
        Ok(None)
    }

    fn free(&mut self, id: u64) {
        if let Some(block) = self.live.remove(&id) {
            let (address, stream) = (block.address as *mut c_void, block.stream as *mut c_void);
            abi::gk_free(address, block.bytes as usize, self.card.device() as c_int, stream);
            self.live_bytes -= block.bytes;
        }
    }

    /// Brings the peaks up to date.
    fn look(&mut self) -> Result<()> {
        let stats = self.allocator.stats(self.card.device())?;
        let mapped = |tier: Tier| stats.tiers[tier].mapped.current();
        self.peak_mapped = self.peak_mapped.max(mapped(Tier::Dedicated) + mapped(Tier::Shared));
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
        let bytes: u64 = op.reads.iter().chain(&op.writes).map(|(_, bytes)| bytes).sum();
        let flops = if self.operating { 0.0 } else { op.flops };
        let load = Load { bytes: bytes as f64, flops, ..Load::default() };
        self.step.compute_seconds += profile.compute_seconds(&load);
        if self.tells() {
            for (id, bytes) in &op.reads {
                if let Some(block) = self.live.get(id).filter(|block| block.born < self.phases) {
                    self.allocator.touch(block.address, *bytes)?;
                }
            }
        }
        let reread = if rereads(&op.name) { profile.in_place_reread } else { 1.0 };
        let (read, written) = (self.shared_bytes(&op.reads)? * reread, self.shared_bytes(&op.writes)?);
        self.step.link_read_bytes = self.step.link_read_bytes.saturating_add(read.round() as u64);
        self.step.link_write_bytes = self.step.link_write_bytes.saturating_add(written.round() as u64);
        Ok(())
    }

    /// Puts an operation in the card's stream.
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

    /// Of the bytes touched, those in the shared tier.
    fn shared_bytes(&self, touched: &[(u64, u64)]) -> Result<f64> {
        let mut shared = 0.0;
        for (id, bytes) in touched {
            let lies = self.allocator.residency(self.block(*id)?.address)?;
            let all = lies[Tier::Dedicated] + lies[Tier::Shared];
            shared += *bytes as f64 * lies[Tier::Shared] as f64 / all as f64;
        }
        Ok(shared)
    }

    fn end_step(&mut self) -> Result<()> {
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
        ensure!(
            is_a_time(step.seconds),
            "\"{}\" would take {:e} s, which no step does: look at the operations of the trace and the rates of the profile",
            step.name,
            step.seconds
        );
        ensure!((self.steps.len() as u64) < MOST_STEPS, "the work has more than {MOST_STEPS} steps");
        self.steps.push(step);
        Ok(())
    }

    fn outcome(&mut self, trace: &str, oom: Option<String>) -> Result<Outcome> {
        self.end_step()?;
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
            stitched_bytes: stats.stitched_bytes,
            mallocs: stats.blocks.count.total(),
            frees: stats.blocks.count.taken(),
            migrated_bytes: stats.migrated_bytes,
            in_place_reread: self.setup.profile.in_place_reread,
            steady: self.steps.last().cloned(),
            steps: std::mem::take(&mut self.steps),
            oom,
        })
    }
}

/// Why the last call of the C interface on this thread was refused.
pub(crate) fn last_error() -> String {
    // SAFETY: the text is good until the next call of the interface on this thread.
    let text = unsafe { std::ffi::CStr::from_ptr(abi::gk_last_error()) };
    text.to_string_lossy().into_owned()
}

/// Whether an operator reads its operands more than once: matmuls and convolutions, by their names in ATen.
fn rereads(op: &str) -> bool {
    let name = op.strip_prefix("aten::").unwrap_or(op);
    let name = name.split('.').next().unwrap_or(name);
    matches!(name, "mm" | "addmm" | "bmm" | "baddbmm" | "linear" | "matmul" | "_scaled_mm")
        || name.contains("convolution")
        || name.starts_with("conv")
}

/// So many phases are named where one was asked for that is not there.
const MOST_PHASES: usize = 40;

/// The memory map of a phase at its busiest moment, and the statistics then.
///
/// # Errors
/// As for [`replay`]; a phase that the trace does not have.
pub fn map_at(trace: &mut dyn Source, setup: &Setup, phase: &str) -> Result<(MemoryMap, Stats)> {
    let (mut seen, mut more) = (Vec::new(), 0u64);
    let mut busiest: Option<(u64, _, _)> = None;
    replay(trace, setup, &mut |moment, allocator| {
        if moment.begins && seen.len() < MOST_PHASES {
            seen.push(moment.phase.to_owned());
        } else if moment.begins {
            more += 1;
        }
        if moment.phase == phase && busiest.as_ref().is_none_or(|(bytes, ..)| moment.live_bytes > *bytes) {
            busiest = Some((moment.live_bytes, allocator.map(0), allocator.stats(0)));
        }
    })?;
    match busiest {
        Some((_, map, stats)) => Ok((map?, stats?)),
        None => {
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Err(anyhow!("the trace has no phase \"{}\"; it has {}{more}", plain(phase), seen.join(", ")))
        }
    }
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
