//! Forked children. CUDA does not work in the child of a process that has used it, so the allocator
//! refuses to work there and says why.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::system;

/// The error text in a forked child.
pub(crate) const WHY: &str = "this process was forked from one that had used the GPU, and CUDA does not work in it: start \
                              processes with the method \"spawn\" or \"forkserver\" instead";

static CHILD: AtomicBool = AtomicBool::new(false);
static IN_CHILD: OnceLock<fn()> = OnceLock::new();

/// Whether this process was forked from one that called [`watch`].
pub(crate) fn is_child() -> bool {
    CHILD.load(Ordering::Relaxed)
}

/// Calls `run` at the start of each child that is forked from now on. It may do only what a signal
/// handler may: the child has one thread.
pub(crate) fn watch(run: fn()) {
    extern "C" fn in_child() {
        CHILD.store(true, Ordering::Relaxed);
        if let Some(run) = IN_CHILD.get() {
            run();
        }
    }
    if IN_CHILD.set(run).is_ok() && !system::at_fork(in_child) {
        log::warn!("forked children will not be told that CUDA does not work in them: pthread_atfork failed");
    }
}
