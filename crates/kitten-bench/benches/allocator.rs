//! `cargo bench -p kitten-bench`: the hot path on genuine PyTorch's calls for SD1.5, compared with
//! other allocators in the same run, the planning of SDXL's activation, and the loading of blocks
//! that overflow.
//!
//! A figure of the hot path is for one round of the log, 5215 mallocs and as many frees. For
//! nanoseconds per pair with rounds of all allocators in turn, see `kitten-bench hotpath`.

use std::sync::Arc;

use divan::{Bencher, black_box, counter::ItemsCount};
use giant_kitten::driver::{Stream, sim::SimDriver};
use giant_kitten::internals::{ArenaId, Order, Resident, plan};
use giant_kitten::{Allocator, Options};
use kitten_bench::hotpath::peers::{BestFit, OffsetAllocator, Peer};
use kitten_bench::hotpath::{Log, Ours, ROOM, Runner};
use kitten_bench::work::trace::{Event, Kind, Trace};

fn main() {
    divan::main();
}

const GRANULE: u64 = 2 << 20;
const PAIRS: usize = 5215;

fn rounds<P: Peer>(bencher: Bencher, peer: P) {
    let log = Log::open(None).expect("the bundled log");
    let mut runner = Runner::new(peer, &log, 0).expect("room for the log");
    bencher.counter(ItemsCount::new(PAIRS)).bench_local(|| runner.run(&log, 1).expect("room for the log"));
}

#[divan::bench]
fn hotpath_giant_kitten(bencher: Bencher) {
    rounds(bencher, Ours::new().expect("the simulated GPU"));
}

#[divan::bench]
fn hotpath_btreemap_best_fit(bencher: Bencher) {
    rounds(bencher, BestFit::new(ROOM));
}

#[divan::bench]
fn hotpath_offset_allocator(bencher: Bencher) {
    rounds(bencher, OffsetAllocator::new(ROOM));
}

/// SDXL's parameters one after the other, as loading places them.
fn sdxl() -> Vec<Resident> {
    let mut trace = Trace::open("sdxl_unet_2048").expect("the bundled trace");
    let (mut residents, mut at) = (Vec::new(), 0);
    while let Some(event) = trace.next_event().expect("a good trace") {
        if let Event::Alloc { bytes, kind: Kind::Param, .. } = event {
            let granules = (at / GRANULE) as u32..(at + bytes).div_ceil(GRANULE) as u32;
            residents.push(Resident {
                arena: ArenaId(0),
                offset: at,
                granules,
                size: bytes,
                model: true,
                reads: 1.0,
                last_read: 0,
                pin: None,
            });
            at += bytes.next_multiple_of(512);
        }
    }
    residents
}

#[divan::bench]
fn plan_sdxl_activation(bencher: Bencher) {
    let residents = sdxl();
    bencher
        .with_inputs(|| residents.clone())
        .bench_values(|residents| plan(black_box(residents), Order::default(), 1900));
}

/// Loads so many blocks of 64 KiB that almost all of them lie in the shared tier, on the simulated
/// GPU. The figure of one item is one malloc; it should not grow with the number of blocks.
#[divan::bench(args = [1_000, 10_000, 90_000], sample_count = 5)]
fn load_overflowing_blocks(bencher: Bencher, blocks: usize) {
    let options = Options::parse("dedicated:64MiB,shared:16GiB").expect("valid options");
    let allocator = || {
        let driver = SimDriver::of_profile("nominal-6g").expect("a built-in profile");
        Allocator::new(options.clone(), Arc::new(driver)).expect("the simulated GPU")
    };
    bencher.counter(ItemsCount::new(blocks)).with_inputs(allocator).bench_values(|allocator| {
        for _ in 0..blocks {
            black_box(allocator.malloc(64 << 10, 0, Stream(0)).expect("room"));
        }
        allocator
    });
}
