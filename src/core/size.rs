//! Sizes: how requests are rounded, and how sizes are written and read.

use parse_size::Config;

/// Blocks begin at multiples of this many bytes and are multiples of it long: 512, as in PyTorch's
/// own allocator.
pub const ALIGNMENT: u64 = 512;

/// Requests up to this many bytes go to the arenas of small blocks: 1 MiB, PyTorch's own limit.
pub const SMALL_LIMIT: u64 = 1 << 20;

/// The largest single request: 2^44 bytes, more than any device can address today.
pub const LARGEST: u64 = 1 << 44;

/// The size of a block: the bytes that were requested, and the same rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    rounded: u64,
    requested: u64,
}

impl BlockSize {
    /// The size of a block for a request; `None` where that is larger than 16 TiB.
    #[inline]
    pub fn of(requested: u64) -> Option<BlockSize> {
        (requested <= LARGEST).then(|| BlockSize { rounded: requested.next_multiple_of(ALIGNMENT), requested })
    }

    /// The size of a block that exists already. Both sizes are in bytes.
    #[inline]
    pub(super) fn of_block(rounded: u64, requested: u64) -> BlockSize {
        BlockSize { rounded, requested }
    }

    /// The block's length in bytes: the request, rounded up to a multiple of 512.
    #[inline]
    pub fn rounded(self) -> u64 {
        self.rounded
    }

    /// The bytes that were requested.
    #[inline]
    pub fn requested(self) -> u64 {
        self.requested
    }

    /// The arenas that the block belongs in.
    #[inline]
    pub fn class(self) -> Class {
        if self.rounded <= SMALL_LIMIT { Class::Small } else { Class::Large }
    }
}

/// The blocks that an arena is for. Small blocks are kept apart, so that they do not break up the
/// space that large ones reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Blocks of up to 1 MiB.
    Small,
    /// Blocks above that.
    Large,
}

impl Class {
    /// Both classes, the small blocks first.
    pub const ALL: [Class; 2] = [Class::Small, Class::Large];

    /// The name of the class in the memory map and in PyTorch's snapshots.
    pub fn name(self) -> &'static str {
        match self {
            Class::Small => "small",
            Class::Large => "large",
        }
    }
}

/// The least number, apart from 0, that may be written without a unit. No size that this project
/// takes is as small as 64 KiB, so a smaller number lacks its unit: `8` does not mean 8 bytes.
const LEAST_WITHOUT_UNIT: u64 = 1 << 16;

/// Parses a size: `1.6GiB`, `1600 MiB`, `1.6GB` (10^9), or a whole number of bytes.
///
/// # Errors
/// A sentence that names the text and says what to write: for a fraction or a small number without
/// a unit, a negative number, a number beyond 16 TiB, or anything else that is not a size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const HELP: &str = "write a size such as 1.6GiB, 1600MiB, 1.6GB (10^9 bytes) or a whole number of bytes";
    let text = text.trim();
    if text.is_empty() {
        return Err(format!("the size is empty; {HELP}"));
    }
    if text.starts_with('-') {
        return Err(format!("the size {text} is negative; {HELP}"));
    }
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '_' | ' '));
    if unit.is_empty() && !text.bytes().all(|b| b.is_ascii_digit() || b == b'_') {
        return Err(format!("the size {text} has a fraction but no unit; {HELP}"));
    }
    let known = ["", "b", "kb", "kib", "mb", "mib", "gb", "gib", "tb", "tib"];
    if !known.contains(&unit.to_ascii_lowercase().as_str()) {
        return Err(format!("the size {text} is not understood (the unit \"{unit}\"); {HELP}"));
    }
    match Config::new().with_decimal().parse_size(text) {
        Ok(bytes) if unit.is_empty() && (1..LEAST_WITHOUT_UNIT).contains(&bytes) => {
            Err(format!("the size {text} has no unit: write {text}GiB, {text}MiB, or {text}B for bytes"))
        }
        Ok(bytes) if bytes <= LARGEST => Ok(bytes),
        Ok(_) => Err(format!("the size {text} is larger than 16 TiB; {HELP}")),
        Err(why) => Err(format!("the size {text} is not understood ({why}); {HELP}")),
    }
}

/// A human-readable size: `1.60 GiB`, `512 bytes`.
pub fn show_size(bytes: u64) -> String {
    const STEPS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    STEPS
        .iter()
        .find(|(unit, _)| bytes >= *unit)
        .map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{:.2} {name}", bytes as f64 / *unit as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_up_to_512() {
        let rounded = |bytes| BlockSize::of(bytes).map(BlockSize::rounded);
        assert_eq!((rounded(1), rounded(512), rounded(513)), (Some(512), Some(512), Some(1024)));
        assert_eq!((rounded(LARGEST), rounded(LARGEST + 1), rounded(u64::MAX)), (Some(LARGEST), None, None));
    }

    #[test]
    fn binary_and_decimal_units_differ() {
        assert_eq!(parse_size("1.6GiB"), Ok(1_717_986_918));
        assert_eq!(parse_size("1.6GB"), Ok(1_600_000_000));
        assert_eq!(parse_size(" 1600 mib "), Ok(1600 << 20));
        assert_eq!(parse_size("65536"), Ok(65_536));
        assert_eq!(parse_size("8B"), Ok(8));
        assert_eq!(parse_size("0"), Ok(0));
    }

    #[test]
    fn what_is_no_size_says_what_to_write() {
        for text in
            ["", "1.6", "-1", "1e30", "1e30GiB", "GiB", "1.6 apples", "1.6G", "0x10", "nan", "inf", "99999999TiB"]
        {
            let why = parse_size(text).expect_err(text);
            assert!(why.contains("write a size such as"), "{text}: {why}");
        }
    }

    #[test]
    fn a_small_number_lacks_its_unit() {
        for text in ["1", "8", "1600", "65535", "1_600"] {
            let why = parse_size(text).expect_err(text);
            assert!(why.contains(&format!("has no unit: write {text}GiB, {text}MiB, or {text}B for bytes")), "{why}");
        }
    }

    #[test]
    fn sizes_are_human_readable() {
        assert_eq!(show_size(1_717_986_918), "1.60 GiB");
        assert_eq!(show_size(2 << 20), "2.00 MiB");
        assert_eq!(show_size(17), "17 bytes");
    }
}
