//! How much of the host's memory may be pinned for the GPU without taking what the host needs.

use parking_lot::Mutex;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// The available memory that is always left to the host, in bytes: a gibibyte, or a sixteenth of
/// the total if that is more.
fn margin(total: u64) -> u64 {
    (total / 16).max(1 << 30)
}

/// The total memory of the host, and how much of it can be spared, in bytes. That is half of the
/// total (as Windows allows the GPU), or the available memory less a margin, whichever is less.
/// Both are as seen from the process's cgroup.
pub(crate) fn memory() -> (u64, u64) {
    // One thread at a time. Of two that ask first at the same moment, wine tells the second that
    // there is no memory.
    static ASKING: Mutex<()> = Mutex::new(());
    let _asking = ASKING.lock();
    let wanted = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = match System::new_with_specifics(wanted) {
        Ok(system) => system,
        Err(why) => {
            log::warn!("no shared tier: the host's memory cannot be read: {why}");
            return (0, 0);
        }
    };
    let (mut total, mut available) = (system.total_memory(), system.available_memory());
    if let Some(limits) = system.cgroup_limits() {
        total = total.min(limits.total_memory);
        available = available.min(limits.free_memory);
    }
    (total, spare(total, available))
}

fn spare(total: u64, available: u64) -> u64 {
    (total / 2).min(available.saturating_sub(margin(total)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_host_keeps_what_it_needs() {
        assert_eq!(spare(32 * GIB, 30 * GIB), 16 * GIB, "half of the total");
        assert_eq!(spare(32 * GIB, 10 * GIB), 8 * GIB, "the available memory, less a sixteenth of the total");
        assert_eq!(spare(8 * GIB, 2 * GIB), GIB, "the available memory, less at least a gibibyte");
        assert_eq!(spare(8 * GIB, GIB / 2), 0);
        assert_eq!(spare(0, 0), 0);
    }

    #[test]
    fn this_machine_has_some() {
        let (total, spare) = memory();
        assert!(0 < spare && spare <= total / 2, "{spare} of {total}");
    }
}
