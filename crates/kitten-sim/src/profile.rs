//! Hardware profiles: the capacities and speeds of a card, as a TOML file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};

/// The capacities and speeds of a device. Sizes are in bytes (in the file also as text with a
/// unit), rates per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Where the figures come from.
    #[serde(default)]
    pub note: String,
    /// Dedicated memory.
    #[serde(rename = "dedicated", deserialize_with = "size")]
    pub dedicated_bytes: u64,
    /// Shared memory.
    #[serde(rename = "shared", deserialize_with = "size")]
    pub shared_bytes: u64,
    /// Free dedicated memory that an allocator should leave to others.
    #[serde(rename = "headroom", default, deserialize_with = "size")]
    pub headroom_bytes: u64,
    /// Whether backing can be created in shared memory, so that memory can change tier under its
    /// address. Otherwise shared memory is pinned, at addresses of its own.
    #[serde(default = "yes")]
    pub migrates: bool,
    /// The size of which all backing is a multiple: a power of two, at least 64 KiB.
    #[serde(default = "two_mebibytes", deserialize_with = "size")]
    pub granularity: u64,
    /// Bytes per second that kernels read and write in dedicated memory.
    pub vram_bandwidth: f64,
    /// Bytes per second over the link, from host to device.
    pub link_to_device: f64,
    /// Bytes per second over the link, from device to host.
    pub link_to_host: f64,
    /// Half-precision operations per second.
    pub fp16_rate: f64,
    /// How often a matmul or convolution reads each byte of a shared operand over the link. 1 is
    /// the optimistic bound.
    pub in_place_reread: f64,
    /// The cost of driver calls.
    #[serde(default)]
    pub seconds: CallSeconds,
}

/// Seconds of one call of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallSeconds {
    /// Reserving addresses.
    pub reserve: f64,
    /// Creating dedicated backing.
    pub create_dedicated: f64,
    /// Creating shared backing; pinning memory costs as much for each granule.
    pub create_shared: f64,
    /// Releasing backing.
    pub release: f64,
    /// Mapping a handle.
    pub map: f64,
    /// Unmapping a run of handles.
    pub unmap: f64,
    /// Setting access of a range.
    pub set_access: f64,
    /// Waiting for a device that is idle.
    pub synchronize: f64,
    /// Queueing a copy in a stream.
    pub copy: f64,
}

const BUILT_IN: [&str; 2] = [include_str!("../profiles/nominal-6g.toml"), include_str!("../profiles/nominal-8g.toml")];

/// The longest file of a profile: 1 MiB.
const LONGEST: u64 = 1 << 20;

fn two_mebibytes() -> u64 {
    2 << 20
}

fn yes() -> bool {
    true
}

pub(crate) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Bytes(u64),
        Text(String),
    }
    match Written::deserialize(from)? {
        Written::Bytes(bytes) => Ok(bytes),
        Written::Text(text) => parse_size::Config::new()
            .with_decimal()
            .parse_size(&text)
            .map_err(|why| serde::de::Error::custom(format!("\"{text}\" is not a size such as \"5.2 GiB\": {why}"))),
    }
}

/// The text of a small file.
fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let length = File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    if length as u64 == LONGEST {
        return Err(std::io::Error::other(format!("it is longer than {LONGEST} bytes")));
    }
    Ok(text)
}

impl Profile {
    /// The names of the built-in profiles.
    pub fn builtin_names() -> Vec<String> {
        BUILT_IN.iter().filter_map(|text| Profile::parse(text).ok()).map(|profile| profile.name).collect()
    }

    /// A built-in profile.
    pub fn builtin(name: &str) -> Option<Profile> {
        BUILT_IN.iter().filter_map(|text| Profile::parse(text).ok()).find(|profile| profile.name == name)
    }

    /// A built-in profile by name, or one from a file.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn load(name_or_path: &str) -> Result<Profile, String> {
        if let Some(profile) = Profile::builtin(name_or_path) {
            return Ok(profile);
        }
        let text = read(Path::new(name_or_path)).map_err(|why| {
            let names = Profile::builtin_names().join(", ");
            format!(
                "there is no built-in hardware profile \"{name_or_path}\" (there are {names}), and no file of that \
                 name can be read: {why}"
            )
        })?;
        Profile::parse(&text).map_err(|why| format!("{name_or_path}: {why}"))
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// A sentence that names the key and what is wrong with its value.
    pub fn parse(text: &str) -> Result<Profile, String> {
        let profile: Profile = toml::from_str(text).map_err(|why| why.to_string())?;
        let rates = [
            ("vram_bandwidth", profile.vram_bandwidth),
            ("link_to_device", profile.link_to_device),
            ("link_to_host", profile.link_to_host),
            ("fp16_rate", profile.fp16_rate),
            ("in_place_reread", profile.in_place_reread),
        ];
        for (key, rate) in rates {
            if !(rate.is_finite() && rate > 0.0) {
                return Err(format!("{key} = {rate}: it must be a finite number above 0"));
            }
        }
        let s = profile.seconds;
        let costs = [
            s.reserve,
            s.create_dedicated,
            s.create_shared,
            s.release,
            s.map,
            s.unmap,
            s.set_access,
            s.synchronize,
            s.copy,
        ];
        if let Some(cost) = costs.into_iter().find(|cost| !(cost.is_finite() && *cost >= 0.0)) {
            return Err(format!("[seconds]: {cost} is not a time: it must be a finite number of at least 0"));
        }
        if !profile.granularity.is_power_of_two() || profile.granularity < 1 << 16 {
            return Err(format!("granularity = {}: it must be a power of two of at least 64 KiB", profile.granularity));
        }
        for (key, bytes) in [("dedicated", profile.dedicated_bytes), ("shared", profile.shared_bytes)] {
            if bytes > 1 << 44 {
                return Err(format!("{key} = {bytes}: more than 16 TiB is not supported"));
            }
        }
        if profile.dedicated_bytes < profile.granularity {
            return Err(format!("dedicated = {}: less than one granule", profile.dedicated_bytes));
        }
        Ok(profile)
    }

    /// The profile as a file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_profiles_have_their_figures() {
        let card = Profile::builtin("nominal-6g").unwrap();
        assert_eq!(card.dedicated_bytes, 5_583_457_485, "5.2 GiB, rounded");
        assert_eq!((card.vram_bandwidth, card.link_to_device, card.fp16_rate), (360e9, 13e9, 25e12));
        assert_eq!(Profile::builtin_names(), ["nominal-6g", "nominal-8g"]);
        assert_eq!(Profile::parse(&card.to_toml()).unwrap(), card);
    }

    #[test]
    fn errors_in_wrong_profiles_name_the_key() {
        let good = BUILT_IN[0];
        for (from, to, named) in [
            ("360e9", "-1.0", "vram_bandwidth"),
            ("25e12", "nan", "fp16_rate"),
            ("\"5.2 GiB\"", "\"5.2 apples\"", "5.2 apples"),
            ("\"5.2 GiB\"", "1", "granule"),
            ("\"2 MiB\"", "3000000", "granularity"),
            ("note =", "nte =", "nte"),
            ("create_shared = 200e-6", "create_shared = -1.0", "seconds"),
            ("synchronize = 10e-6", "copy = -1.0", "seconds"),
            ("vram_bandwidth = 360e9", "", "vram_bandwidth"),
        ] {
            let why = Profile::parse(&good.replace(from, to)).expect_err(to);
            assert!(why.contains(named), "{to}: {why}");
        }
        assert!(Profile::load("nonesuch").unwrap_err().contains("nominal-6g"));
        let endless = std::env::temp_dir().join(format!("kitten-sim-profile-{}", std::process::id()));
        std::fs::write(&endless, vec![b'#'; LONGEST as usize]).unwrap();
        let why = Profile::load(endless.to_str().unwrap()).unwrap_err();
        std::fs::remove_file(&endless).unwrap();
        assert!(why.contains("longer than 1048576 bytes"), "{why}");
    }
}
