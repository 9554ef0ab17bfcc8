//! The other processes of this user that hold shared memory. The host's memory is promised once to
//! all of them together.
//!
//! Each process keeps one small file with the bytes that it claims, in a folder that only its user
//! can reach, and reads the files of the others when it wants more. It writes its new claim first
//! and adds up afterwards. If two processes want the last bytes at the same time, both may be
//! refused, and never are both granted. The files of processes that have ended are removed.

use std::fs;
use std::path::{Path, PathBuf};

/// The claims of this process and of the others.
#[derive(Debug)]
pub(crate) struct Neighbours {
    folder: PathBuf,
    own: PathBuf,
    claimed: u64,
}

impl Neighbours {
    /// The neighbours in this user's folder on this machine. `None` where the system reports
    /// nothing about processes, or where the folder cannot be trusted.
    pub(crate) fn of_this_user() -> Option<Neighbours> {
        let folder = private_folder()?.join(format!("host-{}", pid_namespace()?));
        Neighbours::in_folder(folder, std::process::id())
    }

    fn in_folder(folder: PathBuf, process: u32) -> Option<Neighbours> {
        fs::create_dir_all(&folder).ok()?;
        let own = folder.join(format!("{process}-{}", started(process)?));
        Some(Neighbours { folder, own, claimed: 0 })
    }

    /// The bytes that the other processes claim. O(processes).
    pub(crate) fn others(&self) -> u64 {
        let Ok(entries) = fs::read_dir(&self.folder) else { return 0 };
        let others = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| *path != self.own);
        others.filter_map(|path| claim_in(&path)).fold(0, u64::saturating_add)
    }

    /// Claims `bytes` in all, unless the claims of all processes together would exceed `limit`.
    /// Returns whether the claim was granted. A claim that is no larger than before always is.
    pub(crate) fn claim(&mut self, bytes: u64, limit: u64) -> bool {
        let before = self.claimed;
        self.write(bytes);
        if bytes > before && self.others().saturating_add(bytes) > limit {
            self.write(before);
            return false;
        }
        true
    }

    /// A claim that cannot be written is no reason to refuse memory. The others do not see it then.
    fn write(&mut self, bytes: u64) {
        self.claimed = bytes;
        let unfinished = self.own.with_extension("new");
        let written = fs::write(&unfinished, bytes.to_string()).and_then(|()| fs::rename(&unfinished, &self.own));
        if let Err(why) = written {
            log::debug!("{} cannot be written: {why}", self.own.display());
        }
    }
}

/// The bytes claimed in the file of a process. `None` for other files, and for those of processes
/// that have ended, which it removes.
fn claim_in(path: &Path) -> Option<u64> {
    let (process, start) = path.file_name()?.to_str()?.split_once('-')?;
    let (process, start) = (process.parse().ok()?, start.parse::<u64>().ok()?);
    if started(process) == Some(start) {
        return fs::read_to_string(path).ok()?.parse().ok();
    }
    if let Err(why) = fs::remove_file(path) {
        log::debug!("{} cannot be removed: {why}", path.display());
    }
    None
}

/// The start time of a process, in the system's ticks; `None` if it does not exist. Together with
/// the process number it identifies a process for good.
#[cfg(target_os = "linux")]
fn started(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in parentheses, may contain anything. The start time is field 22 of proc(5), the
    // 20th after the name.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn started(_process: u32) -> Option<u64> {
    None
}

/// The namespace of process numbers: those of another container name other processes.
fn pid_namespace() -> Option<String> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(link.to_str()?.chars().filter(char::is_ascii_digit).collect())
}

/// A folder that only this user can reach. Created if it is missing.
#[cfg(unix)]
fn private_folder() -> Option<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};

    // SAFETY: the function has no precondition.
    let user = unsafe { libc::geteuid() };
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let folder = match runtime {
        Some(runtime) => runtime.join("giant-kitten"),
        None => std::env::temp_dir().join(format!("giant-kitten-{user}")),
    };
    let _ = fs::DirBuilder::new().mode(0o700).create(&folder);
    // Not through a link, which another user may have put there.
    let found = fs::symlink_metadata(&folder).ok()?;
    (found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0).then_some(folder)
}

#[cfg(not(unix))]
fn private_folder() -> Option<PathBuf> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn neighbours(folder: &Path, process: u32) -> Neighbours {
        Neighbours::in_folder(folder.to_owned(), process).unwrap()
    }

    #[test]
    fn memory_is_promised_once_to_all_processes() {
        let folder = tempfile::tempdir().unwrap();
        // Two processes that surely exist: this one, and the first of the system.
        let (mut own, mut other) = (neighbours(folder.path(), std::process::id()), neighbours(folder.path(), 1));
        assert!(own.claim(60, 100) && other.claim(40, 100));
        assert_eq!((own.others(), other.others()), (40, 60));
        assert!(!own.claim(61, 100), "no more is left");
        assert_eq!(other.others(), 60, "a refused claim does not count");
        assert!(own.claim(10, 100) && other.claim(90, 100));
        assert!(own.claim(5, 0), "less is always granted");
    }

    #[test]
    fn who_has_ended_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut theirs = neighbours(folder.path(), child.id());
        assert!(theirs.claim(100, 100));
        let own = neighbours(folder.path(), std::process::id());
        assert_eq!(own.others(), 100);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((own.others(), theirs.own.exists()), (0, false));
    }

    #[test]
    fn what_is_no_claim_of_a_process_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (own, here) = (neighbours(folder.path(), std::process::id()), folder.path());
        for name in ["notes.txt", "1-", "-5", "x-y", "1-2-3"] {
            fs::write(here.join(name), "1000").unwrap();
        }
        fs::create_dir(here.join("99999999-1")).unwrap();
        let first = started(1).unwrap();
        fs::write(here.join(format!("1-{first}")), "a lot").unwrap();
        assert_eq!(own.others(), 0);
        assert_eq!(fs::read_dir(here).unwrap().count(), 7);
    }
}
