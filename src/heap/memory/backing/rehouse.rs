//! Rehousing: granules change tier, a batch at a time.
//!
//! ```text
//!              address of the granules       working addresses
//!   before     ├─▶ old backing                ├─▶ (nothing)
//!   prepared   ├─▶ old backing                ├─▶ new backing     map, set access
//!   copying    ├─▶ old backing  ═══ copy ═══▶ ├─▶ new backing
//!   exchanged  ├─▶ new backing                ├─▶ (nothing)     unmap both, map, set access
//! ```
//!
//! There are working addresses for two batches, so that one is prepared or exchanged while another
//! is copied.

use super::{Backing, Detached, Stuck, Unattached};
use crate::core::{GranuleId, Tier};
use crate::driver::{self, DriverError, Handle};

/// The most bytes of a batch: long enough that a copy takes much longer than to begin one and wait
/// for it.
const BATCH: u64 = 16 << 20;

/// The most granules of a batch: of the usual 2 MiB, as many as that.
const MOST: u64 = 8;

/// Where new backing is mapped while it is filled: addresses for two batches.
#[derive(Debug)]
pub(super) struct Working {
    /// The first address of each half.
    halves: [u64; 2],
    /// The half of the next batch.
    next: usize,
}

/// Granules that go to another tier together.
#[derive(Debug)]
pub(in crate::heap::memory) struct Batch {
    from: Tier,
    pub(in crate::heap::memory) to: Tier,
    /// Where the new handles are mapped meanwhile, one behind the other.
    working: u64,
    granules: Vec<Granule>,
}

#[derive(Clone, Copy, Debug)]
struct Granule {
    id: GranuleId,
    address: u64,
    old: Handle,
    new: Handle,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(in crate::heap::memory) struct Exchanged {
    /// The granules under which the new handle is now.
    pub(in crate::heap::memory) moved: Vec<(GranuleId, Handle)>,
    /// Why the others, if any, are as before, or why one cannot be accessed.
    pub(in crate::heap::memory) failed: Option<DriverError>,
}

impl Batch {
    /// An empty batch.
    pub(in crate::heap::memory) fn new(from: Tier, to: Tier) -> Batch {
        Batch { from, to, working: 0, granules: Vec::new() }
    }

    /// Adds a granule with its old handle and the new one.
    pub(in crate::heap::memory) fn add(&mut self, id: GranuleId, address: u64, old: Handle, new: Handle) {
        self.granules.push(Granule { id, address, old, new });
    }

    /// Whether it goes to a faster tier.
    pub(in crate::heap::memory) fn is_promotion(&self) -> bool {
        self.to.is_faster_than(self.from)
    }

    /// How many granules it has.
    pub(in crate::heap::memory) fn len(&self) -> usize {
        self.granules.len()
    }

    fn new_handles(&self) -> Vec<Handle> {
        self.granules.iter().map(|granule| granule.new).collect()
    }

    /// Its granules, in runs that lie one behind the other.
    fn runs(&self, granule: u64) -> impl Iterator<Item = &[Granule]> {
        self.granules.chunk_by(move |a, b| a.address + granule == b.address)
    }
}

impl Backing {
    /// The most granules of a batch.
    pub(in crate::heap::memory) fn batch(&self) -> usize {
        (BATCH / self.granule).clamp(1, MOST) as usize
    }

    /// Maps the new handles of a batch at working addresses.
    ///
    /// # Errors
    /// The driver's; the new handles are in stock again, or stuck.
    pub(in crate::heap::memory) fn prepare(&mut self, mut batch: Batch) -> driver::Result<Batch> {
        batch.granules.sort_unstable_by_key(|granule| granule.address);
        batch.working = match self.working_half() {
            Ok(address) => address,
            Err(why) => {
                batch.new_handles().into_iter().for_each(|new| self.put(batch.to, new));
                return Err(why);
            }
        };
        let stuck = self.stuck.len();
        let mapped = self.map_run(batch.working, &batch.new_handles(), batch.to);
        if self.stuck.len() > stuck {
            self.working = None;
        }
        mapped?;
        self.working.iter_mut().for_each(|working| working.next = 1 - working.next);
        Ok(batch)
    }

    /// Begins the copies of a batch that is prepared. The device must be idle.
    ///
    /// # Errors
    /// The driver's; the granules are as before.
    pub(in crate::heap::memory) fn begin_copies(&mut self, batch: Batch) -> driver::Result<Batch> {
        let mut to = batch.working;
        let begun = batch.runs(self.granule).try_for_each(|run| {
            let bytes = run.len() as u64 * self.granule;
            self.driver.begin_copy(self.device, to, run[0].address, bytes)?;
            to += bytes;
            Ok(())
        });
        match begun {
            Ok(()) => Ok(batch),
            Err(why) => {
                self.give_up(batch);
                Err(why)
            }
        }
    }

    /// Waits for all copies.
    ///
    /// # Errors
    /// The driver's.
    pub(in crate::heap::memory) fn finish_copies(&self) -> driver::Result<()> {
        self.driver.finish_copies(self.device)
    }

    /// Gives up a batch that is prepared: its granules are as before, and the new handles in stock
    /// again, or stuck.
    pub(in crate::heap::memory) fn give_up(&mut self, batch: Batch) {
        if self.finish_copies().is_err() {
            return self.strand(&batch, true);
        }
        if !self.undo_map(batch.working, self.bytes(&batch), batch.new_handles(), batch.to) {
            self.working = None;
        }
    }

    /// Keeps the new handles of a batch as stuck, and gives up the working addresses.
    fn strand(&mut self, batch: &Batch, is_written: bool) {
        let (bytes, handles) = (self.bytes(batch), batch.new_handles());
        self.stuck.push(Stuck { address: batch.working, bytes, handles, tier: batch.to, is_written });
        self.working = None;
    }

    fn bytes(&self, batch: &Batch) -> u64 {
        batch.len() as u64 * self.granule
    }

    /// Puts the new handles of a batch where the old ones are, whose place is the stock then. The
    /// copies must be done.
    pub(in crate::heap::memory) fn exchange(&mut self, batch: Batch) -> Exchanged {
        let bytes = self.bytes(&batch);
        if let Err(why) = driver::insist(|| self.driver.unmap(self.device, batch.working, bytes)) {
            self.strand(&batch, false);
            return Exchanged { failed: Some(why), ..Exchanged::default() };
        }
        let mut exchanged = Exchanged::default();
        for run in batch.runs(self.granule) {
            let bytes = run.len() as u64 * self.granule;
            let unmapped = match exchanged.failed {
                None => self.driver.unmap(self.device, run[0].address, bytes),
                Some(_) => Ok(()),
            };
            if exchanged.failed.is_some() || unmapped.is_err() {
                run.iter().for_each(|granule| self.put(batch.to, granule.new));
                exchanged.failed = exchanged.failed.or(unmapped.err());
                continue;
            }
            self.attach_run(run, &batch, &mut exchanged);
        }
        exchanged
    }

    /// Attaches the new handles of a run whose granules are mapped nowhere: all at once, or where
    /// that fails, one by one.
    fn attach_run(&mut self, run: &[Granule], batch: &Batch, exchanged: &mut Exchanged) {
        let (device, size) = (self.device, self.granule);
        let map = |granule: &&Granule| self.driver.map(device, granule.address, size, granule.new).is_ok();
        let mapped = run.iter().take_while(map).count();
        let bytes = run.len() as u64 * size;
        let is_open = mapped == run.len() && self.driver.set_access(device, run[0].address, bytes).is_ok();
        for (index, granule) in run.iter().enumerate() {
            let attached = match (is_open, index < mapped) {
                (true, _) => Ok(()),
                (false, true) => self.open(granule.address),
                (false, false) => self.attach(granule.address, granule.new),
            };
            self.settle(granule, attached, batch, exchanged);
        }
    }

    /// Decides which handle is under a granule, by how attaching the new one went.
    fn settle(
        &mut self,
        granule: &Granule,
        attached: Result<(), (Unattached, DriverError)>,
        batch: &Batch,
        exchanged: &mut Exchanged,
    ) {
        let Granule { id, address, old, new } = *granule;
        match attached {
            Ok(()) => {
                self.put(batch.from, old);
                exchanged.moved.push((id, new));
            }
            Err((Unattached::Unmapped, why)) => {
                self.put(batch.to, new);
                if let Err((how, why)) = self.attach(address, old) {
                    self.detached.push(Detached { address, handle: old, how, why });
                }
                exchanged.failed.get_or_insert(why);
            }
            Err((Unattached::Inaccessible, why)) => {
                self.put(batch.from, old);
                self.detached.push(Detached { address, handle: new, how: Unattached::Inaccessible, why: why.clone() });
                exchanged.moved.push((id, new));
                exchanged.failed.get_or_insert(why);
            }
        }
    }

    /// The working addresses of the next batch.
    fn working_half(&mut self) -> driver::Result<u64> {
        if let Some(Working { halves, next }) = &self.working {
            return Ok(halves[*next]);
        }
        let half = self.batch() as u64 * self.granule;
        let address = self.addresses(2 * half)?;
        self.working = Some(Working { halves: [address, address + half], next: 0 });
        Ok(address)
    }
}
