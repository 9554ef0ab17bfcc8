//! The machines: small ones of every kind, each with a library of its own, and the books of both.

use std::ffi::{CStr, c_char};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use giant_kitten::abi::{self, GkStats};
use giant_kitten::driver::sim::SimDriver;
use giant_kitten::{Allocator, Options};
use kitten_sim::{Fault, Gpu, Outstanding, Profile, Tier};

use crate::Failure;

/// A machine with the library on it.
#[derive(Debug)]
pub struct Machine {
    /// The simulated GPUs.
    pub gpu: Gpu,
    /// Their profiles. Nothing is ever allocated on the last.
    pub profiles: Vec<Profile>,
    /// How much of each device other programs have taken.
    pub taken: Mutex<Vec<u64>>,
    /// Whether calls of the driver may fail now.
    pub armed: AtomicBool,
    allocator: &'static Allocator,
    /// Whether `gk_reset` may move memory, because one thread alone uses the cards and the options
    /// say so.
    pub moves_at_resets: bool,
    /// A description for whoever looks for a failure.
    pub description: String,
}

/// The first fault that any machine has reported since the last check.
static FAULT: Mutex<Option<String>> = Mutex::new(None);
static FAULTY: AtomicBool = AtomicBool::new(false);

fn report(fault: &Fault) {
    if !FAULTY.swap(true, Ordering::AcqRel)
        && let Ok(mut first) = FAULT.lock()
    {
        *first = Some(fault.to_string());
    }
}

/// Checks that no memory was used too early.
///
/// # Errors
/// The first fault.
#[inline]
pub fn no_fault() -> Result<(), Failure> {
    if !FAULTY.load(Ordering::Relaxed) {
        return Ok(());
    }
    let fault = FAULT.lock().ok().and_then(|mut fault| fault.take()).unwrap_or_default();
    FAULTY.store(false, Ordering::Release);
    Err(Failure(format!("memory was used, moved or unmapped too early: {fault}")))
}

impl Machine {
    /// A random machine, and the library installed on it with random options; `alone` says that one
    /// thread uses it.
    ///
    /// # Errors
    /// A machine that cannot be created.
    pub fn new(random: &mut fastrand::Rng, alone: bool) -> Result<Machine, Failure> {
        let granularity: u64 = if random.u8(..4) == 0 { 2 << 20 } else { 1 << 16 };
        let used = random.usize(2..=3);
        let all_pinned = random.u8(..6) == 0;
        let profiles: Vec<Profile> = (0..=used)
            .map(|_| {
                let (dedicated, shared) = match granularity {
                    0x1_0000 => (random.u64(48..160), random.u64(64..256)),
                    _ => (random.u64(8..24), random.u64(12..32)),
                };
                let shared = if random.u8(..12) == 0 { 0 } else { shared };
                Profile {
                    granularity,
                    dedicated_bytes: dedicated * granularity,
                    shared_bytes: shared * granularity,
                    migrates: !all_pinned && random.u8(..4) != 0,
                    ..Profile::builtin("nominal-6g").unwrap_or_else(|| unreachable!("a built-in profile"))
                }
            })
            .collect();
        let shared: u64 = profiles.iter().map(|profile| profile.shared_bytes).sum();
        let mut options = format!("shared:{}", if random.bool() { shared } else { random.u64(shared / 3..=shared) });
        if random.bool() {
            options += &format!(",reserve:{}", random.u64(1..8) * granularity);
        }
        if random.u8(..4) == 0 {
            options += &format!(",sort:reversed,persist:{granularity}");
        }
        if random.u8(..4) < 3 {
            options += [",copy_ahead:1MiB", ",copy_ahead:2MiB", ",copy_ahead:3MiB"][random.usize(..3)];
        }
        let moves_at_resets = alone && random.u8(..6) == 0;
        if moves_at_resets {
            options += ",safe_points:empty_cache";
        }
        let describe = |p: &Profile| {
            let rung = if p.migrates { "migrates" } else { "pins" };
            format!("{} + {} granules, {rung}", p.dedicated_bytes / granularity, p.shared_bytes / granularity)
        };
        let devices: Vec<String> = profiles.iter().map(describe).collect();
        let description =
            format!("granules of {} KiB; {}; options \"{options}\"", granularity >> 10, devices.join("; "));
        let gpu = Gpu::new(&profiles).map_err(|why| Failure(format!("no machine: {why}")))?;
        gpu.tell_faults(report);
        gpu.fault_destroyed_streams();
        let options = Options::parse(&options).map_err(Failure)?;
        let allocator = Allocator::new(options, Arc::new(SimDriver::new(gpu.clone())))
            .map_err(|why| Failure(format!("no allocator: {why}")))?;
        let allocator = abi::install(allocator);
        // The previous machine may have reported a fault while its library was shut down.
        let _ = no_fault();
        let taken = Mutex::new(vec![0; profiles.len()]);
        Ok(Machine { gpu, profiles, taken, armed: AtomicBool::new(false), allocator, moves_at_resets, description })
    }

    /// How many devices are used.
    pub fn used(&self) -> usize {
        self.profiles.len() - 1
    }

    /// Whether calls of the driver may fail now.
    #[inline]
    pub fn is_armed(&self) -> bool {
        self.armed.load(Ordering::Relaxed)
    }

    /// Does the work of the library's own thread once.
    pub fn look_for_idle(&self) {
        self.allocator.look_for_idle();
    }

    /// Sets how much of a device other programs have taken.
    pub fn take(&self, device: usize, bytes: u64) {
        if let Ok(mut taken) = self.taken.lock() {
            self.gpu.set_dedicated_taken(device, bytes);
            taken[device] = bytes;
        }
    }

    /// Checks that the library's invariants hold, and that its books and the machine's agree on
    /// each tier.
    ///
    /// # Errors
    /// The first difference.
    pub fn books(&self) -> Result<(), Failure> {
        self.allocator.check().map_err(|why| Failure(format!("Allocator::check: {why}")))?;
        let taken = self.taken.lock().map(|taken| taken.clone()).unwrap_or_default();
        for (device, taken) in taken.into_iter().enumerate().take(self.used()) {
            let stats = stats(device)?;
            for (tier, held, taken) in
                [(Tier::Dedicated, stats.dedicated_reserved, taken), (Tier::Shared, stats.shared_reserved, 0)]
            {
                let (capacity, free) =
                    self.gpu.memory_info(device, tier).map_err(|why| Failure(format!("the machine: {why}")))?;
                if free > 0 && capacity - free - taken != held {
                    let given = capacity - free - taken;
                    return Err(Failure(format!(
                        "device {device} holds {held} bytes of {tier:?} memory by gk_stats, but {given} by the machine"
                    )));
                }
            }
        }
        Ok(())
    }

    /// Takes the library off the machine, and checks that it leaves nothing behind.
    ///
    /// # Errors
    /// Whatever it leaves.
    pub fn end(&self) -> Result<(), Failure> {
        self.allocator.check().map_err(|why| Failure(format!("Allocator::check at the end: {why}")))?;
        self.allocator.shutdown();
        let left = self.gpu.outstanding();
        if left != Outstanding::default() {
            return Err(Failure(format!("the library left {left:?} behind")));
        }
        no_fault()?;
        self.gpu.dismantle();
        Ok(())
    }
}

/// `gk_stats`.
///
/// # Errors
/// Any answer other than [`abi::GK_OK`].
pub fn stats(device: usize) -> Result<GkStats, Failure> {
    let mut stats = GkStats { size: size_of::<GkStats>() as u32, ..GkStats::default() };
    // SAFETY: the struct is the library's own, and has its size in it.
    match unsafe { abi::gk_stats(device as i32, &mut stats) } {
        abi::GK_OK => Ok(stats),
        code => Err(Failure(format!("gk_stats of device {device} returned {code}: {}", last_error()))),
    }
}

/// `gk_last_error`.
pub fn last_error() -> String {
    // SAFETY: the text is valid until this thread's next call.
    unsafe { CStr::from_ptr(abi::gk_last_error()) }.to_string_lossy().into_owned()
}

/// Takes a text that the C interface returned, and frees it there. `None` for null.
///
/// # Safety
/// `text` is null or was returned by the C interface, and nobody else frees it.
pub unsafe fn text(text: *mut c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise: a text that is not null ends with a zero.
    let copied = unsafe { CStr::from_ptr(text) }.to_str().map(str::to_owned);
    // SAFETY: the caller's promise.
    unsafe { abi::gk_text_free(text) };
    copied.ok()
}
