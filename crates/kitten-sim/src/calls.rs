//! Calls of the machine: counted, priced, and made to fail.

use std::collections::BTreeMap;

use crate::code::{Result, error};

/// A failure to come. An empty `call` means any call.
#[derive(Clone, Debug)]
struct Failure {
    call: String,
    after: u64,
    code: i32,
    lasting: bool,
}

/// The calls so far, and the failures to come.
#[derive(Default)]
pub(crate) struct Calls {
    /// How often each call was made.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// How many calls were made.
    pub(crate) total: u64,
    /// The modelled seconds of all calls, with the copies that the host waits for.
    pub(crate) seconds: f64,
    failures: Vec<Failure>,
}

impl Calls {
    /// Counts and prices a call.
    ///
    /// # Errors
    /// The code of a failure, if the call is made to fail.
    pub(crate) fn enter(&mut self, call: &'static str, seconds: f64) -> Result<()> {
        *self.counts.entry(call).or_default() += 1;
        self.total += 1;
        self.seconds += seconds;
        let mut failed = None;
        self.failures.retain_mut(|failure| {
            if !(failure.call.is_empty() || failure.call == call) {
                return true;
            }
            failure.after = failure.after.saturating_sub(1);
            if failure.after == 0 && failed.is_none() {
                failed = Some(failure.code);
                return failure.lasting;
            }
            true
        });
        match failed {
            Some(code) => error(call, code, "made to fail by a test"),
            None => Ok(()),
        }
    }

    /// Makes the n-th use of a call from now on fail, once or from then on.
    pub(crate) fn arm(&mut self, call: &str, nth: u64, code: i32, lasting: bool) {
        self.failures.push(Failure { call: call.into(), after: nth.max(1), code, lasting });
    }

    /// Forgets all failures to come.
    pub(crate) fn disarm(&mut self) {
        self.failures.clear();
    }
}
