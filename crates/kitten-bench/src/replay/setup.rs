//! How work is replayed: on what, and how memory is placed.

use giant_kitten::{Activation, CopyAhead, Layout, Reserve, Wanted};
use kitten_sim::Profile;
use serde::{Deserialize, Serialize};

/// Dedicated memory of a card that everything fits, for the limit.
pub(super) const LARGER_THAN_ANY: u64 = 1 << 40;

/// How memory is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Blocks take dedicated memory as they come, and nothing is activated, as with a driver's own
    /// fallback.
    FirstCome,
    /// Loading leaves the reserve alone; the activation comes after the load.
    Reserve,
    /// The reserve finds itself. Each phase begins with a safe point that names the kind of work,
    /// and the reads of loaded blocks are reported.
    Auto,
    /// The same, with nothing reported except the safe points.
    AutoBlind,
    /// The first start with the environment variable alone: nothing is reported, and nothing moves.
    Untold,
    /// A later start with `reserve:remembered`: nothing is reported, and the reserve is the one
    /// that the start before would have wanted.
    Remembered,
}

/// The card of a replay, and how memory is placed.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The figures of the model. The allocator may use its capacities.
    pub profile: Profile,
    /// Bytes of a granule, if not the card's own.
    pub granule: Option<u64>,
    /// How memory is placed.
    pub policy: Policy,
    /// The activation of [`Policy::Reserve`].
    pub activation: Activation,
    /// With [`Policy::Remembered`], the wishes of the start before
    /// ([`Outcome::wanted`](super::Outcome::wanted)).
    pub wanted: Option<Wanted>,
    /// Whether weights are copied ahead of their use, with [`Policy::Auto`].
    pub copy_ahead: CopyAhead,
    /// How large blocks are laid out.
    pub layout: Layout,
    /// Whether work is queued on the card's timeline although nothing can overlap it.
    pub keeps_time: bool,
}

impl Setup {
    /// A replay on this profile with the default options.
    pub fn new(profile: Profile, policy: Policy) -> Setup {
        Setup {
            profile,
            granule: None,
            policy,
            activation: Activation::default(),
            wanted: None,
            copy_ahead: CopyAhead::Off,
            layout: Layout::default(),
            keeps_time: false,
        }
    }

    /// The same with another reserve.
    pub fn with_reserve(mut self, bytes: u64) -> Setup {
        self.activation.reserve = Reserve::Fixed(bytes);
        self
    }
}
