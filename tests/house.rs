//! The floors of the house: each knows only those below it.

mod root;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use root::root;

/// Each floor, and the others that its files may name.
const FLOORS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("platform", &[]),
    ("error.rs", &["core", "driver"]),
    ("sync", &["core"]),
    ("driver", &["core", "error", "platform"]),
    ("heap", &["core", "driver", "error", "platform", "sync"]),
    ("allocator", &["core", "driver", "error", "heap", "platform", "sync"]),
    ("abi", &["allocator", "core", "driver", "error", "heap", "platform", "sync"]),
];

/// Files that several floors share without being one.
const NO_FLOORS: &[&str] = &["lib.rs"];

fn files_under(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_path_buf()];
    }
    let entries = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|entry| files_under(&entry)).filter(|file| file.extension().is_some_and(|e| e == "rs")).collect()
}

/// The floors that a text names by `crate::`, with the line in which it does.
fn named(text: &str) -> BTreeMap<String, String> {
    let mut floors = BTreeMap::new();
    for line in text.lines() {
        for part in line.split("crate::").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            floors.insert(name, line.trim().to_owned());
        }
    }
    floors
}

#[test]
fn a_floor_names_only_floors_below_it() {
    let source = root().join("src");
    let mut wrong = Vec::new();
    for (floor, below) in FLOORS {
        let own = floor.trim_end_matches(".rs");
        for file in files_under(&source.join(floor)) {
            for (name, line) in named(&fs::read_to_string(&file).unwrap()) {
                if name != own && !below.contains(&name.as_str()) {
                    wrong.push(format!("{}: {line}", file.strip_prefix(&source).unwrap().display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these lines name a floor that theirs may not know:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_belongs_to_a_floor() {
    let source = root().join("src");
    for entry in fs::read_dir(&source).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_known = FLOORS.iter().any(|(floor, _)| *floor == name) || NO_FLOORS.contains(&name.as_str());
        assert!(is_known, "src/{name} is not a floor that this test knows: add it where it belongs");
    }
}

#[test]
fn a_name_is_found_wherever_it_stands() {
    let floors = named("use crate::core::{A, B};\nlet x = crate::heap::y(crate::sync::Z);\n// nothing here");
    assert_eq!(floors.keys().map(String::as_str).collect::<Vec<_>>(), ["core", "heap", "sync"]);
}
