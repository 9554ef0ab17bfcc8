//! How fast memory is read, written and copied, by the card's clock.

use anyhow::Result;
use giant_kitten::Tier;
use giant_kitten::driver::Driver;
use kitten_sim::kernels::VECTOR;

use super::best::best;
use super::measured::Rates;
use super::memory::Backed;
use crate::card::{Card, timed};

/// The distance between the reads of a strided kernel.
const STRIDE: u64 = 256;
/// How many times over a range is read.
const AGAIN: u32 = 4;
/// The largest weight of the matrix product.
const WEIGHT: u64 = 32 << 20;

/// The ranges that kernels and copies run over.
pub(super) struct Ranges<'a> {
    pub(super) dedicated: Backed<'a>,
    other_dedicated: Backed<'a>,
    shared: Backed<'a>,
    other_shared: Backed<'a>,
    both: Backed<'a>,
}

/// Bytes per second of copies.
pub(super) struct Copies {
    pub(super) to_device: f64,
    pub(super) to_host: f64,
    pub(super) both_ways: f64,
    pub(super) across_tiers: f64,
}

fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / seconds
}

impl<'a> Ranges<'a> {
    /// Ranges of `bytes` bytes each.
    pub(super) fn new(driver: &'a dyn Driver, device: usize, granule: u64, bytes: u64) -> Result<Ranges<'a>> {
        let half = (bytes / 2 / granule).max(1) * granule;
        let range = |tiers: &[(Tier, u64)]| Backed::new(driver, device, granule, tiers);
        Ok(Ranges {
            dedicated: range(&[(Tier::Dedicated, bytes)])?,
            other_dedicated: range(&[(Tier::Dedicated, bytes)])?,
            shared: range(&[(Tier::Shared, bytes)])?,
            other_shared: range(&[(Tier::Shared, bytes)])?,
            both: range(&[(Tier::Dedicated, half), (Tier::Shared, half)])?,
        })
    }

    /// Kernels on each kind of memory, dedicated first.
    pub(super) fn rates(&self, card: &dyn Card) -> Result<Vec<Rates>> {
        [("dedicated", &self.dedicated), ("shared", &self.shared), ("both", &self.both)]
            .into_iter()
            .map(|(name, range)| rates_of(card, name, range))
            .collect()
    }

    /// Copies between the tiers.
    pub(super) fn copies(&self, card: &dyn Card) -> Result<Copies> {
        let bytes = self.dedicated.bytes;
        let copy = |copies: &[(u64, u64, u64)]| best(|| timed(card, || card.copy(copies)));
        let to_device = (self.other_dedicated.address, self.shared.address, bytes);
        let to_host = (self.other_shared.address, self.dedicated.address, bytes);
        let across = self.both.bytes.min(bytes);
        Ok(Copies {
            to_device: rate(bytes, copy(&[to_device])?),
            to_host: rate(bytes, copy(&[to_host])?),
            both_ways: rate(2 * bytes, copy(&[to_device, to_host])?),
            across_tiers: rate(across, copy(&[(self.other_dedicated.address, self.both.address, across)])?),
        })
    }

    /// How often a matrix product reads each byte of a shared weight over the link; `None` where
    /// there is no library of products.
    pub(super) fn in_place_reread(&self, card: &dyn Card, link_to_device: f64) -> Result<Option<f64>> {
        let weight = self.dedicated.bytes.min(WEIGHT);
        let product = |at: u64| -> Result<Option<f64>> {
            match card.product((at, weight))? {
                None => Ok(None),
                Some(_) => best(|| Ok(card.product((at, weight))?.unwrap_or(f64::INFINITY))).map(Some),
            }
        };
        Ok(match (product(self.dedicated.address)?, product(self.shared.address)?) {
            (Some(near), Some(far)) => Some((far - near) * link_to_device / weight as f64),
            _ => None,
        })
    }
}

fn rates_of(card: &dyn Card, name: &str, range: &Backed<'_>) -> Result<Rates> {
    let (whole, bytes) = (range.whole(), range.bytes);
    let read = |stride: u64, passes: u32| best(|| timed(card, || card.read(whole, stride, passes)));
    Ok(Rates {
        memory: name.into(),
        read: rate(bytes, read(VECTOR, 1)?),
        read_strided: rate(bytes / STRIDE * VECTOR, read(STRIDE, 1)?),
        read_again: rate(bytes * u64::from(AGAIN), read(VECTOR, AGAIN)?),
        write: rate(bytes, best(|| timed(card, || card.write(whole, VECTOR)))?),
    })
}
