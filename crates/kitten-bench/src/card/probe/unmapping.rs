//! Whether memory may be unmapped as soon as an event says that its own work is done.

use anyhow::{Result, bail};
use giant_kitten::Tier;
use kitten_sim::kernels::VECTOR;

use super::best::ROUNDS;
use super::measured::Unmapping;
use super::memory::Backed;
use crate::card::{Card, timed};

/// Unmaps memory behind an event while a kernel reads `busy`, maps it again, and compares
/// everything that was written.
pub(super) fn try_unmapping(card: &dyn Card, busy: &Backed<'_>, passes: u32) -> Result<Unmapping> {
    let (driver, device) = (card.driver(), card.device());
    let kernel_seconds = timed(card, || card.read(busy.whole(), VECTOR, passes))?;
    let mut found = Unmapping { rounds: 0, sound: true, why: None, kernel_seconds, unmap_seconds: 0.0 };
    let moved = Backed::new(&*driver, device, busy.granule, &[(Tier::Dedicated, busy.granule)])?;
    for round in 0..ROUNDS as u8 {
        found.rounds += 1;
        match unmap_under_load(card, busy, passes, &moved, round) {
            Ok(seconds) => found.unmap_seconds = found.unmap_seconds.max(seconds),
            Err(why) => {
                (found.sound, found.why) = (false, Some(format!("{why:#}")));
                break;
            }
        }
    }
    Ok(found)
}

/// Moves one granule to the other tier and compares its contents. Only an event waits for its own
/// work.
fn unmap_under_load(card: &dyn Card, busy: &Backed<'_>, passes: u32, moved: &Backed<'_>, round: u8) -> Result<f64> {
    let (driver, device, granule) = (card.driver(), card.device(), moved.granule);
    let written: Vec<u8> = (0..granule).map(|at| (at % 251) as u8 ^ round).collect();
    let refuge = Backed::new(&*driver, device, granule, &[(Tier::Shared, granule)])?;
    card.upload(moved.address, &written)?;
    card.copy(&[(refuge.address, moved.address, granule)])?;
    let event = driver.create_event(device)?;
    driver.record(device, event, card.stream())?;
    card.read(busy.whole(), VECTOR, passes)?;
    while !driver.is_done(device, event)? {
        std::thread::yield_now();
    }
    driver.destroy_event(device, event)?;
    let seconds = card.time_calls(&mut |driver| Ok(driver.unmap(device, moved.address, granule)?))?;
    driver.map(device, moved.address, granule, moved.handles[0])?;
    driver.set_access(device, moved.address, granule)?;
    card.write(moved.whole(), VECTOR)?;
    card.copy(&[(moved.address, refuge.address, granule)])?;
    let mut read = vec![0; written.len()];
    card.download(&mut read, moved.address)?;
    match read.iter().zip(&written).position(|(read, written)| read != written) {
        None => Ok(seconds),
        Some(at) => {
            let (found, expected) = (read[at], written[at]);
            bail!("byte {at} of the granule that was unmapped and mapped again is {found}, not {expected}")
        }
    }
}
