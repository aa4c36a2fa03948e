//! What names things in a metadata group.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A bucket; assigned by the root group, never reused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct BucketId(pub u64);

/// A content: an extent map. Unique in its group, never reused; what it holds never changes, so a
/// reader may ask for more of it by id.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ContentId(pub u64);

/// A multipart upload: commit sequence of its start ‖ a nonce, so that byte order is order of start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UploadId(pub [u8; 16]);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl UploadId {
    /// The inverse of `Display`.
    pub fn parse(text: &str) -> Option<UploadId> {
        let text = text.as_bytes();
        if text.len() != 32 {
            return None;
        }
        let mut id = [0u8; 16];
        for (byte, pair) in id.iter_mut().zip(text.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            let digit = |c: u8| match c {
                b'0'..=b'9' => Some(c - b'0'),
                b'a'..=b'f' => Some(c - b'a' + 10),
                _ => None,
            };
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(UploadId(id))
    }
}

/// A version of an object: made like a content's id, so that newer ones are greater. `None` as id is
/// S3's "null" version.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct VersionId(pub u64);

impl VersionId {
    /// In answers and requests: the null version of an object whose bucket keeps versions. Rows say
    /// `None`.
    pub const NULL: VersionId = VersionId(0);

    /// A version as rows have it, as answers have it.
    pub fn shown(version: Option<VersionId>) -> Option<VersionId> {
        Some(version.unwrap_or(VersionId::NULL))
    }
}

/// Names an upload as S3 does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UploadRef {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: Vec<u8>,
    /// The upload.
    pub id: UploadId,
}
