//! Durations and sizes of a host. Tests shorten them.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use crate::raft::LogOptions;

/// Tunables of a [`super::MetaHost`].
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// A leader shows itself so often. Default 500 ms.
    pub heartbeat: Duration,
    /// Without a leader for at least so long, a voter stands for election. Default 1.5 s.
    pub election_min: Duration,
    /// And at most so long. Default 3 s.
    pub election_max: Duration,
    /// Deadline of a message with entries, and of a chunk of a snapshot. Default 5 s.
    pub bulk_timeout: Duration,
    /// Deadline of installing a snapshot at the receiver. Default 10 min.
    pub install_timeout: Duration,
    /// One try of a command or query at one node. Default 3 s.
    pub attempt_timeout: Duration,
    /// A checkpoint is taken after so many entries. Default 10 000.
    pub snapshot_every_entries: u64,
    /// Entries kept behind the checkpoint, so that a follower in transfer need not begin again.
    /// Default 10 000.
    pub keep_entries: u64,
    /// A checkpoint is also taken when a group holds so many bytes in the log. Default 128 MiB.
    pub log_bytes_max: u64,
    /// How often log sizes are looked at. Default 10 s.
    pub log_check_interval: Duration,
    /// The logs.
    pub log: LogOptions,
    /// How often voters are looked at by a group's leader. Default 1 s.
    pub keeper_interval: Duration,
    /// A replica that heard no leader for so long asks others whether it is still a member, and asks
    /// again as often. Default 5 s.
    pub standing_after: Duration,
    /// A voter dead for so long is replaced. Default 30 min.
    pub replace_after: Duration,
    /// A Raft log that was set aside is kept for so long after all is well again. Default 7 days.
    pub keep_damaged: Duration,
}

impl Default for HostOptions {
    fn default() -> Self {
        HostOptions {
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_millis(1_500),
            election_max: Duration::from_secs(3),
            bulk_timeout: Duration::from_secs(5),
            install_timeout: Duration::from_secs(600),
            attempt_timeout: Duration::from_secs(3),
            snapshot_every_entries: 10_000,
            keep_entries: 10_000,
            log_bytes_max: 128 * 1024 * 1024,
            log_check_interval: Duration::from_secs(10),
            log: LogOptions::default(),
            keeper_interval: Duration::from_secs(1),
            standing_after: Duration::from_secs(5),
            replace_after: Duration::from_secs(30 * 60),
            keep_damaged: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl HostOptions {
    pub(crate) fn raft_config(&self, group: u32) -> Config {
        Config {
            cluster_name: format!("group {group}"),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(self.install_timeout),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            // Twice what a checkpoint leaves behind: a follower that only lags gets entries.
            replication_lag_threshold: self
                .snapshot_every_entries
                .saturating_mul(2)
                .saturating_add(self.keep_entries),
            enable_pre_vote: Some(true),
            // A leader that restarts stands for election like everyone else.
            enable_leader_restore: Some(false),
            ..Config::default()
        }
    }
}
