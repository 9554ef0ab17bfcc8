//! What the tests share: small machines, and blocks with known contents.
#![allow(dead_code, reason = "each test uses a part")]

use std::cell::RefCell;
use std::collections::HashMap;

use giant_kitten::driver::Stream;
use giant_kitten::{Activation, Allocator, Options, Reserve, Tier};
use kitten_sim::{Gpu, Profile, contents};

pub const MIB: u64 = 1 << 20;
pub const GRANULE: u64 = 2 * MIB;
pub const DEFAULT: Stream = Stream(0);

/// The tier in which a block should lie as a whole.
pub const KEEP: Option<Tier> = Some(Tier::Dedicated);
pub const SHARE: Option<Tier> = Some(Tier::Shared);

/// The layouts of the original on a card of sixteen granules: the reserve in granules,
/// `sort_reversed`, `ignore_model`, and the tiers of [`originals_blocks`] after the activation.
pub const ORIGINALS_LAYOUTS: [(u64, bool, bool, [Option<Tier>; 4]); 9] = [
    (0, false, false, [KEEP, KEEP, KEEP, KEEP]),
    (5, false, false, [KEEP, SHARE, KEEP, KEEP]),
    (8, false, false, [KEEP, SHARE, KEEP, SHARE]),
    (14, false, false, [SHARE, SHARE, KEEP, SHARE]),
    (16, false, false, [SHARE, SHARE, SHARE, SHARE]),
    (10, true, false, [KEEP, SHARE, SHARE, SHARE]),
    (4, true, false, [KEEP, KEEP, KEEP, SHARE]),
    (11, false, true, [SHARE, SHARE, KEEP, KEEP]),
    (6, true, true, [KEEP, KEEP, SHARE, SHARE]),
];

/// Two blocks of the model (6 and 2 granules) and two others (4 and 3), all dedicated.
pub fn originals_blocks(gpu: &Gpu, allocator: &Allocator) -> [Filled; 4] {
    [(6, true), (4, false), (2, true), (3, false)].map(|(granules, model)| {
        let block = Filled::new(gpu, allocator, granules * GRANULE, granules);
        allocator.mark(block.address, model).unwrap();
        block
    })
}

/// Allocates `count` blocks of the same size.
pub fn load(gpu: &Gpu, allocator: &Allocator, count: u64, granules: u64) -> Vec<Filled> {
    (0..count).map(|seed| Filled::new(gpu, allocator, granules * GRANULE, seed)).collect()
}

/// An activation with a reserve in bytes.
pub fn reserve(bytes: u64) -> Activation {
    Activation { reserve: Reserve::Fixed(bytes), ..Activation::default() }
}

/// A machine with `devices` equal devices, on which a call on a destroyed stream is a fault.
pub fn machine(devices: usize, dedicated: u64, shared: u64) -> Gpu {
    let card = Profile::builtin("nominal-6g").unwrap();
    let card = Profile { dedicated_bytes: dedicated, shared_bytes: shared, migrates: crate::MIGRATES, ..card };
    let gpu = Gpu::new(&vec![card; devices]).unwrap();
    gpu.fault_destroyed_streams();
    gpu
}

/// The allocator on a machine, over the driver of this run of the suite. It may use all memory of
/// the machine.
pub fn kitten_on(gpu: &Gpu, options: &str) -> Allocator {
    Allocator::new(options_for(gpu, options), crate::driver(gpu)).unwrap()
}

/// Options by which all memory of a machine may be used.
pub fn options_for(gpu: &Gpu, options: &str) -> Options {
    let shared = gpu.device_profile(0).unwrap().shared_bytes;
    Options::parse(&format!("headroom:0,shared:{shared},{options}")).unwrap()
}

/// A machine with one device, and the allocator on it.
pub fn setup(dedicated: u64, shared: u64, options: &str) -> (Gpu, Allocator) {
    let gpu = machine(1, dedicated, shared);
    let allocator = kitten_on(&gpu, options);
    (gpu, allocator)
}

/// A block with known contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filled {
    pub address: u64,
    pub bytes: u64,
    pub seed: u64,
}

impl Filled {
    /// Allocates a block and fills it.
    pub fn new(gpu: &Gpu, allocator: &Allocator, bytes: u64, seed: u64) -> Filled {
        let address = allocator.malloc(bytes as usize, 0, DEFAULT).unwrap();
        Filled::at(gpu, address, bytes, seed)
    }

    /// Fills a block that is allocated already, all of it.
    pub fn at(gpu: &Gpu, address: u64, bytes: u64, seed: u64) -> Filled {
        assert!(address != 0 && address.is_multiple_of(512));
        known_contents(seed, bytes, |contents| gpu.write(address, contents)).unwrap();
        Filled { address, bytes, seed }
    }

    /// What was written at an offset.
    pub fn written(&self, at: u64, bytes: u64) -> Vec<u8> {
        known_contents(self.seed, self.bytes, |contents| contents[at as usize..][..bytes as usize].to_vec())
    }

    /// The same contents, at another address.
    pub fn with_address(self, address: u64) -> Filled {
        Filled { address, ..self }
    }

    /// Checks that every byte is as it was written.
    pub fn check(&self, gpu: &Gpu) {
        let difference = known_contents(self.seed, self.bytes, |contents| gpu.difference(self.address, contents))
            .unwrap_or_else(|why| panic!("{self:x?}: {why}"));
        assert_eq!(difference, None, "{self:x?} has another byte there");
    }
}

/// Calls a function with the [`contents`] of a seed. A thread keeps the contents of some seeds,
/// because the tests check the same blocks again and again.
fn known_contents<T>(seed: u64, bytes: u64, with: impl FnOnce(&[u8]) -> T) -> T {
    thread_local! {
        static KNOWN: RefCell<HashMap<u64, Vec<u8>>> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        if known.len() > 256 {
            known.clear();
        }
        let all = known.entry(seed).or_default();
        if (all.len() as u64) < bytes {
            *all = contents(seed, bytes);
        }
        with(&all[..bytes as usize])
    })
}

/// The tier in which a block lies as a whole; `None` where it lies in both.
pub fn tier_of(allocator: &Allocator, block: &Filled) -> Option<Tier> {
    let bytes = allocator.residency(block.address).unwrap();
    match (bytes[Tier::Dedicated], bytes[Tier::Shared]) {
        (_, 0) => Some(Tier::Dedicated),
        (0, _) => Some(Tier::Shared),
        _ => None,
    }
}

/// A small generator of random numbers, the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}
