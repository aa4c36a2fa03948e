//! Versions, tags and locks as the floors above say them.

use std::fmt;

use nexusgrid_env::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::api::{ObjectMeta, ObjectSummary, Precondition};

/// Names a version of an object. Of two ids of a key, the text of the newer one is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VersionName {
    /// The one that was written while its bucket kept no versions.
    Null,
    /// Opaque; only the grid makes one.
    Id(u64),
}

impl fmt::Display for VersionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionName::Null => f.write_str("null"),
            VersionName::Id(id) => write!(f, "{:016x}", !id),
        }
    }
}

impl VersionName {
    /// The inverse of `Display`; `None`: no version is called so.
    pub fn parse(text: &str) -> Option<VersionName> {
        if text == "null" {
            return Some(VersionName::Null);
        }
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(|id| VersionName::Id(!id))
    }
}

/// Whether a bucket keeps what is replaced or deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioning {
    /// It never did.
    #[default]
    Off,
    /// It does.
    Enabled,
    /// It keeps what it kept; new objects are null versions.
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
    /// When it ends.
    pub until: UnixMillis,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionPeriod {
    /// Days.
    Days(u32),
    /// Years of 365 days.
    Years(u32),
}

/// What new versions get that name no retention themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRetention {
    /// How firmly.
    pub mode: RetentionMode,
    /// How long from being written.
    pub period: RetentionPeriod,
}

/// That versions of a bucket can be locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockRules {
    /// For those that name none.
    pub default: Option<DefaultRetention>,
}

/// How a bucket treats versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionRules {
    /// Whether it keeps them.
    pub versioning: Versioning,
    /// Whether they can be locked; `None`: they cannot.
    pub lock: Option<LockRules>,
}

/// A change of how a bucket treats versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulesChange {
    /// Whether it keeps them; `Off` is refused.
    Versioning(Versioning),
    /// That they can be locked, for good, and their default.
    Lock(LockRules),
}

/// A change of one version that makes no new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionChange {
    /// Its tags, all of them.
    Tags(Vec<(String, String)>),
    /// Until when it is kept.
    Retention {
        /// `None`: not any more.
        retention: Option<Retention>,
        /// The caller may bypass governance.
        bypass: bool,
    },
    /// Whether it is held.
    LegalHold(bool),
    /// Its access control list, as the gateway encodes it; empty: its owner's alone.
    Acl(Vec<u8>),
}

/// What is expected to be deleted; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Its ETag, without quotes.
    pub etag: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// When it was written, to the second.
    pub modified: Option<UnixMillis>,
}

/// Deletes an object, or removes a version for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionDelete {
    /// The key.
    pub key: String,
    /// The version; `None`: the object, which leaves a delete marker where versions are kept.
    pub version: Option<VersionName>,
    /// Of that version, or else of the current one; checked in the commit.
    pub precondition: Precondition,
    /// Whatever is deleted, a delete marker too, must be this; checked in the commit. Unlike a
    /// precondition it holds where there is nothing. `None`: anything may be.
    pub expected: Option<Expected>,
    /// The caller may bypass governance.
    pub bypass: bool,
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// What was removed for good, or the marker that was made; `None`: versions are not kept here.
    pub version: Option<VersionName>,
    /// Whether that is a delete marker.
    pub is_marker: bool,
}

/// Lists versions and delete markers: keys in byte order, of each the newest first.
#[derive(Clone, Debug)]
pub struct ListVersionsRequest {
    /// Bucket.
    pub bucket: String,
    /// Only keys that begin so.
    pub prefix: String,
    /// Folds keys as in [`crate::ListRequest`].
    pub delimiter: Option<String>,
    /// Only keys after this one; with a version: its versions after that one, and then other keys.
    pub after: Option<(String, Option<VersionName>)>,
    /// At most so many.
    pub max: u32,
}

/// A version in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionSummary {
    /// The object.
    pub object: ObjectSummary,
    /// Its version.
    pub version: VersionName,
    /// Whether it is the current one.
    pub is_latest: bool,
}

/// A delete marker in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkerSummary {
    /// The key.
    pub key: String,
    /// Its version.
    pub version: VersionName,
    /// When it was made.
    pub last_modified: UnixMillis,
    /// Whether it is the current version.
    pub is_latest: bool,
}

/// A page of versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionsPage {
    /// Versions.
    pub versions: Vec<VersionSummary>,
    /// Delete markers.
    pub markers: Vec<MarkerSummary>,
    /// Folded prefixes.
    pub prefixes: Vec<String>,
    /// Pass as `after` for the next page; `None` at the end.
    pub next: Option<(String, Option<VersionName>)>,
}

impl ObjectMeta {
    /// Whether it says anything that only a bucket with locks can keep.
    pub fn is_locked(&self) -> bool {
        self.lock != ObjectLock::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_newer_ones_come_first() {
        for name in [VersionName::Null, VersionName::Id(0), VersionName::Id(u64::MAX)] {
            assert_eq!(VersionName::parse(&name.to_string()), Some(name));
        }
        assert!(VersionName::Id(2).to_string() < VersionName::Id(1).to_string());
        for text in ["", "Null", "0", "FFFFFFFFFFFFFFFF", "00000000000000000", "+000000000000000"] {
            assert_eq!(VersionName::parse(text), None, "{text}");
        }
    }
}
