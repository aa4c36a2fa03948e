//! A token bucket: so many bytes per second, a second's worth at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nexusgrid_env::{BootInstant, Env};
use parking_lot::Mutex;

/// One drive's share of repair traffic.
pub(crate) struct Throttle {
    env: Env,
    bytes_per_second: AtomicU64,
    /// When all that was taken is paid for.
    paid: Mutex<BootInstant>,
}

impl Throttle {
    pub(crate) fn new(env: Env, bytes_per_second: u64) -> Throttle {
        let paid = Mutex::new(env.clock.now());
        Throttle { env, bytes_per_second: AtomicU64::new(bytes_per_second.max(1)), paid }
    }

    /// From now on so many.
    pub(crate) fn set_rate(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second.max(1), Ordering::Relaxed);
    }

    /// Waits until `bytes` may be moved.
    pub(crate) async fn take(&self, bytes: u64) {
        let wait = self.owe(bytes);
        if wait > Duration::ZERO {
            self.env.clock.sleep(wait).await;
        }
    }

    /// Counts `bytes`; gives how long to wait for them.
    fn owe(&self, bytes: u64) -> Duration {
        let now = self.env.clock.now();
        let mut paid = self.paid.lock();
        // What was not used is kept for a second at most.
        let begin = paid.0.max(now.0.saturating_sub(Duration::from_secs(1)));
        let cost = Duration::from_secs_f64(
            bytes as f64 / self.bytes_per_second.load(Ordering::Relaxed) as f64,
        );
        *paid = BootInstant(begin + cost);
        paid.since(now)
    }
}
