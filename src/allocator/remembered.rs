//! The findings of a program's runs, remembered for its next start: one small file for each program
//! and card.
//!
//! ```text
//!   giant-kitten 1                any other first line makes the file a foreign one
//!   program /home/me/generate.py
//!   card NVIDIA GeForce RTX 2060
//!   capacity 5583457484           of the dedicated tier; the file is stale if it is another now
//!   reserve 1363148800
//!   resident 6014152704
//!   spill 117440512 469762048     blocks above this size are shared while it loads, and this many
//!                                 bytes of the blocks of just this size
//! ```
//!
//! A file in any other form is ignored, and a warning says so. A new file replaces the old one
//! whole or not at all.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::core::policy::{Spill, Wanted};

const FIRST_LINE: &str = "giant-kitten 1";
const ENDING: &str = "remembered";

/// The place where the findings about one program on one card are remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    folder: PathBuf,
    program: String,
    card: String,
}

impl Place {
    /// The place for this program. `None` where the program has no name (a line of code, a prompt),
    /// or the user has no folder.
    pub(crate) fn of_this_program(card: &str) -> Option<Place> {
        let program = program_of(std::env::args_os().collect(), std::env::current_exe().ok()?)?;
        Some(Place { folder: folder()?, program, card: one_line(card) })
    }

    fn file(&self) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (&self.program, &self.card).hash(&mut hasher);
        let name: String =
            Path::new(&self.program).file_stem().map_or("program".into(), |name| name.to_string_lossy().into());
        let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect();
        self.folder.join(format!("{plain}-{:016x}.{ENDING}", hasher.finish()))
    }

    /// The remembered findings, where the dedicated tier holds `capacity` bytes. Warns about a file
    /// that is of no use.
    pub(crate) fn read(&self, capacity: u64) -> Option<Wanted> {
        let file = self.file();
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return None,
            Err(why) => {
                log::warn!("{} is ignored: {why}", file.display());
                return None;
            }
        };
        let understood = self.parse(&text).and_then(|found| fits(found, capacity));
        understood.inspect_err(|why| log::warn!("{} is ignored: {why}", file.display())).ok()
    }

    fn parse(&self, text: &str) -> Result<Wanted, String> {
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return Err(format!("its first line is not \"{FIRST_LINE}\""));
        }
        let mut value = |name: &str| {
            let line = lines.next().unwrap_or_default();
            line.strip_prefix(name)
                .and_then(|rest| rest.strip_prefix(' '))
                .ok_or(format!("it has no line \"{name} …\""))
        };
        let (program, card) = (value("program")?, value("card")?);
        if program != self.program || card != self.card {
            return Err(format!("it belongs to {program} on {card}"));
        }
        let mut number =
            |name: &str| value(name)?.parse().map_err(|_| format!("its line \"{name}\" is not a number of bytes"));
        let (capacity, reserve, resident) = (number("capacity")?, number("reserve")?, number("resident")?);
        let sizes =
            value("spill")?.split_once(' ').and_then(|(above, at)| Some((above.parse().ok()?, at.parse().ok()?)));
        let (above, at) = sizes.ok_or("its line \"spill\" is not two numbers of bytes")?;
        Ok(Wanted { capacity, reserve, resident, spill: Spill { above, at } })
    }

    /// Remembers the findings of a run. With `None`, forgets the earlier ones.
    pub(crate) fn write(&self, found: Option<Wanted>) -> std::io::Result<()> {
        let file = self.file();
        let Some(Wanted { capacity, reserve, resident, spill }) = found else {
            return match fs::remove_file(file) {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why),
                _ => Ok(()),
            };
        };
        fs::create_dir_all(&self.folder)?;
        let text = format!(
            "{FIRST_LINE}\nprogram {}\ncard {}\ncapacity {capacity}\nreserve {reserve}\nresident {resident}\nspill {} {}\n",
            self.program, self.card, spill.above, spill.at
        );
        // If two runs end at the same time, each writes its own file, and the last one stays.
        let unfinished = file.with_extension(format!("new-{}", std::process::id()));
        let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &file));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}

/// Forgets what is remembered about all programs, or about one. Returns the number of files.
pub(crate) fn forget(program: Option<&str>) -> std::io::Result<usize> {
    let Some(folder) = folder() else { return Ok(0) };
    let entries = match fs::read_dir(folder) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let program = program.map(|program| absolute(Path::new(program)));
    let mut count = 0;
    for entry in entries {
        let path = entry?.path();
        let is_ours = path.extension().is_some_and(|ending| ending == ENDING);
        let names_it = |program: &String| {
            let text = fs::read_to_string(&path).unwrap_or_default();
            text.lines().any(|line| line.strip_prefix("program ") == Some(program))
        };
        if is_ours && program.as_ref().is_none_or(names_it) {
            fs::remove_file(&path)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Whether the findings are about a card as large as this one.
fn fits(found: Wanted, capacity: u64) -> Result<Wanted, String> {
    let differs = found.capacity.abs_diff(capacity) > capacity / 10;
    if differs || found.reserve > capacity {
        let (then, now) = (crate::core::show_size(found.capacity), crate::core::show_size(capacity));
        return Err(format!("the card had {then} then, and has {now} now"));
    }
    Ok(found)
}

fn folder() -> Option<PathBuf> {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = given("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| given("LOCALAPPDATA"))
        .or_else(|| Some(given("HOME")?.join(".cache")))?;
    Some(cache.join("giant-kitten").join("remembered"))
}

/// The program that a process runs, by its arguments: the script or module of a Python, or else the
/// executable.
fn program_of(arguments: Vec<OsString>, executable: PathBuf) -> Option<String> {
    // Windows takes names in any case.
    let name = executable.file_stem()?.to_string_lossy().to_ascii_lowercase();
    if !name.starts_with("python") && !name.starts_with("pypy") {
        return Some(absolute(&executable));
    }
    let mut rest = arguments.into_iter().skip(1);
    let found = named_in(&mut rest, &["-W", "-X", "--check-hash-based-pycs"])?;
    if found != "-m giant_kitten" && Path::new(&found).file_stem().is_none_or(|stem| stem != "giant-kitten") {
        return Some(found);
    }
    // Our own command runs other programs in its process, and each has a reserve of its own.
    match rest.next()?.to_str() {
        Some("run" | "monitor") => named_in(&mut rest, &["--options", "--port"]),
        _ => None,
    }
}

/// The first script or module in arguments. Options in `with_values` have a value of their own.
fn named_in(rest: &mut impl Iterator<Item = OsString>, with_values: &[&str]) -> Option<String> {
    while let Some(argument) = rest.next() {
        match &*argument.to_string_lossy() {
            "-m" => return rest.next().map(|module| format!("-m {}", one_line(&module.to_string_lossy()))),
            "-c" | "-" => return None,
            option if with_values.contains(&option) => drop(rest.next()),
            option if option.starts_with('-') => {}
            script => return Some(absolute(Path::new(script))),
        }
    }
    None
}

fn absolute(path: &Path) -> String {
    let found = path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned());
    one_line(&found.to_string_lossy())
}

/// Replaces control characters: a name can contain anything, and a line ends at a line break.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: Wanted =
        Wanted { capacity: 6000, reserve: 1300, resident: 7000, spill: Spill { above: 100, at: 700 } };

    fn place(folder: &Path) -> Place {
        Place { folder: folder.join("new/one"), program: "/a b/generate.py".into(), card: "a card".into() }
    }

    #[test]
    fn what_was_found_is_there_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        assert_eq!(place.read(6000), None);
        place.write(Some(FOUND)).unwrap();
        assert_eq!(place.read(6100), Some(FOUND));
        let other = Place { card: "another".into(), ..place.clone() };
        assert_eq!(other.read(6000), None);
        place.write(None).unwrap();
        place.write(None).unwrap();
        assert_eq!((place.read(6000), fs::read_dir(&place.folder).unwrap().count()), (None, 0));
    }

    #[test]
    fn what_is_corrupt_foreign_or_stale_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        place.write(Some(FOUND)).unwrap();
        let text = fs::read_to_string(place.file()).unwrap();
        assert_eq!((place.read(3000), place.read(60_000)), (None, None), "another card");
        for cut in 0..text.len() - 1 {
            fs::write(place.file(), &text[..cut]).unwrap();
            let found = place.read(6000);
            assert!(
                found.is_none_or(|found| found.capacity == 6000 && found.resident == 7000 && found.spill.at < 700),
                "{cut}: {found:?}"
            );
        }
        for (from, to) in
            [("giant-kitten 1", "giant-kitten 2"), ("generate", "other"), ("1300", "-1"), ("1300", "1e3"), ("\n", "\0")]
        {
            fs::write(place.file(), text.replace(from, to)).unwrap();
            assert_eq!(place.read(6000), None, "{from} {to}");
        }
        fs::write(place.file(), [0xff, 0xfe]).unwrap();
        assert_eq!(place.read(6000), None);
        fs::remove_file(place.file()).unwrap();
        fs::create_dir(place.file()).unwrap();
        assert_eq!(place.read(6000), None);
        assert!(place.write(Some(FOUND)).is_err());
        assert_eq!(fs::read_dir(&place.folder).unwrap().count(), 1, "no unfinished file is left");
    }

    #[test]
    fn programs_have_names() {
        let absolute = |path: &str| Some(std::path::absolute(path).unwrap().to_str().unwrap().to_owned());
        let of = |arguments: &[&str]| {
            program_of(arguments.iter().map(OsString::from).collect(), "/usr/bin/python3.11".into())
        };
        assert_eq!(of(&["python", "-u", "-W", "ignore", "/no/such.py", "--seed", "1"]), absolute("/no/such.py"));
        assert_eq!(of(&["python", "-m", "webui", "x"]), Some("-m webui".into()));
        assert_eq!((of(&["python", "-c", "print()"]), of(&["python"]), of(&["python", "-"])), (None, None, None));
        for start in [&["python", "-m", "giant_kitten"][..], &["python", "/no/bin/giant-kitten"]] {
            let by_command = |arguments: &[&str]| of(&[start, arguments].concat());
            assert_eq!(by_command(&["run", "--options", "reserve:remembered", "/a.py", "-m"]), absolute("/a.py"));
            assert_eq!(by_command(&["monitor", "--port", "1", "-m", "a.b", "c"]), Some("-m a.b".into()));
            assert_eq!((by_command(&["stats"]), by_command(&["monitor"]), by_command(&[])), (None, None, None));
        }
        let arguments = ["PYTHON.EXE", "/no/such.py"].map(OsString::from).to_vec();
        assert_eq!(program_of(arguments, "/no/PYTHON.EXE".into()), absolute("/no/such.py"));
        assert_eq!(program_of(vec![], "/no/such/bench".into()), absolute("/no/such/bench"));
        assert_eq!(one_line("a\nreserve 5"), "a\u{fffd}reserve 5");
    }
}
