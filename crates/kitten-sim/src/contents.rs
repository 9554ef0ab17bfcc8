//! Contents of blocks for tests that compare every byte.

/// The contents that follow from a seed: a number for every eight bytes. Two seeds differ nearly
/// everywhere.
pub fn contents(seed: u64, bytes: u64) -> Vec<u8> {
    let mut contents = vec![0; bytes as usize];
    for (at, chunk) in contents.chunks_mut(8).enumerate() {
        let word = (seed ^ at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    contents
}

#[cfg(test)]
mod tests {
    use super::contents;

    #[test]
    fn contents_follow_from_the_seed() {
        let (one, other) = (contents(1, 1001), contents(2, 1001));
        assert_eq!(one.len(), 1001);
        assert_eq!(one, contents(1, 1001));
        assert_eq!(one[..500], contents(1, 500));
        let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
        assert!(same < 300, "{same} bytes are the same");
    }
}
