//! The grid: objects in, objects out. Moves data; decides nothing that must survive (`meta` does).
//!
//! [`Grid`] is the façade that the gateway uses. Below it, [`node`] assembles one node's parts.
//!
//! ```text
//!   facade ── objects, uploads, buckets          what the floors above call
//!     │
//!     ├─ write ─ body, budget, stripe            large bodies into blocks, blocks onto drives
//!     ├─ pack                                    small contents, many per block and commit
//!     ├─ read ─ fetch, hedge                     ranges out of frames, rebuilt where needed
//!     ├─ session, keys, map                      leases, the key ring, the node's copy of the map
//!     └─ shard (service, client, wire)           drives for other nodes
//!   node ── keeper, placement, refill            standing duties
//! ```

pub mod api;
mod append;
mod body;
mod buckets;
pub mod budget;
mod cache;
pub mod care;
mod convert;
mod core;
pub mod ends;
pub mod error;
mod facade;
mod keeper;
mod keys;
pub mod lifecycle;
pub mod limits;
pub mod liveness;
mod map;
pub mod meta_port;
pub mod metrics;
pub mod node;
mod objects;
mod own;
mod pack;
pub mod placement;
mod read;
mod rebuild;
mod recall;
mod records;
mod refill;
pub mod session;
pub mod shard;
mod snapshots;
pub mod storage_class;
mod stripe;
mod uploads;
mod version;
mod versions;
pub mod volume;
pub mod voters;
mod write;

pub use crate::cache::{FrameCache, FrameId};
pub use crate::care::{CareOptions, FsckFault, FsckReport, RecodeLeft, WorkerStatus, Workers};
pub use crate::core::GridOptions;
pub use api::*;
pub use ends::{EndKind, EndMark, Ends, ObjectEnd};
pub use error::GridError;
pub use facade::{Grid, ObjectReader};
pub use keys::seal_secret;
pub use liveness::{Liveness, NodeHint};
pub use meta_port::{Answered, CommandId, MetaOptions, MetaPort, PortError};
pub use metrics::{GridMetrics, MetricRow};
pub use nexusgrid_meta::namespace::types::Snapshot;
pub use node::{GridNode, HostPort, NodeParts};
pub use shard::ShardService;
pub use snapshots::SnapshotError;
pub use version::*;
pub use volume::{Volume, VolumeError};
