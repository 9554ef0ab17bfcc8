//! Actions, which need a safe point.

use std::ffi::{CString, c_int, c_void};
use std::ptr::null;

use giant_kitten::abi::{self, GkActivation, GkPool};

use super::Conductor;
use crate::actor::passes::KINDS;
use crate::actor::{Actor, is_about_a_capture};
use crate::machine::{last_error, stats};
use crate::world::World;
use crate::{Failure, Part, complaints};

impl Conductor {
    /// Calls one action, sometimes with calls of the driver that fail in the middle of it.
    pub(super) fn act_for_once(&mut self, world: &World, actors: &mut [&mut Actor]) -> Result<(), Failure> {
        let fails = world.parts.has(Part::Failures) && self.random.u8(..6) == 0;
        if fails {
            self.arm(world, 1..120);
        }
        let device = self.random.usize(..world.machine.used());
        let activation = self.some_activation(world.machine.profiles[device].granularity);
        let how = if self.random.u8(..8) == 0 { null() } else { &raw const activation };
        self.tally.actions += 1;
        self.tally.others += 1;
        let migrations = stats(device)?.migrations;
        let someone_works = !world.alone && actors.iter().any(|actor| actor.pieces[device] > 0);
        let (name, answer) = if someone_works {
            // An action would wait for the pieces of work.
            self.call_safe_point(device)
        } else {
            self.call_action(world, actors, device, how)
        };
        let why = last_error();
        let migrates = world.machine.profiles[device].migrates;
        if !may_answer(name, answer, &why, migrates, fails) {
            return Err(Failure(format!("{name} of device {device} with {activation:?} returned {answer}: {why}")));
        }
        if fails {
            self.disarm(world)?;
        }
        let refused = [abi::GK_ARGUMENT, abi::GK_REFUSED].contains(&answer) && !fails;
        if refused && stats(device)?.migrations != migrations {
            return Err(Failure(format!("{name} of device {device} was refused, but has moved memory: {why}")));
        }
        if name == "gk_safe_point" && someone_works && stats(device)?.migrations != migrations {
            return Err(Failure(format!("a safe point of device {device} has moved memory during a piece of work")));
        }
        match complaints::take() {
            Some(why) if !fails => Err(Failure(format!("the library complains in {name}: {why}"))),
            _ => world.machine.books(),
        }
    }

    /// A safe point before passes, for which every thread is at rest.
    pub(super) fn safe_point_for_passes(&mut self, world: &World, device: usize) -> Result<(), Failure> {
        self.tally.others += 2;
        abi::gk_vouch(device as c_int);
        let kind = KINDS[(device + world.machine.used() * self.random.usize(..2)) % KINDS.len()];
        // SAFETY: a C string.
        let code = unsafe { abi::gk_safe_point(device as c_int, kind.as_ptr()) };
        let may = code == abi::GK_OK || (code == abi::GK_REFUSED && is_about_a_capture(&last_error()));
        complaints::take();
        if !may {
            return Err(Failure(format!("gk_safe_point of device {device} returned {code}: {}", last_error())));
        }
        world.machine.books()
    }

    fn some_activation(&mut self, granule: u64) -> GkActivation {
        GkActivation {
            reserve: if self.random.bool() { abi::GK_AUTO } else { self.random.u64(..40) * granule },
            persist: self.random.u64(..12).saturating_sub(8) * granule,
            sort_reversed: self.random.i32(0..2),
            ignore_model: self.random.i32(0..2),
            sort_by: self.random.i32(0..3),
        }
    }

    fn call_safe_point(&mut self, device: usize) -> (&'static str, c_int) {
        let number = device as c_int;
        if self.random.bool() {
            abi::gk_vouch(number);
        }
        let kind = CString::new(["unet", "unet", "", "vae"][self.random.usize(..4)]).unwrap_or_default();
        // SAFETY: a C string.
        ("gk_safe_point", unsafe { abi::gk_safe_point(number, kind.as_ptr()) })
    }

    /// Calls a random action. Returns its name and its answer.
    fn call_action(
        &mut self,
        world: &World,
        actors: &[&mut Actor],
        device: usize,
        how: *const GkActivation,
    ) -> (&'static str, c_int) {
        let number = device as c_int;
        match self.random.u8(..16) {
            // SAFETY: null, or a struct.
            0..5 => ("gk_activate", unsafe { abi::gk_activate(number, how) }),
            // SAFETY: null, or a struct.
            5 | 6 => ("gk_disable", unsafe { abi::gk_disable(number, how) }),
            7 => ("gk_free_vram", abi::gk_free_vram(number)),
            // SAFETY: null, or a struct.
            8 => ("gk_begin_loading", unsafe { abi::gk_begin_loading(number, how) }),
            9..12 => self.call_safe_point(device),
            12..15 => ("gk_move", self.move_one(world, actors)),
            _ => ("gk_reset_totals", abi::gk_reset_totals(number)),
        }
    }

    /// Begins and ends a pool that accepts every stream.
    pub(super) fn use_a_pool(&mut self, world: &World, device: usize) -> Result<(), Failure> {
        let (number, pool) = (device as c_int, GkPool { a: 0, b: self.random.u64(1 << 42..1 << 43) });
        // SAFETY: null is allowed.
        unsafe { abi::gk_begin_allocate_to_pool(number, pool, null()) };
        if complaints::take().is_some() && world.machine.is_armed() {
            return Ok(());
        }
        self.allocate(device, 3000)?;
        self.allocate(device, 3 << 20)?;
        let released_first = self.random.bool();
        if released_first {
            abi::gk_release_pool(number, pool);
        }
        self.allocate(device, 500)?;
        abi::gk_end_allocate_to_pool(number, pool);
        if !released_first {
            abi::gk_release_pool(number, pool);
        }
        self.tally.others += 3;
        match complaints::take() {
            Some(why) => Err(Failure(format!("the library complains of a pool: {why}"))),
            None if abi::gk_pool_holds(number, pool.a, pool.b) != 0 => {
                Err(Failure("a pool is held although it was released".into()))
            }
            None => Ok(()),
        }
    }

    fn move_one(&mut self, world: &World, actors: &[&mut Actor]) -> c_int {
        let actor = &actors[self.random.usize(..actors.len())];
        let tier = if self.random.bool() { abi::GK_DEDICATED } else { abi::GK_SHARED };
        match self.random.choice(&actor.live) {
            Some(block) if world.alone || actors.iter().all(|actor| actor.pieces[block.device] == 0) => {
                let inside = block.address + self.random.u64(..block.bytes);
                abi::gk_move(inside as *mut c_void, tier)
            }
            _ => abi::GK_OK,
        }
    }
}

/// Whether an action may return this answer; `fails` where calls of the driver fail in the middle
/// of it.
fn may_answer(name: &str, answer: c_int, why: &str, migrates: bool, fails: bool) -> bool {
    match answer {
        abi::GK_OK => true,
        abi::GK_ARGUMENT => why.contains("reserve") || why.contains("persist"),
        abi::GK_REFUSED => {
            is_about_a_capture(why)
                || why.contains("shared tier")
                || why.contains("tier, which has")
                || why.contains("tier has")
                || fails
        }
        abi::GK_IMMOVABLE => name == "gk_move" || !migrates,
        abi::GK_DRIVER => fails || is_about_a_capture(why),
        _ => fails && answer == abi::GK_OUT_OF_MEMORY,
    }
}
