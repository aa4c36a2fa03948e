//! How fast one account may change what all gateways read again at every change.
//!
//! State: per account, how many changes it may make at once and since when that grew. A gateway's
//! own: as many gateways, as many times the pace.

use std::collections::BTreeMap;

use nexusgrid_env::{BootInstant, Env};
use parking_lot::Mutex;

use crate::limits;

/// Changes that accounts may make.
pub struct Pace {
    env: Env,
    per_second: f64,
    burst: f64,
    left: Mutex<BTreeMap<String, (f64, BootInstant)>>,
}

impl Pace {
    /// So many changes a second, and so many at once after a rest.
    pub fn new(env: Env, per_second: u32, burst: u32) -> Pace {
        let (per_second, burst) = (f64::from(per_second), f64::from(burst));
        Pace { env, per_second, burst, left: Mutex::default() }
    }

    /// Takes one change of an account's; `false`: it has made too many lately.
    pub fn take(&self, account: &str) -> bool {
        let now = self.env.clock.now();
        let grown = |(left, since): (f64, BootInstant)| {
            (left + now.since(since).as_secs_f64() * self.per_second).min(self.burst)
        };
        let mut all = self.left.lock();
        if all.len() >= limits::PACED_ACCOUNTS_MAX && !all.contains_key(account) {
            all.retain(|_, kept| grown(*kept) < self.burst);
        }
        let left = all.get(account).map_or(self.burst, |kept| grown(*kept));
        let may = left >= 1.0;
        all.insert(account.to_owned(), (if may { left - 1.0 } else { left }, now));
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_made_too_many_changes_waits_and_no_other() {
        let pace = Pace::new(Env::real(), 0, 3);
        let taken: Vec<bool> = (0..5).map(|_| pace.take("a")).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(pace.take("b"));
        let fast = Pace::new(Env::real(), 1_000_000, 1);
        assert!(fast.take("a"));
        std::hint::black_box((0..10_000).sum::<u64>());
        let again = (0..1_000).any(|_| fast.take("a"));
        assert!(again, "it grows with time");
    }
}
