//! Events of one kind: those that nothing waits for are kept for reuse.

use std::sync::Arc;

use crate::driver::{self, Driver, Event, Stream};

/// A supply of events, or of timers, on one device.
#[derive(Debug)]
pub(super) struct Events {
    driver: Arc<dyn Driver>,
    device: usize,
    /// Whether they keep the time.
    are_timers: bool,
    spare: Vec<Event>,
}

impl Events {
    /// Events that keep no time.
    pub(super) fn new(driver: Arc<dyn Driver>, device: usize) -> Events {
        Events { driver, device, are_timers: false, spare: Vec::new() }
    }

    /// Events that keep the time of their records.
    pub(super) fn timers(driver: Arc<dyn Driver>, device: usize) -> Events {
        Events { are_timers: true, ..Events::new(driver, device) }
    }

    /// An event, a used one if there is one.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn take(&mut self) -> driver::Result<Event> {
        match self.spare.pop() {
            Some(event) => Ok(event),
            None if self.are_timers => self.driver.create_timer(self.device),
            None => self.driver.create_event(self.device),
        }
    }

    /// An event behind all work that is in a stream now.
    ///
    /// # Errors
    /// The driver's.
    pub(super) fn record(&mut self, stream: Stream) -> driver::Result<Event> {
        let event = self.take()?;
        match self.driver.record(self.device, event, stream) {
            Ok(()) => Ok(event),
            Err(why) => {
                self.recycle(event);
                Err(why)
            }
        }
    }

    /// Keeps an event for reuse.
    pub(super) fn recycle(&mut self, event: Event) {
        self.spare.push(event);
    }

    /// Destroys the events kept for reuse. Errors are only logged.
    pub(super) fn close(&mut self) {
        for event in self.spare.drain(..) {
            if let Err(why) = driver::insist(|| self.driver.destroy_event(self.device, event)) {
                log::debug!("an event could not be destroyed: {why}");
            }
        }
    }
}
