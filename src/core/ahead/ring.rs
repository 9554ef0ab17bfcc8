//! The ring: slots in a circle of bytes, each for one weight, in the order in which they are used.
//!
//! ```text
//!          oldest                         newest
//!   ───────┬────────┬──────┬───────┬────────┬──────────▶  positions only grow
//!          │ given  │ kept │ lent  │ filled │ free
//!          │ back   │      │       │        │
//! ```
//!
//! A position is an offset that goes on growing around the circle; its place is the position modulo
//! the length. A slot may lie across the end of the circle: the ring is mapped twice in a row.

use std::collections::VecDeque;

/// A slot, by the position where it begins. No two slots ever begin at the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u64);

#[derive(Clone, Copy, Debug)]
struct Slot {
    at: u64,
    bytes: u64,
    is_free: bool,
}

/// A ring of slots. All figures are bytes.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    length: u64,
    /// Where the next slot begins.
    head: u64,
    /// The slots that are in use, and those given back that lie between them, by position.
    slots: VecDeque<Slot>,
    /// Slots that are in use for nobody knows how long. New ones are placed around them.
    kept: Vec<Slot>,
}

impl Ring {
    /// An empty ring.
    pub fn new(length: u64) -> Ring {
        Ring { length, ..Ring::default() }
    }

    /// The length of the circle.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of the slots that are in use.
    pub fn used(&self) -> u64 {
        self.slots.iter().filter(|slot| !slot.is_free).chain(&self.kept).map(|slot| slot.bytes).sum()
    }

    /// Where a slot lies in the circle.
    pub fn offset(&self, slot: SlotId) -> u64 {
        slot.0 % self.length
    }

    /// A slot of `bytes` at the head, if it is free. O(kept slots), amortized.
    pub fn admit(&mut self, bytes: u64) -> Option<SlotId> {
        while self.slots.front().is_some_and(|slot| slot.is_free) {
            self.slots.pop_front();
        }
        if bytes == 0 || bytes > self.length {
            return None;
        }
        let at = self.around_kept(bytes)?;
        let oldest = self.slots.front().map_or(at, |slot| slot.at);
        if at + bytes - oldest > self.length {
            return None;
        }
        self.slots.push_back(Slot { at, bytes, is_free: false });
        self.head = at + bytes;
        Some(SlotId(at))
    }

    /// The first position from the head on where `bytes` touch no kept slot.
    fn around_kept(&self, bytes: u64) -> Option<u64> {
        let mut at = self.head;
        while let Some(kept) = self.kept.iter().find(|kept| self.overlap(at, bytes, kept)) {
            let step = (kept.at + kept.bytes + self.length - at % self.length) % self.length;
            at += step;
            if step == 0 || at - self.head > self.length {
                return None;
            }
        }
        Some(at)
    }

    /// Whether a stretch and a slot share a byte of the circle.
    fn overlap(&self, at: u64, bytes: u64, slot: &Slot) -> bool {
        let (from, to) = (at % self.length, slot.at % self.length);
        let ahead = |from: u64, to: u64| (to + self.length - from) % self.length;
        ahead(from, to) < bytes || ahead(to, from) < slot.bytes
    }

    /// Begins again at the start of the circle, if no slot is in use except kept ones: a pass then
    /// puts its weights where the last one did.
    pub fn start_over(&mut self) {
        if self.length > 0 && self.slots.iter().all(|slot| slot.is_free) {
            self.slots.clear();
            self.head = self.head.next_multiple_of(self.length);
        }
    }

    /// Gives a slot back. Its bytes may be used again once all slots before it are given back.
    pub fn give_back(&mut self, id: SlotId) {
        if let Ok(index) = self.slots.binary_search_by_key(&id.0, |slot| slot.at) {
            self.slots[index].is_free = true;
        }
        self.kept.retain(|slot| slot.at != id.0);
    }

    /// Keeps a slot out of the way: nobody knows when it is given back.
    pub fn keep(&mut self, id: SlotId) {
        if let Ok(index) = self.slots.binary_search_by_key(&id.0, |slot| slot.at)
            && !self.slots[index].is_free
        {
            self.kept.push(self.slots[index]);
            self.slots[index].is_free = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_follow_each_other_around_the_circle() {
        let mut ring = Ring::new(10);
        let [a, b] = [4, 4].map(|bytes| ring.admit(bytes).unwrap());
        assert_eq!((ring.offset(a), ring.offset(b), ring.admit(4)), (0, 4, None));
        ring.give_back(b);
        assert_eq!(ring.admit(4), None, "the oldest is still there");
        ring.give_back(a);
        let c = ring.admit(4).unwrap();
        assert_eq!((c, ring.offset(c)), (SlotId(8), 8), "across the end");
        assert_eq!((ring.admit(7), ring.admit(11), ring.admit(0)), (None, None, None));
        assert_eq!(ring.admit(6), Some(SlotId(12)));
        assert_eq!(ring.used(), 10);
    }

    #[test]
    fn a_pass_puts_its_weights_where_the_last_one_did() {
        let mut ring = Ring::new(10);
        let slots = [4, 4].map(|bytes| ring.admit(bytes).unwrap());
        ring.give_back(slots[0]);
        ring.start_over();
        assert_eq!(ring.admit(4).map(|slot| ring.offset(slot)), Some(8), "the other one is in use");
        let mut ring = Ring::new(10);
        let slots = [4, 4].map(|bytes| ring.admit(bytes).unwrap());
        slots.into_iter().for_each(|slot| ring.give_back(slot));
        ring.start_over();
        assert_eq!((ring.admit(4), ring.offset(SlotId(10))), (Some(SlotId(10)), 0));
    }

    #[test]
    fn kept_slots_are_jumped_over() {
        let mut ring = Ring::new(12);
        let slots = [4, 4, 4].map(|bytes| ring.admit(bytes).unwrap());
        ring.keep(slots[1]);
        ring.give_back(slots[0]);
        ring.give_back(slots[2]);
        assert_eq!((ring.admit(5), ring.used()), (Some(SlotId(12 + 8)), 9), "not from 0 to 5");
        ring.give_back(slots[1]);
        assert_eq!(ring.admit(5), Some(SlotId(25)));
    }

    /// Which slot holds each byte of the circle.
    fn bytes_of(ring: &Ring, (id, bytes): (SlotId, u64)) -> Vec<u64> {
        (0..bytes).map(|byte| (id.0 + byte) % ring.length()).collect()
    }

    proptest! {
        #[test]
        fn no_byte_is_in_two_slots(length in 1u64..40, steps in prop::collection::vec((0u8..4, 1u64..14, 0usize..8), 1..200)) {
            let mut ring = Ring::new(length);
            let mut used: Vec<(SlotId, u64)> = Vec::new();
            for (what, bytes, which) in steps {
                match what {
                    0 | 1 => {
                        let Some(id) = ring.admit(bytes) else {
                            prop_assert!(bytes > length || !used.is_empty(), "an empty ring takes what it can hold");
                            continue;
                        };
                        let new = bytes_of(&ring, (id, bytes));
                        for old in &used {
                            prop_assert!(bytes_of(&ring, *old).iter().all(|byte| !new.contains(byte)));
                        }
                        used.push((id, bytes));
                    }
                    _ if used.is_empty() => {}
                    2 => ring.give_back(used.swap_remove(which % used.len()).0),
                    _ => ring.keep(used[which % used.len()].0),
                }
                prop_assert_eq!(ring.used(), used.iter().map(|(_, bytes)| bytes).sum::<u64>());
            }
        }
    }
}
