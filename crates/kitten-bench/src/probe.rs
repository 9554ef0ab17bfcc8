//! Measures a card, real or simulated, and writes a hardware profile.
//!
//! Method: memory is had by the allocator's own driver, in granules. Calls of the driver are timed by the host's clock over many
//! of a kind, kernels and copies by the card's. Each figure is the best of [`ROUNDS`] rounds after one that is thrown away.

use anyhow::{Context, Result, anyhow, bail};
use giant_kitten::driver::{Driver, Handle};
use giant_kitten::{Tier, show_size};
use kitten_sim::{CallSeconds, Profile};
use serde::{Deserialize, Serialize};

use crate::card::{Card, timed};

/// How often what is timed is done.
pub const ROUNDS: usize = 5;
/// Handles of a kind that calls are timed over, if there is room for so many.
const HANDLES: u64 = 16;
/// The buffer that kernels and copies go over, if there is room for it.
const BUFFER: u64 = 256 << 20;
const LARGEST_HANDLE: u64 = 256 << 20;
/// Seconds that a kernel runs beside which memory is unmapped.
const LOAD_SECONDS: f64 = 0.05;
/// Bytes of 16 out of which a strided kernel reads.
const STRIDE: u64 = 256;
/// Bytes that a thread reads at once.
const VECTOR: u64 = 16;
/// How often a range is read over.
const AGAIN: u32 = 4;

/// Seconds of one call of each kind, for handles of one size in one tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandleCosts {
    /// The tier.
    pub tier: String,
    /// The handle's size.
    pub handle_bytes: u64,
    /// Over how many handles it was timed.
    pub handles: u64,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The card and its driver.
    pub card: String,
    /// Whether it is a real one: otherwise all this is modelled.
    pub real: bool,
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
    /// Memory unmapped behind an event, while a kernel ran on other memory.
    pub unmapping: Unmapping,
    /// Whether a matrix product could be measured, from which `in_place_reread` follows; 1 otherwise.
    pub product_measured: bool,
}

/// What happens where memory is unmapped and mapped anew once an event says that its own work is done, while other work goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unmapping {
    /// How often it was tried.
    pub rounds: usize,
    /// Whether the contents were right each time, and nothing failed: then an event is enough.
    pub sound: bool,
    /// What went wrong.
    pub why: Option<String>,
    /// Seconds of the kernel that ran meanwhile, alone.
    pub kernel_seconds: f64,
    /// The most seconds that unmapping took beside it: near the kernel's if the driver waits for everything.
    pub unmap_seconds: f64,
}

/// A range of addresses with backing, given back in the end.
struct Range<'a> {
    driver: &'a dyn Driver,
    device: usize,
    address: u64,
    bytes: u64,
    granule: u64,
    handles: Vec<Handle>,
}

impl<'a> Range<'a> {
    /// Granules of the tiers given, one behind the other.
    fn new(driver: &'a dyn Driver, device: usize, granule: u64, tiers: &[(Tier, u64)]) -> Result<Range<'a>> {
        let bytes = tiers.iter().map(|(_, bytes)| bytes).sum();
        let address = driver.reserve(device, bytes, granule)?;
        let mut range = Range { driver, device, address, bytes, granule, handles: Vec::new() };
        for tier in tiers.iter().flat_map(|(tier, bytes)| std::iter::repeat_n(*tier, (bytes / granule) as usize)) {
            let handle =
                driver.create(device, tier, granule).with_context(|| format!("{tier} memory for the probe"))?;
            let at = address + range.handles.len() as u64 * granule;
            if let Err(why) = driver.map(device, at, granule, handle) {
                let _ = driver.release(device, handle);
                return Err(why.into());
            }
            range.handles.push(handle);
        }
        driver.set_access(device, address, bytes)?;
        Ok(range)
    }

    /// Where it lies.
    fn whole(&self) -> (u64, u64) {
        (self.address, self.bytes)
    }
}

impl Drop for Range<'_> {
    fn drop(&mut self) {
        let mapped = self.handles.len() as u64 * self.granule;
        let _ = self.driver.synchronize(self.device);
        if mapped > 0 {
            let _ = self.driver.unmap(self.device, self.address, mapped);
        }
        for handle in &self.handles {
            let _ = self.driver.release(self.device, *handle);
        }
        let _ = self.driver.unreserve(self.device, self.address, self.bytes);
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

/// Measures a card; everything that was measured, and the hardware profile that follows, under the name given.
///
/// # Errors
/// No shared tier; too little memory; figures that no card has; the driver's.
pub fn measure(card: &dyn Card, name: &str) -> Result<(Measured, Profile)> {
    let (driver, device) = (card.driver(), card.device());
    let driver = &*driver;
    let info = driver.device_info(device)?;
    let granule = info.granularity;
    if info.shared_spare < 4 * granule {
        bail!("{} has no shared tier to measure. {}", info.name, info.refused.join("; "));
    }
    if !info.rung.migrates() {
        bail!(
            "{} can only pin host memory, and the probe measures backing that it creates there: update the driver (CUDA 12.2 or later). {}",
            info.name,
            info.refused.join("; ")
        );
    }
    let room = info.dedicated_free.min(info.shared_spare) / 8 / granule * granule;
    let bytes = BUFFER.min(room).max(granule);
    if info.dedicated_free < 4 * bytes {
        bail!("only {} of dedicated memory are free: close other programs", show_size(info.dedicated_free));
    }

    let mut calls = Vec::new();
    for tier in Tier::ALL {
        let mut size = granule;
        while size <= LARGEST_HANDLE.min(room.max(granule)) {
            calls.push(handle_costs(card, tier, size, (room / size).clamp(1, HANDLES))?);
            size *= 2;
        }
    }
    let reserve = best(|| {
        let mut reserved = Vec::new();
        let seconds = card.time_calls(&mut |driver| {
            for _ in 0..HANDLES {
                reserved.push(driver.reserve(device, granule, granule)?);
            }
            Ok(())
        })?;
        reserved.into_iter().try_for_each(|address| driver.unreserve(device, address, granule))?;
        Ok(seconds / HANDLES as f64)
    })?;
    let synchronize = best(|| card.time_calls(&mut |driver| Ok(driver.synchronize(device)?)))?;

    let half = (bytes / 2 / granule).max(1) * granule;
    let range = |tiers: &[(Tier, u64)]| Range::new(driver, device, granule, tiers);
    let dedicated = range(&[(Tier::Dedicated, bytes)])?;
    let target = range(&[(Tier::Dedicated, bytes)])?;
    let shared = range(&[(Tier::Shared, bytes)])?;
    let back = range(&[(Tier::Shared, bytes)])?;
    let both = range(&[(Tier::Dedicated, half), (Tier::Shared, half)])?;
    let rates = [("dedicated", &dedicated), ("shared", &shared), ("both", &both)]
        .into_iter()
        .map(|(name, range)| rates_of(card, name, range))
        .collect::<Result<Vec<_>>>()?;
    let copy = |copies: &[(u64, u64, u64)]| best(|| timed(card, || card.copy(copies)));
    let copy_to_device = rate(bytes, copy(&[(target.address, shared.address, bytes)])?);
    let copy_to_host = rate(bytes, copy(&[(back.address, dedicated.address, bytes)])?);
    let copy_both_ways =
        rate(2 * bytes, copy(&[(target.address, shared.address, bytes), (back.address, dedicated.address, bytes)])?);
    let across = both.bytes.min(bytes);
    let copy_across_tiers = rate(across, copy(&[(target.address, both.address, across)])?);

    let fp16_rate = best(|| Ok(1.0 / card.multiply()?)).map(|least| 1.0 / least)?;
    let weight = bytes.min(32 << 20);
    let product = |at: u64| -> Result<Option<f64>> {
        match card.product((at, weight))? {
            None => Ok(None),
            Some(_) => best(|| Ok(card.product((at, weight))?.unwrap_or(f64::INFINITY))).map(Some),
        }
    };
    let reread = match (product(dedicated.address)?, product(shared.address)?) {
        (Some(near), Some(far)) => Some((far - near) * copy_to_device / weight as f64),
        _ => None,
    };
    // Last, since a card on which it goes wrong cannot be used any more.
    let passes = ((LOAD_SECONDS * rates[0].read / bytes as f64) as u32).clamp(1, 10_000);
    let unmapping = try_unmapping(card, &dedicated, passes, granule)?;

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
        migrates: info.rung.migrates(),
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
    let readable = Profile::parse(&profile.to_toml());
    readable.map_err(|why| anyhow!("what was measured is not the profile of any card: {why}"))?;
    let measured = Measured {
        card: card.name(),
        real: card.is_real(),
        rung: info.rung.name().into(),
        rungs_refused: info.refused,
        calls,
        rates,
        copy_to_device,
        copy_to_host,
        copy_both_ways,
        copy_across_tiers,
        unmapping,
        product_measured: reread.is_some(),
    };
    Ok((measured, profile))
}

fn rates_of(card: &dyn Card, name: &str, range: &Range<'_>) -> Result<Rates> {
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

/// Times each kind of call over some handles of one size.
fn handle_costs(card: &dyn Card, tier: Tier, size: u64, count: u64) -> Result<HandleCosts> {
    let (driver, device) = (card.driver(), card.device());
    let mut least = [f64::INFINITY; 5];
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
            timed(&mut |driver| handles.iter().try_for_each(|handle| Ok(driver.release(device, *handle)?)))?,
        ];
        driver.unreserve(device, start, size * count)?;
        if round > 0 {
            least.iter_mut().zip(seconds).for_each(|(least, total)| *least = least.min(total / count as f64));
        }
    }
    let [create, map, set_access, unmap, release] = least;
    Ok(HandleCosts {
        tier: tier.name().into(),
        handle_bytes: size,
        handles: count,
        create,
        map,
        set_access,
        unmap,
        release,
    })
}

/// Unmaps memory behind an event while a kernel reads `busy`, maps it anew, and looks whether all that was written is there.
fn try_unmapping(card: &dyn Card, busy: &Range<'_>, passes: u32, granule: u64) -> Result<Unmapping> {
    let (driver, device) = (card.driver(), card.device());
    let kernel_seconds = timed(card, || card.read(busy.whole(), VECTOR, passes))?;
    let mut found = Unmapping { rounds: 0, sound: true, why: None, kernel_seconds, unmap_seconds: 0.0 };
    let moved = Range::new(&*driver, device, granule, &[(Tier::Dedicated, granule)])?;
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

/// Moves one granule to the other tier and looks at its contents: its own work is waited for by an event alone.
fn unmap_under_load(card: &dyn Card, busy: &Range<'_>, passes: u32, moved: &Range<'_>, round: u8) -> Result<f64> {
    let (driver, device, granule) = (card.driver(), card.device(), moved.granule);
    let written: Vec<u8> = (0..granule).map(|at| (at % 251) as u8 ^ round).collect();
    let refuge = Range::new(&*driver, device, granule, &[(Tier::Shared, granule)])?;
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
            bail!("byte {at} of the granule that was unmapped and mapped anew is {}, not {}", read[at], written[at])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::Simulated;

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
            let (measured, found) = measure(&Simulated::new(&given).unwrap(), "found").unwrap();
            assert!(measured.unmapping.sound && !measured.real, "{measured:#?}");
            assert!(measured.calls.iter().any(|costs| costs.handle_bytes >= 64 << 20), "large handles too");
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
