//! Forked children: CUDA does not work in the child of a process that has used it, so neither does the allocator, and says so.

use std::sync::atomic::{AtomicBool, Ordering};

/// What a forked child is told.
pub(super) const WHY: &str = "this process was forked from one that had used the GPU, and CUDA does not work in it: start \
                              processes with the method \"spawn\" or \"forkserver\" instead";

static CHILD: AtomicBool = AtomicBool::new(false);

/// Whether this process was forked from one that used the allocator.
pub(super) fn is_child() -> bool {
    CHILD.load(Ordering::Relaxed)
}

/// In every child from now on, the allocator is gone: its locks may be held by threads that the child does not have.
#[cfg(unix)]
pub(super) fn watch() {
    extern "C" fn in_child() {
        CHILD.store(true, Ordering::Relaxed);
        super::CURRENT.store(std::ptr::null_mut(), Ordering::Release);
    }
    // SAFETY: the function does nothing that a child may not do at once after a fork.
    if unsafe { libc::pthread_atfork(None, None, Some(in_child)) } != 0 {
        log::warn!("forked children cannot be told that CUDA does not work in them");
    }
}

/// There is no fork.
#[cfg(not(unix))]
pub(super) fn watch() {}
