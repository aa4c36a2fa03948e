//! Time. No correctness depends on a wall clock; leases use [`Clock::now`].

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Time since boot, suspend included (`CLOCK_BOOTTIME`). Comparable on one machine only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootInstant(pub Duration);

impl BootInstant {
    /// Time passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: BootInstant) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This instant, `by` later (saturating).
    #[must_use]
    pub fn plus(self, by: Duration) -> BootInstant {
        BootInstant(self.0.saturating_add(by))
    }
}

/// Milliseconds since 1970-01-01 UTC by the machine's wall clock. For what users see, never for order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct UnixMillis(pub u64);

/// The clock of one machine.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Time since boot, suspend included.
    fn now(&self) -> BootInstant;

    /// Wall-clock time.
    fn wall(&self) -> UnixMillis;

    /// Waits for `duration` of running time (a suspend in between may lengthen it).
    async fn sleep(&self, duration: Duration);

    /// Counts suspend jumps seen since start. A holder of a lease or of leadership watches this and
    /// gives up what it holds when it changes.
    fn suspend_jumps(&self) -> watch::Receiver<u64>;
}
