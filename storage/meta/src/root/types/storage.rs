//! Drives and placement groups to be made.

use nexusgrid_codec::id::DriveId;
use nexusgrid_env::NodeId;
use serde::{Deserialize, Serialize};

use crate::root::topology::PgClass;

/// A drive's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DriveState {
    /// Takes and serves shards.
    Active,
    /// Serves; takes none; being emptied.
    Draining,
    /// Failed: an fsync or reads failed. What it held counts as lost.
    Failed,
    /// Gone for good.
    Removed,
}

/// How full a drive is, as its node last said.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum SpaceMark {
    /// Below every mark.
    #[default]
    Normal,
    /// The administrator should know.
    Warn,
    /// Takes writes of clients, and none of repair.
    NoBackfill,
    /// Takes nothing but deletes.
    NoWrites,
}

/// A drive to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDrive {
    /// The node that holds it.
    pub node: NodeId,
    /// Drawn when the drive was formatted; adding the same incarnation again returns the same id.
    pub incarnation: [u8; 16],
    /// Usable bytes.
    pub size_bytes: u64,
    /// Relative share of new PGs; normally the size in GiB, at least 1.
    pub weight: u32,
}

/// A PG to make. Drives may repeat hosts only if hosts do not suffice (I11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPg {
    /// Code or copies.
    pub class: PgClass,
    /// One drive per slot, in slot order.
    pub slots: Vec<DriveId>,
    /// The topology version the proposer drew from: a stale one is refused if a chosen drive is
    /// no longer Active.
    pub drawn_from: u64,
}
