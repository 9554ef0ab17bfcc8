//! Measures a card, real or simulated, and writes a hardware profile.
//!
//! Method: the allocator's own driver creates and maps the memory, in granules. The host's clock
//! times calls of the driver, over many of a kind; the card's clock times kernels and copies. Each
//! figure is the best of [`ROUNDS`] rounds after one that is thrown away.
//!
//! ```text
//!   best.rs        the best of several rounds
//!   memory.rs      memory to measure
//!   measured.rs    everything that is measured, as the JSON file has it
//!   calls.rs       the cost of driver calls
//!   rates.rs       how fast memory is read, written and copied
//!   unmapping.rs   whether memory may be unmapped behind an event
//! ```

mod best;
mod calls;
mod measured;
mod memory;
mod rates;
mod unmapping;

use anyhow::{Result, anyhow, bail};
use giant_kitten::driver::DeviceInfo;
use giant_kitten::{Tier, show_size};
use kitten_sim::{CallSeconds, Profile};

pub use best::ROUNDS;
pub use measured::{HandleCosts, Measured, Rates, Unmapping};

use crate::card::Card;
use best::best;
use calls::CallCosts;
use rates::Ranges;
use unmapping::try_unmapping;

/// The length of the ranges that kernels and copies run over, if there is room for it.
const BUFFER: u64 = 256 << 20;
/// Seconds that a kernel runs while memory is unmapped.
const LOAD_SECONDS: f64 = 0.05;

/// Measures a card. Returns everything that was measured, and the hardware profile that follows
/// from it, under the given name.
///
/// # Errors
/// No shared tier; too little memory; figures that no card has; the driver's.
pub fn measure(card: &dyn Card, name: &str) -> Result<(Measured, Profile)> {
    let (driver, device) = (card.driver(), card.device());
    let info = driver.device_info(device)?;
    check_can_measure(&info)?;
    let granule = info.granularity;
    let room = info.free[Tier::Dedicated].min(info.free[Tier::Shared]) / 8 / granule * granule;
    let bytes = BUFFER.min(room).max(granule);
    if info.free[Tier::Dedicated] < 4 * bytes {
        bail!("only {} of dedicated memory are free: close other programs", show_size(info.free[Tier::Dedicated]));
    }

    let calls = CallCosts::measure(card, granule, room)?;
    let ranges = Ranges::new(&*driver, device, granule, bytes)?;
    let rates = ranges.rates(card)?;
    let copies = ranges.copies(card)?;
    let fp16_rate = best(|| Ok(1.0 / card.multiply()?)).map(|least| 1.0 / least)?;
    let reread = ranges.in_place_reread(card, copies.to_device)?;
    // Last, because a card on which this goes wrong cannot be used afterwards.
    let passes = ((LOAD_SECONDS * rates[0].read / bytes as f64) as u32).clamp(1, 10_000);
    let unmapping = try_unmapping(card, &ranges.dedicated, passes)?;

    let note = format!(
        "{}; kitten-bench probe: best of {ROUNDS} rounds, buffers of {}{}",
        card.name(),
        show_size(bytes),
        if reread.is_none() { "; in_place_reread is not measured" } else { "" }
    );
    let profile = Profile {
        name: name.into(),
        note,
        dedicated_bytes: info.free[Tier::Dedicated],
        headroom_bytes: 0,
        shared_bytes: info.free[Tier::Shared],
        migrates: info.rung.migrates(),
        granularity: granule,
        vram_bandwidth: rates[0].read,
        link_to_device: copies.to_device,
        link_to_host: copies.to_host,
        fp16_rate,
        in_place_reread: reread.unwrap_or(1.0).max(f64::MIN_POSITIVE),
        seconds: call_seconds(&calls)?,
    };
    check_readable(&profile)?;
    let measured = Measured {
        card: card.name(),
        real: card.is_real(),
        rung: info.rung.name().into(),
        rungs_refused: info.refused,
        calls: calls.handles,
        rates,
        copy_to_device: copies.to_device,
        copy_to_host: copies.to_host,
        copy_both_ways: copies.both_ways,
        copy_across_tiers: copies.across_tiers,
        unmapping,
        product_measured: reread.is_some(),
    };
    Ok((measured, profile))
}

/// Whether the device has a shared tier of the kind that the probe measures.
fn check_can_measure(info: &DeviceInfo) -> Result<()> {
    let (name, refused) = (&info.name, info.refused.join("; "));
    if info.free[Tier::Shared] < 4 * info.granularity {
        bail!("{name} has no shared tier to measure. {refused}");
    }
    if !info.rung.migrates() {
        bail!(
            "{name} can only pin host memory, and the probe measures backing that it creates there: \
             update the driver (CUDA 12.2 or later). {refused}"
        );
    }
    Ok(())
}

/// The part of a profile that calls of the driver make, from the smallest handles.
fn call_seconds(calls: &CallCosts) -> Result<CallSeconds> {
    let (Some(near), Some(far)) = (calls.smallest(Tier::Dedicated), calls.smallest(Tier::Shared)) else {
        bail!("there is too little memory to time calls of the driver");
    };
    Ok(CallSeconds {
        reserve: calls.reserve,
        create_dedicated: near.create,
        create_shared: far.create,
        release: near.release,
        map: near.map,
        unmap: near.unmap,
        set_access: near.set_access,
        synchronize: calls.synchronize,
        copy: 0.0,
    })
}

/// Whether a profile can be read again once it is written.
fn check_readable(profile: &Profile) -> Result<()> {
    let readable = Profile::parse(&profile.to_toml());
    readable.map(drop).map_err(|why| anyhow!("the figures measured are not the profile of any card: {why}"))
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
    fn the_probe_finds_the_profile_of_the_simulated_gpu() {
        let nominal = Profile::builtin("nominal-6g").unwrap();
        let odd = Profile {
            vram_bandwidth: 123e9,
            link_to_device: 3.21e9,
            link_to_host: 1.7e9,
            fp16_rate: 7.5e12,
            in_place_reread: 17.3,
            granularity: 1 << 20,
            dedicated_bytes: 700 << 20,
            headroom_bytes: 0,
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
