//! The contents of blocks: stretches of one long text of random bytes, from a different place for
//! each block. So no block looks like another, or like itself shifted.

use std::sync::OnceLock;

/// Several times as long as the largest block.
const LENGTH: usize = 8 << 20;

/// The longest contents of a block.
pub const LONGEST: u64 = (LENGTH / 2) as u64;

fn text() -> &'static [u8] {
    static TEXT: OnceLock<Vec<u8>> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut text = vec![0; LENGTH];
        fastrand::Rng::with_seed(0x6769_616e_746b_6974).fill(&mut text);
        text
    })
}

/// The contents of a block, by where they begin in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents(u32);

impl Contents {
    /// Contents from a random place.
    pub fn random(random: &mut fastrand::Rng) -> Contents {
        Contents(random.u32(..(LENGTH / 2) as u32))
    }

    /// The first `bytes` of them, valid for ever.
    pub fn bytes(self, bytes: u64) -> &'static [u8] {
        &text()[self.0 as usize..][..bytes as usize]
    }

    /// The first byte that differs, and how many bytes differ.
    pub fn difference(self, found: &[u8]) -> Option<(usize, usize)> {
        let expected = self.bytes(found.len() as u64);
        if found == expected {
            return None;
        }
        let differs = |at: &usize| found[*at] != expected[*at];
        let count = (0..found.len()).filter(differs).count();
        (0..found.len()).find(differs).map(|first| (first, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_byte_is_seen() {
        let contents = Contents::random(&mut fastrand::Rng::with_seed(1));
        let mut found = contents.bytes(5000).to_vec();
        assert_eq!(contents.difference(&found), None);
        found[4321] ^= 1;
        assert_eq!(contents.difference(&found), Some((4321, 1)));
    }

    #[test]
    fn two_blocks_differ_nearly_everywhere() {
        let mut random = fastrand::Rng::with_seed(2);
        let (one, other) = (Contents::random(&mut random), Contents::random(&mut random));
        let (_, differing) = one.difference(other.bytes(10_000)).expect("they differ");
        assert!(differing > 9_900, "{differing}");
    }
}
