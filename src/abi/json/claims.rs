//! The claims of live blocks to dedicated memory.

use std::ffi::c_int;

use serde::Serialize;

use crate::abi::arguments::pin_number;
use crate::heap::Claim;

use super::write::{Rows, text_of};

#[derive(Serialize)]
struct ClaimRow<'a> {
    address: u64,
    size: u64,
    model: bool,
    /// The number of a tier, or -1.
    pinned: c_int,
    /// The handle of the stream that the block belongs to.
    stream: u64,
    /// The handles of the other streams that use it.
    used_on: &'a [u64],
}

/// A list, the first claim first.
pub(in crate::abi) fn json(claims: &[Claim]) -> String {
    text_of(&Rows(claims.iter().map(|claim| ClaimRow {
        address: claim.address,
        size: claim.size,
        model: claim.model,
        pinned: pin_number(claim.pin),
        stream: claim.stream,
        used_on: &claim.used_on,
    })))
}

#[cfg(test)]
mod tests {
    use super::{Claim, json};

    #[test]
    fn claims_are_in_order() {
        let claim = |address, model, used_on| Claim { address, size: 512, model, pin: None, stream: 7, used_on };
        assert_eq!(
            json(&[claim(4096, true, vec![]), claim(512, false, vec![0, 9])]),
            "[{\"address\":4096,\"size\":512,\"model\":true,\"pinned\":-1,\"stream\":7,\"used_on\":[]},\
             {\"address\":512,\"size\":512,\"model\":false,\"pinned\":-1,\"stream\":7,\"used_on\":[0,9]}]"
        );
        assert_eq!(json(&[]), "[]");
    }
}
