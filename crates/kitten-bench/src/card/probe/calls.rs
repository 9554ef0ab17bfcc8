//! The cost of driver calls, by the host's clock over many calls of a kind.

use anyhow::Result;
use giant_kitten::Tier;
use giant_kitten::driver::Driver;

use super::best::{ROUNDS, best};
use super::measured::HandleCosts;
use crate::card::Card;

/// How many handles of a kind calls are timed over, if there is room.
const HANDLES: u64 = 16;
const LARGEST_HANDLE: u64 = 256 << 20;

/// Everything that was timed of a driver's calls.
pub(super) struct CallCosts {
    /// Reserving addresses.
    pub(super) reserve: f64,
    /// Waiting for an idle device.
    pub(super) synchronize: f64,
    /// The calls for handles, by tier and size.
    pub(super) handles: Vec<HandleCosts>,
}

impl CallCosts {
    /// Times a driver's calls. `room` is how many bytes of each tier they may use at a time.
    pub(super) fn measure(card: &dyn Card, granule: u64, room: u64) -> Result<CallCosts> {
        let mut handles = Vec::new();
        for tier in Tier::ALL {
            let mut size = granule;
            while size <= LARGEST_HANDLE.min(room.max(granule)) {
                handles.push(handle_costs(card, tier, size, (room / size).clamp(1, HANDLES))?);
                size *= 2;
            }
        }
        let reserve = best(|| reserve_seconds(card, granule))?;
        let device = card.device();
        let synchronize = best(|| card.time_calls(&mut |driver| Ok(driver.synchronize(device)?)))?;
        Ok(CallCosts { reserve, synchronize, handles })
    }

    /// The calls for the smallest handles of a tier.
    pub(super) fn smallest(&self, tier: Tier) -> Option<&HandleCosts> {
        self.handles.iter().find(|costs| costs.tier == tier.name())
    }
}

fn reserve_seconds(card: &dyn Card, granule: u64) -> Result<f64> {
    let (driver, device) = (card.driver(), card.device());
    let mut reserved = Vec::new();
    let seconds = card.time_calls(&mut |driver| {
        for _ in 0..HANDLES {
            reserved.push(driver.reserve(device, granule, granule)?);
        }
        Ok(())
    })?;
    reserved.into_iter().try_for_each(|address| driver.unreserve(device, address, granule))?;
    Ok(seconds / HANDLES as f64)
}

/// Times each kind of call over some handles of one size.
fn handle_costs(card: &dyn Card, tier: Tier, size: u64, count: u64) -> Result<HandleCosts> {
    let (driver, device) = (card.driver(), card.device());
    let mut least = [f64::INFINITY; 7];
    for round in 0..=ROUNDS {
        let start = driver.reserve(device, size * count, size)?;
        let at = |number: usize| start + number as u64 * size;
        let mut handles = Vec::new();
        let timed = |calls: &mut dyn FnMut(&dyn Driver) -> Result<()>| card.time_calls(calls);
        let seconds = [
            timed(&mut |driver| {
                for _ in 0..count {
                    handles.push(driver.create(device, tier, size)?);
                }
                Ok(())
            })?,
            timed(&mut |driver| {
                handles.iter().enumerate().try_for_each(|(i, handle)| Ok(driver.map(device, at(i), size, *handle)?))
            })?,
            timed(&mut |driver| (0..handles.len()).try_for_each(|i| Ok(driver.set_access(device, at(i), size)?)))?,
            timed(&mut |driver| (0..handles.len()).try_for_each(|i| Ok(driver.unmap(device, at(i), size)?)))?,
            {
                let mut mapped = handles.iter().enumerate();
                mapped.try_for_each(|(i, handle)| driver.map(device, at(i), size, *handle))?;
                timed(&mut |driver| Ok(driver.set_access(device, start, size * count)?))?
            },
            timed(&mut |driver| Ok(driver.unmap(device, start, size * count)?))?,
            timed(&mut |driver| handles.iter().try_for_each(|handle| Ok(driver.release(device, *handle)?)))?,
        ];
        driver.unreserve(device, start, size * count)?;
        if round > 0 {
            least.iter_mut().zip(seconds).for_each(|(least, total)| *least = least.min(total / count as f64));
        }
    }
    let [create, map, set_access, unmap, set_access_run, unmap_run, release] = least;
    Ok(HandleCosts {
        tier: tier.name().into(),
        handle_bytes: size,
        handles: count,
        create,
        map,
        set_access,
        unmap,
        set_access_run: Some(set_access_run),
        unmap_run: Some(unmap_run),
        release,
    })
}
