//! Forked children: CUDA does not work in the child of a process that has used it, so neither does the allocator, and says so.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a forked child is told.
pub(crate) const WHY: &str = "this process was forked from one that had used the GPU, and CUDA does not work in it: start \
                              processes with the method \"spawn\" or \"forkserver\" instead";

static CHILD: AtomicBool = AtomicBool::new(false);
static IN_CHILD: OnceLock<fn()> = OnceLock::new();

/// Whether this process was forked from one that called [`watch`].
pub(crate) fn is_child() -> bool {
    CHILD.load(Ordering::Relaxed)
}

/// From now on, `run` is called at the start of each forked child, which has one thread. It may do only what a signal handler may.
#[cfg(unix)]
pub(crate) fn watch(run: fn()) {
    extern "C" fn in_child() {
        CHILD.store(true, Ordering::Relaxed);
        if let Some(run) = IN_CHILD.get() {
            run();
        }
    }
    if IN_CHILD.set(run).is_err() {
        return;
    }
    // SAFETY: the function stores to atomics, as `run` does: nothing that a child may not do at once after a fork.
    if unsafe { libc::pthread_atfork(None, None, Some(in_child)) } != 0 {
        log::warn!("forked children cannot be told that CUDA does not work in them");
    }
}

/// There is no fork.
#[cfg(not(unix))]
pub(crate) fn watch(_run: fn()) {}
