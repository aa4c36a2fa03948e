//! What the floors above say to the grid and hear from it: plain types without behaviour.
//!
//! Nothing here names a drive, a shard or a Raft group. Sizes and offsets are bytes of plaintext;
//! keys and names are UTF-8 as S3 has them. The grid neither computes nor checks ETags and
//! checksums: whoever streams the body does so, and hands the result over in a [`ObjectSeal`]
//! after the last byte and before anything becomes visible.

use std::collections::BTreeMap;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use nexusgrid_env::UnixMillis;
use serde::{Deserialize, Serialize};

pub use nexusgrid_meta::namespace::types::{Allowance, Cipher};
pub use nexusgrid_meta::root::types::{Record, RecordWrite};

use crate::error::GridError;
use crate::version::{ObjectLock, VersionName};

/// Who shares the byte budget fairly with others: an access key, a mount, a worker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(pub String);

/// A request body: chunks of any size, in order. An error ends it and nothing becomes visible.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, Reject>> + Send>>;

/// A response body. An error after the first chunk means that the transfer must be broken off.
pub type ReadStream = Pin<Box<dyn Stream<Item = Result<Bytes, GridError>> + Send>>;

/// Called once after the last byte of a body and before the commit: the digests to store, or why
/// the body is refused (then nothing becomes visible).
pub type Finish = Box<dyn FnOnce() -> Result<ObjectSeal, Reject> + Send>;

/// Called once with the chosen parts of an upload, in order, before the commit.
pub type FinishParts = Box<dyn FnOnce(&[PartInfo]) -> Result<ObjectSeal, Reject> + Send>;

/// Called once after the last byte of what is appended, with the object that it goes behind and the number of
/// bytes: the digests of the whole.
pub type FinishAppend = Box<dyn FnOnce(&ObjectInfo, u64) -> Result<ObjectSeal, Reject> + Send>;

/// Sees every chunk that a part copy moves, in order (to digest it).
pub type Tap = Box<dyn FnMut(&Bytes) + Send>;

/// Why the caller refuses a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind:?}: {message}")]
pub struct Reject {
    /// What to answer.
    pub kind: RejectKind,
    /// For the client.
    pub message: String,
}

/// The answer to a refused body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectKind {
    /// Digest or checksum differs from what the client sent.
    BadDigest,
    /// A payload hash of the signature differs.
    ContentHashMismatch,
    /// A chunk's signature is wrong.
    SignatureMismatch,
    /// Fewer bytes than announced, or the connection broke.
    IncompleteBody,
    /// The client sends too slowly.
    Timeout,
    /// More bytes than allowed.
    TooLarge,
    /// A part, not the last, is below the minimum.
    PartTooSmall,
    /// Anything else wrong with the request.
    InvalidRequest,
}

/// Checksum algorithms of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    /// CRC-32 (ISO-HDLC).
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

/// What a stored checksum covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChecksumKind {
    /// The bytes of the object.
    FullObject,
    /// The checksums of its parts.
    Composite,
}

/// A stored checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// What it covers.
    pub kind: ChecksumKind,
    /// Raw bytes, as the algorithm gives them.
    pub value: Vec<u8>,
}

/// Checksums by algorithm.
pub type Checksums = BTreeMap<ChecksumAlgorithm, Checksum>;

/// The digests of a finished body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectSeal {
    /// Without quotes: hex MD5, or `<hex>-<parts>`.
    pub etag: String,
    /// Checksums to store.
    pub checksums: Checksums,
}

/// What a client says about an object and gets back with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// User metadata, names in lower case and without the `x-amz-meta-` prefix.
    pub user: BTreeMap<String, String>,
    /// Content-Type.
    pub content_type: Option<String>,
    /// Cache-Control.
    pub cache_control: Option<String>,
    /// Content-Disposition.
    pub content_disposition: Option<String>,
    /// Content-Encoding, without `aws-chunked`.
    pub content_encoding: Option<String>,
    /// Content-Language.
    pub content_language: Option<String>,
    /// Expires, as sent.
    pub expires: Option<String>,
    /// Storage class, as sent; `None` is STANDARD.
    pub storage_class: Option<String>,
    /// x-amz-website-redirect-location.
    pub website_redirect: Option<String>,
    /// Tags: names and values, each name once.
    pub tags: Vec<(String, String)>,
    /// What keeps this version.
    pub lock: ObjectLock,
    /// The account that wrote it; `None`: the bucket's owner's.
    pub owner: Option<String>,
    /// Its access control list, as the gateway encodes it; empty: its owner's alone.
    pub acl: Vec<u8>,
    /// Under what its bytes are sealed besides the grid's own keys.
    pub cipher: Cipher,
}

/// Which entity tags satisfy a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtagMatch {
    /// `*`: any existing object.
    Any,
    /// One of these, without quotes.
    OneOf(Vec<String>),
}

/// Conditions on the object that is at the key now, checked in the commit itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// `If-Match`.
    pub if_match: Option<EtagMatch>,
    /// `If-None-Match`.
    pub if_none_match: Option<EtagMatch>,
}

/// One version of an object's content; grows with each commit to the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionTag(pub u64);

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketInfo {
    /// Its id, never reused.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: UnixMillis,
    /// Whose it is: an account.
    pub owner: String,
}

/// What a bucket holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketUsage {
    /// Objects, all their versions.
    pub objects: u64,
    /// Bytes of objects.
    pub bytes: u64,
    /// Uploads under way.
    pub uploads: u64,
    /// Bytes of their parts.
    pub part_bytes: u64,
    /// The most bytes of objects and parts; `None`: no quota.
    pub quota_bytes: Option<u64>,
    /// What its owner's quota leaves it.
    pub allowance: Allowance,
}

/// An object, as `head` gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// Stored checksums.
    pub checksums: Checksums,
    /// When the commit was proposed.
    pub last_modified: UnixMillis,
    /// Changes with each change of the object or its version.
    pub version: VersionTag,
    /// Its version's name; `None`: its bucket never kept any.
    pub version_name: Option<VersionName>,
    /// What the client said about it.
    pub meta: ObjectMeta,
    /// Sizes of its parts, if a multipart upload made it.
    pub part_sizes: Vec<u64>,
}

/// Stores an object.
#[derive(Clone, Debug)]
pub struct PutRequest {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Metadata to store.
    pub meta: ObjectMeta,
    /// Checked in the commit; a cheap early check is made before the body is read.
    pub precondition: Precondition,
    /// Length if known beforehand; another length is refused with `IncompleteBody` or `TooLarge`.
    pub length: Option<u64>,
    /// Whose share of the byte budget.
    pub tenant: Tenant,
}

/// Puts bytes behind an object.
#[derive(Clone, Debug)]
pub struct AppendRequest {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The object must have so many bytes.
    pub offset: u64,
    /// Of the object, checked in the commit.
    pub precondition: Precondition,
    /// Length of the body if known beforehand.
    pub length: Option<u64>,
    /// Whose share of the byte budget.
    pub tenant: Tenant,
}

/// A stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// Without quotes.
    pub etag: String,
    /// As given in the seal.
    pub checksums: Checksums,
    /// Bytes.
    pub size: u64,
    /// Changes with each change of the object or its version.
    pub version: VersionTag,
    /// Its version's name; `None`: its bucket never kept any.
    pub version_name: Option<VersionName>,
    /// When it was committed.
    pub last_modified: UnixMillis,
}

/// A range as asked for; resolved against the size of the version that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=first-last`, both included.
    FromTo(u64, u64),
    /// `bytes=first-`.
    From(u64),
    /// `bytes=-len`: the last `len` bytes.
    Suffix(u64),
}

/// A range that lies within an object: `start..end`, end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedRange {
    /// First byte.
    pub start: u64,
    /// End, excluded.
    pub end: u64,
}

/// An object being read, and the bytes asked for.
pub struct GetOutcome {
    /// The version that is read, pinned until `body` is dropped.
    pub info: ObjectInfo,
    /// Which bytes `body` gives.
    pub range: ResolvedRange,
    /// The bytes; nothing is fetched before it is polled.
    pub body: ReadStream,
}

/// Removes an object; fine if there is none.
#[derive(Clone, Debug)]
pub struct DeleteRequest {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Checked in the commit.
    pub precondition: Precondition,
}

/// Copies an object.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// Source bucket.
    pub source_bucket: String,
    /// Source key.
    pub source_key: String,
    /// The version whose conditions the caller checked; `PreconditionFailed` if it is gone.
    pub source_version: Option<VersionTag>,
    /// Target bucket.
    pub bucket: String,
    /// Target key.
    pub key: String,
    /// Metadata for the target; `None` keeps the source's.
    pub meta: Option<ObjectMeta>,
    /// On the target, checked in the commit.
    pub precondition: Precondition,
    /// Whose share of the byte budget, should bytes move.
    pub tenant: Tenant,
}

/// Lists objects in byte order of their keys.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// Bucket.
    pub bucket: String,
    /// Only keys that begin so.
    pub prefix: String,
    /// Keys that agree up to the first of these after the prefix are folded into one prefix.
    pub delimiter: Option<String>,
    /// Only keys and folded prefixes greater than this (a prefix that it lies in is not).
    pub after: Option<String>,
    /// At most so many keys and prefixes together.
    pub max: u32,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectSummary {
    /// Its key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// When it was committed.
    pub last_modified: UnixMillis,
    /// Storage class, as sent; `None` is STANDARD.
    pub storage_class: Option<String>,
    /// The account that owns it; `None`: the bucket's owner's.
    pub owner: Option<String>,
    /// Algorithms of its stored checksums.
    pub checksum_algorithms: Vec<ChecksumAlgorithm>,
}

/// A page of a listing. Keys and prefixes are each sorted; a client merges them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects.
    pub objects: Vec<ObjectSummary>,
    /// Folded prefixes.
    pub prefixes: Vec<String>,
    /// Pass as `after` for the next page; `None` at the end.
    pub next: Option<String>,
}

/// An upload in parts. Opaque; only the grid makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(pub String);

/// Opens an upload.
#[derive(Clone, Debug)]
pub struct CreateUploadRequest {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// Metadata of the object to be.
    pub meta: ObjectMeta,
    /// The checksum that the client asked for, if any.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
    /// Who opened it.
    pub tenant: Tenant,
}

/// Stores a part; replaces one of the same number.
#[derive(Clone, Debug)]
pub struct PartRequest {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The upload.
    pub upload: UploadId,
    /// 1 to 10 000.
    pub number: u32,
    /// Length if known beforehand.
    pub length: Option<u64>,
    /// Whose share of the byte budget.
    pub tenant: Tenant,
}

/// Stores a range of an object as a part.
#[derive(Clone, Debug)]
pub struct PartCopyRequest {
    /// Source bucket.
    pub source_bucket: String,
    /// Source key.
    pub source_key: String,
    /// The version whose conditions the caller checked.
    pub source_version: Option<VersionTag>,
    /// Which bytes; `None` is all.
    pub range: Option<ByteRange>,
    /// The part to store; its `length` is ignored.
    pub part: PartRequest,
}

/// A stored part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartInfo {
    /// Its number.
    pub number: u32,
    /// Without quotes.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// Stored checksums.
    pub checksums: Checksums,
    /// When it was stored.
    pub last_modified: UnixMillis,
}

/// A part that the client wants in the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenPart {
    /// Its number.
    pub number: u32,
    /// The ETag that the client was told, without quotes.
    pub etag: String,
}

/// Makes an object of parts.
#[derive(Clone, Debug)]
pub struct CompleteUploadRequest {
    /// Bucket.
    pub bucket: String,
    /// Key.
    pub key: String,
    /// The upload.
    pub upload: UploadId,
    /// In ascending order of number.
    pub parts: Vec<ChosenPart>,
    /// Checked in the commit.
    pub precondition: Precondition,
}

/// An open upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// Key.
    pub key: String,
    /// The upload.
    pub upload: UploadId,
    /// When it was opened.
    pub initiated: UnixMillis,
    /// Who opened it.
    pub owner: String,
    /// Metadata of the object to be.
    pub meta: ObjectMeta,
    /// The checksum that the client asked for, if any.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// Lists open uploads by key, then by upload.
#[derive(Clone, Debug)]
pub struct ListUploadsRequest {
    /// Bucket.
    pub bucket: String,
    /// Only keys that begin so.
    pub prefix: String,
    /// Folds keys as in [`ListRequest`].
    pub delimiter: Option<String>,
    /// Only uploads after this key (and, if given, after this upload of the key).
    pub after: Option<(String, Option<UploadId>)>,
    /// At most so many.
    pub max: u32,
}

/// A page of open uploads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadsPage {
    /// Uploads.
    pub uploads: Vec<UploadInfo>,
    /// Folded prefixes.
    pub prefixes: Vec<String>,
    /// Pass as `after` for the next page; `None` at the end.
    pub next: Option<(String, UploadId)>,
}

/// A page of an upload's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartsPage {
    /// The upload.
    pub upload: UploadInfo,
    /// Parts by number.
    pub parts: Vec<PartInfo>,
    /// Pass as `after` for the next page; `None` at the end.
    pub next: Option<u32>,
}
