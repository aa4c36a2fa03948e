//! Rows of snapshots.
//!
//! ```text
//!   'g' bucket                             → SnapshotsRow  how many there are, and the newest
//!   's' bucket snapshot                    → SnapshotRow   one of them, or one that is being dropped
//!   'h' bucket kind rest-of-key snapshot   → KeptRow       what a row was until that snapshot
//! ```
//! A kept row has the key of the row that it was, without the bucket: those of one row lie beside each other, oldest
//! snapshot first, and those of a directory's names in the order of the names.
#![deny(clippy::indexing_slicing)]

use serde::{Deserialize, Serialize};

use super::super::rows::{STATE, TREE};
use super::super::types::{BucketId, Snapshot, SnapshotId};
use crate::rows::key::{KeyBuf, KeyReader};

/// What a bucket has of snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotsRow {
    /// Commit sequence.
    pub sequence: u64,
    /// The newest that is not being dropped.
    pub newest: Option<SnapshotId>,
    /// The number that was given last.
    pub number: u16,
    /// How many there are, with those that are being dropped.
    pub count: u32,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// What everybody sees of it.
    pub snapshot: Snapshot,
    /// It is being dropped.
    pub drop: Option<Drop>,
}

/// How far a snapshot is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// The last kept row that was looked at, of whatever snapshot.
    pub after: Option<Vec<u8>>,
}

/// What a row was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRow {
    /// Commit sequence of the change that it was kept from.
    pub sequence: u64,
    /// `None`: there was none.
    pub before: Option<Vec<u8>>,
}

/// Which rows snapshots are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Names.
    Tree = 0,
    /// Where nodes are.
    Place = 1,
    /// Extended attributes.
    Xattr = 2,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        [Kind::Tree, Kind::Place, Kind::Xattr].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The family of such rows.
    pub fn family(self) -> &'static str {
        match self {
            Kind::Tree => TREE,
            Kind::Place | Kind::Xattr => STATE,
        }
    }

    fn tag(self) -> Option<u8> {
        match self {
            Kind::Tree => None,
            Kind::Place => Some(b'J'),
            Kind::Xattr => Some(b'X'),
        }
    }

    /// The key of such a row of a bucket, or the beginning of some.
    pub fn key(self, bucket: BucketId, rest: &[u8]) -> Vec<u8> {
        let key = self.tag().map_or_else(KeyBuf::new, KeyBuf::tag);
        key.u64(bucket.0).raw(rest).done()
    }
}

/// Bucket and kind of a row that snapshots are made of, and the rest of its key, which may be the beginning of one;
/// `None`: it is none.
pub fn split<'k>(family: &str, key: &'k [u8]) -> Option<(BucketId, Kind, &'k [u8])> {
    let (kind, skipped) = match (family, key.first()) {
        (TREE, _) => (Kind::Tree, 0),
        (STATE, Some(b'J')) => (Kind::Place, 1),
        (STATE, Some(b'X')) => (Kind::Xattr, 1),
        _ => return None,
    };
    let mut reader = KeyReader(key.get(skipped..)?);
    let bucket = BucketId(reader.u64()?);
    Some((bucket, kind, reader.0))
}

/// What a bucket has of snapshots.
pub fn snapshots(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'g').u64(bucket.0).done()
}

/// A bucket's snapshots.
pub fn all(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b's').u64(bucket.0).done()
}

/// A snapshot.
pub fn snapshot(bucket: BucketId, id: SnapshotId) -> Vec<u8> {
    KeyBuf::tag(b's').u64(bucket.0).u64(id.0).done()
}

/// All that a bucket keeps.
pub fn all_kept(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'h').u64(bucket.0).done()
}

/// What is kept of one row, or of those that begin so.
pub fn kept_of(bucket: BucketId, kind: Kind, rest: &[u8]) -> Vec<u8> {
    KeyBuf::tag(b'h').u64(bucket.0).u8(kind as u8).raw(rest).done()
}

/// What is kept of one row until one snapshot.
pub fn kept(bucket: BucketId, kind: Kind, rest: &[u8], until: SnapshotId) -> Vec<u8> {
    KeyBuf::tag(b'h').u64(bucket.0).u8(kind as u8).raw(rest).u64(until.0).done()
}

/// The inverse of [`kept`].
pub fn parse_kept(key: &[u8]) -> Option<(BucketId, Kind, &[u8], SnapshotId)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    let bucket = BucketId(reader.u64()?);
    let kind = Kind::of(reader.u8()?)?;
    let (rest, until) = reader.0.split_at_checked(reader.0.len().checked_sub(8)?)?;
    Some((bucket, kind, rest, SnapshotId(KeyReader(until).u64()?)))
}
