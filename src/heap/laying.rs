//! Large blocks where the layout that was learned has them.
//!
//! What is laid out is the blocks of one arena and stream, outside pools. A plan only says which
//! place to try: a block is taken there if the arena has it free, dedicated and of the request's
//! own stream, or if just the backing is missing, which is mapped then.

use super::Heap;
use super::memory::Request;
use crate::core::layout::Seen;
use crate::core::{ArenaId, BlockId, BlockSize, Class, Near, PerTier, StreamId, Tier};

impl Heap {
    /// A large block at the place where it should lie; `None` where it has none, or where that is
    /// not free.
    #[inline]
    pub(super) fn take_laid(&mut self, arena: ArenaId, size: BlockSize, stream: StreamId) -> Option<BlockId> {
        if size.class() != Class::Large {
            return None;
        }
        match self.layout.see(arena, stream, self.live_large()) {
            Seen::Other => return None,
            Seen::Goes => {}
            Seen::Begins => self.turn_layout(arena, stream),
        }
        let (offset, near) = self.layout.place(size)?;
        let core = &mut self.memory.arenas[arena].core;
        match core.take_at(offset, size, Tier::Dedicated, stream, near) {
            Some(block) => Some(block),
            None => self.take_laid_grown(Request { arena, size, stream }, offset),
        }
    }

    fn live_large(&self) -> u64 {
        self.stats.classes[Class::Large as usize].allocated.current()
    }

    /// The same on backing that is mapped for it.
    #[cold]
    fn take_laid_grown(&mut self, request: Request, offset: u64) -> Option<BlockId> {
        let Request { arena, size, stream } = request;
        let mut near = Near::default();
        self.memory.forget_refusal();
        loop {
            let core = &mut self.memory.arenas[arena].core;
            let Some(growth) = core.plan_growth_at(offset, size, Tier::Dedicated, stream, &mut near) else { break };
            let backed = core.backed()[Tier::Dedicated];
            let bytes = u64::from(growth.count) * self.memory.granule();
            let may_back = self.layout.may_back(backed + bytes);
            if !may_back
                || !self.strip_for_layout(request, bytes) && !self.memory.back(request, growth, Tier::Dedicated)
            {
                break;
            }
        }
        let taken = self.memory.arenas[arena].core.take_at(offset, size, Tier::Dedicated, stream, &mut near);
        self.note();
        if taken.is_none() {
            self.layout.missed();
        }
        taken
    }

    /// A step ends and another begins: where a new plan needs less than is backed, the rest is
    /// given back.
    #[cold]
    fn turn_layout(&mut self, arena: ArenaId, stream: StreamId) {
        let Some(needed) = self.layout.turn(&self.memory.arenas[arena].core, self.memory.granule()) else { return };
        if self.quiesce().is_err() {
            return;
        }
        self.strip();
        self.memory.arenas.free_for(arena, stream);
        if !self.state.is_frozen_by_action() {
            let backed = self.memory.arenas[arena].core.backed()[Tier::Dedicated];
            let dedicated = self.memory.ledger().kept.reserve.max(needed.saturating_sub(backed));
            self.memory.trim(PerTier::new(dedicated, self.memory.working_room()));
        }
        self.note();
        let device = self.memory.device();
        log::debug!("device {device}: large blocks are laid out as learned, on {needed} bytes at most");
    }

    /// Before a request for a large block grows an arena: where plans have laid out what is in its
    /// way, idle granules serve it first.
    pub(super) fn mind_layout(&mut self, request: Request) {
        let Request { arena, size, stream } = request;
        if size.class() == Class::Large && self.memory.arenas[arena].purpose().is_general() {
            self.layout.grew(arena, stream, self.live_large());
            self.strip_for_layout(request, size.rounded());
        }
    }

    /// Strips idle granules where growing by so many bytes would be a plan's fault. Returns whether
    /// that was done.
    fn strip_for_layout(&mut self, request: Request, bytes: u64) -> bool {
        let Request { arena, stream, .. } = request;
        let core = &self.memory.arenas[arena].core;
        let idle = || core.idle_granules().len() as u64 * self.memory.granule();
        let backed = core.backed()[Tier::Dedicated] + bytes;
        let strips = self.layout.repairs(arena, backed, self.live_large(), idle) && self.quiesce().is_ok();
        if strips {
            self.strip();
            self.memory.arenas.free_for(arena, stream);
        }
        strips
    }
}
