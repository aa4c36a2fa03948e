//! What a tenant has: access keys, and buckets with their settings and keys.

use serde::{Deserialize, Serialize};

use crate::namespace::types::BucketId;

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

/// A change of one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordWrite {
    /// Its path: printable ASCII.
    pub path: String,
    /// The revision it must have, 0: it must not be there; `None`: any.
    pub expect: Option<u64>,
    /// What it becomes; `None`: it goes.
    pub value: Option<Vec<u8>>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its path.
    pub path: String,
    /// Commit index of its last change.
    pub revision: u64,
    /// What was written.
    pub value: Vec<u8>,
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
