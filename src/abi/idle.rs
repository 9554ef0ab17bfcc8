//! A thread that returns idle dedicated memory to the driver.
//!
//! A program that waits for its user holds its cached memory, and other programs on the card cannot
//! use it. An allocator is not told of that, so this thread looks at intervals. It returns memory
//! only if nothing was allocated or freed since its last look. A program at work allocates or frees
//! in between.

use std::time::Duration;

use parking_lot::Mutex;

use crate::allocator::Allocator;
use crate::platform::{fork, system};

/// Whether the process is exiting. Held during a look, so that no look runs when the driver is
/// unloaded.
static ENDED: Mutex<bool> = Mutex::new(false);

/// Starts the thread, which looks once every `interval`.
pub(super) fn watch(allocator: &'static Allocator, interval: Duration) {
    let look = move || {
        loop {
            std::thread::sleep(interval);
            let ended = ENDED.lock();
            if *ended {
                return;
            }
            allocator.look_for_idle();
        }
    };
    let begun = std::thread::Builder::new().name("giant-kitten-idle".into()).spawn(look);
    match begun {
        Ok(_) => stop_at_exit(),
        Err(why) => {
            log::warn!("idle memory stays allocated: the thread that looks for it could not be started ({why})")
        }
    }
}

/// Stops the thread at exit, before the driver is unloaded: handlers run in the reverse order of
/// their registration, and the driver is loaded by now.
fn stop_at_exit() {
    extern "C" fn stop() {
        // A forked child does not have the thread, which may have held the lock at the fork.
        if !fork::is_child() {
            *ENDED.lock() = true;
        }
    }
    if !system::at_exit(stop) {
        log::debug!("the thread that looks for idle memory cannot be stopped before the driver is unloaded");
    }
}
