//! What the grid of one process counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// One metric at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricRow {
    /// Its name; a unit comes last.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Whether it may fall; else it counts since the process began.
    pub is_gauge: bool,
    /// Its value.
    pub value: u64,
}

/// All metrics at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GridMetrics {
    rows: Vec<MetricRow>,
}

impl GridMetrics {
    /// Each metric, in order.
    pub fn rows(&self) -> &[MetricRow] {
        &self.rows
    }

    /// A metric's value; `None` if there is none of that name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.rows.iter().find(|row| row.name == name).map(|row| row.value)
    }
}

macro_rules! counters {
    ($($name:ident: $kind:ident $help:literal),* $(,)?) => {
        /// Live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64,)* }

        impl Counters {
            /// Reads all, and the budget's bytes.
            pub(crate) fn read(&self, budget_free: u64, budget: u64) -> GridMetrics {
                let gauge = |name, help, value| MetricRow { name, help, is_gauge: true, value };
                let rows = vec![
                    $(MetricRow {
                        name: stringify!($name),
                        help: $help,
                        is_gauge: counters!(@ $kind),
                        value: self.$name.load(Ordering::Relaxed),
                    },)*
                    gauge("budget_free_bytes", "Bytes of the body budget nobody holds", budget_free),
                    gauge("budget_bytes", "Bytes of bodies held at once, at most", budget),
                ];
                GridMetrics { rows }
            }
        }
    };
    (@ gauge) => { true };
    (@ counter) => { false };
}

counters! {
    blocks_written: counter "Blocks made durable",
    shards_missed: counter "Shards of them that were not acknowledged: to refill",
    shards_refilled: counter "Shards brought to the drives that missed them",
    holes_waiting: gauge "Missing shards in the repair queues led here that still wait",
    writes_refused: counter "Writes refused because too many hosts are away",
    reads_hedged: counter "Slow reads raced by others",
    reads_degraded: counter "Reads of a shard answered by rebuilding it",
    reads_unreadable: counter "Reads that found too few shards",
    cache_frames_found: counter "Frames read from this node's cache",
    cache_frames_missed: counter "Frames that this node's cache did not have",
    cache_frames_bad: counter "Frames of this node's cache that were not what was sealed",
}

impl Counters {
    /// Counts.
    pub(crate) fn add(counter: &AtomicU64, by: usize) {
        counter.fetch_add(by as u64, Ordering::Relaxed);
    }
}
