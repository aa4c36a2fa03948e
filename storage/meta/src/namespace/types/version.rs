//! Versions of objects, and what keeps them: a bucket's rules, retention, legal hold.

use serde::{Deserialize, Serialize};

use super::{BucketId, ContentId, Object, Precondition, StorageClass, VersionId};

/// Whether a bucket keeps what is replaced or deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// It never did.
    #[default]
    Off,
    /// It does.
    Enabled,
    /// It keeps what it kept; what is written now has no id and replaces what has none.
    Suspended,
}

/// How firmly a version is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionMode {
    /// Whoever may bypass it can delete the version, or shorten the time.
    Governance,
    /// Nobody can.
    Compliance,
}

/// Until when a version is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// How firmly.
    pub mode: RetentionMode,
    /// Ms since 1970.
    pub until_ms: u64,
}

/// What keeps a version from being deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLock {
    /// Until a time.
    pub retention: Option<Retention>,
    /// Until somebody takes the hold off.
    pub legal_hold: bool,
}

/// How long, as it was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionPeriod {
    /// Days.
    Days(u32),
    /// Years of 365 days.
    Years(u32),
}

impl RetentionPeriod {
    /// In milliseconds.
    pub fn millis(self) -> u64 {
        let days = match self {
            RetentionPeriod::Days(days) => u64::from(days),
            RetentionPeriod::Years(years) => u64::from(years) * 365,
        };
        days * 24 * 3_600 * 1_000
    }
}

/// What new versions of a bucket get that name no retention themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DefaultRetention {
    /// How firmly.
    pub mode: RetentionMode,
    /// How long from being written.
    pub period: RetentionPeriod,
}

/// That versions of a bucket can be locked; once set it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRules {
    /// For those that name none.
    pub default: Option<DefaultRetention>,
}

/// How a bucket treats versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRules {
    /// Whether it keeps them.
    pub versioning: Versioning,
    /// Whether they can be locked; `None`: they cannot. Only with `Enabled`.
    pub lock: Option<LockRules>,
}

/// That an object was deleted, as a version of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteMarker {
    /// Commit sequence.
    pub sequence: u64,
    /// `None`: null.
    pub version: Option<VersionId>,
    /// When it was made, ms since 1970.
    pub modified_ms: u64,
}

/// A version to be removed, or an object to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteVersion {
    /// The key.
    pub key: Vec<u8>,
    /// This version, for good; `None`: the object, which leaves a delete marker where versions are kept.
    pub version: Option<VersionId>,
    /// Of the version that is named, or else of the current one.
    pub precondition: Precondition,
    /// Governance does not count: the caller may bypass it.
    pub bypass: bool,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionDeleted {
    /// What was removed for good, or the marker that was made; `None`: versions are not kept here.
    pub version: Option<VersionId>,
    /// Whether that is a delete marker.
    pub is_marker: bool,
    /// Whether there was something to delete.
    pub existed: bool,
}

/// A change of one version that makes no new one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionChange {
    /// Its tags, all of them.
    Tags(Vec<(String, String)>),
    /// Until when it is kept.
    Retention {
        /// `None`: not any more.
        retention: Option<Retention>,
        /// Governance does not count: the caller may bypass it.
        bypass: bool,
    },
    /// Whether it is held.
    LegalHold(bool),
    /// Its access control list; empty: its owner's alone.
    Acl(Vec<u8>),
    /// Its storage class, if it still holds this content.
    StorageClass(StorageClass, ContentId),
}

/// A change of how a bucket treats versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RulesChange {
    /// Whether it keeps them; `Off` is no choice.
    Versioning(Versioning),
    /// Locks, and their default.
    Lock(LockRules),
}

/// Where a listing of versions goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionsAfter {
    /// After all versions of this key.
    Key(Vec<u8>),
    /// After this version.
    Version(Vec<u8>, VersionId),
    /// After all keys that begin with this.
    Prefix(Vec<u8>),
}

/// One line of a listing of versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionEntry {
    /// A version with bytes.
    Object {
        /// The key.
        key: Vec<u8>,
        /// The version; its `version` is [`VersionId::NULL`] for null.
        object: Box<Object>,
        /// Whether it is the current one.
        is_latest: bool,
    },
    /// A delete marker.
    Marker {
        /// The key.
        key: Vec<u8>,
        /// The marker; its `version` is [`VersionId::NULL`] for null.
        marker: DeleteMarker,
        /// Whether it is the current version.
        is_latest: bool,
    },
    /// A common prefix.
    Prefix(Vec<u8>),
}

/// A listing of versions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionListing {
    /// In byte order of keys; of a key, newest first.
    pub entries: Vec<VersionEntry>,
    /// Where to go on; `None`: that was all.
    pub next: Option<VersionsAfter>,
}

/// Names a version of an object; without `version` the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRef {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: Vec<u8>,
    /// The version.
    pub version: Option<VersionId>,
}
