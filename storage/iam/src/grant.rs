//! What a key may do with one bucket.

use serde::{Deserialize, Serialize};

/// Permissions on one bucket. Reading, writing and owning are independent of each other: a backup
/// client may be allowed to write and not to read; only the owner may delete the bucket itself.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Grant {
    /// See the bucket, list its keys, read its objects.
    pub read: bool,
    /// Write and delete objects, handle uploads.
    pub write: bool,
    /// Delete the bucket.
    pub owner: bool,
}

impl Grant {
    /// Nothing.
    pub const NONE: Grant = Grant { read: false, write: false, owner: false };
    /// Reading alone.
    pub const READ: Grant = Grant { read: true, write: false, owner: false };
    /// Writing alone.
    pub const WRITE: Grant = Grant { read: false, write: true, owner: false };
    /// Owning alone.
    pub const OWNER: Grant = Grant { read: false, write: false, owner: true };
    /// Reading, writing and owning.
    pub const ALL: Grant = Grant { read: true, write: true, owner: true };

    /// Whether this grant holds everything that `needed` names.
    pub fn covers(self, needed: Grant) -> bool {
        (self.read || !needed.read)
            && (self.write || !needed.write)
            && (self.owner || !needed.owner)
    }

    /// What either of the two gives.
    #[must_use]
    pub fn union(self, other: Grant) -> Grant {
        Grant {
            read: self.read || other.read,
            write: self.write || other.write,
            owner: self.owner || other.owner,
        }
    }

    /// Whether it gives nothing at all.
    pub fn is_none(self) -> bool {
        self == Grant::NONE
    }
}
