//! A snapshot as C structs, for those who list many blocks: each block is one, and a short text has
//! what many of them share.

use std::ffi::c_char;

use crate::core::Tier;
use crate::heap::SegmentBlock;

/// A block, or free space between blocks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GkBlock {
    /// Its first address.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// The bytes that were requested; 0 for free space.
    pub requested: u64,
    /// Its bytes in the dedicated tier.
    pub dedicated: u64,
    /// Its bytes in the shared tier.
    pub shared: u64,
    /// The number of its kind in the outline.
    pub kind: u64,
}

impl GkBlock {
    /// A block of a segment.
    pub(super) fn of(block: &SegmentBlock, kind: u64) -> GkBlock {
        GkBlock {
            address: block.address,
            size: block.size,
            requested: block.requested,
            dedicated: block.residency[Tier::Dedicated],
            shared: block.residency[Tier::Shared],
            kind,
        }
    }
}

/// The segments and blocks of a device.
#[repr(C)]
#[derive(Debug)]
pub struct GkSnapshot {
    /// The segments, the kinds of blocks and the stacks, as JSON.
    pub outline: *mut c_char,
    /// The blocks of all segments, one segment after another.
    pub blocks: *mut GkBlock,
    /// Their number.
    pub count: usize,
}
