//! The budget of host memory: the bytes that all devices of a process, and all processes of a user,
//! may take together as shared memory.

use crate::platform::neighbours::Neighbours;
use crate::sync::Mutex;

/// Claims among processes grow in steps of this fraction of the budget, so that a file is not
/// written for each granule.
const STEPS: u64 = 64;

/// The host memory that the devices of a process may take. Bytes.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    account: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    used: u64,
    claimed: u64,
    /// The other processes, with the bytes that they and this one may take together. `None` where
    /// the user has set the limit.
    others: Option<(Neighbours, u64)>,
}

impl Budget {
    /// A budget of `limit` bytes for this process alone.
    pub fn new(limit: u64) -> Budget {
        Budget { limit, account: Mutex::default() }
    }

    /// A budget of `limit` bytes for this process, and of `of_all` bytes for it and the others of
    /// this user.
    pub fn among_processes(limit: u64, of_all: u64) -> Budget {
        let others = Neighbours::of_this_user().map(|others| (others, of_all));
        Budget { limit, account: Mutex::new(Account { others, ..Account::default() }) }
    }

    /// The bytes that this process may take in all.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The bytes that this process has taken.
    pub fn used(&self) -> u64 {
        self.account.lock().used
    }

    /// The bytes that other processes claim. O(processes).
    pub fn others(&self) -> u64 {
        self.account.lock().others.as_ref().map_or(0, |(others, _)| others.others())
    }

    /// The bytes that may still be taken. O(processes).
    pub fn left(&self) -> u64 {
        let account = self.account.lock();
        let of_all = match &account.others {
            Some((others, of_all)) => of_all.saturating_sub(others.others()),
            None => u64::MAX,
        };
        self.limit.min(of_all).saturating_sub(account.used)
    }

    /// Takes `bytes` if that many are left. Returns whether they were.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let mut account = self.account.lock();
        let used = account.used + bytes;
        if used > self.limit {
            return false;
        }
        if used > account.claimed {
            let step = used.next_multiple_of((self.limit / STEPS).max(1)).min(self.limit);
            if let Some((others, of_all)) = &mut account.others {
                let claimed = [step, used].into_iter().find(|claim| others.claim(*claim, *of_all));
                let Some(claimed) = claimed else { return false };
                account.claimed = claimed;
            }
        }
        account.used = used;
        true
    }

    /// Returns bytes that were taken.
    pub(super) fn give_back(&self, bytes: u64) {
        let mut account = self.account.lock();
        account.used -= bytes;
        let step = (self.limit / STEPS).max(1);
        let enough = account.used.next_multiple_of(step);
        if account.claimed > enough + step {
            if let Some((others, of_all)) = &mut account.others {
                others.claim(enough, *of_all);
            }
            account.claimed = enough;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_promised_to_nobody_else() {
        let budget = Budget::new(100);
        assert!(budget.take(60) && !budget.take(41) && budget.take(40));
        assert_eq!((budget.left(), budget.used()), (0, 100));
        budget.give_back(100);
        assert_eq!(budget.left(), 100);
    }
}
