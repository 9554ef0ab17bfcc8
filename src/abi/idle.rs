//! Dedicated memory that lies idle goes back to the driver: a thread looks now and then.
//!
//! A program that waits for its user holds what it has cached, and another program on the card cannot have it. Nobody tells an
//! allocator that; so it looks. Between two looks of a step something is allocated or freed, and nothing is given back then.

use std::time::Duration;

use parking_lot::Mutex;

use crate::allocator::Allocator;
use crate::platform::fork;

/// Whether the process is at its end. Held during a look, so that none is under way when the driver goes.
static ENDED: Mutex<bool> = Mutex::new(false);

/// Begins to look every `interval`.
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
        Err(why) => log::warn!("idle memory stays: no thread could be begun to look for it ({why})"),
    }
}

/// Before the driver goes: what registers later runs earlier, and the driver is loaded by now.
#[cfg(unix)]
fn stop_at_exit() {
    extern "C" fn stop() {
        // A forked child has no such thread, and the lock may be as the parent's thread held it.
        if !fork::is_child() {
            *ENDED.lock() = true;
        }
    }
    // SAFETY: the function takes a lock that is never held for long, and does nothing else.
    if unsafe { libc::atexit(stop) } != 0 {
        log::debug!("the thread that looks for idle memory is not stopped before the driver");
    }
}

#[cfg(not(unix))]
fn stop_at_exit() {}
