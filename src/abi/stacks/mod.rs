//! The Python stacks that lead to allocations and frees, for histories and snapshots.
//!
//! Reading them runs no Python code. An allocator is called while exceptions propagate, inside
//! destructors, by threads that Python does not know, and while the interpreter ends. A callback
//! into Python could lose exceptions and signals there, or crash the process. So [`python`] reads
//! stacks through functions of the interpreter that run no code of the program.
//!
//! Equal stacks are stored once, as long as an event or a live block refers to them.

mod frame;
mod python;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::core::history::{Names, Who};
use crate::platform::fork;

pub(super) use self::frame::Frame;

/// The frames of a thread, the innermost first. A thread without Python has none.
#[derive(Debug)]
pub(super) struct Stack {
    pub(super) frames: Vec<Frame>,
    hash: u64,
}

/// The stacks that are referred to, by their hashes. Of two different stacks with the same hash,
/// only one is here and shared.
static STACKS: LazyLock<Mutex<HashMap<u64, Weak<Stack>>>> = LazyLock::new(Mutex::default);

impl Stack {
    /// The stack with these frames.
    fn of(frames: Vec<Frame>) -> Arc<Stack> {
        let mut hasher = DefaultHasher::new();
        frames.hash(&mut hasher);
        let hash = hasher.finish();
        let mut stacks = STACKS.lock();
        if let Some(known) = stacks.get(&hash).and_then(Weak::upgrade) {
            if known.frames == frames {
                return known;
            }
            // Dropping `known` takes the lock if it is the last reference.
            drop(stacks);
            return Arc::new(Stack { frames, hash });
        }
        let stack = Arc::new(Stack { frames, hash });
        stacks.insert(hash, Arc::downgrade(&stack));
        stack
    }

    /// The stack with these lines: file, line and function, the innermost first.
    #[cfg(all(test, feature = "sim"))]
    pub(super) fn of_lines(lines: &[(&str, u32, &str)]) -> Arc<Stack> {
        let frame = |&(filename, line, name): &(&str, u32, &str)| {
            let code = Arc::new(frame::Code { filename: filename.into(), name: name.into() });
            Frame { code, line }
        };
        Stack::of(lines.iter().map(frame).collect())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let mut stacks = STACKS.lock();
        if stacks.get(&self.hash).is_some_and(|known| std::ptr::eq(known.as_ptr(), self)) {
            stacks.remove(&self.hash);
        }
        // The table does not keep its largest size for ever.
        if stacks.capacity() > 4 * stacks.len().max(1024) {
            stacks.shrink_to_fit();
        }
    }
}

/// The stacks that are wanted: a number of [`Names`].
static WANTED: AtomicU8 = AtomicU8::new(Names::None as u8);
/// The number of threads that are reading a stack now.
static ASKING: AtomicUsize = AtomicUsize::new(0);

/// Sets the stacks that are wanted from now on. The caller holds Python's lock (the GIL) if any
/// are.
pub(super) fn ask_for(names: Names) {
    if names > Names::None {
        python::find();
    }
    WANTED.store(names as u8, Ordering::SeqCst);
}

/// Waits for the threads that began to read a stack before [`ask_for`] was told that none are
/// wanted. The interpreter may end afterwards.
pub(super) fn wait_for_answers() {
    /// Longer than any thread waits for Python's lock, unless it is never released again.
    const LONGEST: Duration = Duration::from_secs(2);
    if WANTED.load(Ordering::SeqCst) != Names::None as u8 || fork::is_child() {
        return;
    }
    let until = Instant::now() + LONGEST;
    python::without_its_lock(|| {
        while ASKING.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_micros(100));
        }
    });
}

/// The stack that leads to an allocation, if it is wanted.
#[cold]
pub(super) fn of_malloc() -> Option<Who> {
    answer(Names::OfBlocks)
}

/// The stack that leads to a free, if it is wanted.
#[cold]
pub(super) fn of_free() -> Option<Who> {
    answer(Names::OfAll)
}

fn answer(wanted_from: Names) -> Option<Who> {
    struct Asking;
    impl Drop for Asking {
        fn drop(&mut self) {
            ASKING.fetch_sub(1, Ordering::SeqCst);
        }
    }
    ASKING.fetch_add(1, Ordering::SeqCst);
    let _asking = Asking;
    let wanted = WANTED.load(Ordering::SeqCst) >= wanted_from as u8;
    wanted.then(|| Stack::of(python::frames()) as Who)
}

#[cfg(test)]
mod tests {
    use super::frame::Code;
    use super::*;

    fn frame(code: &Arc<Code>, line: u32) -> Frame {
        Frame { code: code.clone(), line }
    }

    fn code(filename: &str) -> Arc<Code> {
        Arc::new(Code { filename: filename.into(), name: "work".into() })
    }

    #[test]
    fn equal_stacks_are_one_for_as_long_as_it_is_referred_to() {
        let (one, other) = (code("same.py"), code("same.py"));
        let first = Stack::of(vec![frame(&one, 1), frame(&other, 2)]);
        assert!(Arc::ptr_eq(&first, &Stack::of(vec![frame(&one, 1), frame(&other, 2)])));
        for different in [vec![frame(&other, 1), frame(&one, 2)], vec![frame(&one, 1), frame(&other, 3)], vec![]] {
            assert!(!Arc::ptr_eq(&first, &Stack::of(different)));
        }
        let hash = first.hash;
        assert!(STACKS.lock().contains_key(&hash));
        drop(first);
        assert!(!STACKS.lock().contains_key(&hash));
        assert_eq!((Arc::strong_count(&one), Arc::strong_count(&other)), (1, 1));
    }

    #[test]
    fn stacks_of_one_hash_are_told_apart() {
        let (one, other) = (code("one.py"), code("other.py"));
        let first = Stack::of(vec![frame(&one, 1)]);
        let hash = {
            let second = Stack::of(vec![frame(&other, 1)]);
            second.hash
        };
        STACKS.lock().insert(hash, Arc::downgrade(&first));
        let second = Stack::of(vec![frame(&other, 1)]);
        assert!(second.frames[0] == frame(&other, 1) && first.frames[0] == frame(&one, 1));
        drop(second);
        assert!(
            STACKS.lock().get(&hash).is_some_and(|known| known.upgrade().is_some()),
            "the entry belongs to the other stack"
        );
        STACKS.lock().remove(&hash);
    }
}
