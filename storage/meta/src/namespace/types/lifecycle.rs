//! What becomes of a bucket's objects with time: its rules, and what a step of carrying them out did.

use serde::{Deserialize, Serialize};

use super::{BucketId, ContentId, StorageClass, VersionId};
use crate::rows::codec;

/// A day, in milliseconds.
pub const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// When a rule's action is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum When {
    /// So many days after the version was made.
    Days(u32),
    /// At a time, ms since 1970.
    Date(u64),
}

/// When an action on versions that are not current any more is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noncurrent {
    /// So many days after another took the version's place.
    pub days: u32,
    /// Only if so many versions that are not current either are newer.
    pub keep: u32,
}

/// One rule that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRule {
    /// Its name.
    pub id: String,
    /// Of keys that begin so.
    pub prefix: Vec<u8>,
    /// Of versions that have all these tags.
    pub tags: Vec<(String, String)>,
    /// Of versions of more bytes.
    pub size_over: Option<u64>,
    /// Of versions of fewer bytes.
    pub size_under: Option<u64>,
    /// The current version expires.
    pub expire: Option<When>,
    /// A delete marker goes with the last version that it hid.
    pub expire_markers: bool,
    /// Versions that are not current expire.
    pub expire_noncurrent: Option<Noncurrent>,
    /// Uploads that are not completed after so many days are aborted.
    pub abort_uploads_days: Option<u32>,
    /// The current version gets another storage class.
    pub moves: Vec<(When, StorageClass)>,
    /// Versions that are not current get another storage class.
    pub moves_noncurrent: Vec<(Noncurrent, StorageClass)>,
}

/// What becomes of a bucket's objects with time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// How long a day is, in milliseconds: [`DAY_MS`] but in tests.
    pub day_ms: u64,
    /// Versions of fewer bytes keep their storage class, unless the rule itself speaks of sizes.
    pub moved_bytes_min: u64,
    /// Those rules that are in force.
    pub rules: Vec<LifecycleRule>,
}

/// A version that is to get another storage class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleMove {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: Vec<u8>,
    /// The version; [`VersionId::NULL`]: null, or versions are not kept.
    pub version: VersionId,
    /// What it holds.
    pub content: ContentId,
    /// Which class.
    pub class: StorageClass,
}

/// What a step of carrying out rules did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleDone {
    /// Keys that were looked at.
    pub looked: u32,
    /// Objects and versions that expired.
    pub expired: u32,
    /// Delete markers that hid nothing any more.
    pub markers: u32,
    /// Uploads that were aborted.
    pub aborted: u32,
    /// Versions that whoever asked is to give another storage class.
    pub moves: Vec<LifecycleMove>,
    /// Whether there is more to do now.
    pub more: bool,
}

/// What waits to be carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleLeft {
    /// Buckets whose keys are being looked through because their rules changed, up to
    /// `limits::ANSWER_ROWS_MAX`.
    pub walks: u32,
    /// Keys that are due, up to `limits::ANSWER_ROWS_MAX`.
    pub due: u32,
    /// When the next key is due, ms since 1970; `None`: none ever is.
    pub next_ms: Option<u64>,
}

/// What lifecycle rules did to a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndKind {
    /// It is gone.
    Deleted,
    /// A delete marker was put above it.
    Marked,
    /// It has this storage class now.
    Moved(StorageClass),
}

/// Something that lifecycle rules did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: Vec<u8>,
    /// The version, or the marker that was made; `None`: versions are not kept.
    pub version: Option<VersionId>,
    /// What was done.
    pub kind: EndKind,
    /// Bytes of the version; 0 of a marker.
    pub size: u64,
    /// ETag of the version; empty of a marker.
    pub etag: String,
    /// When, ms since 1970.
    pub at_ms: u64,
}

/// Names one of them; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndMark {
    /// The commit sequence of what did it.
    pub sequence: u64,
    /// Which of that.
    pub ordinal: u32,
}

/// What its owner's quota leaves a bucket: the most that it may hold. `None`: no quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Bytes of objects and parts.
    pub bytes: Option<u64>,
    /// Objects, all their versions.
    pub objects: Option<u64>,
}

codec::wire!(Lifecycle);
