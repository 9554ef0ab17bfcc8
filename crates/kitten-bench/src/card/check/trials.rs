//! The properties that hold on every card, each with the trial that shows it.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use giant_kitten::Order;
use giant_kitten::driver::Stream;
use giant_kitten::{Error, Tier, show_size};
use kitten_sim::kernels::VECTOR;

use super::world::{DEDICATED, SHARED, World};
use crate::card::Card;

/// Operations of the random work.
const OPERATIONS: u64 = 2000;

/// Shows that a property holds on a card, or why not.
pub(super) type Trial = fn(&dyn Card) -> Result<()>;

/// All properties, with their trials.
pub(super) const TRIALS: &[(&str, Trial)] = &[
    ("contents and addresses stay through every action", every_action),
    ("scratch has the reserve first, and the shared tier after it", order_of_supply),
    ("random work, actions in between, keeps every byte", random_work),
    ("a block used on another stream is not allocated again before that work is done", other_streams),
    ("memory moves only when the work on it is done", work_under_way),
    ("out of memory in both tiers is an error, and nothing is lost", out_of_memory),
    ("threads without a context of their own", threads),
    ("all memory comes back", all_comes_back),
];

/// Loads a model larger than the card, in blocks of many sizes.
fn model(world: &mut World<'_>) -> Result<()> {
    for number in 0..DEDICATED {
        let bytes = match number % 4 {
            0 => 3 * world.granule + 512 * number,
            1 => world.granule,
            2 => 1000 + 4096 * number,
            _ => world.granule + world.granule / 2,
        };
        let block = world.allocate(bytes)?;
        world.allocator.mark(block.address, number % 3 != 0)?;
    }
    Ok(())
}

fn every_action(card: &dyn Card) -> Result<()> {
    let mut world = World::new(card)?;
    model(&mut world)?;
    ensure!(world.mapped(Tier::Shared)? > 0, "the model should overflow");
    for round in 0..3 {
        world.activate(4 + 4 * round, round == 1)?;
        world.verify_all().context("after activate")?;
        let limit = (DEDICATED - 4 - 4 * round) * world.granule;
        let mapped = world.mapped(Tier::Dedicated)?;
        ensure!(mapped <= limit || !world.migrates, "{mapped} bytes are dedicated, more than {limit}");
        world.allocator.disable(world.device(), Order::default())?;
        world.verify_all().context("after disable")?;
        world.allocator.free_vram(world.device())?;
        let left = world.mapped(Tier::Dedicated)?;
        ensure!(left == 0 || !world.migrates, "{left} bytes are still dedicated after free_vram");
        world.verify_all().context("after free_vram")?;
    }
    Ok(())
}

fn order_of_supply(card: &dyn Card) -> Result<()> {
    const RESERVE: u64 = 6;
    let mut world = World::new(card)?;
    if !world.migrates {
        // Loaded blocks stay where they are, so loading must leave the reserve alone from the
        // start.
        world.allocator.begin_loading(world.device(), (RESERVE * world.granule).into(), 0)?;
    }
    model(&mut world)?;
    world.activate(RESERVE, false)?;
    for turn in 0..RESERVE + 2 {
        let block = world.allocate(world.granule)?;
        let shared = world.allocator.residency(block.address)?[Tier::Shared];
        ensure!(turn >= RESERVE || shared == 0, "granule {turn} of scratch is shared, with {RESERVE} reserved");
    }
    world.verify_all()
}

fn random_work(card: &dyn Card) -> Result<()> {
    let mut world = World::new(card)?;
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for operation in 0..OPERATIONS {
        let place = random(world.blocks.len().max(1) as u64) as usize;
        match random(100) {
            0..50 => {
                let bytes = if random(4) == 0 { 1 + random(3 * world.granule) } else { 1 + random(1 << 16) };
                match world.allocate(bytes) {
                    Ok(_) => {}
                    Err(Error::OutOfMemory(_)) if !world.blocks.is_empty() => world.free(place)?,
                    Err(why) => return Err(why.into()),
                }
            }
            50..90 if !world.blocks.is_empty() => {
                world.verify(world.blocks[place])?;
                world.free(place)?;
            }
            90..92 => or_full(world.activate(random(DEDICATED), random(2) == 0))?,
            92..94 => or_full(world.allocator.disable(world.device(), Order::default()))?,
            94 => or_full(world.allocator.free_vram(world.device()))?,
            95..98 if !world.blocks.is_empty() => {
                or_full(world.allocator.move_block(world.blocks[place].address, Tier::ALL[random(2) as usize]))?;
            }
            _ => world.allocator.reset()?,
        }
        if operation % 200 == 0 {
            world.verify_all()?;
        }
    }
    world.verify_all()
}

/// Accepts that an action finds both tiers too full, or nothing movable.
fn or_full<T>(done: Result<T, Error>) -> Result<()> {
    match done {
        Ok(_) | Err(Error::Refused(_) | Error::OutOfMemory(_) | Error::Immovable { .. }) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

/// Passes of a kernel over a granule that take long enough to see it running.
const LONG: u32 = 4_000;

fn other_streams(card: &dyn Card) -> Result<()> {
    let world = World::new(card)?;
    let (driver, device, granule) = (card.driver(), card.device(), world.granule);
    let other = card.create_stream()?;
    let used = world.allocator.malloc(granule as usize, device, other)?;
    let event = driver.create_event(device)?;
    card.read((used, granule), VECTOR, LONG)?;
    driver.record(device, event, card.stream())?;
    world.allocator.record_stream(used, card.stream())?;
    world.allocator.free(used, device, other)?;
    let next = world.allocator.malloc(granule as usize, device, other)?;
    let under_way = !driver.is_done(device, event)?;
    driver.synchronize(device)?;
    driver.destroy_event(device, event)?;
    ensure!(next != used || !under_way, "the block was allocated again while a kernel on another stream read it");
    world.allocator.free(next, device, other)?;
    world.allocator.reset()?;
    world.allocator.check().map_err(anyhow::Error::msg)
}

fn work_under_way(card: &dyn Card) -> Result<()> {
    let mut world = World::new(card)?;
    model(&mut world)?;
    for turn in 0..4 {
        for block in &world.blocks {
            card.read((block.address, block.bytes), VECTOR, LONG / 20)?;
        }
        match turn % 2 {
            0 => world.activate(8, false)?,
            _ => drop(world.allocator.free_vram(world.device())?),
        }
        world.verify_all()?;
    }
    Ok(())
}

fn out_of_memory(card: &dyn Card) -> Result<()> {
    let mut world = World::new(card)?;
    let why = loop {
        match world.allocate(5 * world.granule) {
            Ok(_) => {}
            Err(why) => break why,
        }
    };
    ensure!(matches!(why, Error::OutOfMemory(_)), "{why}");
    let held: u64 = world.blocks.iter().map(|block| block.bytes).sum();
    // A block lies in one pinned arena; where memory migrates, it can use all that is left of both
    // tiers.
    let rest = if world.migrates { 10 } else { 20 };
    ensure!(held >= (DEDICATED + SHARED - rest) * world.granule, "only {} were allocated: {why}", show_size(held));
    world.verify_all()?;
    world.free(0)?;
    world.allocate(5 * world.granule)?;
    world.verify_all()
}

fn threads(card: &dyn Card) -> Result<()> {
    let mut world = World::new(card)?;
    model(&mut world)?;
    let (allocator, device, granule) = (&world.allocator, world.device(), world.granule);
    std::thread::scope(|scope| {
        let work = |thread: u64| {
            move || -> Result<(), Error> {
                for turn in 0..200 {
                    let bytes = 512 + (turn * 7919 + thread * 104_729) % granule;
                    let block = allocator.malloc(bytes as usize, device, Stream(0))?;
                    allocator.free(block, device, Stream(0))?;
                }
                allocator.reset()
            }
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(work(thread))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?.map_err(Into::into))
    })
    .and_then(|()| world.verify_all())
}

fn all_comes_back(card: &dyn Card) -> Result<()> {
    let (driver, device): (Arc<_>, _) = (card.driver(), card.device());
    let before = driver.device_info(device)?.free[Tier::Dedicated];
    let mut world = World::new(card)?;
    model(&mut world)?;
    let granule = world.granule;
    drop(world);
    let after = driver.device_info(device)?.free[Tier::Dedicated];
    // Other programs may use the card too, and may have taken some of it since.
    ensure!(after + 4 * granule >= before, "{} were free before, {} after", show_size(before), show_size(after));
    Ok(())
}
