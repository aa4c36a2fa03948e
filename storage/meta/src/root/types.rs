//! The root group's commands, queries and replies.
//!
//! All are encoded by [`crate::rows::codec`] (version byte, postcard): see `encode`/`decode` on
//! each. Times are wall-clock milliseconds since 1970 as the proposer saw them; no safety rests on
//! them.

use std::fmt;

use nexusgrid_codec::id::{ClusterId, DriveId, Epoch, GroupId, PgId};
use nexusgrid_env::{NodeId, Roles};
use serde::{Deserialize, Serialize};

use super::topology::{PgClass, Topology};
use crate::namespace::types::BucketId;
use crate::rows::codec::{self, DecodeError};

/// Bytes that only their owner may see: never printed (I16).
#[derive(
    Clone, PartialEq, Eq, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop,
)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes(<{} bytes>)", self.0.len())
    }
}

/// SHA-256 of a public key.
pub type Fingerprint = [u8; 32];

/// A member of a Raft group; never reused (I15). Node ‖ generation, so that whoever holds the id
/// knows whom to call.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct RaftId(pub u64);

impl RaftId {
    const GENERATION_BITS: u32 = 16;

    /// The highest generation: a further one would repeat an id (I15).
    pub const GENERATION_MAX: u32 = (1 << RaftId::GENERATION_BITS) - 1;

    /// The id of `node` in the generation that [`RootCommand::NextRaftGeneration`] gave it.
    pub fn new(node: NodeId, generation: u32) -> RaftId {
        RaftId((node.0 << RaftId::GENERATION_BITS) | u64::from(generation & RaftId::GENERATION_MAX))
    }

    /// The node behind it.
    pub fn node(self) -> NodeId {
        NodeId(self.0 >> RaftId::GENERATION_BITS)
    }
}

/// How long a machine is there.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum NodeClass {
    /// A server: always on.
    #[default]
    Stable,
    /// A workstation: people switch it off.
    Sleepy,
}

/// Where a node stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// Admitted, not yet serving.
    Joining,
    /// A full member.
    Active,
    /// Being drained.
    Leaving,
    /// Gone for good; its certificate is revoked.
    Removed,
}

/// Socket addresses, `host:port`, that other nodes reach a node at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Control RPC (mTLS).
    pub rpc: String,
    /// Shard transport.
    pub shard: String,
    /// Gossip (UDP).
    pub gossip: String,
    /// S3; empty if it serves none.
    pub s3: String,
}

/// What a node says about itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNode {
    /// Name for people.
    pub name: String,
    /// Failure domain; a machine unless configured otherwise.
    pub host: String,
    /// Groups hosts (a room, a site); may be empty.
    pub zone: String,
    /// Stable or sleepy.
    pub class: NodeClass,
    /// What it may do.
    pub roles: Roles,
    /// Where to reach it.
    pub addresses: Addresses,
    /// Of the public key it joins with: the same token with the same key again is a repeat.
    pub key_hash: Fingerprint,
}

/// Settings of a whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// A writer's session lives so long after its last renewal, ms.
    pub session_lease_ms: u64,
    /// A released content is expanded and its blocks freed after this long, ms.
    pub reader_horizon_ms: u64,
    /// Down reports of one node count together within this long, ms.
    pub report_window_ms: u64,
    /// A PG is closed to new blocks at this many bytes.
    pub pg_size_cap_bytes: u64,
}

impl Default for ClusterSettings {
    fn default() -> ClusterSettings {
        ClusterSettings {
            session_lease_ms: 60_000,
            reader_horizon_ms: 600_000,
            report_window_ms: 30_000,
            pg_size_cap_bytes: 1 << 40,
        }
    }
}

/// The first command of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Drawn at random.
    pub cluster: ClusterId,
    /// The cluster's CA certificate, DER.
    pub ca_cert: Vec<u8>,
    /// Its private key, sealed by the master key.
    pub sealed_ca_key: Vec<u8>,
    /// Seals gossip packets.
    pub gossip_key: SecretBytes,
    /// Timers and caps.
    pub settings: ClusterSettings,
    /// Metadata groups to make (at least [`super::limits::METADATA_GROUPS_MIN`]): ids 1..=n.
    pub metadata_groups: u32,
    /// The first node; becomes [`NodeId`] 1, Active.
    pub node: NewNode,
    /// The master key, sealed to the first gateway's certificate.
    pub sealed_master_key: Vec<u8>,
    /// Now.
    pub now_ms: u64,
}

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

/// What happened to a node, as another saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sighting {
    /// It answers.
    Up,
    /// It does not.
    Down,
    /// It said that it goes to sleep.
    Asleep,
}

/// A right to one bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The bucket's name.
    pub bucket: String,
    /// May read and list.
    pub read: bool,
    /// May write and delete.
    pub write: bool,
}

/// An S3 access key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// The access key id.
    pub id: String,
    /// The secret, sealed by the master key.
    pub sealed_secret: Vec<u8>,
    /// Whose it is.
    pub owner: String,
    /// May do anything.
    pub admin: bool,
    /// What else it may do; empty and not admin: the owner's own buckets.
    pub grants: Vec<Grant>,
    /// When it was made.
    pub created_ms: u64,
}

/// A bucket's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSettings {
    /// Most bytes of objects and parts; `None`: no quota.
    pub quota_bytes: Option<u64>,
    /// What POSIX cannot name is refused.
    pub posix_strict: bool,
}

/// A key encrypting a bucket's content keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketKey {
    /// The bucket.
    pub bucket: BucketId,
    /// Starts at 1; only grows.
    pub version: u32,
    /// Sealed by the master key.
    pub sealed: Vec<u8>,
}

/// What the root group can be told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootCommand {
    /// Makes the cluster; refused if there is one. → [`RootOk::Node`].
    Init(Box<Init>),
    /// Replaces the settings. → [`RootOk::Done`].
    SetSettings(ClusterSettings),
    /// Stores a one-time join token. → [`RootOk::Done`].
    CreateToken {
        /// Public half.
        id: String,
        /// SHA-256 of the secret half.
        secret_hash: [u8; 32],
        /// From then on it is refused.
        expires_ms: u64,
        /// Roles a node that joins with it may have.
        roles: Roles,
        /// Now.
        now_ms: u64,
    },
    /// Removes a token. → [`RootOk::Done`].
    RevokeToken {
        /// Public half.
        id: String,
    },
    /// Admits a node (Joining) and uses the token up. The same token with the same key
    /// again answers the same id. → [`RootOk::Node`].
    RedeemToken {
        /// Public half.
        token: String,
        /// SHA-256 of the secret that was shown.
        secret_hash: [u8; 32],
        /// The node.
        node: NewNode,
        /// Now.
        now_ms: u64,
    },
    /// Draws the next generation of a node's certificate: `current` must be the newest, or the one
    /// before it with the same new key (the answer to the last renewal was lost); anything else is
    /// a cloned disk and refused, as is a removed node. → [`RootOk::CertGeneration`].
    RenewNodeCert {
        /// The node.
        node: NodeId,
        /// The generation of the certificate it shows.
        current: u32,
        /// Of the public key to certify.
        key_hash: Fingerprint,
    },
    /// Changes a node's addresses. → [`RootOk::Done`].
    SetNodeAddresses {
        /// The node.
        node: NodeId,
        /// Where to reach it now.
        addresses: Addresses,
    },
    /// Moves a node along its life. Removed is final. → [`RootOk::Done`].
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Where to.
        state: NodeState,
        /// Now.
        now_ms: u64,
    },
    /// Draws the next Raft generation of a node (I15). → [`RootOk::RaftId`].
    NextRaftGeneration {
        /// The node.
        node: NodeId,
    },
    /// Adds a drive, or finds it by incarnation. → [`RootOk::Drive`].
    AddDrive(NewDrive),
    /// Changes a drive's state. Removed is final. → [`RootOk::Done`].
    SetDriveState {
        /// The drive.
        drive: DriveId,
        /// Where to.
        state: DriveState,
    },
    /// Changes a drive's size and weight. → [`RootOk::Done`].
    SetDriveSize {
        /// The drive.
        drive: DriveId,
        /// Usable bytes.
        size_bytes: u64,
        /// Relative share.
        weight: u32,
    },
    /// Makes a PG (Active, epoch 1) if I11 holds. → [`RootOk::Pg`].
    CreatePg(NewPg),
    /// No new blocks for a PG. → [`RootOk::Done`].
    ClosePg {
        /// The PG.
        pg: PgId,
    },
    /// Says how full a PG is; one at its cap is closed. → [`RootOk::Done`].
    SetPgUse {
        /// The PG.
        pg: PgId,
        /// Bytes of blocks in it.
        used_bytes: u64,
    },
    /// Begins a remap (R1, R2): epoch + 1 with other drives in some slots. → [`RootOk::Epoch`].
    PreparePg {
        /// The PG.
        pg: PgId,
        /// The epoch it has: another is refused.
        from: Epoch,
        /// Slot → its new drive.
        moves: Vec<(u8, DriveId)>,
        /// Now.
        now_ms: u64,
    },
    /// Ends a remap, or a repair session, begun at this epoch. → [`RootOk::Done`].
    CleanPg {
        /// The PG.
        pg: PgId,
        /// The epoch that is complete.
        epoch: Epoch,
    },
    /// Opens a repair session on a PG (R4): the one before is closed. → [`RootOk::FillSession`].
    OpenFillSession {
        /// The PG.
        pg: PgId,
        /// The worker's node.
        worker: NodeId,
    },
    /// Closes a repair session. → [`RootOk::Done`].
    CloseFillSession {
        /// The PG.
        pg: PgId,
        /// The session.
        session: u64,
    },
    /// Makes a bucket in the group with the fewest. The same name by the same owner:
    /// [`RootError::BucketOwned`]. → [`RootOk::Bucket`].
    CreateBucket {
        /// Globally unique, S3's rules.
        name: String,
        /// Whose.
        owner: String,
        /// Its settings.
        settings: BucketSettings,
        /// Version 1 of its key, sealed by the master key.
        sealed_key: Vec<u8>,
        /// Now.
        now_ms: u64,
    },
    /// First phase of a delete: nobody writes to it any more. → [`RootOk::Bucket`].
    BeginDeleteBucket {
        /// Its name.
        name: String,
    },
    /// The group said that it is not empty: back to Active. → [`RootOk::Done`].
    CancelDeleteBucket {
        /// Its id.
        bucket: BucketId,
    },
    /// Second phase, after its group dropped it. → [`RootOk::Done`].
    FinishDeleteBucket {
        /// Its id.
        bucket: BucketId,
    },
    /// Changes settings. → [`RootOk::Done`].
    SetBucketSettings {
        /// Its id.
        bucket: BucketId,
        /// New settings.
        settings: BucketSettings,
    },
    /// Adds a version of a bucket's key: exactly the newest + 1. → [`RootOk::Done`].
    PutBucketKey(BucketKey),
    /// Stores the master key sealed to a gateway's certificate. → [`RootOk::Done`].
    SealMasterKey {
        /// The gateway.
        node: NodeId,
        /// Opaque.
        sealed: Vec<u8>,
    },
    /// Makes an access key. → [`RootOk::Done`].
    CreateKey(AccessKey),
    /// Removes an access key. → [`RootOk::Done`].
    DeleteKey {
        /// Its id.
        id: String,
    },
    /// Says who votes in a group: a hint for those that look for it. → [`RootOk::Done`].
    SetGroupVoters {
        /// The group.
        group: GroupId,
        /// Its voters.
        voters: Vec<RaftId>,
    },
    /// What a node saw of others. Down needs two reporters from two hosts (or every other host
    /// that is up, if there is but one); Up and Asleep need one. → [`RootOk::Done`].
    Report {
        /// Who saw it.
        reporter: NodeId,
        /// Whom, and what.
        sightings: Vec<(NodeId, Sighting)>,
        /// Now.
        now_ms: u64,
    },
}

/// A command's success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootOk {
    /// Done, nothing to say.
    Done,
    /// The node's id.
    Node(NodeId),
    /// The drive's id.
    Drive(DriveId),
    /// The PG's id.
    Pg(PgId),
    /// The PG's epoch.
    Epoch(Epoch),
    /// The repair session.
    FillSession(u64),
    /// A fresh Raft id.
    RaftId(RaftId),
    /// The generation of the certificate to sign.
    CertGeneration(u32),
    /// The bucket and its group.
    Bucket {
        /// Its id.
        bucket: BucketId,
        /// Who holds its rows.
        group: GroupId,
    },
}

/// Why the root group refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RootError {
    /// Bytes that are no command or query.
    #[error("malformed command or query")]
    Malformed,
    /// There is a cluster already.
    #[error("the cluster is already initialised")]
    AlreadyInitialised,
    /// There is no cluster yet.
    #[error("the cluster is not initialised")]
    NotInitialised,
    /// A field is out of its range: which.
    #[error("invalid {0}")]
    Invalid(InvalidField),
    /// No such token, a wrong secret, or roles that it does not allow: one answer for all, so that
    /// ids cannot be probed.
    #[error("the join token is unknown, or does not allow these roles")]
    TokenRefused,
    /// The token's time is over.
    #[error("the join token has expired")]
    TokenExpired,
    /// Another key has used the token up.
    #[error("the join token was used already")]
    TokenUsed,
    /// No such node.
    #[error("no node {0}")]
    NoSuchNode(NodeId),
    /// The node is removed: nothing may be done with it.
    #[error("node {0} is removed")]
    NodeRemoved(NodeId),
    /// Another certificate than the node's own.
    #[error("not the certificate of node {0}")]
    CertMismatch(NodeId),
    /// No such drive.
    #[error("no drive {}", .0.0)]
    NoSuchDrive(DriveId),
    /// The drive cannot take shards.
    #[error("drive {} is not active", .0.0)]
    DriveUnusable(DriveId),
    /// The drive's shards are still mapped by PGs.
    #[error("drive {} is still in use", .0.0)]
    DriveInUse(DriveId),
    /// No such PG.
    #[error("no placement group {}", .0.0)]
    NoSuchPg(PgId),
    /// The slots break I11: two on one host though hosts suffice, or too many sleepy ones.
    #[error("placement breaks {0}")]
    BadPlacement(PlacementFault),
    /// Not the epoch that the PG has: read the map again.
    #[error("placement group {} is at epoch {}", .0.0, .1.0)]
    EpochChanged(PgId, Epoch),
    /// A remap of it is under way.
    #[error("placement group {} is being remapped", .0.0)]
    PgBusy(PgId),
    /// The name is another's.
    #[error("bucket name is taken")]
    BucketExists,
    /// The name is the caller's own already.
    #[error("bucket exists and is yours")]
    BucketOwned,
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// Its delete has begun.
    #[error("bucket is being deleted")]
    BucketDeleting,
    /// A key version that does not follow the newest.
    #[error("key version does not follow the newest")]
    KeyVersion,
    /// An access key of this id exists.
    #[error("access key exists")]
    KeyExists,
    /// No such access key.
    #[error("no such access key")]
    NoSuchKey,
    /// No such group.
    #[error("no group {}", .0.0)]
    NoSuchGroup(GroupId),
    /// A limit of [`super::limits`] is reached.
    #[error("limit reached: {0}")]
    LimitReached(InvalidField),
}

/// Which field a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InvalidField {
    /// A bucket's name.
    BucketName,
    /// An access key's id or secret.
    AccessKey,
    /// A token's id or expiry.
    Token,
    /// A node's name, host, zone or address.
    Node,
    /// A node's or drive's state cannot follow the one it has.
    State,
    /// A drive's size or weight.
    Drive,
    /// A PG's class or number of slots.
    PgClass,
    /// How many groups.
    Groups,
    /// A timer or cap.
    Settings,
    /// A sealed key or certificate is empty or too long.
    KeyMaterial,
    /// How many sightings.
    Sightings,
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidField::BucketName => "bucket name",
            InvalidField::AccessKey => "access key",
            InvalidField::Token => "join token",
            InvalidField::Node => "node description",
            InvalidField::State => "state change",
            InvalidField::Drive => "drive size or weight",
            InvalidField::PgClass => "placement group class",
            InvalidField::Groups => "number of groups",
            InvalidField::Settings => "settings",
            InvalidField::KeyMaterial => "key material",
            InvalidField::Sightings => "number of sightings",
        })
    }
}

/// How a placement breaks I11.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlacementFault {
    /// One drive in two slots.
    DriveTwice,
    /// Two slots on one host though there are hosts enough.
    HostTwice,
    /// More than m − 1 slots on sleepy nodes though there are stable hosts enough.
    TooSleepy,
}

impl fmt::Display for PlacementFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PlacementFault::DriveTwice => "one drive per slot",
            PlacementFault::HostTwice => "one host per slot",
            PlacementFault::TooSleepy => "the limit on sleepy drives",
        })
    }
}

/// A command's reply.
pub type RootReply = Result<RootOk, RootError>;

/// What the root group can be asked. Queries answer from the state they are given; the host makes
/// them linearizable (I12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootQuery {
    /// The map, unless it still is at `unless_version`. → [`RootAnswer::Topology`].
    Topology {
        /// The version the asker has; 0: none.
        unless_version: u64,
    },
    /// Settings, CA certificate, gossip key: for admitted nodes only. → [`RootAnswer::Cluster`].
    Cluster,
    /// One access key, for gateways only. → [`RootAnswer::AccessKey`].
    AccessKey {
        /// Its id.
        id: String,
    },
    /// All access keys, secrets sealed. → [`RootAnswer::AccessKeys`].
    AccessKeys {
        /// Ids after this one.
        after: String,
        /// At most so many.
        limit: u32,
    },
    /// All versions of a bucket's key, sealed. → [`RootAnswer::BucketKeys`].
    BucketKeys {
        /// The bucket.
        bucket: BucketId,
    },
    /// The master key as sealed to a gateway. → [`RootAnswer::MasterKey`].
    MasterKey {
        /// The gateway.
        node: NodeId,
    },
    /// Join tokens that are stored. → [`RootAnswer::Tokens`].
    Tokens,
}

/// What stands behind every node's certificate and gossip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster.
    pub id: ClusterId,
    /// CA certificate, DER.
    pub ca_cert: Vec<u8>,
    /// The CA's private key, sealed by the master key.
    pub sealed_ca_key: Vec<u8>,
    /// Seals gossip packets.
    pub gossip_key: SecretBytes,
    /// Timers and caps.
    pub settings: ClusterSettings,
    /// Raised by a restore: drives refuse deletes until thawed.
    pub incarnation: u64,
}

/// A stored token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Public half.
    pub id: String,
    /// When it ends.
    pub expires_ms: u64,
    /// Roles it allows.
    pub roles: Roles,
    /// Who used it.
    pub used_by: Option<NodeId>,
}

/// A query's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootAnswer {
    /// The map; `None`: unchanged.
    Topology(Option<Box<Topology>>),
    /// The cluster.
    Cluster(Box<Cluster>),
    /// The access key, if there is one.
    AccessKey(Option<AccessKey>),
    /// Access keys in order of id; `more`: ask again after the last.
    AccessKeys {
        /// The keys.
        keys: Vec<AccessKey>,
        /// Whether there are more.
        more: bool,
    },
    /// Key versions, oldest first.
    BucketKeys(Vec<BucketKey>),
    /// The sealed master key, if this gateway has one.
    MasterKey(Option<Vec<u8>>),
    /// Tokens.
    Tokens(Vec<TokenInfo>),
}

/// A query's reply.
pub type RootQueryReply = Result<RootAnswer, RootError>;

macro_rules! wire {
    ($($type:ty),*) => {$(
        impl $type {
            /// Encodes for the wire.
            pub fn encode(&self) -> Vec<u8> {
                codec::encode(self)
            }

            /// The inverse of `encode`.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                codec::decode(bytes)
            }
        }
    )*};
}
wire!(RootCommand, RootQuery);

/// Reads the reply to a command.
pub fn decode_reply(bytes: &[u8]) -> Result<RootReply, DecodeError> {
    codec::decode(bytes)
}

/// Reads the reply to a query.
pub fn decode_query_reply(bytes: &[u8]) -> Result<RootQueryReply, DecodeError> {
    codec::decode(bytes)
}
