//! Snapshots of buckets: taken, listed and dropped; mounts show what is in them ([`crate::volume`]).

use nexusgrid_meta::namespace::types::{
    NamespaceAnswer, NamespaceCommand, NamespaceError, NamespaceOk, NamespaceQuery, PosixError,
    Snapshot,
};

use crate::core::internal;
use crate::error::GridError;
use crate::facade::Grid;
use crate::meta_port::MetaError;

/// Why a snapshot was not taken or dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The bucket has one of this name.
    #[error("a snapshot of this name exists")]
    Exists,
    /// The bucket has none of this name.
    #[error("no such snapshot")]
    NoSuch,
    /// The bucket has as many as there may be: drop some.
    #[error(
        "the bucket has {} snapshots, and may have no more: drop one; what was dropped last may take \
         some minutes to go",
        nexusgrid_meta::namespace::limits::SNAPSHOTS_MAX
    )]
    TooMany,
    /// The name is none of a directory.
    #[error(
        "a snapshot's name has 1 to 255 bytes, no / and no control characters, and is not . or .."
    )]
    InvalidName,
    /// The bucket has no such directory.
    #[error("no such directory")]
    NoSuchDirectory,
    /// The grid could not.
    #[error(transparent)]
    Grid(#[from] GridError),
}

impl Grid {
    /// Takes a snapshot of a bucket, or of a directory in it: a path without `/` at its ends, empty for the bucket.
    pub async fn take_snapshot(
        &self,
        bucket: &str,
        directory: &str,
        name: &str,
    ) -> Result<Snapshot, SnapshotError> {
        let bucket = self.named(bucket).await?;
        let mut path = directory.as_bytes().to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        let now_ms = self.core.meta.now_ms();
        let (id, name) = (bucket.id, name.to_owned());
        let command = NamespaceCommand::TakeSnapshot { bucket: id, name, path, now_ms };
        let done = match self.core.meta.command(bucket.group, &command).await {
            // A bucket that its group has not heard of is made known to it by who needs it.
            Err(MetaError::Namespace(NamespaceError::NoSuchBucket)) => {
                self.init_bucket(&bucket).await?;
                self.core.meta.command(bucket.group, &command).await
            }
            other => other,
        };
        match done {
            Ok(NamespaceOk::Snapshot(snapshot)) => Ok(*snapshot),
            Ok(_) => Err(internal("reply to taking a snapshot").into()),
            Err(error) => Err(explain(error)),
        }
    }

    /// Drops a snapshot: nobody sees it any more; what it alone has of space comes back in time.
    pub async fn drop_snapshot(&self, bucket: &str, name: &str) -> Result<(), SnapshotError> {
        let bucket = self.named(bucket).await?;
        let (id, name, now_ms) = (bucket.id, name.to_owned(), self.core.meta.now_ms());
        let command = NamespaceCommand::DropSnapshot { bucket: id, name, now_ms };
        match self.core.meta.command(bucket.group, &command).await {
            Ok(_) => Ok(()),
            Err(error) => Err(explain(error)),
        }
    }

    /// A bucket's snapshots, oldest first.
    pub async fn snapshots(&self, bucket: &str) -> Result<Vec<Snapshot>, SnapshotError> {
        let bucket = self.named(bucket).await?;
        let query = NamespaceQuery::Snapshots { bucket: bucket.id, of: None };
        match self.core.meta.ask(bucket.group, &query).await {
            Ok(NamespaceAnswer::Snapshots(snapshots)) => Ok(snapshots),
            Ok(_) => Err(internal("answer to a query for snapshots").into()),
            // Its group has not heard of it: nobody has taken one.
            Err(MetaError::Namespace(NamespaceError::NoSuchBucket)) => Ok(Vec::new()),
            Err(error) => Err(explain(error)),
        }
    }
}

fn explain(error: MetaError) -> SnapshotError {
    match error {
        MetaError::Namespace(NamespaceError::SnapshotExists) => SnapshotError::Exists,
        MetaError::Namespace(NamespaceError::NoSuchSnapshot | NamespaceError::NoSuchBucket) => {
            SnapshotError::NoSuch
        }
        MetaError::Namespace(NamespaceError::TooManySnapshots) => SnapshotError::TooMany,
        MetaError::Namespace(NamespaceError::InvalidSnapshotName) => SnapshotError::InvalidName,
        MetaError::Namespace(NamespaceError::Posix(
            PosixError::NotFound | PosixError::NotDirectory,
        )) => SnapshotError::NoSuchDirectory,
        error => SnapshotError::Grid(error.into()),
    }
}
