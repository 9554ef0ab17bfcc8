//! The other processes of this user that hold shared memory. The host's memory is promised once to
//! all of them together.
//!
//! Each process keeps one small file with the bytes that it claims, in a folder that only its user
//! can reach, and reads the files of the others when it wants more. It writes its new claim first
//! and adds up afterwards. If two processes want the last bytes at the same time, both may be
//! refused, and never are both granted. The files of processes that have ended are removed.

use std::fs;
use std::path::{Path, PathBuf};

use super::system::{private_folder, process_namespace, started};

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
        let folder = private_folder()?.join(format!("host-{}", process_namespace()?));
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

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    /// Another process, as long as this lives: this program, in a test that waits for its input.
    struct Child(process::Child);

    impl Child {
        fn start() -> Child {
            let test = format!("{}::waits_for_the_end_of_its_input", module_path!().split_once("::").unwrap().1);
            let mut command = process::Command::new(std::env::current_exe().unwrap());
            command.args(["--ignored", "--exact", &test]).stdin(process::Stdio::piped());
            Child(command.stdout(process::Stdio::null()).spawn().unwrap())
        }

        fn id(&self) -> u32 {
            self.0.id()
        }
    }

    impl Drop for Child {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            assert!(self.0.wait().unwrap().success());
        }
    }

    #[test]
    #[ignore = "another process for the tests below"]
    fn waits_for_the_end_of_its_input() {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    }

    fn neighbours(folder: &Path, process: u32) -> Neighbours {
        Neighbours::in_folder(folder.to_owned(), process).unwrap()
    }

    #[test]
    fn memory_is_promised_once_to_all_processes() {
        let folder = tempfile::tempdir().unwrap();
        let child = Child::start();
        let (mut own, mut other) =
            (neighbours(folder.path(), std::process::id()), neighbours(folder.path(), child.id()));
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
        let child = Child::start();
        let mut theirs = neighbours(folder.path(), child.id());
        assert!(theirs.claim(100, 100));
        let own = neighbours(folder.path(), std::process::id());
        assert_eq!(own.others(), 100);
        drop(child);
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
        let child = Child::start();
        let began = started(child.id()).unwrap();
        fs::write(here.join(format!("{}-{began}", child.id())), "a lot").unwrap();
        assert_eq!(own.others(), 0);
        assert_eq!(fs::read_dir(here).unwrap().count(), 7);
    }
}
