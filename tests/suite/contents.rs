//! A million operations compared with an oracle: several threads, devices and streams, all actions
//! mixed in, and every byte checked.

use std::sync::atomic::{AtomicU64, Ordering};

use super::common::{DEFAULT, Filled, GRANULE, Random, kitten_on, machine};
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Allocator, Error, Reserve, Tier};
use giant_kitten::{Order, SortBy};
use kitten_sim::Gpu;
use parking_lot::RwLock;

const THREADS: u64 = 4;
/// A million, unless the environment variable says otherwise. Fewer must do under valgrind or a
/// sanitizer.
fn operations() -> u64 {
    std::env::var("GIANT_KITTEN_TEST_OPERATIONS").map_or(1_000_000, |text| text.parse().unwrap())
}

/// Bytes are touched under a shared lock and moved under an exclusive one, since an action needs a
/// safe point.
static SAFE_POINT: RwLock<()> = RwLock::new(());

/// One action or query at a safe point, about a block or its device.
fn operate_at_safe_point(
    allocator: &Allocator,
    device: usize,
    block: &Filled,
    step: u64,
    random: &mut Random,
    actions: &AtomicU64,
) {
    let _quiet = SAFE_POINT.write();
    match random.below(6) {
        0 => allocator.mark(block.address, random.below(2) == 0).unwrap(),
        1 => {
            let tier = if random.below(2) == 0 { Tier::Dedicated } else { Tier::Shared };
            let _ = allocator.move_block(block.address, tier);
        }
        _ if step.is_multiple_of(8) => {
            actions.fetch_add(1, Ordering::Relaxed);
            let order = Order {
                sort_by: SortBy::ALL[random.below(3) as usize],
                sort_reversed: random.below(2) == 0,
                ignore_model: random.below(2) == 0,
            };
            let _ = match random.below(4) {
                0 | 1 => {
                    let reserve = random.below(6) * GRANULE;
                    allocator
                        .activate(device, &Activation { reserve: Reserve::Fixed(reserve), ..Activation::default() })
                }
                2 => allocator.disable(device, order),
                _ => allocator.free_vram(device),
            };
        }
        _ => {
            let extent = allocator.extent(block.address + block.bytes - 1).unwrap();
            assert_eq!(extent.0, block.address);
        }
    }
}

/// The operations of one thread on one device. No other thread touches the blocks that it owns.
fn worker(gpu: &Gpu, allocator: &Allocator, device: usize, seed: u64, operations: u64, actions: &AtomicU64) {
    let mut random = Random(seed);
    let stream = if seed.is_multiple_of(2) { DEFAULT } else { Stream(gpu.create_stream().unwrap()) };
    let mut live: Vec<Filled> = Vec::new();
    for step in 0..operations {
        let choice = random.below(1000);
        if choice < 500 && live.len() < 600 {
            let bytes = match random.below(400) {
                0 if random.below(4) == 0 => 1 + random.below(3 * GRANULE),
                0..40 => 1 + random.below(20_000),
                _ => 1 + random.below(600),
            };
            match allocator.malloc(bytes as usize, device, stream) {
                Ok(address) => {
                    let _working = SAFE_POINT.read();
                    live.push(Filled::at(gpu, address, bytes, random.next()));
                }
                Err(Error::OutOfMemory(_)) => {}
                Err(why) => panic!("{why}"),
            }
        } else if choice < 998 && !live.is_empty() {
            let block = live.swap_remove(random.below(live.len() as u64) as usize);
            {
                let _working = SAFE_POINT.read();
                block.check(gpu);
            }
            allocator.free(block.address, device, stream).unwrap();
        } else if let Some(block) = live.last() {
            operate_at_safe_point(allocator, device, block, step, &mut random, actions);
        }
    }
    let _working = SAFE_POINT.read();
    live.iter().for_each(|block| block.check(gpu));
    for block in live {
        allocator.free(block.address, device, stream).unwrap();
    }
}

#[test]
fn a_million_operations_lose_no_byte() {
    let gpu = machine(2, 6 * GRANULE, 24 * GRANULE);
    let allocator = kitten_on(&gpu, "reserve:4MiB");
    let actions = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (gpu, allocator, actions) = (&gpu, &allocator, &actions);
            let device = (thread / 2) as usize;
            scope.spawn(move || worker(gpu, allocator, device, thread + 11, operations() / THREADS, actions));
        }
    });
    allocator.check().unwrap();
    assert!(actions.load(Ordering::Relaxed) > operations() / 10_000);
    for device in 0..2 {
        let stats = allocator.stats(device).unwrap();
        assert_eq!((stats.blocks.count.current(), stats.blocks.requested.current()), (0, 0));
        assert_eq!(stats.blocks.count.total(), stats.blocks.count.taken());
        match crate::MIGRATES {
            true => assert!(stats.migrations > operations() / 20_000, "{} migrations", stats.migrations),
            false => assert_eq!(stats.migrations, 0),
        }
        for tier in Tier::ALL {
            let tier = &stats.tiers[tier];
            assert_eq!((tier.allocated.current(), tier.active.current()), (0, 0));
        }
    }
    assert_eq!(gpu.faults(), []);
}
