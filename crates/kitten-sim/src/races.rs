//! The detector of memory used too early. A use that is not ordered behind an earlier, conflicting
//! one is a fault, whether or not the earlier one happens to be done.

use std::collections::BTreeMap;

/// One range that work reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its first address.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
    /// Whether it is written.
    pub write: bool,
}

impl Access {
    /// A range that is read.
    pub fn read(address: u64, bytes: u64) -> Access {
        Access { address, bytes, write: false }
    }

    /// A range that is written.
    pub fn write(address: u64, bytes: u64) -> Access {
        Access { address, bytes, write: true }
    }

    /// The address of a place in a tier, beyond all addresses of processes.
    pub(crate) fn place(device: usize, tier: u64, offset: u64) -> u64 {
        1 << 63 | (device as u64) << 56 | tier << 55 | offset
    }

    fn covers(&self, other: &Access) -> bool {
        self.address <= other.address && other.address + other.bytes <= self.address + self.bytes
    }

    fn conflicts(&self, other: &Access) -> bool {
        let overlap = self.address < other.address + other.bytes && other.address < self.address + self.bytes;
        overlap && (self.write || other.write)
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}+{:#x}", self.address, self.bytes)?;
        if self.address >> 63 == 0 { Ok(()) } else { f.write_str(" (memory at several addresses)") }
    }
}

/// Memory used, unmapped or moved while work that touches it was not ordered to be done before, or
/// a call on a destroyed stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much of each stream's work is known to come before: by the stream's serial number, a count
/// of its work.
pub(crate) type Clock = BTreeMap<u64, u64>;

pub(crate) fn merge(clock: &mut Clock, other: &Clock) {
    for (stream, count) in other {
        let known = clock.entry(*stream).or_default();
        *known = (*known).max(*count);
    }
}

struct PastUse {
    access: Access,
    stream: u64,
    nth: u64,
    name: String,
}

/// The uses of memory that conflicts are looked for among, and the faults found.
#[derive(Default)]
pub(crate) struct Races {
    uses: Vec<PastUse>,
    faults: Vec<Fault>,
    /// Called with each fault at once.
    tell: Option<fn(&Fault)>,
}

impl Races {
    /// Adds a piece of work in a stream, the `nth` there. `before` is ordered before it.
    pub(crate) fn launch(&mut self, name: &str, accesses: &[Access], stream: u64, nth: u64, before: &Clock) {
        for access in accesses {
            self.check(access, name, Some(stream), before);
        }
        // A write that surely comes after a use of the same bytes stands for it from now on.
        self.uses.retain(|past| {
            let ordered = past.stream == stream || before.get(&past.stream).is_some_and(|known| *known >= past.nth);
            !(ordered && accesses.iter().any(|access| access.write && access.covers(&past.access)))
        });
        self.uses.extend(accesses.iter().map(|access| PastUse { access: *access, stream, nth, name: name.into() }));
    }

    /// Reports the first past use that conflicts with `access` and that `known` does not order
    /// before it.
    pub(crate) fn check(&mut self, access: &Access, name: &str, stream: Option<u64>, known: &Clock) {
        let early = self.uses.iter().find(|past| {
            let ordered =
                Some(past.stream) == stream || known.get(&past.stream).is_some_and(|count| *count >= past.nth);
            !ordered && past.access.conflicts(access)
        });
        let Some(past) = early else { return };
        self.fault(format!(
            "{name} touches {access} before \"{}\" on stream #{}, which touches {}, is sure to be done",
            past.name, past.stream, past.access
        ));
    }

    /// Adds a fault.
    pub(crate) fn fault(&mut self, text: String) {
        let fault = Fault(text);
        if let Some(tell) = self.tell {
            tell(&fault);
        }
        self.faults.push(fault);
    }

    /// Forgets the uses that the host knows to be done: they come before everything that begins
    /// from now on.
    pub(crate) fn forget(&mut self, host: &Clock) {
        self.uses.retain(|past| host.get(&past.stream).is_none_or(|known| *known < past.nth));
    }

    /// Forgets all uses.
    pub(crate) fn forget_all(&mut self) {
        self.uses.clear();
    }

    /// All faults so far.
    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.faults.clone()
    }

    /// Has a function called with each fault at once.
    pub(crate) fn tell(&mut self, tell: fn(&Fault)) {
        self.tell = Some(tell);
    }
}
