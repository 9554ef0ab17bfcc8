//! Pinned arenas: the shared tier of a driver that creates no backing in host memory, and pins it
//! instead.
//!
//! ```text
//!   an arena            ├ dedicated │ dedicated │ (none) …      reserved, backed by granules
//!   its pinned arenas       ├ shared │ shared ┤     ├ shared ┤   one host allocation each
//! ```
//!
//! A pinned arena takes those blocks of the arena that it belongs to that find no dedicated memory.
//! It never grows: all its granules are shared from creation on, because pinned memory is tied to
//! its address. So migration and placement leave it alone, and it is freed whole, while the device
//! is idle and nothing is left in it.

use super::{Change, Memory, Request};
use crate::core::{Arena, ArenaId, BlockSize, Tier};
use crate::driver::Rung;

/// Granules per pinned arena, capped at an eighth of the remaining shared memory. Large, because
/// pinning is slow and every pinned arena is searched on allocation.
const GRANULES: u64 = 32;

impl Memory {
    /// Whether shared memory is pinned: no live block can change tier.
    #[inline]
    pub(in crate::heap) fn is_pinned(&self) -> bool {
        self.info.rung == Rung::Pinned
    }

    /// Pins an arena for a request, as far as the ledger and the driver allow; whether that was
    /// done.
    pub(super) fn pin_for(&mut self, request: Request) -> bool {
        self.heed_grants();
        let room = self.unmapped(Tier::Shared);
        let needed = request.size.rounded().next_multiple_of(self.granule);
        if needed > room {
            return false;
        }
        let preferred = (room / 8 / self.granule).min(GRANULES) * self.granule;
        let longer = (preferred > needed).then_some(preferred);
        let pinned = longer.into_iter().chain([needed]).find_map(|bytes| {
            match self.backing.pin(bytes, self.ledger.most(Tier::Shared)) {
                Ok(base) => base.map(|base| (bytes, base)),
                Err(why) => {
                    self.last_refusal = Some(why);
                    None
                }
            }
        });
        let Some((bytes, base)) = pinned else { return false };
        let mut core = Arena::new(bytes, self.granule, self.arenas[request.arena].core.class());
        let all = BlockSize::of(bytes).and_then(|all| core.plan_growth(all, Tier::Shared, request.stream));
        if let Some(all) = all {
            core.grow(all, Tier::Shared, request.stream);
        }
        self.arenas.add_pinned(base, core, request.arena);
        self.changes.push(Change::Mapped { address: base, bytes });
        true
    }

    /// Frees a pinned arena in which nothing is left. The device must be idle.
    pub(super) fn unpin_idle(&mut self, id: ArenaId) {
        if self.arenas[id].core.live_blocks() == 0 {
            self.unpin(id);
        }
    }

    /// Frees a pinned arena, whatever is in it. Where the driver refuses, everything stays as it
    /// is.
    pub(super) fn unpin(&mut self, id: ArenaId) {
        if !self.arenas.is_pinned_alive(id) {
            return;
        }
        let (address, bytes) = (self.arenas[id].base(), self.arenas[id].core.length());
        if let Err(why) = self.backing.unpin(address, bytes) {
            log::debug!("{bytes} bytes of pinned memory stay where they are: {why}");
            return;
        }
        self.arenas.remove_pinned(id, self.granule);
        self.changes.push(Change::Unmapped { address, bytes });
    }
}
