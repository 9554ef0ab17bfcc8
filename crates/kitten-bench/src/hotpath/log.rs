//! Logs of malloc and free calls.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use anyhow::{Result, anyhow, ensure};

use super::peers::ROOM;
use crate::input::{self, Lines};
use crate::text::plain;

/// The bundled log: SD1.5 on genuine PyTorch 2.15.
pub const BUNDLED: &str = "torch215_sd15_mallocs";
const BUNDLED_BYTES: &[u8] = include_bytes!("../../../../traces/torch215_sd15_mallocs.log.zst");

/// One call of a log: which block, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) slot: u32,
    pub(super) malloc: bool,
    pub(super) bytes: u64,
}

/// A log: the blocks that it never frees, and a round of calls for all others.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The sizes of the blocks that are never freed.
    pub(super) resident: Vec<u64>,
    /// The calls for all others.
    pub(super) round: Vec<Call>,
    /// How many blocks the log has.
    pub(super) slots: u32,
    /// How many mallocs a round has.
    pub(super) pairs: usize,
    /// How many calls of size 0 were left out.
    pub(super) zero_calls: usize,
}

impl Log {
    /// Reads a log of lines `A address size device stream` and `F address size device stream`,
    /// plain or compressed by zstd.
    ///
    /// # Errors
    /// A file that cannot be read; a line that is wrong, by its number.
    pub fn open(path: Option<&str>) -> Result<Log> {
        let (name, bundled) = match path {
            None | Some(BUNDLED) => (BUNDLED, Some(BUNDLED_BYTES)),
            Some(path) => (path, None),
        };
        Log::read(input::open(name, bundled, "log")?, name)
    }

    /// A log from any source of bytes; `source` names it in errors.
    ///
    /// # Errors
    /// As for [`open`](Log::open).
    pub fn read(bytes: Box<dyn Read>, source: &str) -> Result<Log> {
        let mut lines = Lines::new(bytes, source);
        let (mut calls, mut sizes) = (Vec::new(), Vec::new());
        let (mut live, mut slots, mut zero_calls) = (HashMap::new(), 0u32, 0);
        while lines.advance()? {
            let mut words = lines.line().split_whitespace();
            let call = (words.next(), words.next(), words.next(), words.next());
            let (Some(what @ ("A" | "F")), Some(address), Some(size), _) = call else {
                return Err(anyhow!("{}: not a call such as \"A 0x7f00 512 0 (nil)\"", lines.at()));
            };
            let (at, address) = (|| lines.at(), plain(address));
            let size: u64 = size.parse().map_err(|_| anyhow!("{}: {} is not a size", at(), plain(size)))?;
            ensure!(size <= ROOM, "{}: {size} bytes are invalid: a block has at most 1 TiB", at());
            if size == 0 || address == "(nil)" {
                zero_calls += 1;
            } else if what == "A" {
                let other = live.insert(address.to_string(), slots);
                ensure!(other.is_none(), "{}: {address} is allocated twice", at());
                calls.push(Call { slot: slots, malloc: true, bytes: size });
                sizes.push(size);
                slots += 1;
            } else {
                let slot = live.remove(&*address).ok_or_else(|| anyhow!("{}: {address} is not allocated", at()))?;
                calls.push(Call { slot, malloc: false, bytes: sizes[slot as usize] });
            }
        }
        let mut log = Log { slots, zero_calls, ..Log::default() };
        let never_freed: HashSet<u32> = live.into_values().collect();
        for call in calls {
            if never_freed.contains(&call.slot) {
                log.resident.push(call.bytes);
            } else {
                log.round.push(call);
            }
        }
        log.pairs = log.round.iter().filter(|call| call.malloc).count();
        ensure!(log.pairs > 0, "{} has no block that is allocated and freed again", lines.source());
        Ok(log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_log_is_whole() {
        let log = Log::open(None).unwrap();
        assert_eq!(
            (log.pairs, log.resident.len(), log.zero_calls),
            (5215, 0, 393),
            "its process freed the model at the end"
        );
    }

    fn log(text: &'static str) -> Result<Log> {
        Log::read(Box::new(text.as_bytes()), "test")
    }

    #[test]
    fn errors_in_wrong_logs_name_the_line() {
        for (text, said) in [
            ("", "test has no block that is allocated and freed again"),
            ("\n\n", "no block"),
            ("A 0x1 512\n", "no block"),
            ("nonsense\n", "test, line 1: not a call"),
            ("A 0x1 512\nA 0x1 512\n", "line 2: 0x1 is allocated twice"),
            ("F 0x1 512\n", "line 1: 0x1 is not allocated"),
            ("A 0x1 512\nF 0x1 512\nF 0x1 512\n", "line 3: 0x1 is not allocated"),
            ("A 0x1 -512\n", "-512 is not a size"),
            ("A 0x1 1e9\n", "1e9 is not a size"),
            ("A 0x1 nan\n", "nan is not a size"),
            ("A 0x1 18446744073709551616\n", "18446744073709551616 is not a size"),
            ("A 0x1 18446744073709551615\n", "18446744073709551615 bytes are invalid"),
            ("A \u{1b}[2J 1\nA \u{1b}[2J 1\n", "\\u{1b}[2J is allocated twice"),
        ] {
            let why = format!("{:#}", log(text).expect_err(text));
            assert!(why.contains(said), "{text:?}: {why}");
        }
    }
}
