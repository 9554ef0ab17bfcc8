//! The weights of a model by module and tier.

use std::collections::BTreeMap;

use giant_kitten::{PerTier, Tier};
use serde::Serialize;

/// The most rows that there are, and the most parts that a module is divided into.
const ROWS: usize = 12;

/// The weights of a module, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Module {
    /// The first parts of its weights' names, such as `up_blocks`.
    pub name: String,
    /// Bytes in the dedicated tier.
    pub dedicated: u64,
    /// Bytes in the shared tier.
    pub shared: u64,
}

impl Module {
    fn bytes(&self) -> u64 {
        self.dedicated + self.shared
    }
}

/// Weights by module, the largest first, and what is beyond twelve of them as one. A module that
/// has more than half of all bytes is divided, as long as it has no more than twelve parts.
pub fn by_module(weights: Vec<(&str, PerTier<u64>)>) -> Vec<Module> {
    let total: u64 = weights.iter().map(|(_, bytes)| bytes.iter().sum::<u64>()).sum();
    let mut found = divide("", &weights);
    while let Some(parts) = found.first().and_then(|largest| parts_of(largest, total, &weights)) {
        found.splice(..1, parts);
        found.sort_by_key(|module| std::cmp::Reverse(module.bytes()));
    }
    if found.len() > ROWS {
        let others = found.split_off(ROWS - 1);
        let sum = |of: fn(&Module) -> u64| others.iter().map(of).sum();
        let name = format!("{} others", others.len());
        found.push(Module { name, dedicated: sum(|module| module.dedicated), shared: sum(|module| module.shared) });
    }
    found
}

/// The parts of the largest module, if it is to be divided. A weight of that name has none.
fn parts_of(largest: &Module, total: u64, weights: &[(&str, PerTier<u64>)]) -> Option<Vec<Module>> {
    if 2 * largest.bytes() <= total {
        return None;
    }
    let parts = divide(&format!("{}.", largest.name), weights);
    let has_all = parts.iter().map(Module::bytes).sum::<u64>() == largest.bytes();
    (has_all && parts.len() <= ROWS).then_some(parts)
}

/// The weights whose names begin so, by the next part of the name.
fn divide(beginning: &str, weights: &[(&str, PerTier<u64>)]) -> Vec<Module> {
    let mut found: BTreeMap<&str, PerTier<u64>> = BTreeMap::new();
    for (name, bytes) in weights {
        let Some(rest) = name.strip_prefix(beginning) else { continue };
        let end = beginning.len() + rest.find('.').unwrap_or(rest.len());
        let sum = found.entry(&name[..end]).or_default();
        Tier::ALL.into_iter().for_each(|tier| sum[tier] += bytes[tier]);
    }
    let module = |(name, bytes): (&str, PerTier<u64>)| Module {
        name: name.to_owned(),
        dedicated: bytes[Tier::Dedicated],
        shared: bytes[Tier::Shared],
    };
    let mut found: Vec<Module> = found.into_iter().map(module).collect();
    found.sort_by_key(|module| std::cmp::Reverse(module.bytes()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(weights: &[(&str, u64, u64)]) -> Vec<(String, u64, u64)> {
        let weights = weights.iter().map(|(name, dedicated, shared)| (*name, PerTier::new(*dedicated, *shared)));
        by_module(weights.collect()).into_iter().map(|module| (module.name, module.dedicated, module.shared)).collect()
    }

    #[test]
    fn a_module_with_more_than_half_of_all_is_divided() {
        let found = names(&[
            ("model.up.0.weight", 3, 1),
            ("model.up.1.weight", 1, 0),
            ("model.down.weight", 3, 0),
            ("model.upper", 2, 0),
            ("head.weight", 0, 1),
        ]);
        let expected = [("model.up", 4, 1), ("model.down", 3, 0), ("model.upper", 2, 0), ("head", 0, 1)];
        assert_eq!(found, expected.map(|(name, dedicated, shared)| (name.to_owned(), dedicated, shared)));
    }

    #[test]
    fn what_has_many_parts_is_not_divided_and_many_modules_are_one_row() {
        let layers: Vec<String> = (0..13).map(|layer| format!("layers.{layer}.weight")).collect();
        let weights: Vec<(&str, u64, u64)> = layers.iter().map(|name| (name.as_str(), 1, 0)).collect();
        assert_eq!(names(&weights), [("layers".to_owned(), 13, 0)]);
        let modules: Vec<String> = (0..14).map(|module| format!("m{module}")).collect();
        let weights: Vec<(&str, u64, u64)> = modules.iter().map(|name| (name.as_str(), 1, 1)).collect();
        let found = names(&weights);
        assert_eq!((found.len(), found[11].clone()), (12, ("3 others".to_owned(), 3, 3)));
    }

    #[test]
    fn a_single_weight_is_not_divided_for_ever() {
        assert_eq!(names(&[("weight", 5, 0)]), [("weight".to_owned(), 5, 0)]);
        assert_eq!(names(&[("a.b.weight", 5, 0)]), [("a.b.weight".to_owned(), 5, 0)]);
        assert_eq!(names(&[]), []);
    }
}
