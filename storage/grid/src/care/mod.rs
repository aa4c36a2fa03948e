//! Background care: what keeps the promise after the client has its answer.
//!
//! | worker | runs on | does |
//! |---|---|---|
//! | `checkpoint` | leader of each group | copies its state into the grid ([`checkpoint`]) |
//! | `log-tail` | leader of each group | copies its log since then to a few nodes ([`checkpoint`]) |
//! | `collect` | leader of each metadata group | frees what was released, buries dead blocks (R5, R6) |
//! | `sweep` | every node, own drives | drops settled tombstones, finds orphans |
//! | `inventory` | leader of each metadata group | compares its live blocks with the drives (I2) |
//! | `scrub` | every node, own drives | reads and checks all that is stored |
//! | `rewrite` | one gateway for each metadata group | empties half-dead packs and codes of yesterday |
//! | `lifecycle` | one gateway for each metadata group | ends objects as their owners laid down |
//! | `remap` | root leader plans, target nodes work | moves slots off lost and leaving drives (R2, R4, R7) |
//!
//! [`fsck`] compares metadata with drives when someone asks.
//!
//! Every worker reports to the [`Workers`] of its process: listed, paused and tuned at run time.

pub mod checkpoint;
pub mod collect;
pub mod fsck;
mod horizon;
mod kept;
pub(crate) mod lifecycle;
pub mod names;
mod passes;
pub mod remap;
pub mod rewrite;
pub mod scrub;
mod sightings;
pub mod sweep;
pub mod workers;

use std::time::Duration;

pub use checkpoint::{CheckpointOptions, CheckpointParts, Checkpoints};
pub use fsck::{FsckFault, FsckReport};
pub use names::ObjectName;
pub use remap::RemapOptions;
pub use rewrite::{RecodeLeft, RewriteOptions};
pub use workers::{WorkerStatus, Workers};

/// How background care behaves; tests shorten the durations.
#[derive(Clone, Debug)]
pub struct CareOptions {
    /// Pause between rounds of `collect`; default 5 s.
    pub collect_every: Duration,
    /// Pause between passes of `sweep` over a drive; default 1 h.
    pub sweep_every: Duration,
    /// A block that metadata does not know is an orphan only if it was so twice, this far apart;
    /// default 24 h.
    pub orphan_age: Duration,
    /// Pause between two stretches of `scrub`; default 60 s.
    pub scrub_every: Duration,
    /// Least bytes of a stretch, per drive; default 64 MiB, which is 2.7 TB in 30 days.
    pub scrub_bytes: u64,
    /// Everything is read at least so often: stretches are as long as that takes; default 30 days.
    pub scrub_within: Duration,
    /// Pause between two comparisons of metadata with drives; default 6 h.
    pub inventory_every: Duration,
    /// When contents move to new blocks, and how fast.
    pub rewrite: RewriteOptions,
    /// When slots move off lost and leaving drives, and how fast.
    pub remap: RemapOptions,
    /// How long a day is in rules about the ends of objects that are laid down from now on; default 24 h,
    /// and then days end at midnight UTC.
    pub lifecycle_day: Duration,
}

impl Default for CareOptions {
    fn default() -> CareOptions {
        CareOptions {
            collect_every: Duration::from_secs(5),
            sweep_every: Duration::from_secs(3600),
            orphan_age: Duration::from_secs(24 * 3600),
            scrub_every: Duration::from_secs(60),
            scrub_bytes: 64 << 20,
            scrub_within: Duration::from_secs(30 * 24 * 3600),
            inventory_every: Duration::from_secs(6 * 3600),
            rewrite: RewriteOptions::default(),
            remap: RemapOptions::default(),
            lifecycle_day: Duration::from_secs(24 * 3600),
        }
    }
}
