//! Pinned arenas: the shared tier of a driver that creates no backing in host memory, but pins it.
//!
//! ```text
//!   an arena            ├ dedicated │ dedicated │ (none) …                reserved addresses, granules by and by
//!   its pinned arenas       ├ shared │ shared ┤     ├ shared ┤            one host allocation each, where the driver likes
//! ```
//!
//! A pinned arena takes those blocks of the arena it belongs to that find no dedicated memory. Its growth is its making: all its granules
//! are shared from the beginning, and stay so, since its memory came with its address. So migration and placement leave it alone,
//! and it goes back to the driver whole, at a safe point, when nothing is left in it.

use std::collections::BTreeMap;

use super::supply::Request;
use super::{Bound, Heap};
use crate::core::history::Action;
use crate::core::placement::{self, Order};
use crate::core::{Arena, Tier};
use crate::driver::Rung;

/// Granules that a pinned arena has, as far as an eighth of the shared memory that is left goes: pinning takes long, and each block
/// is looked for in every one.
const GRANULES: u64 = 32;

/// The pinned arenas of a device.
#[derive(Debug, Default)]
pub(super) struct PinnedArenas {
    /// The place of each among the arenas, by its first address.
    places: BTreeMap<u64, usize>,
    /// Places whose memory was given back.
    vacant: Vec<usize>,
}

impl Heap {
    /// Whether shared memory is pinned: nothing that exists can change tier.
    #[inline]
    pub(super) fn is_pinned(&self) -> bool {
        self.info.rung == Rung::Pinned
    }

    /// The pinned arena that holds an address. Asked where no other arena does.
    #[cold]
    pub(super) fn pinned_at(&self, address: u64) -> Option<usize> {
        let (base, place) = self.pinned.places.range(..=address).next_back()?;
        (address - base < self.arenas[*place].core.length()).then_some(*place)
    }

    /// The arena that a pinned one belongs to; of another, itself.
    pub(super) fn owner_of(&self, index: usize) -> usize {
        self.arenas[index].belongs_to.unwrap_or(index)
    }

    /// Whether arena `place` is where blocks of `tier` lie that belong to arena `index`.
    pub(super) fn may_lie_in(&self, place: usize, index: usize, tier: Tier) -> bool {
        match tier {
            Tier::Shared if self.is_pinned() => self.arenas[place].belongs_to == Some(index),
            Tier::Shared | Tier::Dedicated => place == index,
        }
    }

    /// A new pinned arena for a request, as far as the ledger and the driver allow; its place.
    pub(super) fn pin_for(&mut self, request: Request) -> Option<usize> {
        let room = self.unmapped(Tier::Shared);
        let needed = request.size.next_multiple_of(self.granule);
        if needed > room {
            return None;
        }
        let wanted = (room / 8 / self.granule).min(GRANULES) * self.granule;
        let longer = (wanted > needed).then_some(wanted);
        let (bytes, base) = longer.into_iter().chain([needed]).find_map(|bytes| {
            match self.stock.pin(bytes, self.ledger.capacity[Tier::Shared]) {
                Ok(base) => base.map(|base| (bytes, base)),
                Err(why) => {
                    self.last_refusal = Some(why);
                    None
                }
            }
        })?;
        let mut core = Arena::new(bytes, self.granule, self.arenas[request.index].core.class());
        let all = core.plan_growth(bytes, Tier::Shared, request.stream)?;
        core.grow(all, Tier::Shared, request.stream);
        let place = self.place_pinned(Bound { core, base, handles: Vec::new(), belongs_to: Some(request.index) });
        self.pinned.places.insert(base, place);
        self.happened(Action::SegmentMap, base, bytes, 0, None);
        self.note();
        Some(place)
    }

    fn place_pinned(&mut self, bound: Bound) -> usize {
        match self.pinned.vacant.pop() {
            Some(place) => {
                self.arenas[place] = bound;
                place
            }
            None => {
                // No address has this key: those of pinned arenas are looked up in another way.
                self.arena_keys.push(u64::MAX);
                self.arenas.push(bound);
                self.arenas.len() - 1
            }
        }
    }

    /// Gives the memory of a pinned arena back in which nothing is left. The device must be quiet. Returns bytes: 0 where the
    /// driver does not take them, and everything stays as it is.
    pub(super) fn unpin_idle(&mut self, place: usize) -> u64 {
        if self.arenas[place].core.live_blocks() > 0 { 0 } else { self.unpin(place) }
    }

    /// Gives the memory of a pinned arena back, whatever is in it.
    pub(super) fn unpin(&mut self, place: usize) -> u64 {
        let Bound { core, base, .. } = &self.arenas[place];
        let (base, bytes, class) = (*base, core.length(), core.class());
        if self.pinned.places.get(&base) != Some(&place) {
            return 0;
        }
        if let Err(why) = self.stock.unpin(base, bytes) {
            log::debug!("{bytes} bytes of pinned memory stay where they are: {why}");
            return 0;
        }
        self.pinned.places.remove(&base);
        self.pinned.vacant.push(place);
        self.arenas[place].core = Arena::new(self.granule, self.granule, class);
        self.happened(Action::SegmentUnmap, base, bytes, 0, None);
        bytes
    }

    /// What a placement in `order`, with `budget` bytes dedicated, would move and cannot: bytes of the blocks that lie in the wrong
    /// tier, each taken whole; or, if that is more, what of the budget's rest is taken by granules that are not full. A block that is
    /// shared and would fit only if no granule was broken is not counted.
    pub(super) fn unmovable(&self, order: Order, budget: u64) -> u64 {
        let mut residents = self.residents(order.sort_by);
        placement::sort(&mut residents, order);
        let (mut room, mut stays) = (budget, 0);
        for resident in residents {
            let core = &self.arenas[resident.arena as usize].core;
            let tier = core.tier_of_granule(resident.granules.start);
            let spare = if tier == Some(Tier::Shared) { 2 * self.granule } else { 0 };
            let by_room = if resident.size + spare <= room { Tier::Dedicated } else { Tier::Shared };
            let wanted = resident.pin.unwrap_or(by_room);
            if wanted == Tier::Dedicated {
                room = room.saturating_sub(resident.size);
            }
            if tier == Some(wanted.other()) {
                stays += resident.size;
            }
        }
        stays.max(self.mapped(Tier::Dedicated).saturating_sub(budget))
    }
}
