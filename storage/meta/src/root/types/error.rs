//! Why the root group refuses.

use std::fmt;

use nexusgrid_codec::id::{DriveId, Epoch, GroupId, PgId};
use nexusgrid_env::NodeId;
use serde::{Deserialize, Serialize};

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
    /// A limit of [`crate::root::limits`] is reached.
    #[error("limit reached: {0}")]
    LimitReached(InvalidField),
    /// A record is not what the writer has read: read it again.
    #[error("a record has changed meanwhile")]
    RecordChanged,
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
    /// A background worker's name or rate.
    Worker,
    /// A record's path, size or number.
    Record,
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
            InvalidField::Worker => "background worker",
            InvalidField::Record => "record",
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
