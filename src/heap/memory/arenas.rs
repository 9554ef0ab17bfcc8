//! The arenas of a device: which addresses they have, which blocks lie there, and what each is for.
//!
//! ```text
//!   #0 resident small   #1 resident large      reserved addresses, backed granule by granule
//!   #2 scratch  small   #3 scratch  large
//!   #4 …                                       two for each pool, and pinned arenas
//! ```
//!
//! Each reservation is as long as it is aligned, so the high bits of an address name its arena.
//! Those of general arenas are all of one length, those of pools of that or shorter.
//! Pinned arenas lie wherever the driver put them, so they are searched only when the high bits
//! name no arena.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use crate::core::{Arena, ArenaId, BlockId, Class, GranuleId, Marks, PerTier, Purpose, Splits, StreamId, Tier};
use crate::driver::Handle;
use crate::error::Error;

/// An arena with its addresses and its backing.
#[derive(Debug)]
pub(in crate::heap) struct Bound {
    pub(in crate::heap) core: Arena,
    base: u64,
    /// What it is for; of a pinned arena, what the arena that it belongs to is for.
    purpose: Purpose,
    /// The handle under each granule, up to the last one ever backed. None in pinned arenas.
    pub(super) handles: Vec<Option<Handle>>,
    /// The arena whose blocks a pinned arena takes.
    belongs_to: Option<ArenaId>,
}

impl Bound {
    /// The address of its first granule.
    #[inline]
    pub(in crate::heap) fn base(&self) -> u64 {
        self.base
    }

    /// What it is for.
    pub(in crate::heap) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The arena whose blocks it takes, if it is a pinned one.
    pub(in crate::heap) fn belongs_to(&self) -> Option<ArenaId> {
        self.belongs_to
    }

    /// The handle under a granule.
    pub(super) fn handle(&self, granule: u32) -> Option<Handle> {
        self.handles.get(granule as usize).copied().flatten()
    }
}

/// A block in use, by the arena it lies in and its number there.
pub(in crate::heap) type Place = (ArenaId, BlockId);

/// All arenas of a device.
#[derive(Debug)]
pub(in crate::heap) struct Arenas {
    /// Bytes of a general arena's reservation.
    length: u64,
    /// The high bits of each arena's addresses, by its number.
    keys: Vec<Key>,
    arenas: Vec<Bound>,
    /// The pinned arenas, by their first addresses.
    pinned: BTreeMap<u64, ArenaId>,
    /// Numbers of pinned arenas whose memory was freed, for reuse.
    vacant: Vec<ArenaId>,
}

/// The high bits of an arena's addresses.
#[derive(Clone, Copy, Debug)]
struct Key {
    mask: u64,
    bits: u64,
}

impl Key {
    /// That of a pinned arena: no address has it.
    const NONE: Key = Key { mask: 0, bits: u64::MAX };

    /// The key of a reservation, as long as it is aligned.
    fn of(base: u64, length: u64) -> Key {
        Key { mask: !(length - 1), bits: base }
    }
}

/// How many general arenas there are of each purpose, one for each class.
const CLASSES: u32 = Class::ALL.len() as u32;

impl Index<ArenaId> for Arenas {
    type Output = Bound;
    #[inline]
    fn index(&self, id: ArenaId) -> &Bound {
        &self.arenas[id.0 as usize]
    }
}

impl IndexMut<ArenaId> for Arenas {
    #[inline]
    fn index_mut(&mut self, id: ArenaId) -> &mut Bound {
        &mut self.arenas[id.0 as usize]
    }
}

impl Arenas {
    /// No arenas yet. The general ones will be `length` bytes long, a power of two.
    pub(super) fn new(length: u64) -> Self {
        debug_assert!(length.is_power_of_two());
        Arenas { length, keys: Vec::new(), arenas: Vec::new(), pinned: BTreeMap::new(), vacant: Vec::new() }
    }

    /// Bytes of a general arena's reservation.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes of all reservations of pools, those that nothing uses any more among them. O(arenas).
    pub(super) fn length_of_pools(&self) -> u64 {
        let is_pools =
            |bound: &&Bound| bound.belongs_to.is_none() && matches!(bound.purpose, Purpose::Pool(_) | Purpose::Vacant);
        self.arenas.iter().filter(is_pools).map(|bound| bound.core.length()).sum()
    }

    /// Whether there are none: before the heap is made, and once it is closed.
    #[inline]
    pub(in crate::heap) fn is_empty(&self) -> bool {
        self.arenas.is_empty()
    }

    /// Removes all arenas.
    pub(super) fn clear(&mut self) {
        self.arenas.clear();
        self.keys.clear();
        self.pinned.clear();
    }

    /// The numbers of all arenas.
    pub(in crate::heap) fn ids(&self) -> impl Iterator<Item = ArenaId> + use<> {
        (0..self.arenas.len() as u32).map(ArenaId)
    }

    /// All arenas, with their numbers.
    pub(in crate::heap) fn iter(&self) -> impl Iterator<Item = (ArenaId, &Bound)> {
        self.ids().zip(&self.arenas)
    }

    /// The arena of blocks that belong to no pool: those allocated while frozen, or while not.
    /// O(1).
    #[inline]
    pub(in crate::heap) fn general(&self, is_frozen: bool, class: Class) -> ArenaId {
        ArenaId(u32::from(is_frozen) * CLASSES + class as u32)
    }

    /// The arena of the same class where a request may look too; `None` for one of a pool.
    pub(in crate::heap) fn sister(&self, id: ArenaId) -> Option<ArenaId> {
        match self[id].purpose {
            Purpose::Resident => Some(self.general(true, self[id].core.class())),
            Purpose::Scratch => Some(self.general(false, self[id].core.class())),
            Purpose::Pool(_) | Purpose::Vacant => None,
        }
    }

    /// An arena and its sister, if it has one.
    pub(in crate::heap) fn with_sister(&self, id: ArenaId) -> impl Iterator<Item = ArenaId> + use<> {
        [id].into_iter().chain(self.sister(id))
    }

    /// Whether an arena belongs to a pool, directly or as a pinned one.
    pub(in crate::heap) fn is_pools(&self, id: ArenaId) -> bool {
        self[id].purpose.pool().is_some()
    }

    /// Whether blocks of `tier` that belong in arena `id` lie in arena `place`. Where shared memory
    /// `is_pinned`, that is in pinned arenas.
    pub(in crate::heap) fn holds(&self, place: ArenaId, id: ArenaId, tier: Tier, is_pinned: bool) -> bool {
        match tier {
            Tier::Shared if is_pinned => self[place].belongs_to == Some(id),
            Tier::Shared | Tier::Dedicated => place == id,
        }
    }

    /// Adds an arena at reserved addresses.
    pub(super) fn add(&mut self, base: u64, core: Arena, purpose: Purpose) -> ArenaId {
        debug_assert!(base.is_multiple_of(core.length()), "{base:#x} is not aligned to {:#x}", core.length());
        self.keys.push(Key::of(base, core.length()));
        self.arenas.push(Bound { core, base, purpose, handles: Vec::new(), belongs_to: None });
        ArenaId(self.arenas.len() as u32 - 1)
    }

    /// Adds a pinned arena whose blocks belong in `owner`.
    pub(super) fn add_pinned(&mut self, base: u64, core: Arena, owner: ArenaId) -> ArenaId {
        let purpose = self[owner].purpose;
        let bound = Bound { core, base, purpose, handles: Vec::new(), belongs_to: Some(owner) };
        let id = match self.vacant.pop() {
            Some(id) => {
                self[id] = bound;
                id
            }
            None => {
                self.keys.push(Key::NONE);
                self.arenas.push(bound);
                ArenaId(self.arenas.len() as u32 - 1)
            }
        };
        self.pinned.insert(base, id);
        id
    }

    /// Whether a pinned arena has memory.
    pub(super) fn is_pinned_alive(&self, id: ArenaId) -> bool {
        self.pinned.get(&self[id].base) == Some(&id)
    }

    /// Removes a pinned arena whose memory was freed. `granule` is the length of what stays in its
    /// place until the number is used again: an arena without backing.
    pub(super) fn remove_pinned(&mut self, id: ArenaId, granule: u64) {
        let base = self[id].base;
        self.pinned.remove(&base);
        let class = self[id].core.class();
        self[id].core = Arena::new(granule, granule, class);
        self.vacant.push(id);
    }

    /// A vacant arena of `class` in which nothing lives any more, nor in its pinned ones.
    pub(super) fn vacant_of(&self, class: Class) -> Option<ArenaId> {
        let is_candidate = |bound: &Bound| {
            bound.purpose == Purpose::Vacant && bound.belongs_to.is_none() && bound.core.class() == class
        };
        let mut candidates = self.iter().filter(|(_, bound)| is_candidate(bound)).map(|(id, _)| id);
        candidates.find(|id| self.family(*id).all(|id| self[id].core.live_blocks() == 0))
    }

    /// An arena and the pinned ones that belong to it.
    fn family(&self, id: ArenaId) -> impl Iterator<Item = ArenaId> + '_ {
        self.ids().filter(move |other| *other == id || self[*other].belongs_to == Some(id))
    }

    /// Says what an arena is for from now on, and with it the pinned ones that belong to it.
    pub(in crate::heap) fn set_purpose(&mut self, id: ArenaId, purpose: Purpose) {
        let family: Vec<ArenaId> = self.family(id).collect();
        family.into_iter().for_each(|id| self[id].purpose = purpose);
    }

    /// Makes all free space of an arena, and of the pinned ones that belong to it, free for
    /// `stream`. All work that may touch it must be done.
    pub(in crate::heap) fn free_for(&mut self, id: ArenaId, stream: StreamId) {
        let family: Vec<ArenaId> = self.family(id).collect();
        family.into_iter().for_each(|id| self[id].core.set_tiers([], stream));
    }

    /// The sizes of the live blocks that belong to no pool and are no scratch, as far as anyone
    /// knows. O(blocks).
    pub(in crate::heap) fn sizes(&self) -> Vec<u64> {
        let arenas = self.arenas.iter().filter(|bound| bound.purpose.pool().is_none());
        let blocks = arenas.flat_map(|bound| bound.core.blocks()).filter(|block| !block.marks.scratch);
        blocks.map(|block| block.size).collect()
    }

    /// The arena that an address lies in. O(arenas).
    #[inline]
    pub(in crate::heap) fn of(&self, address: u64) -> Option<ArenaId> {
        let index = self.keys.iter().position(|key| address & key.mask == key.bits);
        index.map(|index| ArenaId(index as u32)).or_else(|| self.pinned_at(address))
    }

    #[cold]
    fn pinned_at(&self, address: u64) -> Option<ArenaId> {
        let (base, id) = self.pinned.range(..=address).next_back()?;
        (address - base < self[*id].core.length()).then_some(*id)
    }

    /// The block in use that begins at an address. O(arenas).
    ///
    /// # Errors
    /// An address that is not the start of a block in use.
    #[inline]
    pub(in crate::heap) fn locate(&self, address: u64) -> Result<Place, Error> {
        let id = self.of(address).ok_or_else(|| Error::not_allocated(address))?;
        let bound = &self[id];
        let block = bound.core.find(address - bound.base).ok_or_else(|| Error::not_allocated(address))?;
        Ok((id, block))
    }

    /// The block in use that holds an address, at its start or inside.
    ///
    /// # Errors
    /// An address in no block in use.
    pub(in crate::heap) fn locate_inside(&self, address: u64) -> Result<Place, Error> {
        let id = self.of(address).ok_or_else(|| Error::not_allocated(address))?;
        let bound = &self[id];
        let block = bound.core.find_inside(address - bound.base).ok_or_else(|| Error::not_allocated(address))?;
        Ok((id, block))
    }

    /// The address of a block.
    #[inline]
    pub(in crate::heap) fn address(&self, (id, block): Place) -> u64 {
        self[id].base + self[id].core.extent(block).0
    }

    /// The address of a granule of `granule` bytes.
    pub(super) fn address_of(&self, id: GranuleId, granule: u64) -> u64 {
        self[id.arena].base + u64::from(id.granule) * granule
    }

    /// The tier of a granule; `None` where it has no backing.
    pub(in crate::heap) fn tier_of(&self, id: GranuleId) -> Option<Tier> {
        self[id.arena].core.tier_of_granule(id.granule)
    }

    /// Bytes mapped at arena addresses.
    pub(in crate::heap) fn mapped(&self, tier: Tier) -> u64 {
        self.arenas.iter().map(|bound| bound.core.backed()[tier]).sum()
    }

    /// The free stretches that cannot be unmapped, next to small blocks and next to large ones.
    /// O(free ranges of a granule or more).
    pub(in crate::heap) fn splits(&self) -> [Splits; 2] {
        let mut splits = [Splits::default(); 2];
        for core in self.arenas.iter().map(|bound| &bound.core) {
            let (count, bytes) = core.splits();
            let splits = &mut splits[core.class() as usize];
            splits.count += count;
            splits.bytes += bytes;
        }
        splits
    }

    /// The streams that anything backed belongs to. O(blocks).
    pub(in crate::heap) fn streams(&self) -> impl Iterator<Item = StreamId> + '_ {
        self.arenas.iter().flat_map(|bound| bound.core.streams())
    }

    /// Bytes of live blocks in each tier, and of scratch among them. O(blocks).
    pub(in crate::heap) fn count_live(&self) -> (PerTier<u64>, PerTier<u64>) {
        let (mut live, mut scratch) = (PerTier::default(), PerTier::default());
        for bound in &self.arenas {
            for block in bound.core.blocks() {
                let bytes = bound.core.residency(block.id);
                for tier in Tier::ALL {
                    live[tier] += bytes[tier];
                    scratch[tier] += if block.marks.scratch { bytes[tier] } else { 0 };
                }
            }
        }
        (live, scratch)
    }

    /// Declares that no live block is scratch any more. O(blocks).
    pub(in crate::heap) fn clear_scratch(&mut self) {
        self.remark(|marks| marks.scratch = false);
    }

    /// Forgets that weights were lent to some, by their bits. O(blocks).
    pub(in crate::heap) fn forget_lent(&mut self, bits: u32) {
        self.remark(|marks| marks.lent &= !bits);
    }

    fn remark(&mut self, change: impl Fn(&mut Marks)) {
        for bound in &mut self.arenas {
            let blocks: Vec<BlockId> = bound.core.blocks().map(|block| block.id).collect();
            blocks.into_iter().for_each(|id| change(bound.core.marks_mut(id)));
        }
    }

    /// Tests every arena, and that each granule has a handle where it has a tier. O(everything).
    ///
    /// # Errors
    /// The first invariant that does not hold, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        for (id, bound) in self.iter() {
            bound.core.check()?;
            if let Some(owner) = bound.belongs_to {
                if bound.core.backed()[Tier::Dedicated] > 0 {
                    return Err("a pinned arena has dedicated granules".into());
                }
                if self.is_pinned_alive(id) && self[owner].purpose != bound.purpose {
                    return Err(format!("a pinned arena is for {:?}, its owner is not", bound.purpose));
                }
                continue;
            }
            for granule in 0..bound.handles.len() as u32 {
                let (handle, tier) = (bound.handle(granule), bound.core.tier_of_granule(granule));
                if handle.is_some() != tier.is_some() {
                    return Err(format!("granule {granule}: handle {handle:?}, tier {tier:?}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{BlockSize, PoolId};

    const G: u64 = 2 << 20;
    const LENGTH: u64 = 1 << 30;

    fn arenas() -> Arenas {
        let mut arenas = Arenas::new(LENGTH);
        for (number, purpose) in [Purpose::Resident, Purpose::Scratch].into_iter().enumerate() {
            for (place, class) in Class::ALL.into_iter().enumerate() {
                let base = (10 + 2 * number + place) as u64 * LENGTH;
                arenas.add(base, Arena::new(LENGTH, G, class), purpose);
            }
        }
        arenas
    }

    #[test]
    fn general_arenas_are_where_they_are_looked_for() {
        let arenas = arenas();
        for is_frozen in [false, true] {
            for class in Class::ALL {
                let id = arenas.general(is_frozen, class);
                let purpose = if is_frozen { Purpose::Scratch } else { Purpose::Resident };
                assert_eq!((arenas[id].purpose, arenas[id].core.class()), (purpose, class));
                assert_eq!(arenas.sister(id), Some(arenas.general(!is_frozen, class)));
            }
        }
    }

    #[test]
    fn the_high_bits_of_an_address_name_its_arena() {
        let arenas = arenas();
        assert_eq!(arenas.of(11 * LENGTH), Some(ArenaId(1)));
        assert_eq!(arenas.of(12 * LENGTH - 1), Some(ArenaId(1)));
        assert_eq!((arenas.of(9 * LENGTH), arenas.of(14 * LENGTH), arenas.of(u64::MAX)), (None, None, None));
    }

    #[test]
    fn arenas_of_pools_may_be_shorter() {
        let mut arenas = arenas();
        let pool = Purpose::Pool(PoolId(1, 0));
        let first = arenas.add(15 * LENGTH, Arena::new(LENGTH / 4, G, Class::Large), pool);
        let second = arenas.add(15 * LENGTH + LENGTH / 4, Arena::new(LENGTH / 4, G, Class::Large), pool);
        let third = arenas.add(16 * LENGTH, Arena::new(LENGTH, G, Class::Large), Purpose::Vacant);
        assert_eq!(arenas.of(15 * LENGTH + LENGTH / 4 - 1), Some(first));
        assert_eq!(arenas.of(15 * LENGTH + LENGTH / 4), Some(second));
        assert_eq!(arenas.of(15 * LENGTH + LENGTH / 2), None);
        assert_eq!(arenas.of(16 * LENGTH + LENGTH / 2), Some(third));
        assert_eq!((arenas.length(), arenas.length_of_pools()), (LENGTH, LENGTH + LENGTH / 2));
    }

    #[test]
    fn a_pinned_arena_follows_its_owner_and_its_number_is_used_again() {
        let mut arenas = arenas();
        let owner = arenas.add(20 * LENGTH, Arena::new(LENGTH, G, Class::Large), Purpose::Pool(PoolId(1, 0)));
        assert_eq!(arenas.sister(owner), None);
        let mut core = Arena::new(4 * G, G, Class::Large);
        let size = BlockSize::of(4 * G).unwrap();
        let all = core.plan_growth(size, Tier::Shared, StreamId(0)).unwrap();
        core.grow(all, Tier::Shared, StreamId(0));
        let block = core.take(size, Tier::Shared, StreamId(0)).unwrap();
        let pinned = arenas.add_pinned(4096, core, owner);
        assert_eq!((arenas.of(4096 + 4 * G - 1), arenas.of(4096 + 4 * G)), (Some(pinned), None));
        assert!(arenas.holds(pinned, owner, Tier::Shared, true) && !arenas.holds(pinned, owner, Tier::Dedicated, true));
        arenas.set_purpose(owner, Purpose::Vacant);
        assert_eq!(arenas[pinned].purpose, Purpose::Vacant);
        assert_eq!(arenas.vacant_of(Class::Large), None, "a block lives in the pinned one");
        arenas[pinned].core.release(block, StreamId(0));
        assert_eq!(arenas.vacant_of(Class::Large), Some(owner));
        arenas.check().unwrap();
        arenas.remove_pinned(pinned, G);
        assert_eq!(arenas.of(4096), None);
        assert_eq!(arenas.add_pinned(8192, Arena::new(4 * G, G, Class::Small), ArenaId(0)), pinned);
    }
}
