//! Copying ahead: weights of the shared tier are copied into a ring of dedicated memory before they
//! are used. Pure knowledge and pure choices; the copies themselves are the heap's.
//!
//! ```text
//!   order    in which order one kind of work uses its weights
//!   ring     which stretch of the ring holds which weight
//!   pace     which weights are shared, so that the link is busy all along
//!   trial    whether copying ahead pays, by the seconds that passes took
//! ```

mod order;
mod pace;
mod ring;
mod trial;

pub use order::{Called, Order, Passed, Use};
pub use pace::{Chunk, Work, choose, seconds};
pub use ring::{Ring, SlotId};
pub use trial::{Hidden, Knowledge, Seen, Trial};

/// The least bytes of a weight that is copied ahead: smaller ones are not worth the calls.
const LEAST: u64 = 1 << 20;
/// The most bytes of a weight that is copied ahead: a larger one would need too large a ring.
const MOST: u64 = 256 << 20;
