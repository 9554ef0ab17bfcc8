//! The locks and atomics of the allocator: the real ones, or those of a model checker that tries
//! the orders in which threads may run. Only the tests in `allocator/threads.rs` use the latter.

#[cfg(not(all(test, giant_kitten_shuttle)))]
mod lock;

#[cfg(not(all(test, giant_kitten_shuttle)))]
mod chosen {
    pub(crate) use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

    pub(crate) use super::lock::{Mutex, MutexGuard};

    /// Lets other threads go on for a moment.
    pub(crate) fn pause() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[cfg(all(test, giant_kitten_shuttle))]
mod chosen {
    pub(crate) use shuttle::sync::MutexGuard;
    pub(crate) use shuttle::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
    pub(crate) use shuttle::thread::yield_now as pause;

    /// Shuttle's lock, with the interface of the real one.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}

pub(crate) use chosen::{AtomicU32, AtomicUsize, Mutex, MutexGuard, Ordering, pause};

use crate::core::ThreadId;

/// The calling thread. A thread that has ended may have had the same number.
#[cfg(all(target_os = "linux", target_arch = "x86_64", not(all(test, giant_kitten_shuttle)), not(miri)))]
#[inline]
pub(crate) fn this_thread() -> ThreadId {
    let own: u64;
    // SAFETY: the ABI of threads ("ELF Handling For Thread-Local Storage", 3.4.6) has the address
    // of the thread's control block in the word at fs:0. No other living thread has the same
    // address. `pthread_self` returns it too, by a call.
    unsafe {
        std::arch::asm!("mov {}, fs:[0]", out(reg) own, options(nostack, preserves_flags, readonly, pure));
    }
    ThreadId(own)
}

/// The calling thread. A thread that has ended may have had the same number.
#[cfg(all(
    unix,
    not(all(target_os = "linux", target_arch = "x86_64", not(miri))),
    not(all(test, giant_kitten_shuttle))
))]
#[inline]
pub(crate) fn this_thread() -> ThreadId {
    // SAFETY: the function has no precondition.
    ThreadId(unsafe { libc::pthread_self() } as u64)
}

/// The calling thread. A thread that has ended may have had the same number.
#[cfg(all(not(unix), not(all(test, giant_kitten_shuttle))))]
#[inline]
pub(crate) fn this_thread() -> ThreadId {
    thread_local! {
        static HERE: u8 = const { 0 };
    }
    // No other living thread has a variable at this address.
    ThreadId(HERE.try_with(|here| std::ptr::from_ref(here) as u64).unwrap_or(0))
}

/// The calling thread, as the model checker knows it.
#[cfg(all(test, giant_kitten_shuttle))]
pub(crate) fn this_thread() -> ThreadId {
    ThreadId(usize::from(shuttle::current::me()) as u64)
}
