//! The step of a replay that somebody asks for, by its name.

use anyhow::{Error, anyhow};

use crate::text::plain;

/// How many steps an error names when the one asked for does not exist.
const MOST: usize = 40;

/// What is asked for, and which steps have come.
pub(super) struct Asked<'a> {
    step: Option<&'a str>,
    seen: Vec<String>,
}

impl<'a> Asked<'a> {
    /// A step by its name; without a name, the last one.
    pub(super) fn new(step: Option<&'a str>) -> Asked<'a> {
        Asked { step, seen: Vec::new() }
    }

    /// A step has come. Returns whether it is asked for.
    pub(super) fn see(&mut self, name: &str) -> bool {
        if self.seen.len() < MOST {
            self.seen.push(plain(name).to_string());
        }
        self.step.is_none_or(|step| step == name)
    }

    /// The error where nothing that was asked for came. `any` says what any step would have been.
    pub(super) fn missing(&self, any: &str) -> Error {
        let asked = self.step.map_or(format!("no {any}"), |step| format!("no step \"{}\"", plain(step)));
        anyhow!("the work has {asked}; it has {}", self.seen.join(", "))
    }
}
