//! The cards that people own, by name: published figures, from which a profile is made.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

use crate::profile::{Profile, size};

const CARDS: &str = include_str!("../profiles/cards.toml");

/// Dedicated memory that the context and the desktop take: 0.8 GiB, as in the nominal profiles.
const TAKEN_BYTES: u64 = 858_993_459;

/// Bytes per second that 16 lanes of generation 3 transfer: about five sixths of the raw rate.
const SIXTEEN_LANES_OF_GENERATION_3: f64 = 13e9;

/// Words in the names of cards that have no CUDA.
const OTHER_MAKERS: [&str; 6] = ["amd", "arc", "ati", "intel", "radeon", "rx"];

/// How many cards an error names as the nearest.
const NEAREST: usize = 3;

/// A card with its published figures. None of them is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Its name, with its memory.
    pub name: String,
    /// Dedicated memory.
    #[serde(rename(deserialize = "memory"), deserialize_with = "size")]
    pub memory_bytes: u64,
    /// Bytes per second that kernels read and write in dedicated memory.
    pub vram_bandwidth: f64,
    /// The link to the host.
    pub link: Link,
    /// Half-precision operations per second of dense matrix products.
    pub fp16_rate: f64,
    /// Where the figures come from.
    pub source: String,
}

/// A PCI Express link. The slot may offer less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Generation.
    pub generation: u8,
    /// Width.
    pub lanes: u8,
}

impl Link {
    /// Bytes per second in one direction, after the overhead of packets.
    pub fn rate(self) -> f64 {
        let generations = i32::from(self.generation) - 3;
        SIXTEEN_LANES_OF_GENERATION_3 * f64::from(self.lanes) / 16.0 * 2f64.powi(generations)
    }
}

impl Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCIe {}.0 x{}", self.generation, self.lanes)
    }
}

impl Card {
    /// All cards, in the order of their generations.
    pub fn all() -> Vec<Card> {
        #[derive(Deserialize)]
        struct File {
            card: Vec<Card>,
        }
        toml::from_str::<File>(CARDS).map_or_else(|_| Vec::new(), |file| file.card)
    }

    /// The card that a name means. Case, blanks, the maker and the memory may be left out where one
    /// card remains: `rtx4060`, `4060 Ti 16GB`, `NVIDIA GeForce RTX 3060 Laptop GPU`, `Tesla T4`.
    ///
    /// # Errors
    /// A sentence that names the nearest cards, or those between which the name does not decide.
    pub fn find(name: &str) -> Result<Card, String> {
        let name = name.trim();
        let asked = Asked::of(name);
        if asked.is_of_others() {
            return Err(format!("the card \"{name}\" is not NVIDIA's: giant-kitten needs CUDA"));
        }
        let mut found: Vec<Card> = Card::all().into_iter().filter(|card| asked.means(&Asked::of(&card.name))).collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(format!("there is no card \"{name}\"; the nearest are {}", names(&asked.nearest()))),
            _ => Err(format!("the card \"{name}\" is one of {}: say which", names(&found))),
        }
    }

    /// Its profile. The rest of the figures is that of the nominal profiles.
    ///
    /// # Errors
    /// None, as long as the nominal profile is built in.
    pub fn profile(&self) -> Result<Profile, String> {
        let link = self.link.rate();
        Ok(Profile {
            name: self.name.clone(),
            note: format!("nominal, not measured: {}", self.source),
            dedicated_bytes: self.memory_bytes - TAKEN_BYTES,
            vram_bandwidth: self.vram_bandwidth,
            link_to_device: link,
            link_to_host: link,
            fp16_rate: self.fp16_rate,
            ..Profile::load("nominal-6g")?
        })
    }
}

/// The names of cards, as a list.
fn names(cards: &[Card]) -> String {
    cards.iter().map(|card| card.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// What a name says about a card.
struct Asked {
    /// The model, such as `4060`, and its variant, such as `ti`; sorted.
    model: Vec<String>,
    /// Memory in gigabytes.
    gigabytes: Option<u32>,
}

impl Asked {
    fn of(name: &str) -> Asked {
        let mut asked = Asked { model: Vec::new(), gigabytes: None };
        let lower = name.to_lowercase();
        for word in lower.split(|c: char| !c.is_alphanumeric()) {
            let word = ["geforce", "nvidia", "rtx"].iter().fold(word, |word, maker| word.trim_start_matches(maker));
            asked.word(word);
        }
        asked.model.sort_unstable();
        asked
    }

    fn word(&mut self, word: &str) {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = word.split_at(digits);
        match (number, rest) {
            (_, "gb" | "gib" | "g") | (_, "") if (1..=2).contains(&digits) => self.gigabytes = number.parse().ok(),
            ("", "" | "gb" | "gib" | "tesla" | "gpu" | "graphics" | "card" | "desktop" | "pcie") => {}
            ("", "mobile") => self.model.push("laptop".into()),
            _ => self.model.extend([number, rest].into_iter().filter(|part| !part.is_empty()).map(str::to_owned)),
        }
    }

    /// Whether this is what a card is called. A size of memory alone means every card that has it.
    fn means(&self, card: &Asked) -> bool {
        let any_model = self.model.is_empty() && self.gigabytes.is_some();
        (any_model || self.model == card.model) && (self.gigabytes.is_none() || self.gigabytes == card.gigabytes)
    }

    /// Whether it is a card that is not NVIDIA's.
    fn is_of_others(&self) -> bool {
        self.model.iter().any(|word| OTHER_MAKERS.contains(&word.as_str()))
    }

    /// The cards whose names differ least.
    fn nearest(&self) -> Vec<Card> {
        let mut cards = Card::all();
        cards.sort_by_cached_key(|card| {
            let card = Asked::of(&card.name);
            let other_memory = self.gigabytes.is_some() && self.gigabytes != card.gigabytes;
            2 * strsim::levenshtein(&self.model.concat(), &card.model.concat()) + usize::from(other_memory)
        });
        cards.truncate(NEAREST);
        cards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_has_a_profile_that_is_marked_nominal() {
        let cards = Card::all();
        assert_eq!(cards.len(), 33);
        for card in &cards {
            let profile = card.profile().unwrap();
            assert_eq!(Profile::parse(&profile.to_toml()).unwrap(), profile);
            assert!(profile.note.starts_with("nominal, not measured: NVIDIA's "), "{}", profile.note);
            assert_eq!(Card::find(&card.name).unwrap(), *card);
        }
        let six = Card::find("RTX 3060 Laptop").unwrap().profile().unwrap();
        assert_eq!(six.dedicated_bytes, Profile::builtin("nominal-6g").unwrap().dedicated_bytes);
    }

    #[test]
    fn compute_follows_from_multiprocessors_and_clock() {
        let number = |text: &str| text.split_whitespace().find_map(|word| word.parse::<f64>().ok());
        for card in Card::all().iter().filter(|card| card.name.starts_with("RTX")) {
            let (processors, clock) = card.source.split_once(" multiprocessors at ").unwrap();
            let rate = 512.0 * number(processors).unwrap() * number(clock).unwrap() * 1e6;
            assert!((card.fp16_rate / rate - 1.0).abs() < 0.005, "{}: {rate:e}", card.name);
        }
    }

    #[test]
    fn links_transfer_what_the_nominal_profiles_do() {
        let link = |generation, lanes| Link { generation, lanes }.rate();
        assert_eq!((link(3, 16), link(4, 8), link(4, 16), link(5, 8)), (13e9, 13e9, 26e9, 26e9));
        assert_eq!(Link { generation: 4, lanes: 8 }.to_string(), "PCIe 4.0 x8");
    }

    #[test]
    fn names_are_forgiven() {
        for (asked, found) in [
            ("RTX 4060 8GB", "RTX 4060 8GB"),
            ("4060", "RTX 4060 8GB"),
            ("rtx4060ti-16g", "RTX 4060 Ti 16GB"),
            ("GeForce RTX 4060 Ti (8 GiB)", "RTX 4060 Ti 8GB"),
            ("NVIDIA GeForce RTX 3060 Laptop GPU", "RTX 3060 Laptop 6GB"),
            ("3060 mobile", "RTX 3060 Laptop 6GB"),
            ("RTX 3060", "RTX 3060 12GB"),
            ("nvidia l4", "L4 24GB"),
            ("Tesla T4", "T4 16GB"),
            ("a10", "A10 24GB"),
            ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER 16GB"),
            ("NVIDIA A100-PCIE-40GB", "A100 PCIe 40GB"),
            ("NVIDIA A100 80GB PCIe", "A100 PCIe 80GB"),
            ("NVIDIA H100 PCIe", "H100 PCIe 80GB"),
            ("h100", "H100 PCIe 80GB"),
        ] {
            assert_eq!(Card::find(asked).map(|card| card.name).as_deref(), Ok(found), "{asked}");
        }
    }

    #[test]
    fn other_names_are_answered_with_the_nearest() {
        for (asked, said) in [
            ("RTX 4060 Ti", "is one of RTX 4060 Ti 8GB, RTX 4060 Ti 16GB: say which"),
            ("RTX 3060 8GB", "the nearest are RTX 3060 12GB,"),
            ("RTX 3070 Ti", "the nearest are RTX 4070 Ti 12GB, RTX 5070 Ti 16GB, RTX 2080 Ti 11GB"),
            ("A100", "is one of A100 PCIe 40GB, A100 PCIe 80GB: say which"),
            ("A100-SXM4-80GB", "the nearest are A100 PCIe 80GB, "),
            ("rtx 9090", "RTX 3090 24GB"),
            ("8 GB", "is one of RTX 2070 8GB, RTX 2080 8GB,"),
            ("RX 7600", "is not NVIDIA's"),
            ("Intel Arc A770 16GB", "is not NVIDIA's"),
            ("A10G", "the nearest are A10 24GB"),
            ("", "there is no card \"\""),
        ] {
            let why = Card::find(asked).expect_err(asked);
            assert!(why.contains(said), "{asked}: {why}");
        }
    }
}
