//! The history: a ring of the last events, recorded on request, and the callers that allocated the
//! live blocks.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A block was allocated.
    Alloc,
    /// A block was freed.
    FreeRequested,
    /// A freed block became available again.
    FreeCompleted,
    /// Backing was mapped.
    SegmentMap,
    /// Backing was unmapped.
    SegmentUnmap,
    /// A request could not be satisfied. The event's address is the number of bytes that were free
    /// in both tiers.
    OutOfMemory,
}

/// The caller of an allocation or of a free, in whatever form the user of this crate knows it. Only
/// the events and the live blocks that name a caller hold it.
pub type Who = Arc<dyn Any + Send + Sync>;

/// For what callers are kept. Each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Names {
    /// For nothing.
    #[default]
    None,
    /// For live blocks: the caller that allocated each.
    OfBlocks,
    /// For the events of that allocation too.
    OfRequests,
    /// For the events of the free as well, with the caller that freed the block.
    OfAll,
}

/// The settings of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The most events that are kept; 0 for none.
    pub most: usize,
    /// For what callers are kept.
    pub names: Names,
    /// The actions that are left out: bit n is [`Action`] number n.
    pub skipped: u32,
}

impl Recording {
    fn wants(&self, action: Action) -> bool {
        self.most > 0 && self.skipped & (1 << action as u32) == 0
    }
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The kind of the event.
    pub action: Action,
    /// At which address.
    pub address: u64,
    /// The number of bytes: of the request, or of the backing.
    pub bytes: u64,
    /// The stream, by its handle.
    pub stream: u64,
    /// The graph pool; two zeros for none.
    pub pool: (u64, u64),
    /// The time, in microseconds since 1970.
    pub time_us: u64,
    /// The caller; `None` where the recording keeps no callers.
    pub who: Option<Who>,
}

/// The last events, and the callers that allocated the live blocks.
#[derive(Debug, Default)]
pub struct History {
    recording: Recording,
    ring: VecDeque<Event>,
    /// The callers of live blocks, by address, where they are known. They outlive the recording, as
    /// in PyTorch's own allocator.
    callers: HashMap<u64, Who>,
}

impl History {
    /// The most events that are kept, whatever is requested: 80 MiB of them.
    pub const MOST: usize = 1 << 20;

    /// Records in another way from now on. Earlier events stay, up to the new limit. O(events) if
    /// that is lower.
    pub fn record(&mut self, recording: Recording) {
        self.recording = Recording { most: recording.most.min(Self::MOST), ..recording };
        let surplus = self.ring.len().saturating_sub(self.recording.most);
        self.ring.drain(..surplus);
        if surplus > 0 {
            self.ring.shrink_to_fit();
        }
    }

    /// Whether events are recorded.
    pub fn is_on(&self) -> bool {
        self.recording.most > 0
    }

    /// Whether nothing is recorded and no caller of a live block is known, so that nothing needs to
    /// be reported here.
    pub fn is_idle(&self) -> bool {
        !self.is_on() && self.callers.is_empty()
    }

    /// Records an event, and forgets the oldest one if there are too many. O(1), amortized.
    pub fn push(&mut self, mut event: Event) {
        if !self.recording.wants(event.action) {
            return;
        }
        if self.recording.names < Names::OfRequests {
            event.who = None;
        }
        if self.ring.len() == self.recording.most {
            self.ring.pop_front();
        }
        self.ring.push_back(event);
    }

    /// A block begins to live: notes the caller that allocated it, or that the caller is unknown.
    /// O(1).
    pub fn begins(&mut self, address: u64, who: Option<Who>) {
        match who {
            Some(who) => self.callers.insert(address, who),
            None => self.callers.remove(&address),
        };
    }

    /// The caller that allocated the block at an address.
    pub fn caller(&self, address: u64) -> Option<&Who> {
        self.callers.get(&address)
    }

    /// The callers that allocated the live blocks, by address, where they are known.
    pub fn callers(&self) -> &HashMap<u64, Who> {
        &self.callers
    }

    /// A block lives no longer. Returns the caller that allocated it. O(1).
    pub fn ends(&mut self, address: u64) -> Option<Who> {
        self.callers.remove(&address)
    }

    /// The events, the oldest first.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.ring.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64, who: Option<Who>) -> Event {
        Event { action: Action::Alloc, address: number, bytes: 1, stream: 0, pool: (0, 0), time_us: number, who }
    }

    fn recording(most: usize, names: Names) -> History {
        let mut history = History::default();
        history.record(Recording { most, names, skipped: 0 });
        history
    }

    fn kept(history: &History) -> Vec<u64> {
        history.events().map(|event| event.address).collect()
    }

    #[test]
    fn the_last_events_are_kept_in_order() {
        for (most, count) in [(0, 3), (1, 5), (4, 3), (4, 4), (4, 5), (4, 11)] {
            let mut history = recording(most, Names::None);
            (0..count).for_each(|number| history.push(event(number, None)));
            let last: Vec<u64> = (count.saturating_sub(most as u64)..count).collect();
            assert_eq!(kept(&history), last, "{most} of {count}");
        }
    }

    #[test]
    fn what_is_recorded_in_another_way_goes_on() {
        let mut history = recording(4, Names::None);
        (0..7).for_each(|number| history.push(event(number, None)));
        history.record(Recording { most: 2, ..Recording::default() });
        assert_eq!(kept(&history), [5, 6]);
        history.record(Recording { most: 3, skipped: 1 << Action::Alloc as u32, ..Recording::default() });
        history.push(event(7, None));
        history.push(Event { action: Action::FreeRequested, ..event(8, None) });
        assert_eq!(kept(&history), [5, 6, 8]);
        history.record(Recording::default());
        assert_eq!(kept(&history), [0u64; 0]);
        assert!(history.is_idle());
    }

    #[test]
    fn no_more_are_kept_than_is_reasonable() {
        assert_eq!(recording(usize::MAX, Names::None).recording.most, History::MOST);
    }

    #[test]
    fn a_caller_is_held_as_long_as_an_event_or_a_live_block_names_it() {
        let mut history = recording(2, Names::OfRequests);
        let who: Who = Arc::new("somebody");
        history.begins(1, Some(who.clone()));
        history.push(event(1, Some(who.clone())));
        (2..4).for_each(|number| history.push(event(number, None)));
        assert_eq!(Arc::strong_count(&who), 2, "the block lives");
        history.record(Recording::default());
        assert!(!history.is_idle() && history.caller(1).is_some(), "the recording is over, and the block still lives");
        drop(history.ends(1));
        assert_eq!(Arc::strong_count(&who), 1);
        history.begins(1, Some(who.clone()));
        history.begins(1, None);
        assert!(history.is_idle(), "an unknown caller has the address now");
    }

    #[test]
    fn events_name_no_caller_where_only_blocks_do() {
        let mut history = recording(2, Names::OfBlocks);
        history.push(event(1, Some(Arc::new("somebody"))));
        assert!(history.events().all(|event| event.who.is_none()));
    }
}
