//! The result of a replay.

use giant_kitten::Wanted;
use serde::{Deserialize, Serialize};

use super::setup::Policy;

/// The longest step that is believed: some thirty thousand years, in seconds.
const LONGEST_STEP: f64 = 1e12;

/// Whether a number of seconds is credible for a step.
pub(crate) fn is_a_time(seconds: f64) -> bool {
    (0.0..=LONGEST_STEP).contains(&seconds)
}

/// One phase with operations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The phase's name.
    pub name: String,
    /// How many times the whole of the work had been done before.
    pub generation: u64,
    /// Modelled: compute, link, and moves before the phase.
    pub seconds: f64,
    /// Those of `seconds` that the moves before the phase take.
    pub moving_seconds: f64,
    /// Modelled: the time if everything were dedicated.
    pub compute_seconds: f64,
    /// Modelled: the driver's calls for memory within the step. They are not part of `seconds`,
    /// because they occupy the host while the device works. On a card they are measured by the
    /// host's clock.
    pub call_seconds: f64,
    /// From the first operation to the last, by the clock of a real or fake card; none without a
    /// card.
    pub card_seconds: Option<f64>,
    /// Bytes over the link, both ways, with rereads.
    pub link_bytes: u64,
    /// Those of `link_bytes` to the device.
    pub link_read_bytes: u64,
    /// Those of `link_bytes` to the host.
    pub link_write_bytes: u64,
    /// Those of `link_read_bytes` that are weights copied ahead.
    #[serde(default)]
    pub copy_bytes: u64,
    /// Modelled: how long the work waited for copies ahead, and the copies for the work.
    #[serde(default)]
    pub waited_seconds: f64,
    /// Modelled: how long the link to the device was busy, where weights were copied ahead.
    #[serde(default)]
    pub link_seconds: f64,
    /// The most bytes mapped in dedicated memory.
    pub peak_dedicated_bytes: u64,
    /// The most bytes mapped in shared memory.
    pub peak_shared_bytes: u64,
}

/// The result of a replay. Sizes are in bytes. All seconds are modelled, except the card's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The trace's name.
    pub trace: String,
    /// The profile's name.
    pub profile: String,
    /// The card, and its driver.
    pub card: String,
    /// How memory was placed.
    pub policy: Policy,
    /// The reserve and the rest that this start would have wanted, for the next start.
    #[serde(skip)]
    pub wanted: Option<Wanted>,
    /// The reserve in force at the end.
    pub reserve_bytes: u64,
    /// Bytes that lived when the first step began.
    pub resident_bytes: u64,
    /// Capacity of the dedicated tier.
    pub dedicated_bytes: u64,
    /// Capacity of the shared tier.
    pub shared_bytes: u64,
    /// Persist of the activation.
    pub persist_bytes: u64,
    /// The most bytes of live blocks.
    pub peak_live_bytes: u64,
    /// The most bytes mapped.
    pub peak_mapped_bytes: u64,
    /// The most bytes mapped in shared memory, loading included.
    #[serde(default)]
    pub peak_shared_bytes: u64,
    /// Peak mapped over peak live.
    pub fragmentation: f64,
    /// The same within the last generation: what is left of it once the work is known.
    #[serde(default)]
    pub steady_fragmentation: f64,
    /// Bytes of idle dedicated memory that were mapped side by side because each run was too short.
    pub stitched_bytes: u64,
    /// Blocks allocated.
    pub mallocs: u64,
    /// Blocks freed.
    pub frees: u64,
    /// Bytes that changed tier.
    pub migrated_bytes: u64,
    /// What activations and safe points took: modelled, or by the host's clock on a card.
    #[serde(default)]
    pub moving_seconds: f64,
    /// Modelled: those of them that the bytes would take over the link alone.
    #[serde(default)]
    pub moving_link_seconds: f64,
    /// How often a matmul or convolution was taken to read each shared byte.
    pub in_place_reread: f64,
    /// Every phase with operations except loading, in order.
    pub steps: Vec<Step>,
    /// The last step.
    pub steady: Option<Step>,
    /// Why the replay ended early, if it did.
    pub oom: Option<String>,
}

impl Outcome {
    /// The steps of a generation; none where the replay ended early.
    pub(super) fn generation(&self, generation: u64) -> impl Iterator<Item = &Step> {
        let complete = self.oom.is_none();
        self.steps.iter().filter(move |step| complete && step.generation == generation)
    }

    /// The last step; `None` where the replay ended early.
    pub(super) fn last_step(&self) -> Option<&Step> {
        self.steady.as_ref().filter(|_| self.oom.is_none())
    }

    /// The steps that have both times.
    pub fn compared(&self) -> impl Iterator<Item = Compared> {
        let first_come = self.policy == Policy::FirstCome;
        self.steps
            .iter()
            .filter_map(move |step| Some(Compared { modelled: step.seconds, card: step.card_seconds?, first_come }))
    }
}

/// A step of a replay on a card: what the model says and what the card took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// Modelled seconds.
    pub modelled: f64,
    /// The card's seconds.
    pub card: f64,
    /// Whether memory was placed first come, first served.
    pub first_come: bool,
}
