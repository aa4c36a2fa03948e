//! What can go wrong, one variant per action of the caller.

use std::io;

use nexusgrid_codec::{BlockId, DriveId, Epoch, GroupId, PgId, SessionId};

use crate::types::{FillSessionId, ShardKey};

/// Why a drive refused or failed an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriveError {
    /// The drive has failed (a sync or write error, or many shards that cannot be read). Nothing on
    /// it is served any more, over restarts too; repair its shards elsewhere.
    #[error("drive failed: {0}")]
    Failed(String),
    /// The store was closed, its index is being rebuilt, or the agent stops: ask again later.
    #[error("drive store is closed")]
    Closed,
    /// No shard of that key here (or it is in the trash): treat as missing.
    #[error("no shard {0}")]
    NotFound(ShardKey),
    /// The shard is here but its bytes are not what was written (or cannot be read): rebuild it
    /// from its siblings. The drive goes on.
    #[error("shard {key} is damaged: {reason}")]
    Damaged {
        /// The shard.
        key: ShardKey,
        /// What was found.
        reason: String,
    },
    /// R1: the write carries an older epoch than the drive knows: read the map again.
    #[error("epoch {given:?} of {pg:?} is older than {known:?}")]
    StaleEpoch {
        /// The placement group.
        pg: PgId,
        /// The epoch of the request.
        given: Epoch,
        /// The epoch of the drive.
        known: Epoch,
    },
    /// R5: the block was deleted: give the write up.
    #[error("block {0} is deleted")]
    Tombstoned(BlockId),
    /// R6: the writer's session is closed: open a new one and take new block ids.
    #[error("session {session:?} of group {group:?} is closed")]
    SessionClosed {
        /// The metadata group.
        group: GroupId,
        /// The closed session.
        session: SessionId,
    },
    /// R4: the repair session is closed: the repair worker has been replaced.
    #[error("fill session {session:?} of {pg:?} is closed")]
    FillSessionClosed {
        /// The placement group.
        pg: PgId,
        /// The closed fill session.
        session: FillSessionId,
    },
    /// R6: a tombstone may go only once its block's writer session is closed here.
    #[error("tombstone of {0} must stay: its session is not closed")]
    SessionOpen(BlockId),
    /// I3: the id is bound to other bytes. A bug or an attack: raise an alarm, never retry.
    #[error("shard {0} exists with another digest")]
    DigestConflict(ShardKey),
    /// The shard does not match its own header: the sender must send it again.
    #[error("shard {key} refused: {reason}")]
    BadShard {
        /// The shard.
        key: ShardKey,
        /// What is wrong with it.
        reason: String,
    },
    /// Space marks forbid this write: choose another placement group. Reads and deletes work.
    #[error("drive is full: {available_bytes} bytes available")]
    NoSpace {
        /// Bytes below the owner's reserve that are still free.
        available_bytes: u64,
    },
    /// An argument breaks a bound of `limits.rs`: a bug of the caller.
    #[error("invalid request: {0}")]
    Invalid(String),
}

/// Why a store could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No superblock: an empty mount point, or never formatted. Mount the disk, or format it.
    #[error("{0} holds no NexusGrid drive (superblock missing): is the disk mounted?")]
    NotFormatted(String),
    /// `format` found a superblock or other files: refuse to overwrite them.
    #[error("{0} is not empty or holds a drive already: refusing to format it")]
    AlreadyFormatted(String),
    /// Both copies of the superblock are unreadable: restore the file or rebuild the drive.
    #[error("superblock is corrupt: {0}")]
    SuperblockCorrupt(String),
    /// Written by another version: run an agent that reads it.
    #[error("drive has format {found}, this version reads format {known}: run an agent that fits")]
    OtherFormat {
        /// Version on disk.
        found: u16,
        /// Version this build reads.
        known: u16,
    },
    /// The drive belongs to another cluster.
    #[error("drive belongs to cluster {found}, not {expected}")]
    WrongCluster {
        /// Cluster on disk.
        found: String,
        /// Cluster asked for.
        expected: String,
    },
    /// The directory holds another drive: disks were swapped, or one was cloned.
    #[error("this is drive {found:?}, not {expected:?}")]
    WrongDrive {
        /// Drive on disk.
        found: DriveId,
        /// Drive asked for.
        expected: DriveId,
    },
    /// The drive was formatted anew (or cloned from an older life) since it was registered.
    #[error("drive has incarnation {found}, not {expected}")]
    WrongIncarnation {
        /// Incarnation on disk.
        found: String,
        /// Incarnation asked for.
        expected: String,
    },
    /// Another process has the drive open.
    #[error("drive {0} is in use by another process")]
    Locked(String),
    /// It failed before, or fails as it is opened: what the disk shows may not be what it holds.
    #[error(
        "drive {dir} has failed: {reason}. Its shards are rebuilt on other drives: replace the disk \
         and give the node a new, empty directory. If the disk is sound after all (a cable, a \
         controller), delete {marks} and scrub it"
    )]
    Failed {
        /// The drive's directory.
        dir: String,
        /// Why it failed.
        reason: String,
        /// The files that remember it.
        marks: String,
    },
    /// The options contradict each other or `limits.rs`.
    #[error("invalid options: {0}")]
    Options(String),
    /// The disk refused.
    #[error("cannot {doing}: {error}")]
    Io {
        /// What was tried.
        doing: String,
        /// The disk's answer.
        error: io::Error,
    },
    /// The index store refused, even after a rebuild.
    #[error("index: {0}")]
    Index(String),
}

impl OpenError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let doing = doing.into();
        move |error| OpenError::Io { doing, error }
    }

    /// For writes and syncs: unless the disk is just full, they mean that it has failed.
    pub(crate) fn write(doing: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
        let doing = doing.into();
        move |error| {
            if crate::shared::is_full(&error) {
                return OpenError::Io { doing, error };
            }
            let reason = format!("{doing}: {error}");
            OpenError::Failed { dir: String::new(), reason, marks: String::new() }
        }
    }
}
