//! The map that every node keeps: who is there, what holds what, who decides what.
//!
//! A value of one commit index of the root group. It carries no secret, so storage-only nodes may
//! hold it.

use std::collections::BTreeMap;

use nexusgrid_codec::id::{ClusterId, DriveId, Epoch, GroupId, PgId};
use nexusgrid_env::{NodeId, Roles};
use serde::{Deserialize, Serialize};

use super::buckets::SYSTEM_BUCKET;
use super::types::{
    Addresses, BucketSettings, ClusterSettings, DriveState, Fingerprint, NodeClass, NodeState,
    RaftId, SpaceMark, WorkerSetting,
};
use crate::namespace::types::BucketId;
use crate::rows::codec::{self, DecodeError};

/// How a PG protects its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PgClass {
    /// Erasure-coded: any k of k+m shards restore a block.
    Coded {
        /// Data shards.
        k: u8,
        /// Parity shards.
        m: u8,
    },
    /// Whole copies.
    Replicated {
        /// How many.
        copies: u8,
    },
}

impl PgClass {
    /// Data shards: one for copies.
    pub fn k(self) -> u8 {
        match self {
            PgClass::Coded { k, .. } => k,
            PgClass::Replicated { .. } => 1,
        }
    }

    /// Shards that may be lost.
    pub fn m(self) -> u8 {
        match self {
            PgClass::Coded { m, .. } => m,
            PgClass::Replicated { copies } => copies.saturating_sub(1),
        }
    }

    /// Slots: k + m.
    pub fn width(self) -> usize {
        usize::from(self.k()) + usize::from(self.m())
    }

    /// Acknowledgements a commit needs: min(k + 1, k + m) (I1).
    pub fn quorum(self) -> usize {
        (usize::from(self.k()) + 1).min(self.width())
    }

    /// Whether it holds whole copies.
    pub fn is_replicated(self) -> bool {
        matches!(self, PgClass::Replicated { .. })
    }
}

/// Whether a node answers, as the root group decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Liveness {
    /// It answers.
    Up,
    /// Two reporters from two hosts said that it does not.
    Down,
    /// It said that it goes to sleep: its shards exist.
    Asleep,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Name for people.
    pub name: String,
    /// Failure domain.
    pub host: String,
    /// Groups hosts.
    pub zone: String,
    /// Stable or sleepy.
    pub class: NodeClass,
    /// What it may do.
    pub roles: Roles,
    /// Where to reach it.
    pub addresses: Addresses,
    /// Of the public key in the newest certificate issued to it.
    pub key_hash: Fingerprint,
    /// Generation of the newest certificate issued to it; the first is 1.
    pub cert_generation: u32,
    /// Where it stands in its life.
    pub state: NodeState,
    /// Whether it answers.
    pub liveness: Liveness,
    /// Since when, ms since 1970.
    pub liveness_since_ms: u64,
    /// The newest Raft generation it drew (I15).
    pub raft_generation: u32,
}

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Its id.
    pub id: DriveId,
    /// The node that holds it.
    pub node: NodeId,
    /// Drawn when it was formatted.
    pub incarnation: [u8; 16],
    /// Usable bytes.
    pub size_bytes: u64,
    /// Relative share of new PGs.
    pub weight: u32,
    /// Its state.
    pub state: DriveState,
    /// Bytes taken, as last said.
    pub used_bytes: u64,
    /// Which mark of fullness it has passed, as last said.
    pub space: SpaceMark,
}

/// A PG's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PgState {
    /// Takes new blocks.
    Active,
    /// Takes none; serves.
    Closed,
    /// A remap is under way; takes none.
    Preparing(Remap),
}

/// A remap under way (R1–R7).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remap {
    /// Slots that changed.
    pub moves: Vec<SlotMove>,
    /// When it began, ms since 1970.
    pub since_ms: u64,
    /// Whether the PG takes new blocks again when it is done.
    pub reopen: bool,
}

/// One slot's change of drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotMove {
    /// The slot.
    pub slot: u8,
    /// The drive before.
    pub from: DriveId,
    /// The drive now.
    pub to: DriveId,
}

/// A placement group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pg {
    /// Its id.
    pub id: PgId,
    /// Code or copies.
    pub class: PgClass,
    /// One drive per slot.
    pub slots: Vec<DriveId>,
    /// Its version; only grows.
    pub epoch: Epoch,
    /// Its state.
    pub state: PgState,
    /// Closed when this full.
    pub cap_bytes: u64,
    /// Bytes of blocks, as last said.
    pub used_bytes: u64,
    /// The newest repair session; 0: none yet (R4).
    pub fill_session: u64,
    /// Who runs it; `None`: closed.
    pub fill_worker: Option<NodeId>,
}

/// A Raft group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its id; zero is the root group.
    pub id: GroupId,
    /// Who voted in it when someone last said.
    pub voters: Vec<RaftId>,
}

/// A bucket's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketState {
    /// In use.
    Active,
    /// Its delete has begun: no writes.
    Deleting,
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its id, never reused.
    pub id: BucketId,
    /// Its name.
    pub name: String,
    /// Whose.
    pub owner: String,
    /// The metadata group that holds its rows.
    pub group: GroupId,
    /// When it was made.
    pub created_ms: u64,
    /// Its settings.
    pub settings: BucketSettings,
    /// Its state.
    pub state: BucketState,
    /// The newest version of its key.
    pub key_version: u32,
}

/// The map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Commit index of the last change; 0: nothing known yet.
    pub version: u64,
    /// The cluster; `None` before `init`.
    pub cluster: Option<ClusterId>,
    /// Raised by a restore of metadata.
    pub incarnation: u64,
    /// Timers and caps.
    pub settings: ClusterSettings,
    /// All nodes, removed ones too (the revocation list).
    pub nodes: BTreeMap<NodeId, Node>,
    /// All drives.
    pub drives: BTreeMap<DriveId, Drive>,
    /// All PGs.
    pub pgs: BTreeMap<PgId, Pg>,
    /// All groups, the root group too.
    pub groups: BTreeMap<GroupId, Group>,
    /// All buckets, by name.
    pub buckets: BTreeMap<String, Bucket>,
    /// Background workers that an administrator paused or tuned, by name.
    pub workers: BTreeMap<String, WorkerSetting>,
    /// Commit index of the last change of any [record](super::records).
    pub rules_version: u64,
}

impl Topology {
    /// Encodes for the wire or a cache file.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// The inverse of [`Topology::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Topology, DecodeError> {
        codec::decode(bytes)
    }

    /// A node that is not removed.
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node).filter(|node| node.state != NodeState::Removed)
    }

    /// The node that holds a drive.
    pub fn node_of_drive(&self, drive: DriveId) -> Option<&Node> {
        self.node(self.drives.get(&drive)?.node)
    }

    /// Whether a drive should answer now: Active or Draining, on a node that is Up.
    pub fn drive_is_awake(&self, drive: DriveId) -> bool {
        self.drives
            .get(&drive)
            .is_some_and(|drive| matches!(drive.state, DriveState::Active | DriveState::Draining))
            && self.node_of_drive(drive).is_some_and(|node| node.liveness == Liveness::Up)
    }

    /// PGs that take new blocks, of one class or of all.
    pub fn active_pgs(&self, class: Option<PgClass>) -> impl Iterator<Item = &Pg> {
        self.pgs.values().filter(move |pg| {
            pg.state == PgState::Active && class.is_none_or(|class| pg.class == class)
        })
    }

    /// How many slots of a PG are on drives that should answer now.
    pub fn awake_slots(&self, pg: &Pg) -> usize {
        pg.slots.iter().filter(|drive| self.drive_is_awake(**drive)).count()
    }

    /// A client's bucket that is not being deleted. The cluster's own is none.
    pub fn bucket(&self, name: &str) -> Option<&Bucket> {
        self.buckets
            .get(name)
            .filter(|bucket| bucket.state == BucketState::Active && name != SYSTEM_BUCKET)
    }

    /// The bucket of the cluster's own objects, if it was made.
    pub fn system_bucket(&self) -> Option<&Bucket> {
        self.buckets.get(SYSTEM_BUCKET)
    }

    /// A bucket by id, whatever its state.
    pub fn bucket_by_id(&self, id: BucketId) -> Option<&Bucket> {
        self.buckets.values().find(|bucket| bucket.id == id)
    }

    /// Who votes in a group, as last said.
    pub fn voters(&self, group: GroupId) -> &[RaftId] {
        self.groups.get(&group).map_or(&[], |group| &group.voters)
    }

    /// Failure domains: hosts with a storage node that is joining or active, asleep and down ones
    /// too, and an Active drive.
    pub fn storage_hosts(&self) -> std::collections::BTreeSet<&str> {
        self.drives
            .values()
            .filter(|drive| drive.state == DriveState::Active)
            .filter_map(|drive| self.node(drive.node))
            .filter(|node| {
                matches!(node.state, NodeState::Active | NodeState::Joining) && node.roles.storage
            })
            .map(|node| node.host.as_str())
            .collect()
    }
}
