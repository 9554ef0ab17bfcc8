//! What happened, in order: a ring of the last events, kept while somebody wants them.

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A block was given out.
    Alloc,
    /// A block was given back.
    FreeRequested,
    /// A block that was given back can be given out again.
    FreeCompleted,
    /// Addresses got backing.
    SegmentMap,
    /// Addresses lost their backing.
    SegmentUnmap,
    /// A request could not be satisfied. The address is what was free in both tiers.
    OutOfMemory,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub action: Action,
    /// Where.
    pub address: u64,
    /// To how many bytes: what was asked for, or the length of the backing.
    pub bytes: u64,
    /// On which stream, by its handle.
    pub stream: u64,
    /// When: microseconds since 1970.
    pub time_us: u64,
    /// Who did it, by a number of the caller's; 0 for nobody knows.
    pub stack: u64,
}

/// The last events.
#[derive(Clone, Debug)]
pub struct History {
    ring: Vec<Event>,
    next: usize,
    most: usize,
}

impl History {
    /// The most events that are kept, whatever is asked for: 48 MiB of them.
    pub const MOST: usize = 1 << 20;

    /// One that keeps the last `most` events, but no more than [`MOST`](History::MOST). Room is taken as it is needed.
    pub fn new(most: usize) -> History {
        History { ring: Vec::new(), next: 0, most: most.clamp(1, Self::MOST) }
    }

    /// Keeps an event, and forgets the oldest if there are too many. O(1), amortized.
    pub fn push(&mut self, event: Event) {
        if self.ring.len() < self.most {
            self.ring.push(event);
        } else {
            self.ring[self.next] = event;
            self.next = (self.next + 1) % self.most;
        }
    }

    /// The events, the oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        let (newer, older) = self.ring.split_at(self.next);
        older.iter().chain(newer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> Event {
        Event { action: Action::Alloc, address: number, bytes: 1, stream: 0, time_us: number, stack: 0 }
    }

    #[test]
    fn the_last_events_are_kept_in_order() {
        for (most, count) in [(1, 5), (4, 3), (4, 4), (4, 5), (4, 11)] {
            let mut history = History::new(most);
            (0..count).for_each(|number| history.push(event(number)));
            let kept: Vec<u64> = history.events().map(|event| event.address).collect();
            assert_eq!(kept, (count.saturating_sub(most as u64)..count).collect::<Vec<_>>(), "{most} of {count}");
        }
    }

    #[test]
    fn no_more_are_kept_than_is_reasonable() {
        assert_eq!(History::new(usize::MAX).most, History::MOST);
        assert_eq!(History::new(0).most, 1);
    }
}
