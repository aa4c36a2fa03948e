//! Counters of one drive, read by the metrics page.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Live counters; only ever grow while the store is open.
        #[derive(Debug, Default)]
        pub struct DriveMetrics { $($(#[$doc])* pub $name: AtomicU64,)* }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct MetricsSnapshot { $($(#[$doc])* pub $name: u64,)* }

        impl DriveMetrics {
            /// Reads all counters.
            pub fn snapshot(&self) -> MetricsSnapshot {
                MetricsSnapshot { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl MetricsSnapshot {
            /// Name and value of each counter, in order.
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Shards stored.
    puts,
    /// Bytes of their bodies.
    put_bytes,
    /// Puts that found the same shard there (R3).
    puts_existing,
    /// Puts whose stored shard did not verify and was written anew.
    puts_rewritten,
    /// Puts refused by a rule, a mark or a check.
    puts_refused,
    /// I3: puts refused because the id is bound to another digest. Must stay zero.
    digest_conflicts,
    /// Shard reads.
    gets,
    /// Bytes returned by them.
    get_bytes,
    /// Group commits.
    batches,
    /// Operations in them.
    batch_ops,
    /// Bytes written by them.
    batch_bytes,
    /// Operations of the largest batch.
    batch_ops_max,
    /// Calls of `fdatasync` on segments.
    syncs,
    /// Segments sealed.
    segments_sealed,
    /// Segments removed.
    segments_removed,
    /// Live bytes that compaction copied.
    compacted_bytes,
    /// Bytes freed by holes.
    punched_bytes,
    /// Shards moved to the trash.
    trashed,
    /// Shards purged from the trash.
    purged,
    /// Bytes that scrub looked at.
    scrubbed_bytes,
    /// Shards that scrub found not to verify and took out of service.
    rotten,
    /// Shards checked by `verify`.
    verified,
    /// Bytes it read.
    verified_bytes,
    /// Reads that failed or found damage.
    read_errors,
    /// Writes that the disk refused for lack of space.
    disk_full,
}

pub(crate) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

pub(crate) fn at_least(counter: &AtomicU64, value: u64) {
    counter.fetch_max(value, Ordering::Relaxed);
}
