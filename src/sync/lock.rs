//! A lock that is released by a plain store.
//!
//! Other locks ask at each release whether a thread sleeps, by an instruction as costly as the one
//! that takes the lock. Nearly every call of the allocator takes a heap's lock and nobody else
//! wants it, so here the waiting thread pays instead: it tries again, at first at once and then
//! after pauses that grow to a millisecond. A heap is held for tens of nanoseconds, or by an action
//! for as long as memory moves.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::lock_api;

/// A value behind this lock.
pub(crate) type Mutex<T> = lock_api::Mutex<Lock, T>;
/// Access to the value, until it is dropped.
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, Lock, T>;

/// How often a waiting thread tries at once, and how often it lets others run first.
const SPINS: u64 = 100;
const YIELDS: u64 = 20;
/// The first and the longest pause of a waiting thread.
const FIRST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// The lock: whether somebody has it.
#[derive(Debug)]
pub(crate) struct Lock(AtomicBool);

impl Lock {
    #[cold]
    fn wait(&self) {
        let mut pause = FIRST_PAUSE;
        for attempt in 0.. {
            if !self.0.load(Ordering::Relaxed) && lock_api::RawMutex::try_lock(self) {
                return;
            }
            if attempt < SPINS {
                std::hint::spin_loop();
            } else if attempt < SPINS + YIELDS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

// SAFETY: only one thread at a time changes the value from false to true, and what it does until it
// stores false is seen by the next one that does: acquire and release order it.
unsafe impl lock_api::RawMutex for Lock {
    const INIT: Lock = Lock(AtomicBool::new(false));

    type GuardMarker = lock_api::GuardNoSend;

    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            self.wait();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_threads_have_the_lock() {
        const TURNS: u64 = 20_000;
        let both: Mutex<[u64; 2]> = Mutex::new([0; 2]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..TURNS {
                        let mut both = both.lock();
                        both[0] += 1;
                        std::hint::black_box(&mut *both);
                        both[1] += 1;
                        assert_eq!(both[0], both[1]);
                    }
                });
            }
        });
        assert_eq!(*both.lock(), [4 * TURNS; 2]);
    }

    #[test]
    fn a_thread_waits_for_as_long_as_another_has_the_lock() {
        let value = Mutex::new(1);
        let held = value.lock();
        assert!(value.try_lock().is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| *value.lock());
            std::thread::sleep(Duration::from_millis(10));
            assert!(!waiting.is_finished());
            let mut held = held;
            *held = 2;
            drop(held);
            assert_eq!(waiting.join().unwrap(), 2);
        });
    }
}
