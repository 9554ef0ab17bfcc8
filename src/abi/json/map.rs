//! The memory map as JSON: bytes of each kind in each tier, and one letter for each granule.

use std::fmt::Write;

use crate::core::Tier;
use crate::heap::{GranuleMap, MemoryMap};

/// `{"granule", "stock": {tier: bytes}, "bytes": {tier: {"model", "other", "scratch", "free"}}, "arenas": [{"purpose", "class",
/// "granules"}]}`. The granules of an arena are a text, a letter each: of the model `M`, other blocks `O`, scratch `S`, backed but
/// empty `F`, whichever has the most of its bytes; a small letter in the shared tier; `.` without backing. O(granules).
pub fn json(map: &MemoryMap) -> String {
    let mut bytes = [[0u64; 4]; 2];
    let mut arenas = String::new();
    for arena in &map.arenas {
        let separator = if arenas.is_empty() { "" } else { "," };
        let (purpose, class) = (arena.purpose, arena.class);
        let _ = write!(arenas, "{separator}{{\"purpose\":\"{purpose}\",\"class\":\"{class}\",\"granules\":\"");
        for granule in &arena.granules {
            if let Some(tier) = granule.tier {
                let used = granule.model + granule.other + granule.scratch;
                let parts = [granule.model, granule.other, granule.scratch, map.granule.saturating_sub(used)];
                bytes[tier as usize].iter_mut().zip(parts).for_each(|(sum, part)| *sum += part);
            }
            arenas.push(letter(granule));
        }
        arenas.push_str("\"}");
    }
    let tier = |tier: Tier| {
        let [model, other, scratch, free] = bytes[tier as usize];
        let name = tier.name();
        format!("\"{name}\":{{\"model\":{model},\"other\":{other},\"scratch\":{scratch},\"free\":{free}}}")
    };
    format!(
        "{{\"granule\":{},\"stock\":{{\"dedicated\":{},\"shared\":{}}},\"bytes\":{{{},{}}},\"arenas\":[{arenas}]}}",
        map.granule,
        map.stock_dedicated,
        map.stock_shared,
        tier(Tier::Dedicated),
        tier(Tier::Shared)
    )
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
    use crate::core::Tier;
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
        let map = MemoryMap { granule: 16, arenas, stock_dedicated: 32, stock_shared: 0, splits: Default::default() };
        assert_eq!(
            json(&map),
            "{\"granule\":16,\"stock\":{\"dedicated\":32,\"shared\":0},\"bytes\":{\"dedicated\":{\"model\":10,\"other\":3,\
             \"scratch\":0,\"free\":19},\"shared\":{\"model\":2,\"other\":6,\"scratch\":9,\"free\":15}},\"arenas\":[\
             {\"purpose\":\"resident\",\"class\":\"large\",\"granules\":\"Mo.sF\"}]}"
        );
    }
}
