//! What happened, in order: a ring of the last events, kept while somebody wants them; and who asked for what lives.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

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

/// Who did something, as the caller knows it. Each event and each live block that names somebody holds it; nothing else does.
pub type Who = Arc<dyn Any + Send + Sync>;

/// Who is kept with what. Each keeps all that those before it keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Names {
    /// Nobody is.
    #[default]
    None,
    /// Who asked for it, with each live block.
    OfBlocks,
    /// The same, with each event of the block too.
    OfRequests,
    /// Who gave a block back, with the events of that.
    OfAll,
}

/// What is to be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The most events that are kept; 0 for none.
    pub most: usize,
    /// Who is kept with what.
    pub names: Names,
    /// The actions that are left out: of [`Action`] number n, bit n.
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
    /// What happened.
    pub action: Action,
    /// Where.
    pub address: u64,
    /// To how many bytes: what was asked for, or the length of the backing.
    pub bytes: u64,
    /// On which stream, by its handle.
    pub stream: u64,
    /// In which graph pool; two zeros for none.
    pub pool: (u64, u64),
    /// When: microseconds since 1970.
    pub time_us: u64,
    /// Who did it; `None` where nobody wanted to know.
    pub who: Option<Who>,
}

/// The last events, and who asked for the blocks that live.
#[derive(Debug, Default)]
pub struct History {
    recording: Recording,
    ring: VecDeque<Event>,
    /// By the addresses of live blocks, of those whose askers are known. They outlive the recording, as in PyTorch's own.
    askers: HashMap<u64, Who>,
}

impl History {
    /// The most events that are kept, whatever is asked for: 80 MiB of them.
    pub const MOST: usize = 1 << 20;

    /// Records in another way from now on. Events that were recorded before are kept, as many as may be, unless there are to be none.
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

    /// Whether nothing is recorded and nothing is known of any live block: then nobody has to tell of anything.
    pub fn is_idle(&self) -> bool {
        !self.is_on() && self.askers.is_empty()
    }

    /// Keeps an event, and forgets the oldest if there are too many. O(1), amortized.
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

    /// Says who asked for a block that lives from now on.
    pub fn begins(&mut self, address: u64, who: Option<Who>) {
        match who {
            Some(who) => self.askers.insert(address, who),
            None => self.askers.remove(&address),
        };
    }

    /// Who asked for the block at an address.
    pub fn asker(&self, address: u64) -> Option<&Who> {
        self.askers.get(&address)
    }

    /// Who asked for the blocks that live, by their addresses, as far as it is known.
    pub fn askers(&self) -> &HashMap<u64, Who> {
        &self.askers
    }

    /// Says that a block lives no more; returns who asked for it.
    pub fn ends(&mut self, address: u64) -> Option<Who> {
        self.askers.remove(&address)
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
    fn somebody_is_held_as_long_as_an_event_or_a_live_block_names_them() {
        let mut history = recording(2, Names::OfRequests);
        let who: Who = Arc::new("somebody");
        history.begins(1, Some(who.clone()));
        history.push(event(1, Some(who.clone())));
        (2..4).for_each(|number| history.push(event(number, None)));
        assert_eq!(Arc::strong_count(&who), 2, "the block lives");
        history.record(Recording::default());
        assert!(!history.is_idle() && history.asker(1).is_some(), "the recording is over, and the block still lives");
        drop(history.ends(1));
        assert_eq!(Arc::strong_count(&who), 1);
        history.begins(1, Some(who.clone()));
        history.begins(1, None);
        assert!(history.is_idle(), "somebody unknown has the address now");
    }

    #[test]
    fn events_name_nobody_where_blocks_alone_are_to() {
        let mut history = recording(2, Names::OfBlocks);
        history.push(event(1, Some(Arc::new("somebody"))));
        assert!(history.events().all(|event| event.who.is_none()));
    }
}
