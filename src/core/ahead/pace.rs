//! Pace: which memory is shared, so that the link is busy all along and nothing is wanted at the
//! head of a pass; and what a pass takes then.
//!
//! A *chunk* is a run of granules that hold weights alone: it is shared or dedicated as a whole. A
//! *work* is one weight's turn in a pass.

use std::collections::VecDeque;

/// A run of granules that can be shared, in the order in which a pass first uses them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chunk {
    /// Its bytes.
    pub bytes: u64,
    /// The part of a pass that is over when it is first used: 0 at the beginning, 1 at the end.
    pub when: f64,
}

/// Chooses which chunks are shared: of `chunks`, in the order of their use, at least `over` bytes
/// if there are so many. Walking along the pass, a chunk becomes shared while what is shared so far
/// keeps to a steady pace, the least that reaches `over`. O(n log n).
pub fn choose(chunks: &[Chunk], over: u64) -> Vec<bool> {
    let all: u64 = chunks.iter().map(|chunk| chunk.bytes).sum();
    if over == 0 || chunks.is_empty() {
        return vec![false; chunks.len()];
    }
    if all <= over {
        return vec![true; chunks.len()];
    }
    let at_pace = |pace: f64| -> (Vec<bool>, u64) {
        let mut shared = 0;
        let chosen = chunks
            .iter()
            .map(|chunk| {
                let is_shared = (shared + chunk.bytes) as f64 <= pace * over as f64 * chunk.when;
                shared += if is_shared { chunk.bytes } else { 0 };
                is_shared
            })
            .collect();
        (chosen, shared)
    };
    // The least pace that reaches `over`, by halving. A pace beyond which nothing at all is held
    // back exists unless everything comes at the very beginning.
    let (mut low, mut high) = (0.0, 1.0);
    while at_pace(high).1 < over {
        if high > 1e6 {
            return last_ones(chunks, over);
        }
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if at_pace(middle).1 < over {
            low = middle;
        } else {
            high = middle;
        }
    }
    at_pace(high).0
}

/// The last chunks that together reach `over`.
fn last_ones(chunks: &[Chunk], over: u64) -> Vec<bool> {
    let mut chosen = vec![false; chunks.len()];
    let mut shared = 0;
    for (index, chunk) in chunks.iter().enumerate().rev() {
        if shared >= over {
            break;
        }
        chosen[index] = true;
        shared += chunk.bytes;
    }
    chosen
}

/// One weight's turn in a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// The bytes that its slot takes in the ring; 0 for a weight that is not copied.
    pub slot: u64,
    /// Of those, the bytes that cross the link.
    pub link: u64,
    /// Seconds of computation from here to the next one.
    pub seconds: f64,
}

/// Seconds of a pass whose weights are copied ahead through a ring of `ring` bytes over a link of
/// `link` bytes per second, by a model of two engines: copies follow one another, each begins when
/// there is room for it in the ring, and a weight's work begins when its copy is done. O(n).
pub fn seconds(pass: &[Work], ring: u64, link: f64) -> f64 {
    let (mut copied_until, mut computed_until) = (0.0f64, 0.0f64);
    // The slots that are in the ring or were: their bytes, and when their work ended.
    let mut slots: VecDeque<(u64, f64)> = VecDeque::new();
    let mut used = 0;
    // Copies run as far ahead as the ring allows, so each is placed when its turn in the copy
    // engine comes, which never depends on work behind it.
    for work in pass {
        if work.slot > 0 {
            let slot = work.slot.min(ring);
            let mut room_at = 0.0f64;
            while used + slot > ring {
                let Some((bytes, ended)) = slots.pop_front() else { break };
                used -= bytes;
                room_at = room_at.max(ended);
            }
            copied_until = copied_until.max(room_at) + work.link as f64 / link;
            computed_until = computed_until.max(copied_until) + work.seconds;
            slots.push_back((slot, computed_until));
            used += slot;
        } else {
            computed_until += work.seconds;
        }
    }
    computed_until
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn even(count: u64, bytes: u64) -> Vec<Chunk> {
        (0..count).map(|index| Chunk { bytes, when: index as f64 / count as f64 }).collect()
    }

    #[test]
    fn what_is_shared_is_spread_and_the_head_is_dedicated() {
        let chosen = choose(&even(12, 10), 40);
        assert_eq!(chosen.iter().filter(|is_shared| **is_shared).count(), 4);
        assert!(!chosen[0] && !chosen[1], "{chosen:?}");
        let places: Vec<usize> = (0..12).filter(|index| chosen[*index]).collect();
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 2), "{places:?}");
    }

    #[test]
    fn the_borders() {
        assert_eq!(choose(&[], 5), Vec::<bool>::new());
        assert_eq!(choose(&even(3, 10), 0), [false; 3]);
        assert_eq!(choose(&even(3, 10), 30), [true; 3]);
        let at_once = [Chunk { bytes: 10, when: 0.0 }; 3];
        assert_eq!(choose(&at_once, 11), [false, true, true]);
    }

    #[test]
    fn a_pass_takes_the_longer_of_work_and_link() {
        let work = |slot, seconds| Work { slot, link: slot, seconds };
        let hidden: Vec<Work> = std::iter::once(work(0, 1.0)).chain([work(10, 1.0); 5]).collect();
        assert_eq!(seconds(&hidden, 30, 10.0), 6.0, "each copy takes as long as the work before");
        assert_eq!(seconds(&hidden, 10, 10.0), 1.0 + 5.0 + 4.0, "one slot: copy and work take turns");
        assert_eq!(seconds(&hidden, 30, 5.0), 11.0, "the link is the limit, and the last work follows it");
        assert_eq!(seconds(&[], 30, 5.0), 0.0);
    }

    proptest! {
        #[test]
        fn enough_is_chosen_and_no_chunk_more(
            sizes in prop::collection::vec(1u64..50, 1..60), over in 0u64..2000,
        ) {
            let all: u64 = sizes.iter().sum();
            let mut so_far = 0;
            let chunks: Vec<Chunk> = sizes
                .iter()
                .map(|bytes| {
                    let when = so_far as f64 / all as f64;
                    so_far += bytes;
                    Chunk { bytes: *bytes, when }
                })
                .collect();
            let chosen = choose(&chunks, over);
            let shared: u64 = chunks.iter().zip(&chosen).filter(|(_, is)| **is).map(|(chunk, _)| chunk.bytes).sum();
            prop_assert!(shared >= over.min(all));
            prop_assert!(shared <= over + 50 * 2 || over == 0, "{} of {}", shared, over);
        }

        #[test]
        fn a_pass_is_no_shorter_than_either_engine_and_no_longer_than_both(
            pass in prop::collection::vec((0u64..30, 0u8..9), 1..40), ring in 30u64..200,
        ) {
            let pass: Vec<Work> = pass.iter().map(|(slot, seconds)| Work { slot: *slot, link: *slot, seconds: f64::from(*seconds) }).collect();
            let work: f64 = pass.iter().map(|work| work.seconds).sum();
            let link: f64 = pass.iter().map(|work| work.link as f64 / 4.0).sum();
            let took = seconds(&pass, ring, 4.0);
            prop_assert!(took >= work.max(link) - 1e-9 && took <= work + link + 1e-9);
            prop_assert!(seconds(&pass, 2 * ring, 4.0) <= took + 1e-9, "a larger ring never hurts");
        }
    }
}
