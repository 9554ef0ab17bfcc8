//! Measures a card, real or simulated, and writes a hardware profile.
//!
//! ```text
//!   mod.rs         what is measured, and how the profile follows
//!   card.rs        the least that is needed of a card
//!   cuda.rs        a real one: kernels as PTX text, compiled by the driver (memory.ptx, multiply.ptx)
//!   simulated.rs   the simulated GPU
//! ```
//!
//! Method: memory is had by the allocator's own driver, in granules. Calls of the driver are timed by the host's clock over many
//! of a kind, kernels and copies by the card's. Each figure is the best of [`ROUNDS`] rounds after one that is thrown away.

mod card;
mod cuda;
mod simulated;

use anyhow::{Context, Result, bail};
use giant_kitten::driver::{Driver, Handle};
use giant_kitten::{Tier, show_size};
use kitten_sim::{CallSeconds, Profile};
use serde::Serialize;

pub use card::Card;
pub use cuda::Cuda;
pub use simulated::Simulated;

const DEVICE: usize = 0;
/// How often what is timed is done.
pub const ROUNDS: usize = 5;
/// Handles of a kind that calls are timed over.
const HANDLES: u64 = 16;
/// The buffer that kernels and copies go over, if there is room for it.
const BUFFER: u64 = 256 << 20;
const LARGEST_HANDLE: u64 = 256 << 20;

/// Seconds of one call of each kind, for handles of one size in one tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HandleCosts {
    /// The tier.
    pub tier: String,
    /// The handle's size.
    pub handle_bytes: u64,
    /// Creating.
    pub create: f64,
    /// Mapping.
    pub map: f64,
    /// Setting access.
    pub set_access: f64,
    /// Unmapping.
    pub unmap: f64,
    /// Releasing.
    pub release: f64,
}

/// How fast memory is read and written, bytes per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// `dedicated`, `shared`, or `both`: a range half of which lies in each.
    pub memory: String,
    /// Kernels that read one stream.
    pub read: f64,
    /// Kernels that read a sixteenth of every 256 bytes: bytes wanted, not moved.
    pub read_strided: f64,
    /// Kernels that read the range four times over.
    pub read_again: f64,
    /// Kernels that write.
    pub write: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The card and its driver.
    pub card: String,
    /// How the shared tier comes about, and why better ways do not.
    pub rung: String,
    /// See `rung`.
    pub rungs_refused: Vec<String>,
    /// What calls cost.
    pub calls: Vec<HandleCosts>,
    /// What memory is read and written at.
    pub rates: Vec<Rates>,
    /// Copies from shared to dedicated memory, from dedicated to shared, both at once (the sum), and across a range of both tiers.
    pub copy_to_device: f64,
    /// See `copy_to_device`.
    pub copy_to_host: f64,
    /// See `copy_to_device`.
    pub copy_both_ways: f64,
    /// See `copy_to_device`.
    pub copy_across_tiers: f64,
    /// Seconds of a kernel, and of unmapping other memory while it ran: near the first if unmapping waits for everything.
    pub running_kernel: f64,
    /// See `running_kernel`.
    pub unmap_beside_running_kernel: f64,
    /// Whether a matrix product could be measured, from which `in_place_reread` follows; 1 otherwise.
    pub product_measured: bool,
    /// The hardware profile that follows.
    #[serde(skip)]
    pub profile: Profile,
}

/// A range of addresses with backing, given back in the end.
struct Range<'a> {
    driver: &'a dyn Driver,
    address: u64,
    bytes: u64,
    granule: u64,
    handles: Vec<Handle>,
}

impl<'a> Range<'a> {
    /// Granules of the tiers given, one behind the other.
    fn new(driver: &'a dyn Driver, granule: u64, tiers: &[(Tier, u64)]) -> Result<Range<'a>> {
        let bytes = tiers.iter().map(|(_, bytes)| bytes).sum();
        let address = driver.reserve(DEVICE, bytes, granule)?;
        let mut range = Range { driver, address, bytes, granule, handles: Vec::new() };
        for tier in tiers.iter().flat_map(|(tier, bytes)| std::iter::repeat_n(*tier, (bytes / granule) as usize)) {
            let handle =
                driver.create(DEVICE, tier, granule).with_context(|| format!("{tier} memory for the probe"))?;
            let at = address + range.handles.len() as u64 * granule;
            if let Err(why) = driver.map(DEVICE, at, granule, handle) {
                let _ = driver.release(DEVICE, handle);
                return Err(why.into());
            }
            range.handles.push(handle);
        }
        driver.set_access(DEVICE, address, bytes)?;
        Ok(range)
    }
}

impl Drop for Range<'_> {
    fn drop(&mut self) {
        let mapped = self.handles.len() as u64 * self.granule;
        let _ = self.driver.synchronize(DEVICE);
        if mapped > 0 {
            let _ = self.driver.unmap(DEVICE, self.address, mapped);
        }
        for handle in &self.handles {
            let _ = self.driver.release(DEVICE, *handle);
        }
        let _ = self.driver.unreserve(DEVICE, self.address, self.bytes);
    }
}

/// The least seconds of [`ROUNDS`] rounds after one that is thrown away.
fn best(mut round: impl FnMut() -> Result<f64>) -> Result<f64> {
    round()?;
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        least = least.min(round()?);
    }
    Ok(least)
}

fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / seconds
}

/// Measures a card.
///
/// # Errors
/// No shared tier; too little memory; the driver's.
pub fn measure(card: &dyn Card, name: &str) -> Result<Measured> {
    let driver = card.driver();
    let info = driver.device_info(DEVICE)?;
    let granule = info.granularity;
    if info.shared_spare < 4 * granule {
        bail!("{} has no shared tier to measure. {}", info.name, info.refused.join("; "));
    }
    let room = info.dedicated_free.min(info.shared_spare) / 8 / granule * granule;
    let bytes = BUFFER.min(room).max(granule);
    if info.dedicated_free < 4 * bytes {
        bail!("only {} of dedicated memory are free: close other programs", show_size(info.dedicated_free));
    }

    let mut calls = Vec::new();
    for tier in Tier::ALL {
        let mut size = granule;
        while size <= LARGEST_HANDLE && size * HANDLES <= room.max(granule * HANDLES) {
            calls.push(handle_costs(card, tier, size)?);
            size *= 2;
        }
    }
    let reserve = best(|| {
        let mut reserved = Vec::new();
        let seconds = card.time_calls(&mut |driver| {
            for _ in 0..HANDLES {
                reserved.push(driver.reserve(DEVICE, granule, granule)?);
            }
            Ok(())
        })?;
        reserved.into_iter().try_for_each(|address| driver.unreserve(DEVICE, address, granule))?;
        Ok(seconds / HANDLES as f64)
    })?;
    let synchronize = best(|| card.time_calls(&mut |driver| Ok(driver.synchronize(DEVICE)?)))?;

    let half = (bytes / 2 / granule).max(1) * granule;
    let dedicated = Range::new(driver, granule, &[(Tier::Dedicated, bytes)])?;
    let target = Range::new(driver, granule, &[(Tier::Dedicated, bytes)])?;
    let shared = Range::new(driver, granule, &[(Tier::Shared, bytes)])?;
    let back = Range::new(driver, granule, &[(Tier::Shared, bytes)])?;
    let both = Range::new(driver, granule, &[(Tier::Dedicated, half), (Tier::Shared, half)])?;
    let rates = [("dedicated", &dedicated), ("shared", &shared), ("both", &both)]
        .into_iter()
        .map(|(name, range)| rates_of(card, name, range))
        .collect::<Result<Vec<_>>>()?;
    let copy = |copies: &[(u64, u64, u64)]| best(|| card.copy(copies));
    let copy_to_device = rate(bytes, copy(&[(target.address, shared.address, bytes)])?);
    let copy_to_host = rate(bytes, copy(&[(back.address, dedicated.address, bytes)])?);
    let copy_both_ways =
        rate(2 * bytes, copy(&[(target.address, shared.address, bytes), (back.address, dedicated.address, bytes)])?);
    let across = both.bytes.min(bytes);
    let copy_across_tiers = rate(across, copy(&[(target.address, both.address, across)])?);

    let idle = Range::new(driver, granule, &[(Tier::Dedicated, granule)])?;
    let passes = ((0.05 * rates[0].read / bytes as f64) as u32).clamp(1, 10_000);
    let running_kernel = card.read(dedicated.address, bytes, 16, passes)?;
    card.begin_read(dedicated.address, bytes, passes)?;
    let unmap_beside_running_kernel =
        card.time_calls(&mut |driver| Ok(driver.unmap(DEVICE, idle.address, granule)?))?;
    driver.map(DEVICE, idle.address, granule, idle.handles[0])?;
    driver.synchronize(DEVICE)?;

    let fp16_rate = best(|| Ok(1.0 / card.multiply()?)).map(|least| 1.0 / least)?;
    let weight = bytes.min(32 << 20);
    let product = |at: u64| -> Result<Option<f64>> {
        match card.product(at, weight)? {
            None => Ok(None),
            Some(_) => best(|| Ok(card.product(at, weight)?.unwrap_or(f64::INFINITY))).map(Some),
        }
    };
    let reread = match (product(dedicated.address)?, product(shared.address)?) {
        (Some(near), Some(far)) => Some((far - near) * copy_to_device / weight as f64),
        _ => None,
    };

    let costs = |tier: Tier| calls.iter().find(|costs: &&HandleCosts| costs.tier == tier.name());
    let (Some(near), Some(far)) = (costs(Tier::Dedicated), costs(Tier::Shared)) else {
        bail!("too little memory to time calls of the driver with");
    };
    let profile = Profile {
        name: name.into(),
        note: format!(
            "{}; kitten-bench probe: best of {ROUNDS} rounds, buffers of {}{}",
            card.name(),
            show_size(bytes),
            if reread.is_none() { "; in_place_reread is not measured" } else { "" }
        ),
        dedicated_bytes: info.dedicated_free,
        shared_bytes: info.shared_spare,
        granularity: granule,
        vram_bandwidth: rates[0].read,
        link_to_device: copy_to_device,
        link_to_host: copy_to_host,
        fp16_rate,
        in_place_reread: reread.unwrap_or(1.0).max(f64::MIN_POSITIVE),
        seconds: CallSeconds {
            reserve,
            create_dedicated: near.create,
            create_shared: far.create,
            release: near.release,
            map: near.map,
            unmap: near.unmap,
            set_access: near.set_access,
            synchronize,
        },
    };
    Ok(Measured {
        card: card.name(),
        rung: info.rung.name().into(),
        rungs_refused: info.refused,
        calls,
        rates,
        copy_to_device,
        copy_to_host,
        copy_both_ways,
        copy_across_tiers,
        running_kernel,
        unmap_beside_running_kernel,
        product_measured: reread.is_some(),
        profile,
    })
}

fn rates_of(card: &dyn Card, name: &str, range: &Range<'_>) -> Result<Rates> {
    const AGAIN: u32 = 4;
    const STRIDE: u64 = 256;
    let (at, bytes) = (range.address, range.bytes);
    Ok(Rates {
        memory: name.into(),
        read: rate(bytes, best(|| card.read(at, bytes, 16, 1))?),
        read_strided: rate(bytes / STRIDE * 16, best(|| card.read(at, bytes, STRIDE, 1))?),
        read_again: rate(bytes * u64::from(AGAIN), best(|| card.read(at, bytes, 16, AGAIN))?),
        write: rate(bytes, best(|| card.write(at, bytes, 16))?),
    })
}

/// Times each kind of call over handles of one size.
fn handle_costs(card: &dyn Card, tier: Tier, size: u64) -> Result<HandleCosts> {
    let driver = card.driver();
    let mut least = [f64::INFINITY; 5];
    for round in 0..=ROUNDS {
        let start = driver.reserve(DEVICE, size * HANDLES, size)?;
        let at = |number: usize| start + number as u64 * size;
        let mut handles = Vec::new();
        let timed = |calls: &mut dyn FnMut(&dyn Driver) -> Result<()>| card.time_calls(calls);
        let seconds = [
            timed(&mut |driver| {
                for _ in 0..HANDLES {
                    handles.push(driver.create(DEVICE, tier, size)?);
                }
                Ok(())
            })?,
            timed(&mut |driver| {
                handles.iter().enumerate().try_for_each(|(i, handle)| Ok(driver.map(DEVICE, at(i), size, *handle)?))
            })?,
            timed(&mut |driver| (0..handles.len()).try_for_each(|i| Ok(driver.set_access(DEVICE, at(i), size)?)))?,
            timed(&mut |driver| (0..handles.len()).try_for_each(|i| Ok(driver.unmap(DEVICE, at(i), size)?)))?,
            timed(&mut |driver| handles.iter().try_for_each(|handle| Ok(driver.release(DEVICE, *handle)?)))?,
        ];
        driver.unreserve(DEVICE, start, size * HANDLES)?;
        if round > 0 {
            least.iter_mut().zip(seconds).for_each(|(least, total)| *least = least.min(total / HANDLES as f64));
        }
    }
    let [create, map, set_access, unmap, release] = least;
    Ok(HandleCosts { tier: tier.name().into(), handle_bytes: size, create, map, set_access, unmap, release })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within 2 %.
    fn close(what: &str, found: f64, given: f64) {
        assert!((found - given).abs() <= 0.02 * given, "{what}: {found} instead of {given}");
    }

    #[test]
    fn the_probe_gives_back_the_profile_that_the_simulated_gpu_has() {
        let nominal = Profile::builtin("nominal-6g").unwrap();
        let odd = Profile {
            vram_bandwidth: 123e9,
            link_to_device: 3.21e9,
            link_to_host: 1.7e9,
            fp16_rate: 7.5e12,
            in_place_reread: 17.3,
            granularity: 1 << 20,
            dedicated_bytes: 700 << 20,
            shared_bytes: 900 << 20,
            seconds: CallSeconds { create_shared: 3e-3, map: 4.4e-6, ..nominal.seconds },
            ..nominal.clone()
        };
        for given in [nominal, odd] {
            let found = measure(&Simulated::new(&given).unwrap(), "found").unwrap().profile;
            assert_eq!(found.granularity, given.granularity);
            close("dedicated", found.dedicated_bytes as f64, given.dedicated_bytes as f64);
            close("shared", found.shared_bytes as f64, given.shared_bytes as f64);
            close("vram_bandwidth", found.vram_bandwidth, given.vram_bandwidth);
            close("link_to_device", found.link_to_device, given.link_to_device);
            close("link_to_host", found.link_to_host, given.link_to_host);
            close("fp16_rate", found.fp16_rate, given.fp16_rate);
            close("in_place_reread", found.in_place_reread, given.in_place_reread);
            let (found, given) = (found.seconds, given.seconds);
            close("create_dedicated", found.create_dedicated, given.create_dedicated);
            close("create_shared", found.create_shared, given.create_shared);
            close("release", found.release, given.release);
            close("map", found.map, given.map);
            close("unmap", found.unmap, given.unmap);
            close("set_access", found.set_access, given.set_access);
            close("reserve", found.reserve, given.reserve);
            close("synchronize", found.synchronize, given.synchronize);
        }
    }
}
