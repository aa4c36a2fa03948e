//! Locks on bytes of files, as `fcntl` and `flock` take them.

use serde::{Deserialize, Serialize};

use super::MountId;

/// What a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// Others may have one, too, of this kind.
    Shared,
    /// Nobody else.
    Exclusive,
}

/// Bytes of a file, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LockRange {
    /// First byte.
    pub first: u64,
    /// Last byte, not before the first.
    pub last: u64,
}

impl LockRange {
    /// All bytes of a file.
    pub const ALL: LockRange = LockRange { first: 0, last: u64::MAX };

    /// Whether two have a byte in common.
    pub fn overlaps(self, other: LockRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A lock that somebody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Lock {
    /// Which bytes.
    pub range: LockRange,
    /// The mount.
    pub mount: MountId,
    /// Who has it there: a number that the mount gives.
    pub owner: u64,
    /// How.
    pub kind: LockKind,
    /// The process there, for show.
    pub pid: u32,
}
