//! Access keys and what they hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Action, Context, Grant, Resource, authorize};

/// The public half of an access key: 4 to 128 letters, digits, `-`, `_` or `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccessKeyId(String);

/// The text is no access key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an access key id has 4 to 128 letters, digits, '-', '_' or '.'")]
pub struct InvalidAccessKeyId;

impl AccessKeyId {
    /// Checks and takes an id.
    pub fn new(id: impl Into<String>) -> Result<AccessKeyId, InvalidAccessKeyId> {
        let id = id.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if (4..=128).contains(&id.len()) && id.chars().all(allowed) {
            Ok(AccessKeyId(id))
        } else {
            Err(InvalidAccessKeyId)
        }
    }

    /// Makes an id from 10 random bytes: `NG` and 16 letters and digits.
    pub fn from_random(random: [u8; 10]) -> AccessKeyId {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let mut bits = random.iter().fold(0u128, |bits, byte| (bits << 8) | u128::from(*byte));
        let mut id = String::from("NG");
        for _ in 0..16 {
            let index = (bits & 31) as usize;
            id.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'A')));
            bits >>= 5;
        }
        AccessKeyId(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AccessKeyId {
    type Error = InvalidAccessKeyId;

    fn try_from(id: String) -> Result<AccessKeyId, InvalidAccessKeyId> {
        AccessKeyId::new(id)
    }
}

impl From<AccessKeyId> for String {
    fn from(id: AccessKeyId) -> String {
        id.0
    }
}

impl std::fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An access key with its permissions, as the root group has them. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Which key it is.
    pub key: AccessKeyId,
    /// Whether it may do everything.
    pub administrator: bool,
    /// Whether it may be used at all.
    pub enabled: bool,
    /// When it ends (milliseconds since 1970-01-01 UTC); `None`: never.
    pub expires_unix_ms: Option<u64>,
    /// Permissions by bucket name.
    pub grants: BTreeMap<String, Grant>,
}

impl Principal {
    /// An enabled key without any permission and without an end.
    pub fn new(key: AccessKeyId) -> Principal {
        Principal {
            key,
            administrator: false,
            enabled: true,
            expires_unix_ms: None,
            grants: BTreeMap::new(),
        }
    }

    /// Whether the bucket may appear in this key's list of buckets.
    pub fn sees_bucket(&self, bucket: &str, context: &Context) -> bool {
        authorize(self, Action::HeadBucket, &Resource::Bucket(bucket), context).allowed()
            || authorize(self, Action::ListUploads, &Resource::Bucket(bucket), context).allowed()
            || authorize(self, Action::DeleteBucket, &Resource::Bucket(bucket), context).allowed()
    }
}
