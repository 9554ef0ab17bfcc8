//! Finds out whether PyTorch's own allocator calls this one.
//!
//! That is so where a program passes this allocator to a `MemPool`. PyTorch's allocator then
//! allocates whole segments here and caches them itself, so this one must not cache them again when
//! they are freed.
//!
//! PyTorch does not say which is the case. Its own allocator asks for multiples of 2 MiB and
//! nothing else (`kSmallBuffer` and `kRoundLarge` in `c10/cuda/CUDACachingAllocator`). A program
//! that has swapped its allocator for this one asks for the sizes of its tensors, and calls the
//! init hook if it set the hooks.

use std::sync::atomic::{AtomicU8, Ordering};

/// Sizes of segments are multiples of this, in bytes.
const SEGMENT: usize = 2 << 20;

const UNKNOWN: u8 = 0;
const BEHIND: u8 = 1;
const IN_FRONT: u8 = 2;

static PLACE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// PyTorch has called the init hook, so this is its allocator.
pub(super) fn is_in_front() {
    PLACE.store(IN_FRONT, Ordering::Relaxed);
}

/// PyTorch asks for a number of bytes.
#[inline]
pub(super) fn asked(bytes: usize) {
    if PLACE.load(Ordering::Relaxed) != IN_FRONT {
        conclude(bytes);
    }
}

#[cold]
fn conclude(bytes: usize) {
    let is_segment = bytes.is_multiple_of(SEGMENT);
    PLACE.store(if is_segment { BEHIND } else { IN_FRONT }, Ordering::Relaxed);
}

/// Whether freed memory should be returned to the driver at once.
#[inline]
pub(super) fn is_behind() -> bool {
    PLACE.load(Ordering::Relaxed) == BEHIND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_alone_are_of_an_allocator_in_front() {
        for bytes in [20 << 20, 2 << 20] {
            asked(bytes);
            assert!(is_behind());
        }
        asked(512);
        asked(20 << 20);
        assert!(!is_behind(), "one tensor is enough to know");
    }
}
