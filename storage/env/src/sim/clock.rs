//! Clocks of simulated machines, all derived from the world's virtual time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{BootInstant, Clock, UnixMillis};

/// Wall-clock time at which every world begins: 2026-01-01T00:00:00Z.
const WORLD_BEGINS_UNIX_MILLIS: u64 = 1_767_225_600_000;

/// Virtual time since the world began; goes on through several runtimes.
#[derive(Default)]
pub(super) struct WorldTime {
    state: Mutex<TimeState>,
}

#[derive(Default)]
struct TimeState {
    elapsed_before: Duration,
    running_since: Option<Instant>,
}

impl WorldTime {
    pub(super) fn elapsed(&self) -> Duration {
        let state = self.state.lock();
        let running = state.running_since.map_or(Duration::ZERO, |since| since.elapsed());
        state.elapsed_before + running
    }

    /// Called inside a runtime with paused clock.
    pub(super) fn begin(&self) {
        self.state.lock().running_since = Some(Instant::now());
    }

    /// Called inside the same runtime, before it goes.
    pub(super) fn end(&self) {
        let elapsed_before = self.elapsed();
        *self.state.lock() = TimeState { elapsed_before, running_since: None };
    }
}

/// The clock of one simulated machine since its last power-on.
pub struct SimClock {
    time: Arc<WorldTime>,
    state: Mutex<State>,
    jumps: watch::Sender<u64>,
    suspended: watch::Receiver<bool>,
}

struct State {
    /// Boot time at `anchor`; from there it runs at the machine's own rate.
    boot_at_anchor: Duration,
    anchor: Duration,
    drift_ppm: i32,
    skew_millis: i64,
}

impl SimClock {
    pub(super) fn new(
        time: Arc<WorldTime>,
        uptime: Duration,
        skew_millis: i64,
        suspended: watch::Receiver<bool>,
    ) -> SimClock {
        let state =
            State { boot_at_anchor: uptime, anchor: time.elapsed(), drift_ppm: 0, skew_millis };
        SimClock { time, state: Mutex::new(state), jumps: watch::Sender::new(0), suspended }
    }

    /// A suspend of `by` that takes no virtual time: boot time jumps, and the jump is told.
    pub(super) fn jump(&self, by: Duration) {
        self.state.lock().boot_at_anchor += by;
        self.jumps.send_modify(|jumps| *jumps += 1);
    }

    pub(super) fn set_drift(&self, ppm: i32) {
        let BootInstant(now) = self.now();
        let elapsed = self.time.elapsed();
        let mut state = self.state.lock();
        state.boot_at_anchor = now;
        state.anchor = elapsed;
        state.drift_ppm = ppm;
    }

    pub(super) fn set_skew(&self, millis: i64) {
        self.state.lock().skew_millis = millis;
    }

    pub(super) fn skew_millis(&self) -> i64 {
        self.state.lock().skew_millis
    }
}

fn rate(drift_ppm: i32) -> f64 {
    1.0 + f64::from(drift_ppm) / 1e6
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> BootInstant {
        let elapsed = self.time.elapsed();
        let state = self.state.lock();
        let since = elapsed.saturating_sub(state.anchor);
        // Without drift no floating point: instants stay exact.
        let local = if state.drift_ppm == 0 { since } else { since.mul_f64(rate(state.drift_ppm)) };
        BootInstant(state.boot_at_anchor + local)
    }

    fn wall(&self) -> UnixMillis {
        let millis = WORLD_BEGINS_UNIX_MILLIS + self.time.elapsed().as_millis() as u64;
        UnixMillis(millis.saturating_add_signed(self.state.lock().skew_millis))
    }

    async fn sleep(&self, duration: Duration) {
        let drift_ppm = self.state.lock().drift_ppm;
        let virtual_duration = match drift_ppm {
            0 => duration,
            _ => duration.div_f64(rate(drift_ppm)),
        };
        tokio::time::sleep(virtual_duration).await;
        let mut suspended = self.suspended.clone();
        // An error means that the machine is gone, and its sleepers with it.
        if suspended.wait_for(|suspended| !*suspended).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn suspend_jumps(&self) -> watch::Receiver<u64> {
        self.jumps.subscribe()
    }
}
