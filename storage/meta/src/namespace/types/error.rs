//! Why a metadata group refuses.

use nexusgrid_codec::id::{BlockId, SessionId};
use serde::{Deserialize, Serialize};

use super::{BucketId, PosixError, VersionId};

/// Why a metadata group refuses. Each is another action for the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NamespaceError {
    /// Bytes that are no command or query, or fields that contradict each other: a bug of the
    /// caller. Which.
    #[error("malformed: {0}")]
    Malformed(Malformed),
    /// More than a command or query may carry: split it.
    #[error("more than a command may carry")]
    TooLarge,
    /// The session is closed, or never was: open another, write blocks again.
    #[error("session {} is closed", .0.0)]
    SessionClosed(SessionId),
    /// Too few shards are acknowledged.
    #[error("block {0} has fewer shards than its quorum")]
    NoQuorum(BlockId),
    /// The block is bound already, or freed: write the bytes again under another id (I3).
    #[error("block {0} is already bound")]
    BlockBound(BlockId),
    /// Not in this group, or dropped.
    #[error("no such bucket")]
    NoSuchBucket,
    /// It has objects or uploads.
    #[error("bucket is not empty")]
    BucketNotEmpty,
    /// No such object.
    #[error("no such key")]
    NoSuchKey,
    /// Empty, or longer than 1 024 bytes.
    #[error("invalid key")]
    InvalidKey,
    /// The precondition does not hold.
    #[error("precondition failed")]
    PreconditionFailed,
    /// The source of a copy changed after it was read: read it again.
    #[error("source changed")]
    SourceChanged,
    /// The link would nest too deep, or count too high: copy the bytes instead.
    #[error("link refused, copy the bytes")]
    CopyInstead,
    /// The quota would be exceeded.
    #[error("quota exceeded")]
    QuotaExceeded,
    /// No such upload.
    #[error("no such upload")]
    NoSuchUpload,
    /// A part that is not there, or differs: its number.
    #[error("invalid part {0}")]
    InvalidPart(u16),
    /// Numbers do not ascend.
    #[error("parts are not in order")]
    InvalidPartOrder,
    /// A part but the last is smaller than allowed: number and size.
    #[error("part {0} is too small")]
    PartTooSmall(u16, u64),
    /// The parts' sizes do not add up to the size that was named.
    #[error("object size differs from the one named")]
    SizeMismatch,
    /// The range lies outside the object: its size.
    #[error("range not satisfiable")]
    RangeNotSatisfiable(u64),
    /// No such content (freed, or never was).
    #[error("no such content")]
    NoSuchContent,
    /// Its PG was fenced to a newer epoch since: write the bytes again under another id.
    #[error("block {0} is of an epoch that repair has fenced")]
    Fenced(BlockId),
    /// The key has no such version.
    #[error("no such version")]
    NoSuchVersion,
    /// It is a delete marker: its version, and when it was made.
    #[error("a delete marker")]
    DeleteMarker(VersionId, u64),
    /// Retention or a legal hold keeps the version.
    #[error("the version is locked")]
    Locked,
    /// Its bucket was not made for locks.
    #[error("the bucket has no object lock")]
    NoLock,
    /// A bucket's rules would contradict each other: locks need versioning, and end it never.
    #[error("the bucket's versioning and locks do not allow it")]
    BucketState,
    /// Bytes were to be put behind an object of another size: its size.
    #[error("the object has {0} bytes")]
    WrongOffset(u64),
    /// No more can be put behind this object: write it anew.
    #[error("too many appends to one object")]
    TooManyAppends,
    /// What a mount asked for cannot be: POSIX says why.
    #[error("{0}")]
    Posix(PosixError),
    /// A mount has the bucket to itself, under this delegation: ask for it back (`Recall`) and try again.
    #[error("a mount has the bucket to itself")]
    Delegated(BucketId, u64),
    /// The bucket is not the mount's alone, or not any more; or it cannot be now.
    #[error("the bucket is not delegated to the mount")]
    NotDelegated,
    /// The bucket has none of this name, or not any more.
    #[error("no such snapshot")]
    NoSuchSnapshot,
    /// The bucket has one of this name.
    #[error("a snapshot of this name exists")]
    SnapshotExists,
    /// The bucket has as many as there may be.
    #[error("too many snapshots")]
    TooManySnapshots,
    /// It must be one of a directory.
    #[error("not a name for a snapshot")]
    InvalidSnapshotName,
}

/// What is wrong with a command or query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Malformed {
    /// Not an encoding.
    #[error("not an encoded command or query")]
    Encoding,
    /// Extents leave gaps, overlap, or do not match size or blocks.
    #[error("extents")]
    Extents,
    /// Block of another session or group, or listed twice, or of impossible shape.
    #[error("blocks")]
    Blocks,
    /// Inline bytes are too long.
    #[error("inline bytes")]
    Inline,
    /// Metadata is too long.
    #[error("metadata")]
    Metadata,
    /// Part number outside 1..=10 000.
    #[error("part number")]
    PartNumber,
    /// A range without bytes.
    #[error("range")]
    Range,
    /// An empty delimiter or a zero limit.
    #[error("list parameters")]
    List,
    /// Too many tags, or one that is empty, too long or there twice.
    #[error("tags")]
    Tags,
    /// A retention that has passed, or ends too late.
    #[error("retention")]
    Retention,
    /// A rule about the ends of objects that says nothing that can be done.
    #[error("lifecycle rules")]
    Lifecycle,
}
