//! An object as its row holds it, and what a client may say about one.

use serde::{Deserialize, Serialize};

use super::{ContentId, UploadId, VersionId};

/// HTTP headers that S3 stores with an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentHeaders {
    /// Content-Type.
    pub content_type: Option<String>,
    /// Cache-Control.
    pub cache_control: Option<String>,
    /// Content-Disposition.
    pub content_disposition: Option<String>,
    /// Content-Encoding.
    pub content_encoding: Option<String>,
    /// Content-Language.
    pub content_language: Option<String>,
    /// Expires, as it was sent.
    pub expires: Option<String>,
    /// x-amz-website-redirect-location.
    pub website_redirect: Option<String>,
}

/// A checksum's algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (IEEE).
    Crc32,
    /// CRC-32C.
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

/// What a checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChecksumKind {
    /// The object's bytes.
    FullObject,
    /// The checksums of its parts.
    Composite,
}

/// A checksum that the client sent and the gateway verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// How.
    pub algorithm: ChecksumAlgorithm,
    /// Of what.
    pub kind: ChecksumKind,
    /// Raw bytes (4, 8, 20 or 32).
    pub value: Vec<u8>,
}

/// S3 storage class as the client named it; placement does not depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StorageClass {
    /// STANDARD.
    #[default]
    Standard,
    /// REDUCED_REDUNDANCY.
    ReducedRedundancy,
    /// Any other name that the gateway lets pass.
    Named(String),
}

/// What a client says about an object. Internal facts are fields of [`Object`], never entries of
/// `user_metadata` (S5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Without quotes.
    pub etag: String,
    /// Stored headers.
    pub headers: ContentHeaders,
    /// x-amz-meta-*: names in lower case without the prefix, in order of name.
    pub user_metadata: Vec<(String, String)>,
    /// Verified checksums.
    pub checksums: Vec<Checksum>,
    /// Storage class.
    pub storage_class: StorageClass,
}

/// An object: a dentry with the inode of a single-link file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Commit sequence of the last change.
    pub sequence: u64,
    /// Its bytes.
    pub content: ContentId,
    /// How many.
    pub size: u64,
    /// Last-Modified, ms since 1970.
    pub modified_ms: u64,
    /// Version; `None`: null (versioning comes later).
    pub version: Option<VersionId>,
    /// Parts, if it was a multipart upload; 0: it was not.
    pub parts: u16,
    /// The upload that made it: a repeated completion is answered from this.
    pub upload: Option<UploadId>,
    /// What the client said.
    pub meta: ObjectMeta,
}
