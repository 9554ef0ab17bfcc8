//! Staging: dedicated memory for weights that are copied ahead of their use. It is mapped twice in
//! a row, so that a stretch across its end lies at addresses in one piece.

use super::Memory;
use crate::core::Tier;
use crate::driver::{self, Handle};

/// The staging memory of a device.
#[derive(Debug)]
pub(super) struct Staging {
    /// Its first address. Twice its length is mapped from there on.
    address: u64,
    handles: Vec<Handle>,
}

/// Addresses that staging memory was mapped at, for the next one that fits there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Addresses {
    address: u64,
    bytes: u64,
}

impl Memory {
    /// Bytes of staging memory there are.
    pub(in crate::heap) fn staged(&self) -> u64 {
        self.staging.as_ref().map_or(0, |staging| staging.handles.len() as u64 * self.granule)
    }

    /// Sets how much dedicated memory is kept from blocks for staging.
    pub(in crate::heap) fn keep_for_staging(&mut self, bytes: u64) {
        self.ledger.staging = bytes;
    }

    /// Makes the staging memory, as long as what is kept for it, and returns its address; `None`
    /// where dedicated memory has no room for it.
    ///
    /// # Errors
    /// The driver's; nothing has changed then.
    pub(in crate::heap) fn stage(&mut self) -> driver::Result<Option<u64>> {
        let (bytes, keep) = (self.ledger.staging, self.kept(Tier::Dedicated));
        let has_room = self.mapped(Tier::Dedicated) <= self.ledger.limit(Tier::Dedicated);
        if bytes == 0 || !has_room || self.staging.is_some() {
            return Ok(self.staging.as_ref().map(|staging| staging.address));
        }
        let mut handles = Vec::new();
        let capacity = self.ledger.most(Tier::Dedicated);
        for _ in 0..bytes / self.granule {
            match self.backing.take(Tier::Dedicated, keep, capacity) {
                Ok(Some(handle)) => handles.push(handle),
                refused => {
                    handles.into_iter().for_each(|handle| self.backing.put(Tier::Dedicated, handle));
                    return refused.map(|_| None);
                }
            }
        }
        let address = match self.staging_addresses(2 * bytes) {
            Ok(address) => address,
            Err(why) => {
                handles.into_iter().for_each(|handle| self.backing.put(Tier::Dedicated, handle));
                return Err(why);
            }
        };
        if let Err(why) = self.backing.map_twice(address, &handles) {
            // Something may be stuck there.
            self.staging_addresses = Addresses::default();
            return Err(why);
        }
        self.staging = Some(Staging { address, handles });
        Ok(Some(address))
    }

    fn staging_addresses(&mut self, bytes: u64) -> driver::Result<u64> {
        if self.staging_addresses.bytes < bytes {
            let address = self.backing.addresses(bytes)?;
            self.staging_addresses = Addresses { address, bytes };
        }
        Ok(self.staging_addresses.address)
    }

    /// Gives up the staging memory, whose backing goes to the stock. No work may touch it any more.
    pub(in crate::heap) fn unstage(&mut self) {
        self.ledger.staging = 0;
        if let Some(Staging { address, handles }) = self.staging.take()
            && !self.backing.unmap_twice(address, handles)
        {
            self.staging_addresses = Addresses::default();
        }
    }
}
