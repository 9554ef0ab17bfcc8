//! The allocator on a card, with blocks that know their contents.

use anyhow::{Result, anyhow};
use giant_kitten::{Activation, Allocator, Error, Limits, Options, Order, Tier, show_size};
use kitten_sim::contents;

use crate::card::Card;

/// Granules that the allocator may use of each tier: few, so that everything overflows.
pub(super) const DEDICATED: u64 = 24;
pub(super) const SHARED: u64 = 64;

#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) address: u64,
    pub(super) bytes: u64,
    seed: u64,
}

/// The allocator on a card, with blocks that know their contents.
pub(super) struct World<'a> {
    card: &'a dyn Card,
    pub(super) allocator: Allocator,
    pub(super) granule: u64,
    /// Whether live blocks can change tier.
    pub(super) migrates: bool,
    pub(super) blocks: Vec<Block>,
    seeds: u64,
}

impl<'a> World<'a> {
    pub(super) fn new(card: &'a dyn Card) -> Result<World<'a>> {
        let info = card.driver().device_info(card.device())?;
        let (granule, migrates) = (info.granularity, info.rung.migrates());
        let options = Options {
            limits: Limits {
                dedicated: Some(DEDICATED * granule),
                shared: Some(SHARED * granule),
                headroom: Some(0),
                ..Limits::default()
            },
            ..Options::default()
        };
        let allocator = Allocator::new(options, card.driver())?;
        Ok(World { card, allocator, granule, migrates, blocks: Vec::new(), seeds: 0 })
    }

    pub(super) fn device(&self) -> usize {
        self.card.device()
    }

    /// Allocates a block on the card's stream and fills it.
    pub(super) fn allocate(&mut self, bytes: u64) -> Result<Block, Error> {
        let address = self.allocator.malloc(bytes as usize, self.device(), self.card.stream())?;
        self.seeds += 1;
        let block = Block { address, bytes, seed: self.seeds };
        let filled = self.card.upload(address, &contents(block.seed, bytes));
        self.blocks.push(block);
        filled.map_err(|why| Error::refused(format!("{why:#}")))?;
        Ok(block)
    }

    pub(super) fn free(&mut self, index: usize) -> Result<()> {
        let block = self.blocks.swap_remove(index);
        Ok(self.allocator.free(block.address, self.device(), self.card.stream())?)
    }

    /// Compares every byte of a block.
    pub(super) fn verify(&self, block: Block) -> Result<()> {
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

    /// Compares every byte of every block, and checks the allocator's invariants.
    pub(super) fn verify_all(&self) -> Result<()> {
        self.allocator.check().map_err(anyhow::Error::msg)?;
        self.blocks.iter().try_for_each(|block| self.verify(*block))
    }

    pub(super) fn activate(&self, granules: u64, sort_reversed: bool) -> Result<(), Error> {
        let order = Order { sort_reversed, ..Order::default() };
        let activation = Activation { reserve: (granules * self.granule).into(), order, ..Activation::default() };
        self.allocator.activate(self.device(), &activation).map(drop)
    }

    /// Bytes mapped in a tier.
    pub(super) fn mapped(&self, tier: Tier) -> Result<u64> {
        Ok(self.allocator.stats(self.device())?.tiers[tier].mapped.current())
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        self.allocator.shutdown();
    }
}
