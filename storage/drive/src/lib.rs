//! One drive's shard store: a log of 4 KiB-aligned records over append-only segments, and an index
//! that is a fold of that log.
//!
//! ```text
//!  put, fence, tombstone, …          get, stat, list
//!        │                                │
//!   [queue]  lanes, fair by bytes         │  never waits for writers
//!        │                                │
//!   [commit] one writer: drain the queue, │
//!     [admit] each operation (R1, R3–R7)  │
//!     write once, sync once ──► segments ◄┘──┐
//!     [fold] the records into ──► index (env::Kv, never ahead of the data)
//!        │
//!     answer all
//! ```
//!
//! The writer admits each operation against the index plus the batch's own changes ([`txn`]), so
//! the order of the log is the order of decisions; [`recover`] replays the same fold over what the
//! index has not seen, or over everything if it is lost. [`reclaim`] frees dead records: holes for
//! large ones, compaction for small ones, both through the same log.
//!
//! Keeps: R1, R3, R4, R6, R7 and the drive's part of R5; I3 and I5. Knows shards, never
//! objects or keys. State on disk: `superblock`, `lock`, `segments/*.seg`, `index/`.
//!
//! Files: [`types`], [`options`] what callers see, [`store`] the interface, `superblock`, `record`,
//! `log`, `segment` the format, `fold`, `txn`, `index` the index, `op`, `admit`, `draft`, `commit`,
//! `queue` the writer, `recover` and `open` the start, `failure` what is remembered of a failed disk,
//! [`scrub`] and `heal` the search for rot, `read`, `list`, `reclaim`, `space`, `metrics` the rest.

pub mod error;
pub mod fuzz;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod options;
pub mod record;
pub mod scrub;
pub mod store;
pub mod superblock;
pub mod types;

mod admit;
mod commit;
mod draft;
mod failure;
mod fold;
mod heal;
mod index;
mod inspect;
mod list;
mod op;
mod open;
mod queue;
mod read;
mod reclaim;
mod recover;
mod segment;
mod shared;
mod space;
mod txn;

#[cfg(test)]
mod tests;

pub use error::{DriveError, OpenError};
pub use inspect::{Inspection, inspect};
pub use metrics::{DriveMetrics, MetricsSnapshot};
pub use options::{DriveOptions, SpaceMarks};
pub use scrub::{Finding, Rot, ScrubCursor, ScrubOptions, ScrubStep};
pub use store::{ClosedDrive, DriveStore};
pub use types::{
    Damage, DriveIdentity, DriveState, Dropped, FillSessionId, Incarnation, ListPage, Maintained,
    OpenReport, PutAck, ReadOptions, Reconciled, SessionFloor, ShardKey, ShardRead, ShardStat,
    ShardWrite, SpaceLevel, SuperblockInfo, TombstonePage, TrashCursor, TrashPage, Usage, Verdict,
    WriteClass,
};
