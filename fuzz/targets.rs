//! The fuzz targets, as functions of bytes. The tests call them with the bytes of the corpus.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use giant_kitten::driver::Stream;
use giant_kitten::driver::sim::SimDriver;
use giant_kitten::{Activation, Allocator, Layout, Options, Order, PoolId, Reserve, SortBy, Tier, parse_size};
use kitten_bench::hotpath::peers::BestFit;
use kitten_bench::hotpath::{Log, ROOM, Runner};
use kitten_bench::work::snapshot::Snapshot;
use kitten_bench::work::trace::{Event, Trace};
use kitten_sim::{Access, Completion, Gpu, Outstanding, Profile};

/// A target: its name, which is also that of its folder in the corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("operations", operations),
    ("layout", layout),
    ("options", options),
    ("trace", trace),
    ("profile", profile),
    ("snapshot", snapshot),
    ("log", log),
];

/// The option parser: text that it accepts once, it accepts again with the same meaning.
pub fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = parse_size(text);
    if let Ok(options) = Options::parse(text) {
        let mut again = options.clone();
        again.apply(text).expect("text that was accepted once");
        assert_eq!(options, again);
    }
}

/// The trace reader: it ends or fails, and no id lives twice.
pub fn trace(data: &[u8]) {
    let Ok(mut trace) = Trace::read(Box::new(Cursor::new(data.to_vec())), "fuzzed") else { return };
    while let Ok(Some(_)) = trace.next_event() {}
}

/// The reader of PyTorch's snapshots: a snapshot that it accepts allocates no id twice, and frees
/// and touches only live blocks, within their size.
pub fn snapshot(data: &[u8]) {
    let Ok(snapshot) = Snapshot::read(data, "fuzzed") else { return };
    let (mut live, mut last) = (HashMap::new(), 0);
    for event in snapshot.events() {
        match event {
            Event::Alloc { id, bytes, .. } => {
                assert!(*id > last && *bytes > 0, "block {id} of {bytes} bytes");
                last = *id;
                live.insert(*id, *bytes);
            }
            Event::Free { id } => assert!(live.remove(id).is_some(), "{id} is freed and does not live"),
            Event::Op(op) => {
                for (id, bytes) in op.reads.iter().chain(&op.writes) {
                    assert!(live.get(id).is_some_and(|size| bytes <= size), "{bytes} bytes of {id} are touched");
                }
            }
            Event::Phase(name) => panic!("a snapshot has no phase {name}"),
        }
    }
}

/// The reader of logs of calls: an allocator can run a log that it accepts again and again, or
/// refuses.
pub fn log(data: &[u8]) {
    let Ok(log) = Log::read(Box::new(Cursor::new(data.to_vec())), "fuzzed") else { return };
    if let Ok(mut runner) = Runner::new(BestFit::new(ROOM), &log, 0) {
        runner.run(&log, 2).expect("what fitted once");
    }
}

/// The profile parser: a profile that it accepts is the same after it is written and read again.
pub fn profile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(profile) = Profile::parse(text) {
        assert_eq!(Profile::parse(&profile.to_toml()).as_ref(), Ok(&profile), "{}", profile.to_toml());
    }
}

/// Steps of large blocks that repeat until their layout is learned, and then break off, leave
/// blocks behind or change: no two live blocks share memory, the invariants hold, and everything is
/// freed at the end. Each byte is a step: its kind, and what becomes of it.
pub fn layout(data: &[u8]) {
    let card = Profile::builtin("nominal-6g").expect("a built-in profile");
    let card = Profile { dedicated_bytes: 4 << 30, shared_bytes: 1 << 30, ..card };
    let gpu = Gpu::new(&[card]).expect("a small machine");
    let options = Options { layout: Layout::Learned, ..Options::default() };
    let allocator = Allocator::new(options, Arc::new(SimDriver::new(gpu.clone()))).expect("an allocator");
    let mut live: Vec<(u64, u64)> = Vec::new();
    for step in data.iter().take(200) {
        let (kind, end) = (u64::from(step % 4), step >> 4);
        let kept = live.len();
        let count = if end == 1 { 10 + usize::from(step >> 2 & 3) * 20 } else { 80 };
        for at in 0..count as u64 {
            // Sizes and lives that a kind of step always has, or a longer one of the same kind.
            let mixed = (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ kind) >> 40;
            let bytes = (1 << 20) + 1 + mixed % 24 * (4 + u64::from(step >> 2 & 3)) * (64 << 10);
            let Ok(address) = allocator.malloc(bytes as usize, 0, Stream(0)) else { break };
            let meets = live.iter().find(|(other, size)| address < other + size && *other < address + bytes);
            assert_eq!(meets, None, "memory in use was allocated again");
            live.push((address, bytes));
            while live.len() > kept + 4 + (mixed % 9) as usize {
                let (address, _) = live.swap_remove(kept + (mixed as usize) % (live.len() - kept));
                allocator.free(address, 0, Stream(0)).expect("a live block");
            }
        }
        match end {
            3 => drop(allocator.reset()),
            4 => drop(allocator.safe_point(0, "a step")),
            5 => drop(allocator.activate(0, &Activation::default())),
            6 => gpu.fail_any(1 + u64::from(step >> 2 & 3), 2),
            _ => {}
        }
        let stays = if end == 2 { kept + 1 } else { kept };
        while live.len() > stays.min(if end > 8 { 0 } else { 12 }) {
            let (address, _) = live.pop().expect("a live block");
            allocator.free(address, 0, Stream(0)).expect("a live block");
        }
        allocator.check().expect("the invariants");
    }
    live.into_iter().for_each(|(address, _)| allocator.free(address, 0, Stream(0)).expect("a live block"));
    gpu.clear_failures();
    drop(allocator);
    assert_eq!(gpu.outstanding().mappings, 0);
}

const GRANULE: u64 = 1 << 16;

/// A block, and the byte that fills it.
struct Live {
    address: u64,
    bytes: u64,
    device: usize,
    stream: Stream,
    stamp: u8,
}

struct World {
    gpu: Gpu,
    allocator: Allocator,
    streams: [Stream; 3],
    live: Vec<Live>,
    stamp: u8,
    pools: Vec<(usize, PoolId)>,
}

/// Every operation of the allocator, four bytes each, on two small devices, one of which can only
/// pin host memory, with late work and failing calls. No byte is lost, no memory is used too early,
/// the invariants hold, and everything is freed at the end.
pub fn operations(data: &[u8]) {
    let card = Profile::builtin("nominal-6g").expect("a built-in profile");
    let card = Profile { granularity: GRANULE, dedicated_bytes: 24 * GRANULE, shared_bytes: 40 * GRANULE, ..card };
    let pinned = Profile { migrates: false, ..card.clone() };
    let gpu = Gpu::new(&[card, pinned]).expect("a small machine");
    let streams = [Stream(0), Stream(gpu.create_stream().unwrap()), Stream(gpu.create_stream().unwrap())];
    let options = Options {
        activation: Activation { reserve: Reserve::Fixed(3 * GRANULE), ..Activation::default() },
        ..Options::default()
    };
    let allocator = Allocator::new(options, Arc::new(SimDriver::new(gpu.clone()))).expect("an allocator");
    let mut world = World { gpu, allocator, streams, live: Vec::new(), stamp: 0, pools: Vec::new() };
    for step in data.chunks_exact(4).take(400) {
        world.step(step[0], step[1], u64::from(step[2]) << 8 | u64::from(step[3]));
        world.allocator.check().expect("the invariants");
    }
    world.end();
}

impl World {
    fn step(&mut self, what: u8, which: u8, amount: u64) {
        let device = usize::from(which & 1);
        let stream = self.streams[usize::from(which >> 1) % 3];
        match what % 16 {
            0..=4 => self.malloc(device, stream, 1 + amount * if what >= 128 { 64 } else { 3 }),
            5..=7 => self.free(usize::from(which)),
            8 => self.launch(usize::from(which), amount),
            9 => {
                let request = Activation {
                    reserve: match amount % 31 {
                        30 => Reserve::Auto,
                        granules => Reserve::Fixed(granules * GRANULE),
                    },
                    persist: amount / 30 % 8 * GRANULE,
                    order: Order {
                        sort_reversed: amount & 1 == 1,
                        ignore_model: amount & 2 == 2,
                        sort_by: SortBy::ALL[(amount >> 2) as usize % 3],
                    },
                };
                let _ = self.allocator.activate(device, &request);
            }
            10 => drop(self.allocator.disable(device, Activation::default().order)),
            11 => drop(self.allocator.free_vram(device)),
            12 if amount & 1 == 0 => drop(self.allocator.reset()),
            12 => drop(self.allocator.safe_point(device, ["", "a", "b", "c"][(amount >> 1 & 3) as usize])),
            13 => self.one(usize::from(which), amount),
            14 => self.capture(device, stream, amount),
            _ => self.machine(amount),
        }
    }

    fn malloc(&mut self, device: usize, stream: Stream, bytes: u64) {
        let Ok(address) = self.allocator.malloc(bytes as usize, device, stream) else { return };
        assert!(address.is_multiple_of(512) && address != 0);
        let overlap = self.live.iter().find(|one| one.address < address + bytes && address < one.address + one.bytes);
        assert!(overlap.is_none(), "memory in use was allocated again");
        self.stamp = self.stamp.wrapping_add(1);
        let live = Live { address, bytes, device, stream, stamp: self.stamp };
        if self.gpu.capture_of(stream.0) == Ok(None) {
            self.gpu.fill(stream.0, address, bytes, live.stamp).unwrap_or_default();
        }
        self.live.push(live);
    }

    fn free(&mut self, which: usize) {
        if self.live.is_empty() {
            return;
        }
        let block = self.live.swap_remove(which % self.live.len());
        // Work of the block's own stream may still be late; that is what stream order is for.
        self.allocator.free(block.address, block.device, block.stream).expect("a live block");
    }

    fn launch(&mut self, which: usize, amount: u64) {
        let Some(block) = self.live.get(which % self.live.len().max(1)) else { return };
        let other = self.streams[amount as usize % 3];
        if other != block.stream
            && self.gpu.capture_of(block.stream.0) == Ok(None)
            && self.gpu.capture_of(other.0) == Ok(None)
        {
            // As PyTorch does: ordered behind the block's own stream, and recorded.
            let Ok(event) = self.gpu.create_event() else { return };
            let ordered = self.gpu.record(event, block.stream.0).and_then(|()| self.gpu.wait(other.0, event));
            let _ = self.gpu.destroy_event(event);
            if ordered.is_err() || self.allocator.record_stream(block.address, other).is_err() {
                return;
            }
            let _ = self.gpu.launch(other.0, "read", &[Access::read(block.address, block.bytes)]);
        }
    }

    fn one(&mut self, which: usize, amount: u64) {
        let Some(block) = self.live.get(which % self.live.len().max(1)) else { return };
        let inside = block.address + amount % block.bytes;
        match amount % 4 {
            0 => self.allocator.mark(inside, amount & 8 == 8).expect("a live block"),
            1 => drop(self.allocator.move_block(inside, if amount & 8 == 8 { Tier::Dedicated } else { Tier::Shared })),
            2 => {
                self.allocator.touch(inside, amount).expect("a live block");
                assert_eq!(self.allocator.extent(inside).expect("a live block").0, block.address);
            }
            _ => {
                let tiers = self.allocator.residency(inside).expect("a live block");
                assert!(tiers[Tier::Dedicated] + tiers[Tier::Shared] >= block.bytes);
            }
        }
    }

    fn capture(&mut self, device: usize, stream: Stream, amount: u64) {
        let pool = PoolId(0, 1 + amount % 3);
        match amount % 5 {
            0 if stream.0 != 0 && self.gpu.begin_capture(stream.0).is_ok() => {
                if self.allocator.begin_pool(device, pool, move |asked| asked == stream).is_ok() {
                    self.pools.push((device, pool));
                } else {
                    let _ = self.gpu.end_capture(stream.0);
                }
            }
            1 | 2 => {
                let _ = self.gpu.end_capture(stream.0);
                let _ = self.allocator.end_pool(device, pool);
            }
            _ => drop(self.allocator.release_pool(device, pool)),
        }
    }

    fn machine(&self, amount: u64) {
        match amount % 6 {
            0 => self.gpu.set_completion(Completion::Late),
            1 => self.gpu.set_completion(Completion::Immediate),
            2 => drop(self.gpu.complete_one(amount)),
            3 => self.gpu.fail_any(1 + amount / 6 % 50, if amount & 64 == 0 { 2 } else { 12_345 }),
            4 => self.gpu.set_dedicated_taken((amount & 1) as usize, amount / 6 % 24 * GRANULE),
            _ => self.gpu.clear_failures(),
        }
    }

    fn end(mut self) {
        self.gpu.clear_failures();
        (0..2).for_each(|device| self.gpu.set_dedicated_taken(device, 0));
        for stream in self.streams {
            let _ = self.gpu.end_capture(stream.0);
        }
        for (device, pool) in std::mem::take(&mut self.pools) {
            while self.allocator.end_pool(device, pool).is_ok() {}
            while self.allocator.release_pool(device, pool).is_ok() {}
        }
        self.gpu.synchronize(0).expect("nothing is captured any more");
        for device in 0..2 {
            self.allocator.disable(device, Activation::default().order).expect("nothing fails any more");
        }
        self.allocator.check().expect("the invariants");
        assert_eq!(self.gpu.faults(), [], "memory was used too early");
        for block in std::mem::take(&mut self.live) {
            self.allocator.free(block.address, block.device, block.stream).expect("a live block");
        }
        drop(self.allocator);
        assert_eq!(self.gpu.outstanding().handles, Outstanding::default().handles);
        assert_eq!(self.gpu.outstanding().mappings, 0);
    }
}
