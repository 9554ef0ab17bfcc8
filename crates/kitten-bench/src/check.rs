//! The allocator proved on a card: the part of its suite that needs no simulated GPU to see what happens. Every block knows its contents,
//! and is compared byte for byte.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use giant_kitten::core::placement::Order;
use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Allocator, Error, Options, Tier, show_size};
use serde::{Deserialize, Serialize};

use crate::card::Card;

/// Granules that the allocator may use of each tier: little, so that everything overflows.
const DEDICATED: u64 = 24;
const SHARED: u64 = 64;
/// Every byte is written and compared: larger granules would take hours.
const LARGEST_GRANULE: u64 = 64 << 20;
/// Operations of the random work.
const OPERATIONS: u64 = 2000;

/// One thing that was proved, or not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// What holds.
    pub name: String,
    /// Seconds that it took, by the host's clock.
    pub seconds: f64,
    /// Why it does not hold.
    pub error: Option<String>,
}

/// What a check found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// The card and its driver.
    pub card: String,
    /// How the shared tier comes about.
    pub rung: String,
    /// Bytes of a granule.
    pub granule: u64,
    /// All that was tried, in order.
    pub proofs: Vec<Proof>,
}

impl Checked {
    /// Whether everything holds.
    pub fn is_good(&self) -> bool {
        self.proofs.iter().all(|proof| proof.error.is_none())
    }
}

type Trial = fn(&dyn Card) -> Result<()>;

const TRIALS: &[(&str, Trial)] = &[
    ("contents and addresses stay through every action", every_action),
    ("scratch has the reserve first, and the shared tier after it", order_of_supply),
    ("random work, actions in between, keeps every byte", random_work),
    ("a block used on another stream is not given out before that is done", other_streams),
    ("memory moves only when the work on it is done", work_under_way),
    ("out of memory in both tiers is an error, and nothing is lost", out_of_memory),
    ("threads without a context of their own", threads),
    ("all memory comes back", all_comes_back),
];

/// Tries everything on a card; `told` hears of each as it ends.
///
/// # Errors
/// A card that does not say what it is, or has too little memory; what `told` says; what does not hold is no error here.
pub fn check(card: &dyn Card, mut told: impl FnMut(&Proof) -> Result<()>) -> Result<Checked> {
    let info = card.driver().device_info(card.device())?;
    let granule = info.granularity;
    ensure!(
        granule <= LARGEST_GRANULE,
        "{} has granules of {}: the check takes at most {}",
        card.name(),
        show_size(granule),
        show_size(LARGEST_GRANULE)
    );
    ensure!(
        info.dedicated_free / granule >= DEDICATED && info.shared_spare / granule >= SHARED,
        "{} has {} of dedicated and {} of shared memory to spare: the check needs {} and {}",
        card.name(),
        show_size(info.dedicated_free),
        show_size(info.shared_spare),
        show_size(DEDICATED * granule),
        show_size(SHARED * granule)
    );
    let mut checked =
        Checked { card: card.name(), rung: info.rung.name().into(), granule: info.granularity, proofs: Vec::new() };
    for (name, trial) in TRIALS {
        let start = Instant::now();
        let error = trial(card).err().map(|why| format!("{why:#}"));
        let proof = Proof { name: (*name).into(), seconds: start.elapsed().as_secs_f64(), error };
        told(&proof)?;
        checked.proofs.push(proof);
    }
    Ok(checked)
}

#[derive(Clone, Copy)]
struct Block {
    address: u64,
    bytes: u64,
    seed: u64,
}

/// The allocator on a card, with blocks that know their contents.
struct World<'a> {
    card: &'a dyn Card,
    allocator: Allocator,
    granule: u64,
    /// Whether what exists can change tier.
    migrates: bool,
    blocks: Vec<Block>,
    seeds: u64,
}

/// The contents that follow from a seed.
fn contents(seed: u64, bytes: u64) -> Vec<u8> {
    let words = (0..bytes.div_ceil(8)).map(|at| (seed ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut contents: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    contents.truncate(bytes as usize);
    contents
}

impl<'a> World<'a> {
    fn new(card: &'a dyn Card) -> Result<World<'a>> {
        let info = card.driver().device_info(card.device())?;
        let (granule, migrates) = (info.granularity, info.rung.migrates());
        let options = Options {
            dedicated: Some(DEDICATED * granule),
            shared: Some(SHARED * granule),
            headroom: Some(0),
            ..Options::default()
        };
        let allocator = Allocator::new(options, card.driver())?;
        Ok(World { card, allocator, granule, migrates, blocks: Vec::new(), seeds: 0 })
    }

    fn device(&self) -> usize {
        self.card.device()
    }

    /// Allocates on the card's stream and fills.
    fn allocate(&mut self, bytes: u64) -> Result<Block, Error> {
        let address = self.allocator.malloc(bytes as usize, self.device(), self.card.stream())?;
        self.seeds += 1;
        let block = Block { address, bytes, seed: self.seeds };
        let filled = self.card.upload(address, &contents(block.seed, bytes));
        self.blocks.push(block);
        filled.map_err(|why| Error::Refused(format!("{why:#}")))?;
        Ok(block)
    }

    fn free(&mut self, index: usize) -> Result<()> {
        let block = self.blocks.swap_remove(index);
        Ok(self.allocator.free(block.address, self.device(), self.card.stream())?)
    }

    fn verify(&self, block: Block) -> Result<()> {
        let mut read = vec![0; block.bytes as usize];
        self.card.download(&mut read, block.address)?;
        let expected = contents(block.seed, block.bytes);
        match read.iter().zip(&expected).position(|(read, expected)| read != expected) {
            None => Ok(()),
            Some(at) => Err(anyhow!(
                "byte {at} of the block of {} at {:#x} is {}, not {}",
                show_size(block.bytes),
                block.address,
                read[at],
                expected[at]
            )),
        }
    }

    fn verify_all(&self) -> Result<()> {
        self.allocator.check().map_err(anyhow::Error::msg)?;
        self.blocks.iter().try_for_each(|block| self.verify(*block))
    }

    fn activate(&self, granules: u64, sort_reversed: bool) -> Result<(), Error> {
        let activation =
            Activation { reserve: (granules * self.granule).into(), sort_reversed, ..Activation::default() };
        self.allocator.activate(self.device(), &activation).map(drop)
    }

    /// Bytes mapped in a tier.
    fn mapped(&self, tier: Tier) -> Result<u64> {
        Ok(self.allocator.stats(self.device())?.tiers[tier].mapped.current())
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.allocator.shutdown();
    }
}

/// A model of more than the card, in blocks of many sizes.
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
    ensure!(world.mapped(Tier::Shared)? > 0, "the model ought to overflow");
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
        ensure!(left == 0 || !world.migrates, "{left} bytes are dedicated still after free_vram");
        world.verify_all().context("after free_vram")?;
    }
    Ok(())
}

fn order_of_supply(card: &dyn Card) -> Result<()> {
    const RESERVE: u64 = 6;
    let mut world = World::new(card)?;
    if !world.migrates {
        // What is loaded stays where it is: it has to leave the reserve alone from the start.
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

/// An action that may find both tiers too full, or nothing movable.
fn or_full<T>(done: Result<T, Error>) -> Result<()> {
    match done {
        Ok(_) | Err(Error::Refused(_) | Error::OutOfMemory(_) | Error::Immovable { .. }) => Ok(()),
        Err(why) => Err(why.into()),
    }
}

/// Passes of a kernel over a granule that take long enough to look meanwhile.
const LONG: u32 = 4_000;

fn other_streams(card: &dyn Card) -> Result<()> {
    let world = World::new(card)?;
    let (driver, device, granule) = (card.driver(), card.device(), world.granule);
    let other = card.create_stream()?;
    let used = world.allocator.malloc(granule as usize, device, other)?;
    let event = driver.create_event(device)?;
    card.read((used, granule), 16, LONG)?;
    driver.record(device, event, card.stream())?;
    world.allocator.record_stream(used, card.stream())?;
    world.allocator.free(used, device, other)?;
    let next = world.allocator.malloc(granule as usize, device, other)?;
    let under_way = !driver.is_done(device, event)?;
    driver.synchronize(device)?;
    driver.destroy_event(device, event)?;
    ensure!(next != used || !under_way, "the block was given out while a kernel on another stream read it");
    world.allocator.free(next, device, other)?;
    world.allocator.reset()?;
    world.allocator.check().map_err(anyhow::Error::msg)
}

fn work_under_way(card: &dyn Card) -> Result<()> {
    let mut world = World::new(card)?;
    model(&mut world)?;
    for turn in 0..4 {
        for block in &world.blocks {
            card.read((block.address, block.bytes), 16, LONG / 20)?;
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
    // A block lies in one pinned arena, or else in whatever is left of both tiers.
    let rest = if world.migrates { 10 } else { 20 };
    ensure!(held >= (DEDICATED + SHARED - rest) * world.granule, "only {} were given out: {why}", show_size(held));
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
    let before = driver.device_info(device)?.dedicated_free;
    let mut world = World::new(card)?;
    model(&mut world)?;
    let granule = world.granule;
    drop(world);
    let after = driver.device_info(device)?.dedicated_free;
    // Others may use the card too: what they take meanwhile is not ours.
    ensure!(after + 4 * granule >= before, "{} were free before, {} after", show_size(before), show_size(after));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::Simulated;
    use kitten_sim::Profile;

    #[test]
    fn everything_holds_on_the_simulated_gpu() {
        let card = Profile::builtin("nominal-6g").unwrap();
        for migrates in [true, false] {
            let card = Profile { granularity: 1 << 18, migrates, ..card.clone() };
            let checked = check(&Simulated::new(&card).unwrap(), |_| Ok(())).unwrap();
            assert!(checked.is_good(), "{checked:#?}");
            assert_eq!(checked.proofs.len(), TRIALS.len());
            assert_eq!(checked.rung == "pinned", !migrates);
        }
    }
}
