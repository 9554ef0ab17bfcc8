//! Everything that the probe measures, as its JSON file has it.

use serde::{Deserialize, Serialize};

/// Seconds of one call of each kind, for handles of one size in one tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandleCosts {
    /// The tier.
    pub tier: String,
    /// The handle's size.
    pub handle_bytes: u64,
    /// Over how many handles the calls were timed.
    pub handles: u64,
    /// Creating.
    pub create: f64,
    /// Mapping.
    pub map: f64,
    /// Setting access.
    pub set_access: f64,
    /// Unmapping.
    pub unmap: f64,
    /// Setting access of all handles by one call, for each handle; `None` in older files.
    #[serde(default)]
    pub set_access_run: Option<f64>,
    /// Unmapping all handles by one call, for each handle; `None` in older files.
    #[serde(default)]
    pub unmap_run: Option<f64>,
    /// Releasing.
    pub release: f64,
}

/// How fast memory is read and written, bytes per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// `dedicated`, `shared`, or `both`: a range half of which lies in each.
    pub memory: String,
    /// Kernels that read one stream.
    pub read: f64,
    /// Kernels that read a sixteenth of every 256 bytes. Counts the bytes wanted, not those moved.
    pub read_strided: f64,
    /// Kernels that read the range four times over.
    pub read_again: f64,
    /// Kernels that write.
    pub write: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The card and its driver.
    pub card: String,
    /// Whether it is a real card. Otherwise all figures are modelled.
    pub real: bool,
    /// The driver's way to the shared tier.
    pub rung: String,
    /// Why better ways are not available.
    pub rungs_refused: Vec<String>,
    /// The cost of driver calls.
    pub calls: Vec<HandleCosts>,
    /// How fast memory is read and written.
    pub rates: Vec<Rates>,
    /// Copies from shared to dedicated memory.
    pub copy_to_device: f64,
    /// Copies from dedicated to shared memory.
    pub copy_to_host: f64,
    /// Both of these at once: the sum.
    pub copy_both_ways: f64,
    /// Copies out of a range that lies in both tiers.
    pub copy_across_tiers: f64,
    /// Memory unmapped behind an event, while a kernel ran on other memory.
    pub unmapping: Unmapping,
    /// Whether a matrix product could be measured, which gives `in_place_reread`. It is 1
    /// otherwise.
    pub product_measured: bool,
}

/// The outcome of unmapping memory and mapping it again as soon as an event says that its own work
/// is done, while other work goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unmapping {
    /// How often it was tried.
    pub rounds: usize,
    /// Whether the contents were right each time and nothing failed. If so, an event is enough.
    pub sound: bool,
    /// The error, if there was one.
    pub why: Option<String>,
    /// Seconds of the other kernel, alone.
    pub kernel_seconds: f64,
    /// The most seconds that unmapping took while it ran. They are close to the kernel's if the
    /// driver waits for everything.
    pub unmap_seconds: f64,
}
