//! The processes of this user that hold shared memory, and how much: the host's memory is promised once.
//!
//! Each process keeps one small file with the bytes that it claims, in a folder that only its user can reach, and looks at
//! those of the others when it wants more. It writes its new claim first and adds up afterwards, so that of two that want
//! the last bytes at once both may be refused, and both never served. What a process that has ended left there is removed.

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
    /// Those of this user on this machine; `None` where the system tells nothing of processes, or the folder is not to be
    /// trusted.
    pub(crate) fn of_this_user() -> Option<Neighbours> {
        let folder = private_folder()?.join(format!("host-{}", pid_namespace()?));
        Neighbours::in_folder(folder, std::process::id())
    }

    fn in_folder(folder: PathBuf, process: u32) -> Option<Neighbours> {
        fs::create_dir_all(&folder).ok()?;
        let own = folder.join(format!("{process}-{}", started(process)?));
        Some(Neighbours { folder, own, claimed: 0 })
    }

    /// What the others claim, in bytes. O(processes).
    pub(crate) fn others(&self) -> u64 {
        let Ok(entries) = fs::read_dir(&self.folder) else { return 0 };
        let others = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| *path != self.own);
        others.filter_map(|path| claim_in(&path)).fold(0, u64::saturating_add)
    }

    /// Claims so many bytes in all, if those of all processes together are no more than `limit`: whether they are. A smaller
    /// claim than before is always granted.
    pub(crate) fn claim(&mut self, bytes: u64, limit: u64) -> bool {
        let before = self.claimed;
        self.write(bytes);
        if bytes > before && self.others().saturating_add(bytes) > limit {
            self.write(before);
            return false;
        }
        true
    }

    /// What cannot be written is no reason to refuse memory: then the others do not know of it.
    fn write(&mut self, bytes: u64) {
        self.claimed = bytes;
        let unfinished = self.own.with_extension("new");
        let written = fs::write(&unfinished, bytes.to_string()).and_then(|()| fs::rename(&unfinished, &self.own));
        if let Err(why) = written {
            log::debug!("{} cannot be written: {why}", self.own.display());
        }
    }
}

/// What the file of a process claims; `None` for other files, and for those of processes that have ended, which it removes.
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

/// When a process was started, in the system's ticks: with the number, it names a process for good. `None` where there is none.
#[cfg(target_os = "linux")]
fn started(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in brackets, may hold anything. The start is the 22nd field of proc(5), the 20th behind the name.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn started(_process: u32) -> Option<u64> {
    None
}

/// Where process numbers are counted from: those of another container mean other processes.
fn pid_namespace() -> Option<String> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(link.to_str()?.chars().filter(char::is_ascii_digit).collect())
}

/// A folder that nobody but this user can reach, made if it is not there.
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
    // Not through a link: somebody else may have put one there.
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
        // Two processes that are certainly there: this one, and the first of all.
        let (mut own, mut other) = (neighbours(folder.path(), std::process::id()), neighbours(folder.path(), 1));
        assert!(own.claim(60, 100) && other.claim(40, 100));
        assert_eq!((own.others(), other.others()), (40, 60));
        assert!(!own.claim(61, 100), "there is no more");
        assert_eq!(other.others(), 60, "and what was refused is not claimed");
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
