//! What an activation asks for: a reserve, a persist, and an order of placement.

use super::policy::placement::Order;
use super::size::show_size;

/// How much dedicated memory is kept for scratch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reserve {
    /// As much as the work is found to ask for.
    #[default]
    Auto,
    /// This many bytes.
    Fixed(u64),
}

impl Reserve {
    /// The bytes, if they are given.
    pub fn fixed(self) -> Option<u64> {
        match self {
            Reserve::Auto => None,
            Reserve::Fixed(bytes) => Some(bytes),
        }
    }
}

impl From<u64> for Reserve {
    fn from(bytes: u64) -> Self {
        Reserve::Fixed(bytes)
    }
}

impl std::fmt::Display for Reserve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Reserve::Auto => f.write_str("auto"),
            Reserve::Fixed(bytes) => f.write_str(&show_size(*bytes)),
        }
    }
}

/// What an activation does, from the C interface down to the heap. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activation {
    /// Dedicated memory that resident blocks leave to scratch.
    pub reserve: Reserve,
    /// Dedicated memory that is withheld altogether, as if the card were smaller.
    pub persist: u64,
    /// The order in which blocks claim the dedicated memory that is left.
    pub order: Order,
}

/// Dedicated memory that resident blocks may not have. Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Kept for scratch.
    pub reserve: u64,
    /// Withheld altogether while active.
    pub persist: u64,
}

impl Kept {
    /// Both together; `None` where that overflows.
    pub fn sum(self) -> Option<u64> {
        self.reserve.checked_add(self.persist)
    }
}
