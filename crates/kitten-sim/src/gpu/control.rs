//! Settings and observations for tests. No driver has these calls.

use std::collections::BTreeMap;

use super::{Gpu, State};
use crate::code::Result;
use crate::memory::{Budgets, Memory};
use crate::races::Fault;
use crate::streams::{Completion, Streams};

/// Everything that a program holds of the machine at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    /// Backing that was created and is not freed.
    pub handles: usize,
    /// Mappings.
    pub mappings: usize,
    /// Reserved address ranges.
    pub reservations: usize,
    /// Events.
    pub events: usize,
}

impl Gpu {
    /// Chooses when work is done from now on.
    pub fn set_completion(&self, completion: Completion) {
        let mut state = self.state();
        let State { memory, streams, .. } = &mut *state;
        streams.set_completion(completion, memory);
    }

    /// Does one piece of late work, on a stream that the seed picks among those that may go on.
    /// Returns whether there was one.
    pub fn complete_one(&self, seed: u64) -> bool {
        let mut state = self.state();
        let State { memory, streams, .. } = &mut *state;
        streams.complete_one(seed, memory)
    }

    /// How many pieces of work are not done.
    pub fn pending(&self) -> usize {
        self.state().streams.pending()
    }

    /// All uses of memory that came too early, and of destroyed streams where those are faults.
    pub fn faults(&self) -> Vec<Fault> {
        self.state().streams.faults()
    }

    /// Makes each call on a destroyed stream a fault, besides refusing it: a driver may crash.
    pub fn fault_destroyed_streams(&self) {
        self.state().streams.fault_destroyed();
    }

    /// Also calls `tell` for each fault as it happens. `tell` must not call the machine.
    pub fn tell_faults(&self, tell: fn(&Fault)) {
        self.state().streams.tell_faults(tell);
    }

    /// How often each call was made.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.state().calls.counts.clone()
    }

    /// How many calls were made.
    pub fn total_calls(&self) -> u64 {
        self.state().calls.total
    }

    /// The seconds of all calls and work by the profiles, as if each followed the one before:
    /// modelled, not measured.
    pub fn modelled_seconds(&self) -> f64 {
        let state = self.state();
        state.calls.seconds + state.work_seconds
    }

    /// The same, where what the host and several streams do at a time takes its time once. Whoever
    /// asks waits for the work.
    pub fn modelled_clock(&self) -> f64 {
        self.state().streams.elapsed().seconds
    }

    /// Makes the n-th use of a call from now on fail (1 is the next).
    pub fn fail(&self, call: &str, nth: u64, code: i32) {
        self.state().calls.arm(call, nth, code, false);
    }

    /// Makes every use of a call fail from the n-th on.
    pub fn fail_from(&self, call: &str, nth: u64, code: i32) {
        self.state().calls.arm(call, nth, code, true);
    }

    /// Makes the n-th call of any kind from now on fail.
    pub fn fail_any(&self, nth: u64, code: i32) {
        self.state().calls.arm("", nth, code, false);
    }

    /// Stops all injected failures.
    pub fn clear_failures(&self) {
        self.state().calls.disarm();
    }

    /// Sets how much of a device's dedicated memory other processes have taken.
    pub fn set_dedicated_taken(&self, device: usize, bytes: u64) {
        self.state().memory.set_taken(device, bytes);
    }

    /// Sets what the operating system grants the program of a device's dedicated and of its shared
    /// memory, in bytes, as Windows does; `None` for a system that keeps no account. The driver
    /// does not keep to it.
    pub fn grant(&self, device: usize, budgets: Option<[u64; 2]>) {
        self.state().memory.grant(device, budgets);
    }

    /// What the operating system grants the program, with what it uses; `None` where the system
    /// keeps no account.
    ///
    /// # Errors
    /// A device that does not exist.
    pub fn granted(&self, device: usize) -> Result<Option<Budgets>> {
        self.profile("granted", device)?;
        Ok(self.state().memory.granted(device))
    }

    /// Makes dedicated backing that does not fit the card be created in the host's memory, as
    /// drivers for Windows do: nothing fails, and nothing is said.
    pub fn overcommit(&self) {
        self.state().memory.overcommit();
    }

    /// Keeps no contents from now on: what is copied or set to zero is checked and timed, and its
    /// bytes stay what they are. For work whose bytes nobody reads.
    pub fn ignore_contents(&self) {
        self.state().memory.ignore_contents();
    }

    /// The bytes of dedicated backing that were ever created in the host's memory.
    pub fn spilled(&self) -> u64 {
        self.state().memory.spilled()
    }

    /// Everything that the program holds of the machine.
    pub fn outstanding(&self) -> Outstanding {
        let state = self.state();
        let (handles, mappings, reservations) = state.memory.outstanding();
        Outstanding { handles, mappings, reservations, events: state.streams.live_events() }
    }

    /// How many streams the program has created and not destroyed.
    pub fn live_streams(&self) -> usize {
        self.state().streams.live_streams()
    }

    /// Reads bytes at once, without a stream.
    ///
    /// # Errors
    /// A range that is not mapped with access.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.state().memory.read(address, bytes)
    }

    /// Compares bytes at once, without a stream and without a copy. Returns the place of the first
    /// that differs from the expected ones.
    ///
    /// # Errors
    /// A range that is not mapped with access.
    pub fn difference(&self, address: u64, expected: &[u8]) -> Result<Option<usize>> {
        self.state().memory.difference(address, expected)
    }

    /// Writes bytes at once, without a stream.
    ///
    /// # Errors
    /// A range that is not mapped with access.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.state().memory.write(address, bytes)
    }

    /// Frees the machine's memory, addresses and streams. From now on it has no devices. This is
    /// for programs that create many machines and cannot be sure that no clone of an old one is
    /// left.
    pub fn dismantle(&self) {
        let mut state = self.state();
        if let Ok(nothing) = Memory::new(&[]) {
            state.memory = nothing;
        }
        state.streams = Streams::new();
        state.profiles.clear();
    }
}
