//! Moves slots of placement groups off drives that are lost or leaving, without a human.
//!
//! ```text
//!  root leader:   map ──[survivors] what is lost, what exists──▶ [plan] which slot, where to ──▶ PreparePg
//!  target's node: [worker] fence and list (R2) ──▶ what lives? ──▶ [fill] copy or rebuild ──▶ CleanPg
//!  every node:    [leftovers] shards of slots it holds no longer ──▶ trash
//! ```
//!
//! The planner is a pure function; what it plans the root group checks and decides. A worker may die
//! anywhere: the target's node begins anew when it is back, and if it does not come back the planner
//! gives the slot to another.

pub mod balance;
pub(crate) mod fill;
pub(crate) mod leftovers;
pub mod plan;
pub(crate) mod planner;
pub(crate) mod sources;
pub mod survivors;
pub(crate) mod throttle;
pub(crate) mod worker;

use std::time::Duration;

/// When slots move, and how fast.
#[derive(Clone, Debug)]
pub struct RemapOptions {
    /// Pause between rounds of the planner and of the workers; default 1 s.
    pub every: Duration,
    /// A stable node that is down for so long is lost; default 15 min.
    pub grace_stable: Duration,
    /// Likewise for one that people switch off; default 24 h.
    pub grace_sleepy: Duration,
    /// A node that sleeps as planned is lost after so long; default 72 h.
    pub grace_asleep: Duration,
    /// A node that is down for so long is lost to groups that would not survive one more loss: long
    /// enough for a switch to restart; default 30 s.
    pub grace_urgent: Duration,
    /// So many hosts, or a fifth if that is more, may be lost within `freeze_window`; with more, only
    /// placement groups on their last shards are repaired; default 2.
    pub freeze_hosts: usize,
    /// See `freeze_hosts`; default 10 min.
    pub freeze_window: Duration,
    /// So often within `flapping_window` may the loss of one node move slots; default 3.
    pub flapping_max: usize,
    /// See `flapping_max`; default 1 h.
    pub flapping_window: Duration,
    /// Placement groups moved at once: percent of all, but at least two; default 5.
    pub in_flight_percent: usize,
    /// Placement groups moved at once to one drive; default 2.
    pub per_drive: usize,
    /// A move that takes longer counts no more against the two limits above; default 1 h.
    pub stuck_after: Duration,
    /// Bytes per second that moves bring to one drive, unless it is urgent; default a fifth of
    /// 1 Gbit/s.
    pub bytes_per_second: u64,
    /// A drive takes part in making the fleet even when it did not come, go, fill up or change its
    /// weight for so long; default 10 min.
    pub balance_after: Duration,
    /// Nothing moves for evenness while each drive holds its share of slots but for so many percent;
    /// default 10.
    pub balance_percent: u32,
    /// Longest pause before a move that could not be finished is tried again; default 60 s.
    pub retry_max: Duration,
}

impl Default for RemapOptions {
    fn default() -> RemapOptions {
        RemapOptions {
            every: Duration::from_secs(1),
            grace_stable: Duration::from_secs(15 * 60),
            grace_sleepy: Duration::from_secs(24 * 3600),
            grace_asleep: Duration::from_secs(72 * 3600),
            grace_urgent: Duration::from_secs(30),
            freeze_hosts: 2,
            freeze_window: Duration::from_secs(10 * 60),
            flapping_max: 3,
            flapping_window: Duration::from_secs(3600),
            in_flight_percent: 5,
            per_drive: 2,
            stuck_after: Duration::from_secs(3600),
            bytes_per_second: 25_000_000,
            balance_after: Duration::from_secs(10 * 60),
            balance_percent: 10,
            retry_max: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests;
