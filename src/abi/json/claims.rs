//! The claims of live blocks to dedicated memory as JSON.

use std::fmt::Write;

use crate::abi::arguments::pin_number;
use crate::heap::Claim;

/// A list, the first claim first: `[{"address", "size", "model", "pinned", "stream", "used_on": [stream]}]`, streams by their
/// handles; pinned is a tier's number, or -1.
pub(in crate::abi) fn json(claims: &[Claim]) -> String {
    let mut text = String::from("[");
    for (number, claim) in claims.iter().enumerate() {
        let separator = if number == 0 { "" } else { "," };
        let used_on: Vec<_> = claim.used_on.iter().map(u64::to_string).collect();
        let _ = write!(
            text,
            "{separator}{{\"address\":{},\"size\":{},\"model\":{},\"pinned\":{},\"stream\":{},\"used_on\":[{}]}}",
            claim.address,
            claim.size,
            claim.model,
            pin_number(claim.pin),
            claim.stream,
            used_on.join(",")
        );
    }
    text.push(']');
    text
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
