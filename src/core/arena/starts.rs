//! The table of starts: which block begins at an offset, in one look.

use super::node::NIL;

/// The node of the used block that begins in each slot of `1 << shift` bytes. The shift is chosen
/// so that no two blocks of the arena begin in one slot.
#[derive(Debug)]
pub(super) struct Starts {
    slots: Vec<u32>,
    shift: u32,
}

impl Starts {
    /// A table for blocks that are each longer than `slot` bytes, or as long and aligned to it.
    pub(super) fn new(slot: u64) -> Self {
        debug_assert!(slot.is_power_of_two());
        Starts { slots: Vec::new(), shift: slot.trailing_zeros() }
    }

    /// The node that begins in the slot of an offset. O(1).
    #[inline]
    pub(super) fn get(&self, offset: u64) -> Option<u32> {
        self.slots.get((offset >> self.shift) as usize).copied().filter(|id| *id != NIL)
    }

    /// The last node that begins in the slot of an offset or before it, nearest first. O(slots) in
    /// all.
    pub(super) fn up_to(&self, offset: u64) -> impl Iterator<Item = u32> + '_ {
        let last = (offset >> self.shift) as usize;
        let slots = &self.slots[..self.slots.len().min(last.saturating_add(1))];
        slots.iter().rev().copied().filter(|id| *id != NIL)
    }

    /// Enters the node that begins at an offset. O(1), amortised.
    #[inline]
    pub(super) fn set(&mut self, offset: u64, id: u32) {
        let slot = (offset >> self.shift) as usize;
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, NIL);
        }
        self.slots[slot] = id;
    }

    /// Removes the node that begins at an offset. O(1).
    #[inline]
    pub(super) fn clear(&mut self, offset: u64) {
        self.slots[(offset >> self.shift) as usize] = NIL;
    }

    /// Removes every node.
    pub(super) fn clear_all(&mut self) {
        self.slots.fill(NIL);
    }
}
