//! PyTorch's hooks, and queries about devices.

use std::ffi::{c_char, c_int};

use giant_kitten::abi;

use super::{Actor, is_about_a_capture};
use crate::machine::{last_error, stats, text};
use crate::notes::Call;
use crate::{Failure, Part};

impl Actor {
    /// Queries a device, perhaps the one that is not used.
    pub(super) fn ask_of_a_device(&mut self) -> Result<(), Failure> {
        let most = self.world.machine.used() - 1 + usize::from(self.world.parts.has(Part::Questions));
        let device = self.random.usize(..=most);
        self.tally.others += 1;
        let number = device as c_int;
        let ask: extern "C" fn(c_int) -> *mut c_char = match self.random.u8(..10) {
            8 => return self.memory_info(device),
            9 => abi::gk_device_json,
            0..3 => {
                self.note(Call::Stats, device, 0, 0, 0);
                return stats(device).map(drop);
            }
            3 => {
                self.note(Call::ResetPeaks, device, 0, 0, 0);
                return match abi::gk_reset_peaks(number) {
                    abi::GK_OK => Ok(()),
                    code => Err(Failure(format!("gk_reset_peaks returned {code}: {}", last_error()))),
                };
            }
            4 => abi::gk_stats_json,
            5 => abi::gk_snapshot_json,
            6 => abi::gk_map_json,
            _ => abi::gk_history_json,
        };
        self.note(Call::Json, device, 0, 0, ask as usize as u64);
        // SAFETY: the text is freed here alone.
        if let Some(text) = unsafe { text(ask(number)) }
            && self.random.u8(..8) == 0
        {
            serde_json::from_str::<serde_json::Value>(&text)
                .map_err(|why| Failure(format!("an answer is not JSON: {why}: {text}")))?;
        }
        Ok(())
    }

    fn memory_info(&mut self, device: usize) -> Result<(), Failure> {
        self.note(Call::MemoryInfo, device, 0, 0, 0);
        let tier = self.random.i32(0..2);
        let (mut free, mut total) = (0, 0);
        // SAFETY: both may be written to.
        match unsafe { abi::gk_memory_info(device as c_int, tier, &mut free, &mut total) } {
            abi::GK_OK if free <= total => Ok(()),
            abi::GK_OK => Err(Failure(format!("gk_memory_info: {free} bytes of {total} are free"))),
            abi::GK_DRIVER if self.world.machine.is_armed() => Ok(()),
            code => Err(Failure(format!("gk_memory_info returned {code}: {}", last_error()))),
        }
    }

    /// Begins or ends a piece of work, or rests.
    pub(super) fn piece_of_work(&mut self) -> Result<(), Failure> {
        let device = self.device();
        let number = device as c_int;
        self.note(Call::Work, device, 0, u64::from(self.pieces[device]), 0);
        self.tally.others += 1;
        let code = match self.random.u8(..3) {
            0 if self.pieces[device] < 3 => {
                self.pieces[device] += 1;
                abi::gk_begin_work(number)
            }
            1 if self.pieces[device] > 0 => {
                self.pieces[device] -= 1;
                abi::gk_end_work(number)
            }
            _ => abi::gk_rest(number),
        };
        if code == abi::GK_OK {
            Ok(())
        } else {
            Err(Failure(format!("a piece of work returned {code}: {}", last_error())))
        }
    }

    pub(super) fn reset(&mut self) -> Result<(), Failure> {
        self.note(Call::Reset, 0, 0, 0, 0);
        self.tally.others += 1;
        abi::gk_reset();
        self.heard(is_about_a_capture).map(drop)
    }

    pub(super) fn fraction(&mut self) -> Result<(), Failure> {
        let device = self.device();
        let fraction = if self.random.bool() { 1.0 } else { 0.3 + 0.7 * self.random.f64() };
        self.note(Call::Fraction, device, 0, (fraction * 100.0) as u64, 0);
        self.tally.others += 1;
        abi::gk_memory_fraction(fraction, device as c_int);
        self.heard(|_| false).map(drop)
    }

    pub(super) fn prefer(&mut self) -> Result<(), Failure> {
        let tier = if self.random.u8(..4) == 0 { abi::GK_SHARED } else { abi::GK_DEDICATED };
        self.note(Call::Prefer, 0, 0, tier as u64, 0);
        self.tally.others += 1;
        abi::gk_prefer(tier);
        Ok(())
    }

    /// Begins or ends a history with stacks of the callers. There is no Python here, so the stacks
    /// are empty.
    pub(super) fn record(&mut self) -> Result<(), Failure> {
        let events = if self.random.bool() { self.random.usize(1..5000) } else { 0 };
        self.note(Call::Record, 0, 0, events as u64, 0);
        self.tally.others += 1;
        let stacks = self.random.i32(0..=3);
        match abi::gk_record(events, stacks, self.random.u32(..)) {
            abi::GK_OK => Ok(()),
            code => Err(Failure(format!("gk_record returned {code}: {}", last_error()))),
        }
    }

    pub(super) fn foreign(&mut self) -> Result<(), Failure> {
        let device = self.device();
        let most = self.world.machine.profiles[device].dedicated_bytes / 2;
        let bytes = if self.random.bool() { 0 } else { self.random.u64(..most) };
        self.note(Call::Foreign, device, 0, bytes, 0);
        self.world.machine.take(device, bytes);
        Ok(())
    }
}
