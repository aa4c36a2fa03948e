//! An object as its row holds it, and what a client may say about one.

use serde::{Deserialize, Serialize};

use super::{ContentId, ObjectLock, UploadId, VersionId};

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
    /// SHA-512.
    Sha512,
    /// MD5.
    Md5,
    /// XXH64.
    XxHash64,
    /// XXH3 of 64 bits.
    XxHash3,
    /// XXH3 of 128 bits.
    XxHash128,
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
    /// Raw bytes (4 to 64, as many as the algorithm has), big-endian.
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

/// Under what an object's bytes are sealed besides the grid's own keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cipher {
    /// Nothing: the grid's keys alone.
    #[default]
    Grid,
    /// A key that only the client has.
    Customer {
        /// Random; makes `check` say nothing about the key.
        salt: [u8; 16],
        /// By which the right key is known.
        check: [u8; 32],
    },
    /// A key that the grid keeps by name.
    Managed {
        /// The key's ARN.
        key: String,
        /// The object's own key, sealed by it; the version of the key is part of it.
        sealed: Vec<u8>,
        /// The encryption context as the client gave it: JSON; empty: none.
        context: String,
        /// Whether a bucket key was asked for.
        bucket_key: bool,
    },
}

/// What a client says about an object. Internal facts are fields of [`Object`], never entries of
/// `user_metadata` (S5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Encoded")]
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
    /// Tags: names and values, each name once.
    pub tags: Vec<(String, String)>,
    /// What keeps this version.
    pub lock: ObjectLock,
    /// The account that wrote it; `None`: the bucket's owner's.
    pub owner: Option<String>,
    /// Its access control list, as the gateways encode it; empty: its owner's alone.
    pub acl: Vec<u8>,
    /// Under what else its bytes are sealed.
    pub cipher: Cipher,
}

/// How [`ObjectMeta`] is encoded: what few objects have stands behind the storage class, so that
/// objects without it have the bytes they always had.
#[derive(Deserialize)]
struct Encoded {
    etag: String,
    headers: ContentHeaders,
    user_metadata: Vec<(String, String)>,
    checksums: Vec<Checksum>,
    tail: Tail,
}

/// The first three are [`StorageClass`]'s.
#[derive(Deserialize)]
enum Tail {
    Standard,
    ReducedRedundancy,
    Named(String),
    Extended { storage_class: StorageClass, tags: Vec<(String, String)>, lock: ObjectLock },
    Special(Special),
}

/// All that few objects have.
#[derive(Serialize, Deserialize)]
struct Special {
    storage_class: StorageClass,
    tags: Vec<(String, String)>,
    lock: ObjectLock,
    owner: Option<String>,
    acl: Vec<u8>,
    cipher: Cipher,
}

#[derive(Serialize)]
struct Encoding<'a> {
    etag: &'a str,
    headers: &'a ContentHeaders,
    user_metadata: &'a [(String, String)],
    checksums: &'a [Checksum],
    tail: TailOf<'a>,
}

#[derive(Serialize)]
enum TailOf<'a> {
    Standard,
    ReducedRedundancy,
    Named(&'a str),
    Extended { storage_class: &'a StorageClass, tags: &'a [(String, String)], lock: ObjectLock },
    Special(Special),
}

impl ObjectMeta {
    /// Roughly what owner, list and sealed key take.
    pub fn special_bytes(&self) -> usize {
        let cipher = match &self.cipher {
            Cipher::Grid => 0,
            Cipher::Customer { .. } => 64,
            Cipher::Managed { key, sealed, context, .. } => {
                key.len() + sealed.len() + context.len()
            }
        };
        self.owner.as_ref().map_or(0, String::len) + self.acl.len() + cipher
    }
}

impl Serialize for ObjectMeta {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let is_plain = self.tags.is_empty() && self.lock == ObjectLock::default();
        let is_special =
            self.owner.is_some() || !self.acl.is_empty() || self.cipher != Cipher::Grid;
        let tail = match &self.storage_class {
            class if is_special => TailOf::Special(Special {
                storage_class: class.clone(),
                tags: self.tags.clone(),
                lock: self.lock,
                owner: self.owner.clone(),
                acl: self.acl.clone(),
                cipher: self.cipher.clone(),
            }),
            class if !is_plain => {
                TailOf::Extended { storage_class: class, tags: &self.tags, lock: self.lock }
            }
            StorageClass::Standard => TailOf::Standard,
            StorageClass::ReducedRedundancy => TailOf::ReducedRedundancy,
            StorageClass::Named(name) => TailOf::Named(name),
        };
        let ObjectMeta { etag, headers, user_metadata, checksums, .. } = self;
        Encoding { etag, headers, user_metadata, checksums, tail }.serialize(serializer)
    }
}

impl From<Encoded> for ObjectMeta {
    fn from(encoded: Encoded) -> ObjectMeta {
        let Encoded { etag, headers, user_metadata, checksums, tail } = encoded;
        let plain = |storage_class| Special {
            storage_class,
            tags: Vec::new(),
            lock: ObjectLock::default(),
            owner: None,
            acl: Vec::new(),
            cipher: Cipher::Grid,
        };
        let special = match tail {
            Tail::Standard => plain(StorageClass::Standard),
            Tail::ReducedRedundancy => plain(StorageClass::ReducedRedundancy),
            Tail::Named(name) => plain(StorageClass::Named(name)),
            Tail::Extended { storage_class, tags, lock } => {
                Special { tags, lock, ..plain(storage_class) }
            }
            Tail::Special(special) => special,
        };
        let Special { storage_class, tags, lock, owner, acl, cipher } = special;
        ObjectMeta {
            etag,
            headers,
            user_metadata,
            checksums,
            storage_class,
            tags,
            lock,
            owner,
            acl,
            cipher,
        }
    }
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
    /// Version; `None`: null. In answers, [`VersionId::NULL`] is null where versions are kept.
    pub version: Option<VersionId>,
    /// Parts, if it was a multipart upload; 0: it was not.
    pub parts: u16,
    /// The upload that made it: a repeated completion is answered from this.
    pub upload: Option<UploadId>,
    /// What the client said.
    pub meta: ObjectMeta,
}
