//! Pieces of work on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Does a piece of work for each item, as many at a time as there are cores, and returns the
/// results in the order of the items.
pub fn on_all_cores<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let next = AtomicUsize::new(0);
    let some = || {
        let mine =
            std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed)).map_while(|i| Some((i, items.get(i)?)));
        mine.map(|(i, item)| (i, work(item))).collect::<Vec<_>>()
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (1..cores).map(|_| scope.spawn(some)).collect();
        let mut done = some();
        for worker in workers {
            done.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        let items: Vec<u64> = (0..1000).collect();
        let slow_first = |item: &u64| {
            (0..1000 - item).for_each(|_| std::hint::spin_loop());
            item * item
        };
        assert_eq!(on_all_cores(&items, slow_first), items.iter().map(|item| item * item).collect::<Vec<_>>());
        assert!(on_all_cores(&[], slow_first).is_empty());
    }
}
