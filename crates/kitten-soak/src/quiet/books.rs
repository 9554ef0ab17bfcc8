//! The books: everything that is compared while no actor acts.

use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::ptr::{null, null_mut};

use giant_kitten::abi;
use serde_json::Value;

use super::Conductor;
use crate::actor::Actor;
use crate::machine::{last_error, stats, text};
use crate::world::{Block, World};
use crate::{Failure, Part, complaints};

/// The state of live blocks in a snapshot.
const LIVE: &str = "active_allocated";

impl Conductor {
    /// Checks that queries before the first allocation cost nothing on any device.
    ///
    /// # Errors
    /// Whatever they cost.
    pub fn ask_before_use(&mut self, world: &World) -> Result<(), Failure> {
        if !world.parts.has(Part::Questions) {
            return Ok(());
        }
        let before = world.machine.gpu.total_calls();
        for device in 0..world.machine.profiles.len() {
            let number = device as c_int;
            stats(device)?;
            for ask in [abi::gk_stats_json, abi::gk_snapshot_json, abi::gk_map_json, abi::gk_history_json] {
                // SAFETY: the text is freed here alone.
                unsafe { text(ask(number)) };
            }
            // SAFETY: null takes the options, and the text is freed here alone.
            unsafe { text(abi::gk_claims_json(number, null())) };
            abi::gk_reset_peaks(number);
            abi::gk_reset_totals(number);
            // SAFETY: null is allowed.
            unsafe { abi::gk_base_alloc(null_mut(), null_mut()) };
            self.tally.others += 8;
        }
        abi::gk_reset();
        complaints::take();
        let calls = world.machine.gpu.total_calls() - before;
        for device in 0..world.machine.profiles.len() {
            let number = device as c_int;
            // SAFETY: the text is freed here alone.
            unsafe { text(abi::gk_device_json(number)) };
            // SAFETY: null is allowed.
            unsafe { abi::gk_memory_info(number, abi::GK_DEDICATED, null_mut(), null_mut()) };
            self.tally.others += 3;
        }
        let left = world.machine.gpu.outstanding();
        if calls > 0 || left != kitten_sim::Outstanding::default() {
            return Err(Failure(format!(
                "queries before the first allocation made {calls} calls of the driver: {left:?}"
            )));
        }
        Ok(())
    }

    /// Checks that no live block was moved while actors were at work.
    pub(super) fn nothing_moved(&self, world: &World) -> Result<(), Failure> {
        for device in 0..world.machine.used() {
            let moved = stats(device)?.migrations - self.migrations[device];
            if moved > 0 && !world.machine.moves_at_resets {
                return Err(Failure(format!(
                    "{moved} granules of device {device} changed tier while actors were at work"
                )));
            }
        }
        Ok(())
    }

    /// Compares the library's counts with the blocks of the actors, and with the machine.
    ///
    /// # Errors
    /// The first difference.
    pub fn count(&mut self, world: &World, actors: &[&mut Actor]) -> Result<(), Failure> {
        world.machine.books()?;
        let mail = world.mail.lock().map_err(|_| Failure("the mail is broken".into()))?;
        for device in 0..world.machine.used() {
            let live = || {
                let own = actors.iter().flat_map(|actor| actor.live.iter());
                own.chain(mail.iter()).filter(|block| block.device == device)
            };
            let found = stats(device)?;
            let (blocks, bytes) = (live().count() as u64, live().map(Block::taken).sum::<u64>());
            let requested: u64 = live().map(|block| block.bytes).sum();
            let allocated = found.dedicated_allocated + found.shared_allocated;
            if (found.blocks, found.allocated, allocated) != (blocks, bytes, bytes) {
                return Err(Failure(format!(
                    "device {device} has {blocks} live blocks of {bytes} bytes; gk_stats says {} of {}, {} in dedicated and {} in \
                     shared memory",
                    found.blocks, found.allocated, found.dedicated_allocated, found.shared_allocated
                )));
            }
            if found.requested < requested || (found.retired_blocks == 0 && found.requested != requested) {
                return Err(Failure(format!(
                    "{requested} bytes were requested on device {device}, {} by gk_stats, with {} retired blocks",
                    found.requested, found.retired_blocks
                )));
            }
            if found.mallocs - found.frees != found.blocks {
                return Err(Failure(format!(
                    "device {device}: {} mallocs minus {} frees are not {} blocks",
                    found.mallocs, found.frees, found.blocks
                )));
            }
        }
        Self::overlap(actors)
    }

    /// Checks that no two live blocks overlap.
    fn overlap(actors: &[&mut Actor]) -> Result<(), Failure> {
        let blocks = actors.iter().flat_map(|actor| actor.live.iter());
        let mut blocks: Vec<(u64, u64)> = blocks.map(|block| (block.address, block.taken())).collect();
        blocks.sort_unstable();
        match blocks.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            Some(pair) => Err(Failure(format!(
                "two live blocks share memory: {:#x}+{} and {:#x}+{}",
                pair[0].0, pair[0].1, pair[1].0, pair[1].1
            ))),
            None => Ok(()),
        }
    }

    /// Checks that every live block is in the snapshot, and no other is.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare_with_snapshot(&mut self, world: &World, actors: &[&mut Actor]) -> Result<(), Failure> {
        let mail = world.mail.lock().map_err(|_| Failure("the mail is broken".into()))?;
        for device in 0..world.machine.used() {
            self.tally.others += 1;
            let mut listed = if self.random.bool() { in_the_text(device) } else { in_the_structs(device) }?;
            let own = actors.iter().flat_map(|actor| actor.live.iter());
            for block in own.chain(mail.iter()).filter(|block| block.device == device) {
                if listed.remove(&block.address) != Some(block.bytes) {
                    return Err(Failure(format!(
                        "the snapshot of device {device} lacks the block of {} bytes at {:#x}",
                        block.bytes, block.address
                    )));
                }
            }
            if let Some((address, bytes)) = listed.into_iter().next() {
                return Err(Failure(format!(
                    "the snapshot of device {device} has a block of {bytes} bytes at {address:#x} that no actor has"
                )));
            }
        }
        Ok(())
    }

    /// Compares the contents of all blocks that have any, unless a capture prevents waiting for the
    /// work on them.
    pub(super) fn read_everything(&mut self, world: &World, actors: &mut [&mut Actor]) -> Result<(), Failure> {
        if world.machine.gpu.synchronize(0).is_err() {
            return Ok(());
        }
        let mut found = Vec::new();
        for block in actors.iter().flat_map(|actor| actor.live.iter()) {
            let Some(contents) = block.contents else { continue };
            found.resize(block.bytes as usize, 0);
            world.machine.gpu.read(block.address, &mut found).map_err(|why| {
                Failure(format!("a live block of {} bytes at {:#x}: {why}", block.bytes, block.address))
            })?;
            self.tally.compared += 1;
            self.tally.compared_bytes += block.bytes;
            if let Some((first, count)) = contents.difference(&found) {
                return Err(Failure(format!(
                    "the block of {} bytes at {:#x} differs in {count} bytes, the first of them {first}",
                    block.bytes, block.address
                )));
            }
        }
        Ok(())
    }
}

/// The live blocks of a device, as the JSON of its snapshot has them: bytes by address.
fn in_the_text(device: usize) -> Result<HashMap<u64, u64>, Failure> {
    // SAFETY: the text is freed here alone.
    let text = unsafe { text(abi::gk_snapshot_json(device as c_int)) };
    let text = text.ok_or_else(|| Failure(format!("gk_snapshot_json: {}", last_error())))?;
    let segments = parsed(&text)?;
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap_or(u64::MAX);
    let blocks = segments["segments"].as_array().into_iter().flatten();
    let blocks = blocks.flat_map(|segment| segment["blocks"].as_array().into_iter().flatten());
    let live = blocks.filter(|block| block["state"] == LIVE);
    Ok(live.map(|block| (number(block, "address"), number(block, "requested_size"))).collect())
}

/// The same, as structs have them.
fn in_the_structs(device: usize) -> Result<HashMap<u64, u64>, Failure> {
    let mut snapshot = abi::GkSnapshot { outline: null_mut(), blocks: null_mut(), count: 0 };
    // SAFETY: the struct may be written to.
    let code = unsafe { abi::gk_snapshot(device as c_int, &mut snapshot) };
    if code != abi::GK_OK {
        return Err(Failure(format!("gk_snapshot returned {code}: {}", last_error())));
    }
    // SAFETY: the library has written a text that ends with a zero, and so many blocks.
    let (outline, blocks) = unsafe {
        let outline = CStr::from_ptr(snapshot.outline).to_string_lossy().into_owned();
        (outline, std::slice::from_raw_parts(snapshot.blocks, snapshot.count).to_vec())
    };
    // SAFETY: it was written above, and is freed here alone.
    unsafe { abi::gk_snapshot_free(&mut snapshot) };
    let kinds = &parsed(&outline)?["kinds"];
    let live = blocks.iter().filter(|block| kinds[block.kind as usize]["state"] == LIVE);
    Ok(live.map(|block| (block.address, block.requested)).collect())
}

fn parsed(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|why| Failure(format!("a snapshot is not JSON: {why}")))
}
