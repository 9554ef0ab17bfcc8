//! The step or the phase of a replay that somebody asks for, by its name.

use anyhow::{Error, anyhow};

use crate::text::plain;

/// How many names an error lists when the one asked for does not exist.
const MOST: usize = 40;

/// What is asked for, and what has come.
pub(super) struct Asked<'a> {
    /// What has such names: "step" or "phase".
    what: &'static str,
    name: Option<&'a str>,
    seen: Vec<String>,
    /// How many came beyond those that an error lists.
    more: u64,
}

impl<'a> Asked<'a> {
    /// A step or a phase by its name; without a name, any.
    pub(super) fn new(what: &'static str, name: Option<&'a str>) -> Asked<'a> {
        Asked { what, name, seen: Vec::new(), more: 0 }
    }

    /// One has come. Returns whether it is asked for.
    pub(super) fn see(&mut self, name: &str) -> bool {
        if self.seen.len() < MOST {
            self.seen.push(plain(name).to_string());
        } else {
            self.more += 1;
        }
        self.name.is_none_or(|asked| asked == name)
    }

    /// The error where nothing that was asked for came. `any` says what any would have been.
    pub(super) fn missing(&self, any: &str) -> Error {
        let asked = self.name.map_or(format!("no {any}"), |name| format!("no {} \"{}\"", self.what, plain(name)));
        let more = if self.more > 0 { format!(" and {} more", self.more) } else { String::new() };
        anyhow!("the work has {asked}; it has {}{more}", self.seen.join(", "))
    }
}
