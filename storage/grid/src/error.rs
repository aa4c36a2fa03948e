//! Why the grid refused or failed: one variant per thing that the caller can do about it.

use nexusgrid_env::UnixMillis;

use crate::api::Reject;
use crate::version::VersionName;

/// An error of the grid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// There is no such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The bucket exists and belongs to the named owner.
    #[error("bucket exists, owned by {owner}")]
    BucketExists {
        /// Its owner.
        owner: String,
    },
    /// The bucket still holds objects or uploads.
    #[error("bucket is not empty")]
    BucketNotEmpty,
    /// The name is not a bucket name.
    #[error("invalid bucket name: {0}")]
    InvalidBucketName(String),
    /// There is no such object.
    #[error("no such key")]
    NoSuchKey,
    /// The key has no such version.
    #[error("no such version")]
    NoSuchVersion,
    /// What was asked for is a delete marker.
    #[error("a delete marker")]
    DeleteMarker {
        /// Its version.
        version: VersionName,
        /// When it was made.
        modified: UnixMillis,
    },
    /// Retention or a legal hold keeps the version.
    #[error("the version is locked")]
    Locked,
    /// The bucket was not made for locks.
    #[error("the bucket has no object lock")]
    NoLock,
    /// A bucket's versioning and locks would contradict each other.
    #[error("the bucket's versioning and locks do not allow it")]
    BucketState,
    /// Bytes were to be put behind an object of another size.
    #[error("the object has {size} bytes")]
    WrongOffset {
        /// Its bytes.
        size: u64,
    },
    /// No more can be put behind this object: write it anew.
    #[error("too many appends to one object")]
    TooManyAppends,
    /// The key is longer than 1024 bytes.
    #[error("key too long")]
    KeyTooLong,
    /// The upload is unknown, completed or aborted.
    #[error("no such upload")]
    NoSuchUpload,
    /// A chosen part was never stored, or its ETag differs.
    #[error("part {number} is missing or differs")]
    InvalidPart {
        /// Its number.
        number: u32,
    },
    /// A part, not the last, is below the minimum.
    #[error("part {number} has only {size} bytes")]
    PartTooSmall {
        /// Its number.
        number: u32,
        /// Its bytes.
        size: u64,
    },
    /// Parts are not in ascending order.
    #[error("parts are not in ascending order")]
    InvalidPartOrder,
    /// A condition on the current object does not hold.
    #[error("precondition failed")]
    PreconditionFailed,
    /// The range lies outside the object.
    #[error("range not satisfiable, size {size}")]
    InvalidRange {
        /// Bytes of the object.
        size: u64,
    },
    /// More than the largest object, part or metadata.
    #[error("too large: at most {limit}")]
    TooLarge {
        /// The limit that was passed.
        limit: u64,
    },
    /// More user metadata than an object may have.
    #[error("metadata too large: at most {limit} bytes")]
    MetadataTooLarge {
        /// The limit.
        limit: u64,
    },
    /// An argument is out of its bounds.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// The bucket's or cluster's quota is used up.
    #[error("quota exceeded")]
    QuotaExceeded,
    /// The caller's own check refused the body.
    #[error("rejected: {0}")]
    Rejected(Reject),
    /// Too few drives have room for a durable write: delete something, or add drives.
    #[error("the grid is full")]
    Full,
    /// Another change to the same object won; repeating may succeed.
    #[error("conflicting operation in progress")]
    Conflict,
    /// No share of the byte budget in time: come back later.
    #[error("slow down")]
    SlowDown,
    /// Not enough drives for a durable write, or no quorum of a metadata group: come back later.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Fewer shards than needed can be reached now; they may return with their nodes.
    #[error("unreadable now: {0}")]
    Unreadable(String),
    /// Shards are there but cannot be verified, or a key is missing: repeating does not help.
    #[error("data lost: {0}")]
    DataLost(String),
    /// This node holds no bucket keys (it is not a gateway).
    #[error("this node holds no keys")]
    NoKeys,
    /// The agent is stopping.
    #[error("shutting down")]
    Stopping,
    /// A bug or an incompatible peer; logged where it happened.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<Reject> for GridError {
    fn from(reject: Reject) -> GridError {
        GridError::Rejected(reject)
    }
}
