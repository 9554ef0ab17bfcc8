//! The end of a run: what it would have wanted from its start, and what to say about it.

use super::Heap;
use crate::core::policy::{WORKS, Wanted};
use crate::core::{Phase, Tier, show_size};

impl Heap {
    /// What this run would have wanted from its start: as the work has shown between safe points,
    /// or, where nobody reported any, as what comes and goes shows by itself.
    pub fn wanted(&self) -> Wanted {
        let capacity = self.memory.ledger().capacity[Tier::Dedicated];
        let found = match self.automatic.learner.lived() {
            Some(lived) => (self.automatic.reserve(&self.memory, self.memory.ledger().kept.persist), lived),
            None => self.hindsight.found(self.memory.granule(), capacity),
        };
        self.hindsight.wanted(capacity, found, self.memory.arenas.sizes())
    }

    /// Whether so much has come and gone that the program has done more than load.
    pub fn has_worked(&self) -> bool {
        self.stats.blocks.allocated.taken() >= WORKS
    }

    /// What to say at the end of a program whose work has overflowed because no reserve was kept
    /// for it; `None` where there is nothing to say.
    pub fn advice(&self) -> Option<String> {
        let (wanted, room) = (self.wanted(), self.memory.ledger().capacity[Tier::Dedicated]);
        let lay_shared = self.automatic.learner.above(room) as u64;
        let was_left_alone = self.state.phase() == Phase::Loading && self.memory.ledger().kept.reserve == 0;
        if !was_left_alone || self.stats.fell_to_shared == 0 || wanted.reserve == 0 || lay_shared == 0 {
            return None;
        }
        Some(format!(
            "{} that this program worked with lay in host memory on {}, added up over its work, and at most {} at once, \
             since its weights came first; a reserve would have kept that on the card: GIANT_KITTEN=reserve:{}MiB, or \
             reserve:remembered, or giant_kitten.follow(model)",
            show_size(lay_shared),
            self.memory.info().name,
            show_size(self.stats.tiers[Tier::Shared].allocated.peak()),
            wanted.reserve >> 20
        ))
    }
}
