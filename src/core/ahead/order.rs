//! The order in which one kind of work uses its weights, learned from its passes.

use std::collections::HashMap;

use super::{LEAST, MOST};

/// A weight is copied only if it was used in so many of the last [`REMEMBERED`] passes.
const RELIABLE: u32 = 3;
/// How many passes a weight's use is remembered for.
const REMEMBERED: u32 = 4;
const ALL: u8 = (1 << REMEMBERED) - 1;

/// One weight in the order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    /// Its address.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Seconds of computation from here to the next one; `None` where they are unknown.
    pub seconds: Option<f64>,
    /// In which of the last passes it was used: the lowest bit is the latest.
    uses: u8,
}

impl Use {
    /// Whether it is used in most passes.
    fn is_reliable(&self) -> bool {
        self.uses.count_ones() >= RELIABLE
    }

    /// Whether copying it ahead is worth it: it is used in most passes, and neither too small nor
    /// too large.
    pub fn is_worth_copying(&self) -> bool {
        self.is_reliable() && (LEAST..=MOST).contains(&self.bytes)
    }

    /// Whether it has been used in each pass since it came up, and these are too few to rely on it.
    pub fn is_new(&self) -> bool {
        !self.is_reliable() && self.uses & (self.uses + 1) == 0
    }
}

/// What a call of a weight is to the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// It comes at this place, at or after the one that was expected.
    At(usize),
    /// It comes earlier in the order, or it is not in it.
    Unexpected,
}

/// A weight that a pass used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passed {
    /// Its address.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// The order of use of one kind of work.
#[derive(Clone, Debug, Default)]
pub struct Order {
    uses: Vec<Use>,
    places: HashMap<u64, usize>,
    passes: u64,
}

impl Order {
    /// The weights, in order.
    pub fn uses(&self) -> &[Use] {
        &self.uses
    }

    /// How many passes it was learned from.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// Where a weight stands, if it is known.
    pub fn place_of(&self, address: u64) -> Option<usize> {
        self.places.get(&address).copied()
    }

    /// What a call of the weight at `address` is, where `expected` is the place after the last one
    /// called. O(1).
    pub fn called(&self, address: u64, bytes: u64, expected: usize) -> Called {
        match self.place_of(address) {
            Some(place) if place >= expected && self.uses[place].bytes == bytes => Called::At(place),
            _ => Called::Unexpected,
        }
    }

    /// Learns from a pass that came to its end. Where nothing is known, as in the first pass and
    /// once another model has replaced all weights, it is believed. A weight that a pass uses twice
    /// counts where it came first. Weights that were not used stay, behind those that they
    /// followed, until no remembered pass used them. O(n).
    pub fn learn(&mut self, pass: &[Passed]) {
        let first = self.uses.is_empty();
        let mut uses: Vec<Use> = Vec::with_capacity(pass.len());
        let mut places: HashMap<u64, usize> = HashMap::with_capacity(pass.len());
        for passed in pass {
            if places.contains_key(&passed.address) {
                continue;
            }
            let before = self.place_of(passed.address).map(|place| self.uses[place]);
            let before = before.filter(|known| known.bytes == passed.bytes);
            places.insert(passed.address, uses.len());
            uses.push(Use {
                address: passed.address,
                bytes: passed.bytes,
                seconds: before.and_then(|known| known.seconds),
                uses: if first { ALL } else { before.map_or(0, |known| known.uses << 1) & ALL | 1 },
            });
        }
        self.uses = self.with_unused(uses, &places);
        self.places = self.uses.iter().enumerate().map(|(place, known)| (known.address, place)).collect();
        self.passes += 1;
    }

    /// The weights of a pass, with those that it did not use and that may be used again.
    fn with_unused(&self, used: Vec<Use>, places: &HashMap<u64, usize>) -> Vec<Use> {
        // The unused ones behind each used one; those before the first used one come first.
        let mut behind: HashMap<Option<u64>, Vec<Use>> = HashMap::new();
        let mut last = None;
        for known in &self.uses {
            if places.contains_key(&known.address) {
                last = Some(known.address);
                continue;
            }
            let uses = known.uses << 1 & ALL;
            if uses != 0 {
                behind.entry(last).or_default().push(Use { uses, ..*known });
            }
        }
        if behind.is_empty() {
            return used;
        }
        let mut all = behind.remove(&None).unwrap_or_default();
        for one in used {
            all.push(one);
            all.extend(behind.remove(&Some(one.address)).unwrap_or_default());
        }
        all
    }

    /// Notes the seconds from weights, by their addresses, to the next ones.
    pub fn time(&mut self, seconds: &HashMap<u64, f64>) {
        for known in &mut self.uses {
            known.seconds = seconds.get(&known.address).copied().or(known.seconds);
        }
    }

    /// Forgets weights whose memory was freed. Returns whether there were any.
    pub fn forget(&mut self, is_gone: impl Fn(u64) -> bool) -> bool {
        if !self.places.keys().any(|address| is_gone(*address)) {
            return false;
        }
        self.uses.retain(|known| !is_gone(known.address));
        self.places = self.uses.iter().enumerate().map(|(place, known)| (known.address, place)).collect();
        true
    }

    /// Whether weights have come up that only more passes can show to be used in most.
    pub fn has_new(&self) -> bool {
        self.uses.iter().any(Use::is_new)
    }

    /// Whether the seconds of every weight are known.
    pub fn is_timed(&self) -> bool {
        !self.uses.is_empty() && self.uses.iter().all(|known| known.seconds.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(addresses: &[u64]) -> Vec<Passed> {
        addresses.iter().map(|address| Passed { address: *address, bytes: 10 }).collect()
    }

    fn addresses(order: &Order) -> Vec<u64> {
        order.uses().iter().map(|known| known.address).collect()
    }

    #[test]
    fn the_first_pass_is_believed() {
        let mut order = Order::default();
        order.learn(&pass(&[3, 1, 2, 1]));
        assert_eq!((addresses(&order), order.passes()), (vec![3, 1, 2], 1));
        assert!(order.uses().iter().all(Use::is_reliable));
        assert_eq!(order.called(1, 10, 0), Called::At(1), "further on");
        assert_eq!(order.called(3, 10, 1), Called::Unexpected, "behind");
        assert_eq!(order.called(1, 20, 0), Called::Unexpected, "another size");
        assert_eq!(order.called(9, 10, 0), Called::Unexpected);
    }

    #[test]
    fn the_first_pass_of_another_model_is_believed_and_new_weights_need_more_passes() {
        let mut order = Order::default();
        order.learn(&pass(&[1, 2, 3]));
        assert!(!order.has_new());
        assert!(order.forget(|_| true));
        order.learn(&pass(&[4, 5]));
        assert!(order.uses().iter().all(Use::is_reliable) && !order.has_new());
        order.learn(&pass(&[4, 6]));
        assert!(order.has_new());
        order.learn(&pass(&[4, 6]));
        assert!(order.has_new());
        order.learn(&pass(&[4, 6]));
        assert!(order.uses().iter().any(|known| known.address == 6 && known.is_reliable()) && !order.has_new());
        order.learn(&pass(&[4, 6, 7]));
        order.learn(&pass(&[4, 6]));
        assert!(!order.has_new(), "what was used once and then left out need not be learned");
    }

    #[test]
    fn what_is_used_now_and_then_is_not_copied_and_keeps_its_place() {
        let mut order = Order::default();
        order.learn(&pass(&[1, 2, 3, 4]));
        let reliable = |order: &Order| -> Vec<u64> {
            order.uses().iter().filter(|known| known.is_reliable()).map(|known| known.address).collect()
        };
        order.learn(&pass(&[1, 4]));
        assert_eq!((addresses(&order), reliable(&order)), (vec![1, 2, 3, 4], vec![1, 2, 3, 4]), "three of four");
        order.learn(&pass(&[1, 4, 5]));
        assert_eq!(reliable(&order), [1, 4], "two of four, and a new one is not believed at once");
        let new = |order: &Order| order.uses().iter().find(|known| known.is_new()).map(|known| known.address);
        assert_eq!(new(&order), Some(5));
        (0..2).for_each(|_| order.learn(&pass(&[1, 4, 5])));
        assert_eq!((addresses(&order), reliable(&order)), (vec![1, 4, 5], vec![1, 4, 5]), "forgotten");
        assert_eq!(new(&order), None);
    }

    #[test]
    fn seconds_are_kept_until_they_are_measured_anew() {
        let mut order = Order::default();
        order.learn(&pass(&[1, 2]));
        assert!(!order.is_timed());
        order.time(&HashMap::from([(1, 0.5), (2, 0.25)]));
        order.learn(&pass(&[1, 2]));
        assert!(order.is_timed());
        assert_eq!(order.uses()[1].seconds, Some(0.25));
        assert!(order.forget(|address| address == 1) && !order.forget(|address| address == 1));
        assert_eq!((addresses(&order), order.place_of(2), order.place_of(1)), (vec![2], Some(0), None));
    }
}
