//! Whether copying ahead pays, by the seconds that passes took.
//!
//! How often a kernel reads a weight that lies in the shared tier is nowhere reported: a product of
//! many rows reads it many times over the link. Two timed passes show it, one that read in place
//! and one whose weights were copied.

/// The most that a weight is assumed to be read in one pass; 39 was measured (NVIDIA H100, a
/// product of 16384 rows).
const MOST_REREAD: f64 = 64.0;

/// How much slower than in place a pass may be before copying ahead is given up.
const NOT_SLOWER: f64 = 1.02;

/// A pass that was timed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Seconds from its beginning to its end.
    pub seconds: f64,
    /// Bytes of its weights that lay in the shared tier, and so crossed the link.
    pub crossed: u64,
}

/// What the passes of one kind of work have shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trial {
    in_place: Option<Seen>,
    /// Seconds of computation in a pass.
    computed: Option<f64>,
    /// The last pass whose weights were copied and that was timed.
    ahead: Option<Seen>,
}

/// How much is known of copying the weights of one kind of work. That of two moments is equal
/// unless something new was found; that a pass takes some seconds more or less is nothing new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// The weights whose order is known.
    pub weights: usize,
    /// Whether a pass was timed that read in place, and one whose weights were copied.
    pub is_timed: [bool; 2],
    /// Whether copying was refused or given up.
    pub is_refused: bool,
}

/// What copying ahead has done for a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hidden {
    /// Seconds that the pass waited for copies.
    pub waited: f64,
    /// The part of the copies' time in which the pass computed.
    pub share: f64,
}

impl Trial {
    /// A pass read everything in place, and its scratch found dedicated memory.
    pub fn note_in_place(&mut self, seen: Seen) {
        self.in_place = Some(seen);
    }

    /// The weights of a pass were copied, and it computed for so many seconds.
    pub fn note_ahead(&mut self, seen: Seen, computed: f64) {
        (self.ahead, self.computed) = (Some(seen), Some(computed));
    }

    /// What copying ahead has done for the last pass that was timed with it; `None` where nothing
    /// was copied. `link` is the rate in bytes per second.
    pub fn hidden(&self, link: f64) -> Option<Hidden> {
        let (seen, computed) = (self.ahead?, self.computed?);
        let waited = (seen.seconds - computed).max(0.0);
        let copying = seen.crossed as f64 / link;
        (copying > 0.0).then(|| Hidden { waited, share: (1.0 - waited / copying).max(0.0) })
    }

    /// Whether a pass was timed that read in place, and one whose weights were copied.
    pub fn is_timed(&self) -> [bool; 2] {
        [self.in_place.is_some(), self.computed.is_some()]
    }

    /// Whether a pass whose weights were copied has been timed.
    pub fn is_over(&self) -> bool {
        self.computed.is_some()
    }

    /// How often a weight is read over the link in a pass, where it is read in place. 1 as long as
    /// it is unknown. `link` is the rate in bytes per second.
    pub fn reread(&self, link: f64) -> f64 {
        match (self.in_place, self.computed) {
            (Some(seen), Some(computed)) if seen.crossed > 0 => {
                ((seen.seconds - computed) * link / seen.crossed as f64).clamp(1.0, MOST_REREAD)
            }
            _ => 1.0,
        }
    }

    /// The seconds that a pass would have taken in place, if `seen` with copied weights took longer
    /// than that.
    pub fn is_slower_than(&self, seen: Seen, link: f64) -> Option<f64> {
        let in_place = self.in_place?;
        let more = seen.crossed as f64 - in_place.crossed as f64;
        let expected = in_place.seconds + more * self.reread(link) / link;
        (seen.seconds > NOT_SLOWER * expected).then_some(expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: f64 = 1e9;

    fn seen(seconds: f64, crossed: u64) -> Seen {
        Seen { seconds, crossed }
    }

    #[test]
    fn reads_are_counted_from_two_passes() {
        let mut trial = Trial::default();
        assert_eq!((trial.reread(LINK), trial.is_over()), (1.0, false));
        trial.note_in_place(seen(9.0, 1_000_000_000));
        assert_eq!(trial.reread(LINK), 1.0, "how long it computes is unknown");
        trial.note_ahead(seen(1.25, 1_000_000_000), 1.0);
        assert_eq!((trial.reread(LINK), trial.is_over()), (8.0, true));
        assert_eq!(trial.hidden(LINK), Some(Hidden { waited: 0.25, share: 0.75 }));
        trial.note_in_place(seen(1.5, 1_000_000_000));
        assert_eq!(trial.reread(LINK), 1.0, "never less than once");
        trial.note_in_place(seen(9.0, 0));
        assert_eq!(trial.reread(LINK), 1.0, "nothing was read over the link");
        trial.note_in_place(seen(1e6, 1));
        assert_eq!(trial.reread(LINK), MOST_REREAD);
    }

    #[test]
    fn a_pass_is_compared_with_one_in_place_that_reads_as_much() {
        let mut trial = Trial::default();
        assert_eq!(trial.is_slower_than(seen(100.0, 0), LINK), None, "nothing to compare with");
        trial.note_in_place(seen(2.0, 1_000_000_000));
        trial.note_ahead(seen(1.0, 0), 1.0);
        assert_eq!(trial.hidden(LINK), None, "nothing was copied");
        assert_eq!(trial.is_slower_than(seen(2.03, 1_000_000_000), LINK), None);
        assert_eq!(trial.is_slower_than(seen(2.1, 1_000_000_000), LINK), Some(2.0));
        assert_eq!(trial.is_slower_than(seen(2.9, 2_000_000_000), LINK), None, "it would be 3 in place");
        assert_eq!(trial.is_slower_than(seen(1.1, 0), LINK), Some(1.0));
    }
}
