//! Files that are read: traces, logs, and the results of a check. They may come from anybody, so
//! every read has a bound.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::text::{plain, shown};

/// The longest line: 4 MiB.
const LONGEST_LINE: u64 = 4 << 20;
/// The longest text, decompressed: 1 GiB.
const LONGEST_TEXT: u64 = 1 << 30;
/// The most lines of a text, blank ones included.
const MOST_LINES: u64 = 1 << 24;
/// The longest file that is read whole: 64 MiB.
const LONGEST_WHOLE: u64 = 64 << 20;

/// The first bytes of a file compressed by zstd.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first bytes of a file compressed by gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Opens a file or a bundled one, and decompresses it if it is compressed.
pub(crate) fn open(path_or_name: &str, bundled: Option<&'static [u8]>, kind: &str) -> Result<Box<dyn Read>> {
    let name = || plain(path_or_name);
    let mut raw: BufReader<Box<dyn Read>> = match bundled {
        Some(bytes) => BufReader::new(Box::new(bytes)),
        None => {
            let file = File::open(path_or_name).with_context(|| format!("cannot open the {kind} {}", name()))?;
            BufReader::new(Box::new(file))
        }
    };
    let first = raw.fill_buf().with_context(|| format!("cannot read {}", name()))?;
    Ok(if first.starts_with(&ZSTD) {
        Box::new(zstd::stream::read::Decoder::with_buffer(raw)?)
    } else if first.starts_with(&GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(raw))
    } else {
        Box::new(raw)
    })
}

/// The text of a small file, with a mark in place of invalid bytes; `None` if the file does not
/// exist.
pub(crate) fn whole(path: &Path) -> Result<Option<String>> {
    let failed = || format!("cannot read {}", shown(path));
    let file = match File::open(path) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(failed)?,
    };
    let mut bytes = Vec::new();
    let length = file.take(LONGEST_WHOLE).read_to_end(&mut bytes).with_context(failed)?;
    ensure!((length as u64) < LONGEST_WHOLE, "{} is longer than {LONGEST_WHOLE} bytes", shown(path));
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// The lines of a text, with their position.
pub(crate) struct Lines {
    from: BufReader<Box<dyn Read>>,
    source: String,
    text: String,
    line: u64,
    length: u64,
}

impl Lines {
    /// The lines of any source of bytes; `source` names it in errors.
    pub(crate) fn new(from: Box<dyn Read>, source: &str) -> Lines {
        Lines { from: BufReader::new(from), source: plain(source).into(), text: String::new(), line: 0, length: 0 }
    }

    /// The name of the source.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The position of the last line.
    pub(crate) fn at(&self) -> String {
        format!("{}, line {}", self.source, self.line)
    }

    /// The last line, without the blanks around it.
    pub(crate) fn line(&self) -> &str {
        self.text.trim()
    }

    /// Reads the next line that is not blank. Returns whether there is one.
    pub(crate) fn advance(&mut self) -> Result<bool> {
        loop {
            self.text.clear();
            self.line += 1;
            let read = (&mut self.from).take(LONGEST_LINE).read_line(&mut self.text);
            let length = read.with_context(|| format!("{}: damaged, cut off, or not text", self.at()))? as u64;
            if length == 0 {
                return Ok(false);
            }
            self.length += length;
            if length == LONGEST_LINE {
                bail!("{}: the line is longer than {LONGEST_LINE} bytes", self.at());
            }
            if self.length > LONGEST_TEXT {
                bail!("{}: the text is longer than {LONGEST_TEXT} bytes", self.at());
            }
            if self.line > MOST_LINES {
                bail!("{}: there are more than {MOST_LINES} lines", self.at());
            }
            if !self.line().is_empty() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line, repeated without end.
    struct Again(&'static [u8]);

    impl Read for Again {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let whole = into.len() / self.0.len() * self.0.len();
            into[..whole].chunks_exact_mut(self.0.len()).for_each(|chunk| chunk.copy_from_slice(self.0));
            Ok(whole)
        }
    }

    const LINE: [u8; 128] = {
        let mut line = [b'x'; 128];
        line[127] = b'\n';
        line
    };

    fn lines(bytes: impl Read + 'static) -> Lines {
        Lines::new(Box::new(bytes), "a\u{1b}b")
    }

    fn error(lines: &mut Lines) -> String {
        loop {
            match lines.advance() {
                Ok(true) => {}
                Ok(false) => panic!("no error"),
                Err(why) => return format!("{why:#}"),
            }
        }
    }

    #[test]
    fn blank_lines_are_skipped() {
        let mut lines = lines(&b"\n one \r\n\t\n\ntwo"[..]);
        assert!(lines.advance().unwrap());
        assert_eq!(lines.line(), "one");
        assert_eq!(lines.at(), "a\\u{1b}b, line 2");
        assert!(lines.advance().unwrap());
        assert_eq!(lines.line(), "two");
        assert!(!lines.advance().unwrap());
    }

    #[test]
    fn compressed_files_are_read_as_plain_ones() {
        let text = b"one\ntwo\n";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut gzip, text).unwrap();
        let all = [text.to_vec(), gzip.finish().unwrap(), zstd::encode_all(&text[..], 0).unwrap()];
        let folder = tempfile::tempdir().unwrap();
        for (number, bytes) in all.into_iter().enumerate() {
            let file = folder.path().join(number.to_string());
            std::fs::write(&file, bytes).unwrap();
            let mut found = Vec::new();
            open(file.to_str().unwrap(), None, "trace").unwrap().read_to_end(&mut found).unwrap();
            assert_eq!(found, text, "{number}");
        }
    }

    #[test]
    fn no_text_is_endless() {
        assert!(error(&mut lines(std::io::repeat(b'x'))).contains("line 1: the line is longer than 4194304 bytes"));
        assert!(error(&mut lines(std::io::repeat(b'\n'))).contains("more than 16777216 lines"));
        assert!(error(&mut lines(Again(&LINE))).contains("longer than 1073741824 bytes"));
        assert!(error(&mut lines(&b"\xff\xfe"[..])).contains("not text"));
    }
}
