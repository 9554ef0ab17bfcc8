//! Wrong arguments, and pools in wrong orders.

use std::ffi::{c_int, c_void};

use giant_kitten::abi;

use super::Actor;
use super::pools::{Pool, named};
use crate::Failure;
use crate::filter::Filter;
use crate::notes::Call;
use crate::world::Block;

/// Whether an error may be the answer to a wrong order. It must be about a pool or a capture, not
/// about blocks.
fn is_about_a_pool(text: &str) -> bool {
    text.contains("pool") || text.contains("capture")
}

impl Actor {
    /// Makes a call with invalid arguments, which must be refused and have no effect.
    pub(super) fn wrong_argument(&mut self) -> Result<(), Failure> {
        self.tally.others += 1;
        self.tally.wrong += 1;
        let here = std::ptr::from_mut(self).cast::<c_void>();
        match self.random.u8(..6) {
            0 => {
                if let Some(nth) = self.some_block()
                    && self.live[nth].bytes > 1
                {
                    let Block { address, bytes, device, at, owner, .. } = self.live[nth];
                    let inside = address + self.random.u64(1..bytes);
                    self.note(Call::WrongFree, device, at, bytes, inside);
                    abi::gk_free(inside as *mut c_void, 1, device as c_int, owner as *mut c_void);
                    if !self.heard(|text| text.contains("not the start of a live block"))? {
                        return Err(Failure(format!("gk_free accepts {inside:#x}, which lies inside a block")));
                    }
                }
                return Ok(());
            }
            1 => {
                self.note(Call::WrongFree, 0, 0, 0, here as u64);
                abi::gk_free(here, 1, self.random.i32(-1..5), std::ptr::null_mut());
                self.heard(|text| text.contains("not the start of a live block"))?;
            }
            2 => {
                abi::gk_free(std::ptr::null_mut(), 0, 0, std::ptr::null_mut());
                if !abi::gk_malloc(0, 0, std::ptr::null_mut()).is_null() {
                    return Err(Failure("gk_malloc(0) is not null".into()));
                }
                self.heard(|_| false)?;
            }
            3 => {
                if !abi::gk_malloc(usize::MAX - self.random.usize(..1 << 40), 0, std::ptr::null_mut()).is_null() {
                    return Err(Failure("gk_malloc allocates more than any device has".into()));
                }
                self.refused()?;
            }
            4 => {
                let device = self.world.machine.profiles.len() as c_int + self.random.i32(0..3);
                if !abi::gk_malloc(1, device, std::ptr::null_mut()).is_null() {
                    return Err(Failure(format!("gk_malloc allocates on device {device}, which does not exist")));
                }
                self.heard(|text| text.contains("there is no device"))?;
            }
            _ => {
                let answers = [abi::gk_mark(here, 1), abi::gk_touch(here, 1)];
                // SAFETY: null is allowed.
                let base = unsafe { abi::gk_base_alloc(here, std::ptr::null_mut()) };
                if answers != [abi::GK_NOT_ALLOCATED; 2] || !base.is_null() {
                    return Err(Failure(format!("an address that is not a block is known: {answers:?}, {base:?}")));
                }
            }
        }
        Ok(())
    }

    /// Calls functions for pools in a wrong order, or with unknown names. The library may refuse,
    /// and must still work afterwards.
    ///
    /// # Errors
    /// Whatever no longer works.
    pub fn wrong_order(&mut self) -> Result<(), Failure> {
        self.tally.wrong += 1;
        self.tally.others += 1;
        let device = self.random.usize(..self.world.machine.used()) as c_int;
        if !self.pools.is_empty() && self.random.bool() {
            let nth = self.random.usize(..self.pools.len());
            return self.abuse(nth);
        }
        let (a, b) = (self.number as u64 + 1, self.random.u64(..1 << 40) | 1 << 41);
        let at = self.stream();
        let raw = self.streams[at].map_or(0, |own| own.raw);
        let is_in_use = self.pools.iter().any(|pool| pool.at == at);
        match self.random.u8(..5) {
            0 => {
                self.note(Call::EndPool, device as usize, at, b, 0);
                abi::gk_end_allocate_to_pool(device, named((a, b)));
            }
            1 => {
                self.note(Call::ReleasePool, device as usize, at, b, 0);
                abi::gk_release_pool(device, named((a, b)));
            }
            2 if !is_in_use => {
                self.note(Call::EndStreamPool, device as usize, at, 0, raw);
                abi::gk_end_allocate_stream_to_pool(device, raw as *mut c_void);
            }
            3 => {
                // A device that does not exist.
                let device = self.world.machine.profiles.len() as c_int;
                abi::gk_end_allocate_to_pool(device, named((a, b)));
                abi::gk_release_pool(device, named((a, b)));
                self.heard(|text| text.contains("there is no device"))?;
            }
            _ => self.release_before_end(device, (a, b))?,
        }
        self.heard(is_about_a_pool)?;
        self.probe()
    }

    /// Releases a pool of the whole actor before it is ended, or more often than it was begun.
    fn release_before_end(&mut self, device: c_int, (a, b): (u64, u64)) -> Result<(), Failure> {
        if self.pools.iter().any(|pool| pool.open > 0) {
            return Ok(());
        }
        let filter = Filter::of_actor(self.number);
        self.note(Call::BeginPool, device as usize, 0, b, 0);
        // SAFETY: the filter is laid out as PyTorch's.
        filter.pass(|filter| unsafe { abi::gk_begin_allocate_to_pool(device, named((a, b)), filter) });
        if self.heard(|_| false)? {
            return Ok(());
        }
        self.probe()?;
        for _ in 0..self.random.u8(1..3) {
            self.note(Call::ReleasePool, device as usize, 0, b, 0);
            abi::gk_release_pool(device, named((a, b)));
            self.heard(is_about_a_pool)?;
            self.probe()?;
        }
        for _ in 0..self.random.u8(1..3) {
            self.note(Call::EndPool, device as usize, 0, b, 0);
            abi::gk_end_allocate_to_pool(device, named((a, b)));
            self.heard(is_about_a_pool)?;
            self.probe()?;
        }
        Ok(())
    }

    /// Releases one of its own pools too early and too often, and ends it too often and on a wrong
    /// device. Afterwards the actor no longer has the pool.
    fn abuse(&mut self, nth: usize) -> Result<(), Failure> {
        // Replays under way cannot be waited for while their stream is captured.
        let is_quiet = match self.pools[nth].captured {
            true => self.pools[nth].graphs.is_empty(),
            false => self.destroy_graphs(nth),
        };
        if !is_quiet {
            return Ok(());
        }
        let Pool { id, device, at, open, holds, kept, .. } = self.pools[nth];
        let wrong = (device + 1) % self.world.machine.used();
        let mut calls = vec![(Call::EndPool, wrong), (Call::ReleasePool, wrong)];
        calls.resize(calls.len() + open as usize + self.random.usize(..2), (Call::EndPool, device));
        calls.resize(calls.len() + holds as usize + self.random.usize(..2), (Call::ReleasePool, device));
        calls.resize(calls.len() + usize::from(kept) + self.random.usize(..2), (Call::DropPool, device));
        self.random.shuffle(&mut calls);
        for (call, device) in calls {
            self.note(call, device, at, id.1, 0);
            match call {
                Call::EndPool => abi::gk_end_allocate_to_pool(device as c_int, named(id)),
                Call::DropPool => abi::gk_drop_pool(id.0, id.1),
                _ => abi::gk_release_pool(device as c_int, named(id)),
            }
            self.heard(is_about_a_pool)?;
            self.probe()?;
        }
        self.pools[nth].open = 0;
        self.end_capture(nth)?;
        let pool = self.pools.swap_remove(nth);
        pool.graphs.iter().for_each(|graph| self.world.machine.gpu.destroy_graph(*graph));
        self.probe()
    }
}
