//! Snapshots of buckets.

use serde::{Deserialize, Serialize};

use super::Ino;

/// A snapshot, by the commit sequence that took it; never used twice, and a later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotId(pub u64);

/// What a bucket, or a directory of it, was at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which.
    pub id: SnapshotId,
    /// Its name, which no other snapshot of the bucket has: 1 to `limits::SNAPSHOT_NAME_BYTES_MAX` bytes, without `/`.
    pub name: String,
    /// A small number, which no other snapshot of the bucket has: 1 to `limits::SNAPSHOT_NUMBERS`. Numbers of
    /// snapshots that are gone come back last.
    pub number: u16,
    /// The directory that it is of.
    pub dir: Ino,
    /// Where that was: the beginning of keys, empty or ending with `/`.
    pub path: Vec<u8>,
    /// When it was taken.
    pub taken_ms: u64,
}
