//! The memory map: the bytes of each kind in each tier, and one letter per granule.

use serde::Serialize;

use crate::core::{Grant, PerTier, Tier};
use crate::heap::{ArenaMap, GranuleMap, MemoryMap};

use super::write::{ByTier, Rows, text_of};

#[derive(Serialize)]
struct Map<A: Serialize> {
    granule: u64,
    /// Backing that is mapped nowhere.
    stock: ByTier<u64>,
    /// What the operating system grants, and what this process uses.
    granted: ByTier<Account>,
    bytes: ByTier<Kinds>,
    arenas: A,
}

/// What the operating system grants this process of a tier, and what the process uses.
#[derive(Serialize)]
struct Account {
    budget: u64,
    usage: u64,
}

impl Account {
    fn of(Grant { budget, usage }: Grant) -> Account {
        Account { budget, usage }
    }
}

/// Mapped bytes by the kind of block that fills them.
#[derive(Clone, Copy, Default, Serialize)]
struct Kinds {
    model: u64,
    other: u64,
    scratch: u64,
    free: u64,
}

impl Kinds {
    fn add(&mut self, granule: &GranuleMap, bytes: u64) {
        let used = granule.model + granule.other + granule.scratch;
        self.model += granule.model;
        self.other += granule.other;
        self.scratch += granule.scratch;
        self.free += bytes.saturating_sub(used);
    }
}

#[derive(Serialize)]
struct ArenaRow {
    purpose: &'static str,
    class: &'static str,
    /// One letter per granule.
    granules: String,
}

impl ArenaRow {
    fn of(arena: &ArenaMap) -> ArenaRow {
        let granules = arena.granules.iter().map(letter).collect();
        ArenaRow { purpose: arena.purpose, class: arena.class, granules }
    }
}

/// One object. The letter of a granule is that of the kind of block that fills most of it: `M` the
/// model's, `O` other blocks, `S` scratch, `F` none. It is a small letter in the shared tier, and
/// `.` for a granule without backing.
///
/// O(granules).
pub fn json(map: &MemoryMap) -> String {
    text_of(&Map {
        granule: map.granule,
        stock: ByTier(map.stock),
        granted: ByTier(map.granted.map(Account::of)),
        bytes: ByTier(kinds(map)),
        arenas: Rows(map.arenas.iter().map(ArenaRow::of)),
    })
}

fn kinds(map: &MemoryMap) -> PerTier<Kinds> {
    let mut kinds = PerTier::<Kinds>::default();
    for granule in map.arenas.iter().flat_map(|arena| &arena.granules) {
        if let Some(tier) = granule.tier {
            kinds[tier].add(granule, map.granule);
        }
    }
    kinds
}

fn letter(granule: &GranuleMap) -> char {
    let Some(tier) = granule.tier else { return '.' };
    let kinds = [(granule.model, 'M'), (granule.scratch, 'S'), (granule.other, 'O')];
    let most = kinds.into_iter().max_by_key(|(bytes, _)| *bytes).filter(|(bytes, _)| *bytes > 0);
    let letter = most.map_or('F', |(_, letter)| letter);
    match tier {
        Tier::Dedicated => letter,
        Tier::Shared => letter.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::json;
    use crate::core::{Grant, PerTier, Tier};
    use crate::heap::{ArenaMap, GranuleMap, MemoryMap};

    #[test]
    fn letters_and_bytes_say_the_same() {
        let granule = |tier, model, scratch, other| GranuleMap { tier, model, scratch, other };
        let granules = vec![
            granule(Some(Tier::Dedicated), 10, 0, 3),
            granule(Some(Tier::Shared), 0, 0, 1),
            granule(None, 0, 0, 0),
            granule(Some(Tier::Shared), 2, 9, 5),
            granule(Some(Tier::Dedicated), 0, 0, 0),
        ];
        let arenas = vec![ArenaMap { purpose: "resident", class: "large", base: 1 << 40, granules }];
        let granted = PerTier::new(Grant { budget: 90, usage: 50 }, Grant::default());
        let map = MemoryMap { granule: 16, arenas, stock: PerTier::new(32, 0), granted, splits: Default::default() };
        assert_eq!(
            json(&map),
            "{\"granule\":16,\"stock\":{\"dedicated\":32,\"shared\":0},\"granted\":{\"dedicated\":{\"budget\":90,\
             \"usage\":50},\"shared\":{\"budget\":0,\"usage\":0}},\"bytes\":{\"dedicated\":{\"model\":10,\
             \"other\":3,\"scratch\":0,\"free\":19},\"shared\":{\"model\":2,\"other\":6,\"scratch\":9,\"free\":15}},\"arenas\":[\
             {\"purpose\":\"resident\",\"class\":\"large\",\"granules\":\"Mo.sF\"}]}"
        );
    }
}
