//! The life of a model in Rust, on a simulated 6 GB card: load, activate, generate, disable.
//!
//!     cargo run --features sim --example generate

use std::sync::Arc;

use giant_kitten::Order;
use giant_kitten::driver::Stream;
use giant_kitten::driver::sim::SimDriver;
use giant_kitten::{Activation, Allocator, Error, Options, Reserve, Tier, show_size};

const DEVICE: usize = 0;
const MIB: usize = 1 << 20;
const DEFAULT_STREAM: Stream = Stream(0);

fn report(allocator: &Allocator, when: &str) -> Result<(), Error> {
    let stats = allocator.stats(DEVICE)?;
    let in_tier = |tier| show_size(stats.tiers[tier].allocated.current());
    println!(
        "{when:<10} {:>11} of blocks in dedicated, {:>11} in shared",
        in_tier(Tier::Dedicated),
        in_tier(Tier::Shared)
    );
    Ok(())
}

fn generate(allocator: &Allocator) -> Result<(), Error> {
    let scratch =
        (0..6).map(|_| allocator.malloc(200 * MIB, DEVICE, DEFAULT_STREAM)).collect::<Result<Vec<_>, Error>>()?;
    report(allocator, "generate")?;
    scratch.into_iter().try_for_each(|block| allocator.free(block, DEVICE, DEFAULT_STREAM))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let driver = SimDriver::of_profile("nominal-6g")?;
    let allocator = Allocator::new(Options::default(), Arc::new(driver))?;

    for _ in 0..300 {
        let weight = allocator.malloc(17 * MIB, DEVICE, DEFAULT_STREAM)?;
        allocator.mark(weight, true)?;
    }
    report(&allocator, "load")?;
    generate(&allocator)?; // first come, first served: the scratch overflows into shared memory

    allocator.activate(DEVICE, &Activation { reserve: Reserve::Fixed(1300 << 20), ..Activation::default() })?;
    report(&allocator, "activate")?;
    generate(&allocator)?; // the scratch is dedicated now, and some weights are shared instead

    allocator.disable(DEVICE, Order::default())?;
    report(&allocator, "disable")?;
    allocator.free_vram(DEVICE)?;
    report(&allocator, "free_vram")?;
    Ok(())
}
