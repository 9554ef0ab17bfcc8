//! The timeline: when each piece of work begins and ends, by the model of [`time`](crate::time).
//!
//! Each stream has a compute engine of its own. All of them share the link, which is as fast in one
//! direction whatever the other does. A kernel computes first and then reads and writes the shared
//! tier over the link. A copy over the link occupies it for all of its time. Work that finds the
//! link busy waits for the gaps between what was queued before.

use std::collections::HashMap;

use crate::profile::Profile;
use crate::time::Load;

/// Stretches of time that are remembered. A program that never waits would fill the memory.
const MOST_STRETCHES: usize = 1 << 14;

/// One direction of the link: the stretches of time in which it is busy, in order.
#[derive(Debug, Default)]
struct Link {
    busy: Vec<(f64, f64)>,
    seconds: f64,
}

impl Link {
    /// Takes the link for `seconds` from a time on, in the gaps that are there. Returns when that
    /// is done. O(stretches after that time).
    fn take(&mut self, from: f64, seconds: f64) -> f64 {
        if seconds <= 0.0 {
            return from;
        }
        self.seconds += seconds;
        let mut left = seconds;
        let mut at = from;
        let mut index = self.busy.partition_point(|(_, end)| *end <= from);
        loop {
            match self.busy.get(index).copied() {
                Some((start, end)) if start <= at => {
                    at = at.max(end);
                    index += 1;
                }
                Some((start, _)) if start - at < left => {
                    left -= start - at;
                    self.busy.insert(index, (at, start));
                    at = start;
                    index += 1;
                }
                _ => {
                    self.busy.insert(index, (at, at + left));
                    if self.busy.len() > MOST_STRETCHES {
                        self.busy.drain(..MOST_STRETCHES / 2);
                    }
                    return at + left;
                }
            }
        }
    }

    /// Forgets what is over.
    fn forget(&mut self, before: f64) {
        self.busy.retain(|(_, end)| *end > before);
    }
}

/// Sums over a timeline, in seconds. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// When the last work ends.
    pub end: f64,
    /// How long streams have waited for events.
    pub waited: f64,
    /// How long the link to the device was busy.
    pub link_to_device: f64,
    /// How long the link to the host was busy.
    pub link_to_host: f64,
}

/// What has been queued, and when it is done.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    /// When each stream's last work ends.
    streams: HashMap<u64, f64>,
    /// When the work before each event's last record ends.
    events: HashMap<u64, f64>,
    to_device: Link,
    to_host: Link,
    /// Nothing that is queued from now on begins earlier: the host has waited until then.
    host: f64,
    end: f64,
    waited: f64,
}

impl Timeline {
    fn stream(&self, stream: u64) -> f64 {
        self.streams.get(&stream).copied().unwrap_or(0.0).max(self.host)
    }

    fn set(&mut self, stream: u64, until: f64) {
        self.streams.insert(stream, until);
        self.end = self.end.max(until);
    }

    /// Queues a kernel.
    pub(crate) fn kernel(&mut self, stream: u64, profile: &Profile, load: &Load) {
        let computed = self.stream(stream) + profile.compute_seconds(load);
        let until = self.cross(computed, profile, load);
        self.set(stream, until);
    }

    /// Queues a copy. The copy engine reads one side while it writes the other, so a copy over the
    /// link takes the link's time.
    pub(crate) fn copy(&mut self, stream: u64, profile: &Profile, load: &Load) {
        let start = self.stream(stream);
        let is_local = load.link_to_device + load.link_to_host == 0.0;
        let until = if is_local { start + profile.compute_seconds(load) } else { self.cross(start, profile, load) };
        self.set(stream, until);
    }

    /// Takes the link to the device and then to the host, from a time on. Returns when that is
    /// done.
    fn cross(&mut self, from: f64, profile: &Profile, load: &Load) -> f64 {
        let read = self.to_device.take(from, load.link_to_device / profile.link_to_device);
        self.to_host.take(read, load.link_to_host / profile.link_to_host)
    }

    /// An event is recorded behind all work in a stream.
    pub(crate) fn record(&mut self, event: u64, stream: u64) -> f64 {
        let now = self.stream(stream);
        self.events.insert(event, now);
        now
    }

    /// An event is recorded behind all work.
    pub(crate) fn record_all(&mut self, event: u64) -> f64 {
        self.events.insert(event, self.end);
        self.end
    }

    /// Later work in a stream waits for an event.
    pub(crate) fn wait(&mut self, stream: u64, event: u64) {
        let Some(until) = self.events.get(&event).copied() else { return };
        let now = self.stream(stream);
        if until > now {
            self.waited += until - now;
            self.set(stream, until);
        }
    }

    /// The host has waited for everything.
    pub(crate) fn synchronize(&mut self) {
        self.host = self.end;
        self.to_device.forget(self.host);
        self.to_host.forget(self.host);
    }

    /// A stream or an event is gone.
    pub(crate) fn forget_stream(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    pub(crate) fn forget_event(&mut self, event: u64) {
        self.events.remove(&event);
    }

    pub(crate) fn sums(&self) -> Sums {
        Sums {
            end: self.end,
            waited: self.waited,
            link_to_device: self.to_device.seconds,
            link_to_host: self.to_host.seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A card that computes a byte in a second, and copies two.
    fn card() -> Profile {
        let card = Profile::builtin("nominal-6g").unwrap();
        Profile { vram_bandwidth: 1.0, fp16_rate: 1e30, link_to_device: 2.0, link_to_host: 2.0, ..card }
    }

    fn work(bytes: f64, link_to_device: f64) -> Load {
        Load { bytes, link_to_device, ..Load::default() }
    }

    #[test]
    fn one_stream_takes_the_sum() {
        let mut line = Timeline::default();
        line.kernel(0, &card(), &Load { bytes: 3.0, link_to_device: 4.0, link_to_host: 2.0, flops: 0.0 });
        line.kernel(0, &card(), &work(1.0, 0.0));
        assert_eq!(line.sums(), Sums { end: 7.0, waited: 0.0, link_to_device: 2.0, link_to_host: 1.0 });
    }

    #[test]
    fn copies_overlap_work_and_events_order_them() {
        let mut line = Timeline::default();
        for _ in 0..3 {
            line.copy(1, &card(), &work(0.0, 4.0));
            line.record(9, 1);
            line.wait(0, 9);
            line.kernel(0, &card(), &work(3.0, 0.0));
        }
        assert_eq!(line.sums().end, 2.0 + 3.0 * 3.0, "the first copy is waited for");
        assert_eq!(line.sums().waited, 2.0);
    }

    #[test]
    fn the_link_is_shared_in_its_gaps() {
        let mut line = Timeline::default();
        line.kernel(0, &card(), &work(10.0, 0.0));
        line.record(9, 0);
        line.wait(1, 9);
        line.copy(1, &card(), &work(0.0, 8.0));
        line.kernel(2, &card(), &work(7.0, 10.0));
        assert_eq!(line.record(8, 2), 16.0, "three before the copy, two behind it");
        assert_eq!(line.sums().link_to_device, 9.0);
    }

    #[test]
    fn nothing_begins_before_the_host_has_waited() {
        let mut line = Timeline::default();
        line.kernel(0, &card(), &work(5.0, 0.0));
        line.synchronize();
        line.kernel(1, &card(), &work(1.0, 0.0));
        assert_eq!(line.sums().end, 6.0);
    }
}
