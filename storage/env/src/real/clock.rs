//! This machine's clocks, and the watch for suspends.
//!
//! `CLOCK_BOOTTIME` goes on during suspend, `CLOCK_MONOTONIC` does not: their difference is the
//! time spent suspended. A thread looks once a second; whoever reads the clock looks too, so that
//! a holder of a lease that asks for the time right after a resume already finds the jump told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

use crate::limits::{SUSPEND_JUMP_MIN, SUSPEND_WATCH_INTERVAL};
use crate::{BootInstant, Clock, UnixMillis};

/// The clock of this machine.
pub struct RealClock {
    watch: Arc<SuspendWatch>,
}

struct SuspendWatch {
    jumps: watch::Sender<u64>,
    /// Total suspended time when last looked, in milliseconds.
    suspended_millis: AtomicU64,
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    // Neither clock is ever negative on Linux.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

impl RealClock {
    /// Reads the clocks and starts the watchdog, which ends with the last clock.
    pub fn start() -> RealClock {
        let watch = Arc::new(SuspendWatch {
            jumps: watch::Sender::new(0),
            suspended_millis: AtomicU64::new(suspended_time().as_millis() as u64),
        });
        let watched = Arc::downgrade(&watch);
        let spawned = std::thread::Builder::new()
            .name("suspend-watch".to_owned())
            .spawn(move || watch_for_suspends(&watched));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no suspend watchdog: suspends are noticed when the clock is read");
        }
        RealClock { watch }
    }
}

fn watch_for_suspends(watch: &Weak<SuspendWatch>) {
    while let Some(watch) = watch.upgrade() {
        watch.look(suspended_time());
        drop(watch);
        std::thread::sleep(SUSPEND_WATCH_INTERVAL);
    }
}

/// Time spent suspended since boot, too large by at most the time between two readings.
fn suspended_time() -> Duration {
    let monotonic = read(ClockId::Monotonic);
    let boot = read(ClockId::Boottime);
    // A pause of this thread between the readings looks like a suspend: read monotonic again, and
    // take the later reading, which errs to the other side, if they are far apart.
    let monotonic_after = read(ClockId::Monotonic);
    match monotonic_after.saturating_sub(monotonic) < SUSPEND_JUMP_MIN / 4 {
        true => boot.saturating_sub(monotonic),
        false => boot.saturating_sub(monotonic_after),
    }
}

impl SuspendWatch {
    fn look(&self, suspended: Duration) {
        let now = suspended.as_millis() as u64;
        let before = self.suspended_millis.load(Ordering::Acquire);
        if now < before.saturating_add(SUSPEND_JUMP_MIN.as_millis() as u64) {
            return;
        }
        let won = self.suspended_millis.compare_exchange(
            before,
            now,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if won.is_ok() {
            tracing::warn!(suspended_ms = now - before, "this machine was suspended");
            self.jumps.send_modify(|jumps| *jumps += 1);
        }
    }
}

#[async_trait]
impl Clock for RealClock {
    fn now(&self) -> BootInstant {
        self.watch.look(suspended_time());
        BootInstant(read(ClockId::Boottime))
    }

    fn wall(&self) -> UnixMillis {
        let time = clock_gettime(ClockId::Realtime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        UnixMillis(seconds.saturating_mul(1000) + time.tv_nsec as u64 / 1_000_000)
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn suspend_jumps(&self) -> watch::Receiver<u64> {
        self.watch.jumps.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspend_is_told_once() {
        let clock = RealClock::start();
        let jumps = clock.suspend_jumps();
        let started = suspended_time();
        clock.watch.look(started + Duration::from_millis(100));
        assert_eq!(*jumps.borrow(), 0, "too short to be a suspend");
        clock.watch.look(started + Duration::from_secs(60));
        clock.watch.look(started + Duration::from_secs(60));
        assert_eq!(*jumps.borrow(), 1);
    }

    #[test]
    fn boot_time_goes_forward() {
        let clock = RealClock::start();
        let (before, after) = (clock.now(), clock.now());
        assert!(before <= after);
        assert!(clock.wall().0 > 1_700_000_000_000);
        assert_eq!(*clock.suspend_jumps().borrow(), 0);
    }
}
