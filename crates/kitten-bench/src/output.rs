//! Files that are written whole or not at all, and the standard output.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::text::{plain_lines, shown};

/// Writes a file whole. If that fails, a file that existed stays as it was, and no other is left.
///
/// # Errors
/// A file that cannot be written, by its name.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    put(path, bytes).with_context(|| format!("cannot write {}", shown(path)))
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let there = match fs::metadata(path) {
        Err(why) if why.kind() == ErrorKind::NotFound => None,
        there => Some(there?),
    };
    // Pipes and devices take bytes as they come, and so do names that stand for another open file.
    let takes_bytes = there.as_ref().is_some_and(|there| !there.is_file() && !there.is_dir());
    if takes_bytes || path.starts_with("/dev") || path.starts_with("/proc") {
        let mut file =
            OpenOptions::new().write(true).truncate(there.is_some_and(|there| there.is_file())).open(path)?;
        return file.write_all(bytes).and_then(|()| file.flush());
    }
    // Windows would only deny access to it.
    if there.as_ref().is_some_and(fs::Metadata::is_dir) {
        return Err(ErrorKind::IsADirectory.into());
    }
    // A link is followed to its file.
    let target = if there.is_some() { fs::canonicalize(path)? } else { path.to_owned() };
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::metadata(folder)?;
    let mut file = new_file(folder)?;
    file.write_all(bytes)?;
    if let Some(there) = there {
        file.as_file().set_permissions(there.permissions())?;
    }
    file.persist(&target).map(drop).map_err(|why| why.error)
}

/// A temporary file in the folder of the one that it will replace. It is deleted if it does not.
fn new_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let builder = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(".kitten-bench-").tempfile_in(folder)
}

/// The reader of the standard output has closed it.
#[derive(Debug)]
pub struct Closed;

impl Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the reader of the standard output has closed it")
    }
}

impl std::error::Error for Closed {}

/// The standard output, with control characters written out.
pub struct Output<W> {
    to: W,
}

impl<W: Write> Output<W> {
    /// An output that writes to `to`.
    pub fn new(to: W) -> Output<W> {
        Output { to }
    }

    /// Writes a text and ends the line.
    ///
    /// # Errors
    /// [`Closed`]; a full disk.
    pub fn say(&mut self, text: impl Display) -> Result<()> {
        let text = text.to_string();
        let written = writeln!(self.to, "{}", plain_lines(text.trim_end_matches('\n')));
        written.and_then(|()| self.to.flush()).map_err(|why| match why.kind() {
            ErrorKind::BrokenPipe => Closed.into(),
            _ => anyhow::Error::from(why).context("cannot write to the standard output"),
        })
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    /// As for [`say`](Output::say).
    pub fn json(&mut self, of: &impl Serialize) -> Result<()> {
        self.say(serde_json::to_string_pretty(of)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and contents of the files in a folder.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries
            .map(|path| (path.file_name().unwrap().to_str().unwrap().into(), fs::read_to_string(path).unwrap()))
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_file_is_written_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"first").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(files(folder.path()), [("a".into(), "second".into())]);
        let why = format!("{:#}", write(folder.path(), b"x").unwrap_err());
        assert!(why.contains("cannot write") && why.contains("irectory"), "{why}");
        assert!(write(&folder.path().join("b/c"), b"x").is_err());
        assert_eq!(files(folder.path()), [("a".into(), "second".into())]);
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_links_files_their_mode_and_devices_devices() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        write(&path, b"first").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, b"second").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        write(Path::new("/dev/null"), b"x").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        assert!(format!("{:#}", write(Path::new("/dev/full"), b"x").unwrap_err()).contains("No space left"));
    }

    #[test]
    fn the_standard_output_is_full_closed_or_plain() {
        struct Fails(ErrorKind);
        impl Write for Fails {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert!(Output::new(Fails(ErrorKind::BrokenPipe)).say("x").unwrap_err().is::<Closed>());
        let full = Output::new(Fails(ErrorKind::StorageFull)).say("x").unwrap_err();
        assert!(format!("{full:#}").starts_with("cannot write to the standard output: "));
        let mut said = Vec::new();
        Output::new(&mut said).say("one\n\u{1b}two\n").unwrap();
        assert_eq!(said, b"one\n\\u{1b}two\n");
    }
}
