//! The time model: the time that work takes, from a hardware profile. To first order, compute and
//! the card's memory overlap, and the link adds to them.

use crate::profile::Profile;

/// The bytes that a piece of work moves, and the operations that it computes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Bytes read and written, wherever they lie.
    pub bytes: f64,
    /// Half-precision operations.
    pub flops: f64,
    /// The bytes read from the shared tier, as often as they cross the link.
    pub link_to_device: f64,
    /// The bytes written to the shared tier.
    pub link_to_host: f64,
}

impl Profile {
    /// Seconds of work if everything were dedicated.
    pub fn compute_seconds(&self, load: &Load) -> f64 {
        (load.flops / self.fp16_rate).max(load.bytes / self.vram_bandwidth)
    }

    /// Seconds of work.
    pub fn seconds(&self, load: &Load) -> f64 {
        self.compute_seconds(load) + load.link_to_device / self.link_to_device + load.link_to_host / self.link_to_host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up() {
        let card = Profile::builtin("nominal-6g").unwrap();
        let load = Load { bytes: 360e9, flops: 50e12, ..Load::default() };
        assert_eq!(card.seconds(&load), 2.0, "compute hides the memory");
        let load = Load { link_to_device: 13e9, link_to_host: 26e9, ..load };
        assert_eq!((card.compute_seconds(&load), card.seconds(&load)), (2.0, 5.0), "the link does not hide");
    }
}
