//! Load, activate, generate, disable: the life of a model, in Rust, on a simulated 6 GB card.
//!
//!     cargo run --features sim --example generate

use std::sync::Arc;

use giant_kitten::core::placement::Order;
use giant_kitten::driver::Stream;
use giant_kitten::driver::sim::SimDriver;
use giant_kitten::{Activation, Error, Kitten, Options, Reserve, Tier, show_size};

const DEVICE: usize = 0;
const MIB: usize = 1 << 20;
const DEFAULT_STREAM: Stream = Stream(0);

fn report(kitten: &Kitten, when: &str) -> Result<(), Error> {
    let stats = kitten.stats(DEVICE)?;
    let in_tier = |tier| show_size(stats.tiers[tier].allocated.current());
    println!(
        "{when:<10} {:>11} of blocks in dedicated, {:>11} in shared",
        in_tier(Tier::Dedicated),
        in_tier(Tier::Shared)
    );
    Ok(())
}

fn generate(kitten: &Kitten) -> Result<(), Error> {
    let scratch =
        (0..6).map(|_| kitten.malloc(200 * MIB, DEVICE, DEFAULT_STREAM)).collect::<Result<Vec<_>, Error>>()?;
    report(kitten, "generate")?;
    scratch.into_iter().try_for_each(|block| kitten.free(block, DEVICE, DEFAULT_STREAM))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let driver = SimDriver::of_profile("nominal-6g")?;
    let kitten = Kitten::new(Options::default(), Arc::new(driver))?;

    for _ in 0..300 {
        let weight = kitten.malloc(17 * MIB, DEVICE, DEFAULT_STREAM)?;
        kitten.mark(weight, true)?;
    }
    report(&kitten, "load")?;
    generate(&kitten)?; // first come, first served: the scratch overflows into shared memory

    kitten.activate(DEVICE, &Activation { reserve: Reserve::Fixed(1300 << 20), ..Activation::default() })?;
    report(&kitten, "activate")?;
    generate(&kitten)?; // the scratch is dedicated now, and some weights are shared instead

    kitten.disable(DEVICE, Order::default())?;
    report(&kitten, "disable")?;
    kitten.free_vram(DEVICE)?;
    report(&kitten, "free_vram")?;
    Ok(())
}
