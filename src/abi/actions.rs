//! The actions on a device. They place its live blocks, and no thread may launch work until they
//! return.

use std::ffi::c_int;

use crate::allocator::Allocator;
use crate::core::Activation;
use crate::core::placement::{Order, SortBy};
use crate::core::{Reserve, show_size};
use crate::error::Error;
use crate::heap::Moved;

use super::answer::status;
use super::arguments::device_number;
use super::start::{configured, current, started};

/// A reserve that is found automatically.
pub const GK_AUTO: u64 = u64::MAX;

/// The parameters of an action, in C.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct GkActivation {
    /// Dedicated bytes left for scratch, or [`GK_AUTO`].
    pub reserve: u64,
    /// Dedicated bytes withheld from all blocks.
    pub persist: u64,
    /// Not 0: large blocks claim dedicated memory first.
    pub sort_reversed: c_int,
    /// Not 0: the model's blocks do not come before the others.
    pub ignore_model: c_int,
    /// The key that blocks are sorted by: 0 their size, 1 how often they are read, 2 when they were
    /// last read.
    pub sort_by: c_int,
}

impl From<Activation> for GkActivation {
    fn from(Activation { reserve, persist, order }: Activation) -> Self {
        GkActivation {
            reserve: reserve.fixed().unwrap_or(GK_AUTO),
            persist,
            sort_reversed: c_int::from(order.sort_reversed),
            ignore_model: c_int::from(order.ignore_model),
            sort_by: order.sort_by as c_int,
        }
    }
}

impl TryFrom<GkActivation> for Activation {
    type Error = Error;

    fn try_from(given: GkActivation) -> Result<Activation, Error> {
        let sort_by = SortBy::ALL.into_iter().find(|by| *by as c_int == given.sort_by).ok_or_else(|| {
            Error::argument(format!("sort_by {} is none of GK_BY_SIZE, GK_BY_READS, GK_BY_RECENCY", given.sort_by))
        })?;
        Ok(Activation {
            reserve: if given.reserve == GK_AUTO { Reserve::Auto } else { Reserve::Fixed(given.reserve) },
            persist: given.persist,
            order: Order { sort_by, sort_reversed: given.sort_reversed != 0, ignore_model: given.ignore_model != 0 },
        })
    }
}

impl GkActivation {
    /// The activation that is given, or that of the allocator's options.
    ///
    /// # Safety
    /// `given` is null or points to a struct.
    pub(super) unsafe fn or_options(given: *const GkActivation, allocator: &Allocator) -> Result<Activation, Error> {
        // SAFETY: the caller's promise.
        match unsafe { given.as_ref() } {
            None => Ok(allocator.options().activation),
            Some(given) => (*given).try_into(),
        }
    }
}

/// Stores the parameters that the options set, for callers that want to change some of them.
///
/// # Safety
/// `activation` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_defaults(activation: *mut GkActivation) -> c_int {
    status(|| {
        let options: Activation = match started() {
            Some(allocator) => allocator.options().activation,
            None => configured()?.activation,
        };
        // SAFETY: the caller's promise.
        match unsafe { activation.as_mut() } {
            Some(activation) => *activation = options.into(),
            None => return Err(Error::argument("gk_defaults needs a struct to write to, and null was given")),
        }
        Ok(())
    })
}

/// Places every live block and freezes. Null takes the options.
///
/// # Safety
/// `activation` is null or points to a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_activate(device: c_int, activation: *const GkActivation) -> c_int {
    status(|| {
        let allocator = current()?;
        // SAFETY: the caller's promise.
        let activation = unsafe { GkActivation::or_options(activation, allocator) }?;
        let moved = allocator.activate(device_number(device)?, &activation)?;
        log::info!(
            "device {device} active: reserve {}, persist {}; {} promoted, {} demoted",
            activation.reserve,
            show_size(activation.persist),
            show_size(moved.promoted),
            show_size(moved.demoted)
        );
        all_moved(moved)
    })
}

/// Places every live block without reserve and persist, and thaws. Null takes the order of the
/// options.
///
/// # Safety
/// `activation` is null or points to a struct, of which only the order counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_disable(device: c_int, activation: *const GkActivation) -> c_int {
    status(|| {
        let allocator = current()?;
        // SAFETY: the caller's promise.
        let order = unsafe { GkActivation::or_options(activation, allocator) }?.order;
        all_moved(allocator.disable(device_number(device)?, order)?)
    })
}

/// Moves every live block to the shared tier and returns dedicated memory to the driver.
#[unsafe(no_mangle)]
pub extern "C" fn gk_free_vram(device: c_int) -> c_int {
    status(|| all_moved(current()?.free_vram(device_number(device)?)?))
}

/// Returns to the loading phase: thaws, and withholds reserve and persist from allocations until
/// the next action. Null takes the options.
///
/// # Safety
/// `activation` is null or points to a struct, of which only reserve and persist count.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gk_begin_loading(device: c_int, activation: *const GkActivation) -> c_int {
    status(|| {
        let allocator = current()?;
        // SAFETY: the caller's promise.
        let activation = unsafe { GkActivation::or_options(activation, allocator) }?;
        allocator.begin_loading(device_number(device)?, activation.reserve, activation.persist)
    })
}

/// The result of an action that is done: an error if blocks stayed that should have moved.
fn all_moved(moved: Moved) -> Result<(), Error> {
    match moved.stayed {
        0 => Ok(()),
        bytes => Err(Error::Immovable { bytes }),
    }
}
