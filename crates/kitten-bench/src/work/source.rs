//! Where a replay gets its events from.

use anyhow::Result;

use super::trace::{Event, Trace, kind_of};

/// A stream of events to replay.
pub trait Source {
    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// An event that is wrong.
    fn next_event(&mut self) -> Result<Option<Event>>;
    /// Where in the input we are, for error messages.
    fn at(&self) -> String;
    /// The name of the work.
    fn name(&self) -> &str;
    /// Which kind of work a phase is: the trace, and the phase's name without a number.
    fn kind(&self, phase: &str) -> String;
    /// How many times the whole of the work has been done before.
    fn generation(&self) -> u64;
}

impl Source for Trace {
    fn next_event(&mut self) -> Result<Option<Event>> {
        Trace::next_event(self)
    }

    fn at(&self) -> String {
        Trace::at(self)
    }

    fn name(&self) -> &str {
        Trace::name(self)
    }

    fn kind(&self, phase: &str) -> String {
        kind_of(phase).to_owned()
    }

    fn generation(&self) -> u64 {
        0
    }
}
