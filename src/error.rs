//! The one error of the allocator.

use std::fmt;

use crate::core::{PerTier, Tier, show_size};
use crate::driver::DriverError;

/// PyTorch's own limit: requests of this many bytes or more are reported without their size.
const EXABYTE: u64 = 1 << 60;

/// Why an operation failed. The text says what happened, with which value, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Neither tier has room for a request.
    OutOfMemory(Box<OutOfMemory>),
    /// An address that is not the start of a live block.
    NotAllocated {
        /// The address.
        address: u64,
    },
    /// An invalid argument: a device that does not exist, a size that is too large, a malformed
    /// option.
    Argument(Text),
    /// An operation that is refused for now. The text says what to do about it.
    Refused(Text),
    /// Blocks should be in another tier, and nothing can move on this driver.
    Immovable {
        /// Bytes of those blocks.
        bytes: u64,
    },
    /// A call of the driver failed.
    Driver(Box<DriverError>),
}

/// A text behind one pointer. With it an error has two words, and a result comes in registers.
#[derive(Clone, PartialEq, Eq)]
#[expect(clippy::box_collection, reason = "a Box<str> is two words long")]
pub struct Text(Box<String>);

impl std::ops::Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error {
    /// An invalid argument.
    #[cold]
    pub fn argument(why: impl Into<String>) -> Error {
        Error::Argument(Text(Box::new(why.into())))
    }

    /// An operation that is refused for now.
    #[cold]
    pub fn refused(why: impl Into<String>) -> Error {
        Error::Refused(Text(Box::new(why.into())))
    }

    /// That of an address at which no block begins. It is a call, to be made only where there is an
    /// error: one made in vain would have to be dropped on the hot path.
    #[cold]
    pub(crate) fn not_allocated(address: u64) -> Error {
        Error::NotAllocated { address }
    }
}

/// The figures behind an out-of-memory error. Bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The device.
    pub device: usize,
    /// The bytes that were requested.
    pub requested: u64,
    /// The most that may be backed in each tier.
    pub limit: PerTier<u64>,
    /// Bytes mapped in each tier.
    pub mapped: PerTier<u64>,
    /// Bytes of live blocks in each tier.
    pub allocated: PerTier<u64>,
    /// Bytes of the host's memory that other processes of this user hold as shared memory.
    pub elsewhere: u64,
    /// The driver's last error, if it was the driver that refused.
    pub driver: Option<DriverError>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::OutOfMemory(figures) => figures.fmt(f),
            Error::NotAllocated { address } => write!(
                f,
                "{address:#x} is not the start of a live block: it was freed already, or giant-kitten never allocated it"
            ),
            Error::Argument(why) | Error::Refused(why) => f.write_str(why),
            Error::Immovable { bytes } => write!(
                f,
                "{} should be in the other tier and stay where they are: this driver's shared memory is pinned at \
                 addresses of its own, so existing blocks cannot move. New blocks go where they should: free those \
                in the wrong tier and allocate them again",
                show_size(*bytes)
            ),
            Error::Driver(why) => why.fmt(f),
        }
    }
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Programs look for PyTorch's own words in this text.
        if self.requested >= EXABYTE {
            return f.write_str("CUDA out of memory. Tried to allocate more than 1EB memory.");
        }
        let sum = |of: &dyn Fn(Tier) -> u64| show_size(Tier::ALL.into_iter().map(of).sum());
        write!(
            f,
            "CUDA out of memory. Tried to allocate {}. GPU {} has a total capacity of {} of which {} is free:",
            show_size(self.requested),
            self.device,
            sum(&|tier| self.limit[tier]),
            sum(&|tier| self.limit[tier].saturating_sub(self.mapped[tier]))
        )?;
        for tier in Tier::ALL {
            let (limit, mapped) = (self.limit[tier], self.mapped[tier]);
            write!(
                f,
                " {tier}: {} in use by blocks, {} mapped of {}.",
                show_size(self.allocated[tier]),
                show_size(mapped),
                show_size(limit)
            )?;
        }
        if self.elsewhere > 0 {
            write!(f, " Other processes of this user hold {} of shared memory.", show_size(self.elsewhere))?;
        }
        if let Some(why) = &self.driver {
            write!(f, " The driver said: {why}.")?;
        }
        f.write_str(" Free some tensors, use a smaller batch or resolution, or raise the option \"shared\".")
    }
}

impl std::error::Error for Error {}

impl From<DriverError> for Error {
    fn from(why: DriverError) -> Self {
        Error::Driver(Box::new(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_two_words() {
        assert_eq!(size_of::<Result<u64, Error>>(), 2 * size_of::<u64>());
    }

    #[test]
    fn texts_are_shown_as_they_are() {
        let why = Error::refused("not \"now\"");
        assert_eq!((why.to_string(), format!("{why:?}")), ("not \"now\"".into(), r#"Refused("not \"now\"")"#.into()));
    }
}
