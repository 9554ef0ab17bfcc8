//! Whether the allocator is behind PyTorch's own: given to a `MemPool` there, it is asked for whole segments, and must not cache
//! what PyTorch's allocator has cached already and now gives up.
//!
//! Nobody says so. Yet PyTorch's own allocator asks for multiples of 2 MiB and nothing else (`kSmallBuffer` and `kRoundLarge` in its
//! `c10/cuda/CUDACachingAllocator`), while a program that has swapped its allocator for this one asks for what its tensors take,
//! and calls the init hook where it has set the hooks.

use std::sync::atomic::{AtomicU8, Ordering};

/// What segments are multiples of, in bytes.
const SEGMENT: usize = 2 << 20;

const UNKNOWN: u8 = 0;
const BEHIND: u8 = 1;
const IN_FRONT: u8 = 2;

static PLACE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// PyTorch has called the init hook: its allocator is this one.
pub(super) fn is_in_front() {
    PLACE.store(IN_FRONT, Ordering::Relaxed);
}

/// PyTorch asks for so many bytes.
#[inline]
pub(super) fn asked(bytes: usize) {
    if PLACE.load(Ordering::Relaxed) != IN_FRONT {
        settle(bytes);
    }
}

#[cold]
fn settle(bytes: usize) {
    let is_segment = bytes.is_multiple_of(SEGMENT);
    PLACE.store(if is_segment { BEHIND } else { IN_FRONT }, Ordering::Relaxed);
}

/// Whether what is given back is to go back to the driver at once.
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
