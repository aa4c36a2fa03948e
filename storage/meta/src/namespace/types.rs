//! A metadata group's commands, queries and replies.
//!
//! All are encoded by [`crate::rows::codec`] (version byte, postcard). Keys are bytes: any, 1 to
//! 1 024 of them. Times are wall-clock milliseconds since 1970 as the proposer saw them; no safety
//! rests on them.

use std::fmt;

use bytes::Bytes;
use nexusgrid_codec::id::{BlockId, Epoch, PgId, SessionId};
use nexusgrid_env::NodeId;
use serde::{Deserialize, Serialize};

use crate::rows::codec::{self, DecodeError};

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

/// A content's random key, wrapped by a version of a bucket's key. The bucket is named because a
/// copy by link leaves the content under the key of the bucket it was written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// Whose key wraps it.
    pub bucket: BucketId,
    /// Which version of that key.
    pub version: u32,
    /// Opaque here.
    pub wrapped: Bytes,
}

/// A range of a content that lies in a sealed region of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Where it starts in the content.
    pub offset: u64,
    /// Bytes of content.
    pub len: u64,
    /// The block.
    pub block: BlockId,
    /// The PG that holds it.
    pub pg: PgId,
    /// Where the sealed region starts in the block (as the codec counts); opaque here.
    pub region_offset: u32,
    /// Plaintext bytes of the region. A block's live bytes count `len`, not this.
    pub region_len: u32,
    /// Plaintext bytes of the region before this extent's first.
    pub skip: u32,
    /// Plaintext bytes of a frame.
    pub frame_len: u32,
    /// How it is coded; opaque here.
    pub codec: u8,
    /// Data shards.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
}

/// A block that a commit refers to: all acknowledgements were of this one epoch (R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBlock {
    /// Of the session that commits.
    pub block: BlockId,
    /// Where it is.
    pub pg: PgId,
    /// Of all acknowledgements.
    pub epoch: Epoch,
    /// Plaintext bytes of all its regions.
    pub len: u32,
    /// Data shards.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
    /// Bit i: the shard of slot i was not acknowledged.
    pub missing_mask: u32,
}

/// A content to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewContent {
    /// Bytes of plaintext.
    pub size: u64,
    /// Its key.
    pub key: WrappedKey,
    /// Where it is.
    pub body: ContentBody,
}

/// Where a new content's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentBody {
    /// Nowhere: there are none.
    Empty,
    /// Sealed, here.
    Inline {
        /// Names the key and nonce; never stored as a block.
        block: BlockId,
        /// Ciphertext.
        sealed: Bytes,
    },
    /// In blocks: in order, without gap or overlap, of blocks that the same command names.
    Extents(Vec<Extent>),
}

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

/// A version of an object. `None` as id is S3's "null" version.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct VersionId(pub u64);

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

/// What must hold of the current object for a change to happen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// `If-None-Match: *`: there is none.
    Absent,
    /// `If-Match: *`: there is one.
    Present,
    /// `If-Match`: there is one with this ETag.
    EtagIs(String),
    /// `If-None-Match`: there is none with this ETag.
    EtagIsNot(String),
    /// Compare-and-swap of content: packing, compaction, re-coding.
    ContentIs(ContentId),
}

/// One object to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutObject {
    /// The bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: Vec<u8>,
    /// Whether.
    pub precondition: Precondition,
    /// Its bytes.
    pub content: NewContent,
    /// What the client says.
    pub meta: ObjectMeta,
}

/// One object to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteObject {
    /// The key.
    pub key: Vec<u8>,
    /// Whether.
    pub precondition: Precondition,
}

/// One part in a completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedPart {
    /// 1 to 10 000.
    pub number: u16,
    /// As the client repeats it.
    pub etag: String,
    /// As the client repeats it; must be the part's if given.
    pub checksum: Option<Checksum>,
}

/// A range of bytes that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeSpec {
    /// All.
    Full,
    /// `bytes=first-last`, last included; `None`: to the end.
    From(u64, Option<u64>),
    /// `bytes=-n`: the last n.
    Last(u64),
    /// `partNumber=n`, from 1.
    Part(u16),
}

/// What a metadata group can be told to do. Those with a `session` are refused unless it is open
/// (I4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceCommand {
    /// Makes a bucket's root directory; fine if it is there, refused if it was dropped. → `Done`.
    InitBucket {
        /// Assigned by the root group.
        bucket: BucketId,
        /// Most bytes of objects and parts.
        quota_bytes: Option<u64>,
    },
    /// Changes a bucket's quota. → `Done`.
    SetQuota {
        /// The bucket.
        bucket: BucketId,
        /// Most bytes of objects and parts.
        quota_bytes: Option<u64>,
    },
    /// Drops a bucket without objects and uploads, for good; fine if it was dropped. → `Done`.
    DropBucketIfEmpty {
        /// The bucket.
        bucket: BucketId,
    },
    /// Opens a writer's session. → `Session`.
    OpenSession {
        /// Whose.
        node: NodeId,
        /// How long without renewal.
        lease_ms: u64,
        /// Now.
        now_ms: u64,
    },
    /// Prolongs a session and says what it pins. → `Session`.
    RenewSession {
        /// The session.
        session: SessionId,
        /// Start of the oldest read still going on, ms since 1970; `None`: none. Nothing released
        /// after it is freed.
        oldest_pin_ms: Option<u64>,
        /// Now.
        now_ms: u64,
    },
    /// Closes a session: no commit of it can succeed any more. Fine if it is closed. → `Done`.
    CloseSession {
        /// The session.
        session: SessionId,
        /// Now.
        now_ms: u64,
    },
    /// Closes sessions whose lease ran out (proposed by the leader's worker). → `Closed`.
    ExpireSessions {
        /// Now.
        now_ms: u64,
    },
    /// Forgets closed sessions below `floor` that every drive knows are closed (R6). → `Done`.
    ForgetSessions {
        /// All below are closed, here and on drives.
        floor: SessionId,
    },
    /// Writes objects: one, or a pack of many small ones. Each is decided by itself; see
    /// `limits::PUTS_MAX` and [`super::limits`] for the bounds. Blocks that no object refers to
    /// die at once if all refusals are final (precondition, quota, key, malformed); otherwise they
    /// stay pending and may be committed again. → `Put`, one result each.
    Commit {
        /// The writer's.
        session: SessionId,
        /// All blocks that the objects refer to.
        blocks: Vec<NewBlock>,
        /// The objects.
        puts: Vec<PutObject>,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// Removes objects. → `Deleted`, one result each.
    Delete {
        /// The writer's.
        session: SessionId,
        /// The bucket.
        bucket: BucketId,
        /// The objects.
        deletes: Vec<DeleteObject>,
        /// Now.
        now_ms: u64,
    },
    /// Copies an object within the group by linking its content. → `Put`, one result.
    Link {
        /// The writer's.
        session: SessionId,
        /// Bucket and key of the source.
        source: (BucketId, Vec<u8>),
        /// The source must still have this content: what the gateway checked conditions on.
        source_content: ContentId,
        /// Bucket and key of the target.
        target: (BucketId, Vec<u8>),
        /// Of the target.
        precondition: Precondition,
        /// The target's.
        meta: ObjectMeta,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// Replaces an object's description and nothing else. → `Put`, one result.
    SetMeta {
        /// The writer's.
        session: SessionId,
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: Vec<u8>,
        /// Whether.
        precondition: Precondition,
        /// The new description.
        meta: ObjectMeta,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// Starts a multipart upload. → `Upload`.
    CreateUpload {
        /// The writer's.
        session: SessionId,
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: Vec<u8>,
        /// Random.
        nonce: u64,
        /// Whose.
        owner: String,
        /// For the object; its ETag and checksums come with the completion.
        meta: ObjectMeta,
        /// The checksum that parts carry, and what the object's will cover.
        checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
        /// Now.
        now_ms: u64,
    },
    /// Writes a part; an older one of the same number is released. → `Part`.
    PutPart {
        /// The writer's.
        session: SessionId,
        /// The upload.
        upload: UploadRef,
        /// 1 to 10 000.
        number: u16,
        /// All blocks that it refers to.
        blocks: Vec<NewBlock>,
        /// Its bytes.
        content: NewContent,
        /// Without quotes.
        etag: String,
        /// Verified.
        checksums: Vec<Checksum>,
        /// Now.
        now_ms: u64,
    },
    /// Makes a part of a range of an object in the same group, by linking. → `Part`.
    LinkPart {
        /// The writer's.
        session: SessionId,
        /// The upload.
        upload: UploadRef,
        /// 1 to 10 000.
        number: u16,
        /// Bucket and key of the source.
        source: (BucketId, Vec<u8>),
        /// The source must still have this content.
        source_content: ContentId,
        /// First byte and number of bytes; must lie within the source.
        range: (u64, u64),
        /// Without quotes.
        etag: String,
        /// Verified.
        checksums: Vec<Checksum>,
        /// Now.
        now_ms: u64,
    },
    /// Makes an object of an upload's parts, whatever their number, and ends the upload. Parts not
    /// named are released. → `Put`, one result.
    CompleteUpload {
        /// The writer's.
        session: SessionId,
        /// The upload.
        upload: UploadRef,
        /// In order of number.
        parts: Vec<CompletedPart>,
        /// All but the last part must have so many bytes.
        part_bytes_min: u64,
        /// Of the object.
        precondition: Precondition,
        /// The object's.
        etag: String,
        /// The object's.
        checksums: Vec<Checksum>,
        /// The object's size, if the client said (`x-amz-mp-object-size`).
        size: Option<u64>,
        /// Now: Last-Modified.
        now_ms: u64,
    },
    /// Ends an upload and releases its parts. → `Done`.
    AbortUpload {
        /// The writer's.
        session: SessionId,
        /// The upload.
        upload: UploadRef,
        /// Now.
        now_ms: u64,
    },
    /// Missing shards exist now. Fine if not asked for any more. → `Done`.
    RepairDone {
        /// PG, block and slot of each.
        shards: Vec<(PgId, BlockId, u8)>,
    },
    /// Takes one bounded step of freeing what was released up to `horizon_ms` (proposed by the
    /// leader's worker, which knows the reader horizon and the oldest pin). → `Expanded`.
    OutboxExpand {
        /// Contents released later than this stay.
        horizon_ms: u64,
        /// Now.
        now_ms: u64,
    },
    /// Blocks whose tombstones all mapped drives acknowledged. Fine if they are gone. → `Done`.
    OutboxAck {
        /// The blocks.
        blocks: Vec<BlockId>,
    },
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

/// A command's success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceOk {
    /// Done, nothing to say.
    Done,
    /// The session.
    Session(Session),
    /// Sessions that were closed.
    Closed(Vec<SessionId>),
    /// One result per object, in order.
    Put(Vec<Result<PutDone, NamespaceError>>),
    /// One result per key, in order; deleting what is not there succeeds.
    Deleted(Vec<Result<DeleteDone, NamespaceError>>),
    /// The upload.
    Upload(UploadId),
    /// The part.
    Part(PartInfo),
    /// What a step of freeing did.
    Expanded {
        /// Contents and upload remains that are wholly freed.
        freed: u32,
        /// Whether there is more to do now.
        more: bool,
    },
}

/// A written object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutDone {
    /// Commit sequence.
    pub sequence: u64,
    /// Its content.
    pub content: ContentId,
    /// Its size.
    pub size: u64,
    /// Its ETag.
    pub etag: String,
    /// Last-Modified.
    pub modified_ms: u64,
    /// Its version.
    pub version: Option<VersionId>,
    /// Whether an object was replaced.
    pub replaced: bool,
}

/// A removed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteDone {
    /// Whether there was one.
    pub existed: bool,
}

/// Why a metadata group refuses. Each is another action for the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NamespaceError {
    /// Bytes that are no command or query, or fields that contradict each other: a bug of the
    /// caller. Which.
    #[error("malformed: {0}")]
    Malformed(Malformed),
    /// More than a command or query may carry: split it.
    #[error("more than a command may carry")]
    TooLarge,
    /// The session is closed, or never was: open another, write blocks again.
    #[error("session {} is closed", .0.0)]
    SessionClosed(SessionId),
    /// Too few shards are acknowledged.
    #[error("block {0} has fewer shards than its quorum")]
    NoQuorum(BlockId),
    /// The block is bound already, or freed: write the bytes again under another id (I3).
    #[error("block {0} is already bound")]
    BlockBound(BlockId),
    /// Not in this group, or dropped.
    #[error("no such bucket")]
    NoSuchBucket,
    /// It has objects or uploads.
    #[error("bucket is not empty")]
    BucketNotEmpty,
    /// No such object.
    #[error("no such key")]
    NoSuchKey,
    /// Empty, or longer than 1 024 bytes.
    #[error("invalid key")]
    InvalidKey,
    /// The precondition does not hold.
    #[error("precondition failed")]
    PreconditionFailed,
    /// The source of a copy changed after it was read: read it again.
    #[error("source changed")]
    SourceChanged,
    /// The link would nest too deep, or count too high: copy the bytes instead.
    #[error("link refused, copy the bytes")]
    CopyInstead,
    /// The quota would be exceeded.
    #[error("quota exceeded")]
    QuotaExceeded,
    /// No such upload.
    #[error("no such upload")]
    NoSuchUpload,
    /// A part that is not there, or differs: its number.
    #[error("invalid part {0}")]
    InvalidPart(u16),
    /// Numbers do not ascend.
    #[error("parts are not in order")]
    InvalidPartOrder,
    /// A part but the last is smaller than allowed: number and size.
    #[error("part {0} is too small")]
    PartTooSmall(u16, u64),
    /// The parts' sizes do not add up to the size that was named.
    #[error("object size differs from the one named")]
    SizeMismatch,
    /// The range lies outside the object: its size.
    #[error("range not satisfiable")]
    RangeNotSatisfiable(u64),
    /// No such content (freed, or never was).
    #[error("no such content")]
    NoSuchContent,
}

/// What is wrong with a command or query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Malformed {
    /// Not an encoding.
    #[error("not an encoded command or query")]
    Encoding,
    /// Extents leave gaps, overlap, or do not match size or blocks.
    #[error("extents")]
    Extents,
    /// Block of another session or group, or listed twice, or of impossible shape.
    #[error("blocks")]
    Blocks,
    /// Inline bytes are too long.
    #[error("inline bytes")]
    Inline,
    /// Metadata is too long.
    #[error("metadata")]
    Metadata,
    /// Part number outside 1..=10 000.
    #[error("part number")]
    PartNumber,
    /// A range without bytes.
    #[error("range")]
    Range,
    /// An empty delimiter or a zero limit.
    #[error("list parameters")]
    List,
}

/// A command's reply.
pub type NamespaceReply = Result<NamespaceOk, NamespaceError>;

/// Where a listing goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListAfter {
    /// After this key (`start-after`, `marker`).
    Key(Vec<u8>),
    /// After all keys that begin with this (a common prefix that was returned).
    Prefix(Vec<u8>),
}

/// What a metadata group can be asked. Queries answer from the state they are given; the host makes
/// them linearizable (I12).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceQuery {
    /// An object's row. → `Object`.
    Head {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: Vec<u8>,
    },
    /// An object's row, and where a range of its bytes is. → `Get`.
    Get {
        /// The bucket.
        bucket: BucketId,
        /// The key.
        key: Vec<u8>,
        /// Which bytes.
        range: RangeSpec,
    },
    /// Where a range of a content's bytes is: goes on after a `Get`. → `Map`.
    Extents {
        /// The content.
        content: ContentId,
        /// First byte.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// Keys in byte order, rolled up at a delimiter. → `List`.
    List {
        /// The bucket.
        bucket: BucketId,
        /// Keys begin with this.
        prefix: Vec<u8>,
        /// Rolls up keys that hold it after the prefix; any string but the empty one.
        delimiter: Option<Vec<u8>>,
        /// Where to go on.
        after: Option<ListAfter>,
        /// At most so many keys and common prefixes together (1 to `limits::LIST_MAX`).
        limit: u32,
    },
    /// Uploads in order of key, then start. → `Uploads`.
    ListUploads {
        /// The bucket.
        bucket: BucketId,
        /// Keys begin with this.
        prefix: Vec<u8>,
        /// Rolls up keys that hold it after the prefix.
        delimiter: Option<Vec<u8>>,
        /// Where to go on.
        after: Option<UploadsAfter>,
        /// At most so many uploads and common prefixes together.
        limit: u32,
    },
    /// One upload. → `Upload`.
    Upload {
        /// Which.
        upload: UploadRef,
    },
    /// Parts in order of number. → `Parts`.
    ListParts {
        /// Which.
        upload: UploadRef,
        /// Numbers after this one.
        after: u16,
        /// At most so many.
        limit: u32,
    },
    /// A bucket's counters. → `Usage`.
    BucketUsage {
        /// The bucket.
        bucket: BucketId,
    },
    /// All sessions that are remembered, and the floor. → `Sessions`.
    Sessions,
    /// Missing shards. → `Repairs`.
    RepairQueue {
        /// Of one PG; `None`: of all.
        pg: Option<PgId>,
        /// After this one.
        after: Option<(PgId, BlockId, u8)>,
        /// At most so many.
        limit: u32,
    },
    /// Blocks that wait for their tombstones. → `Outbox`.
    Outbox {
        /// After this one.
        after: Option<BlockId>,
        /// At most so many.
        limit: u32,
    },
    /// What is known about blocks, in order. → `Blocks`.
    ResolveBlocks {
        /// The blocks.
        blocks: Vec<BlockId>,
    },
}

/// Where a listing of uploads goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UploadsAfter {
    /// After all uploads of this key.
    Key(Vec<u8>),
    /// After this upload.
    Upload(Vec<u8>, UploadId),
    /// After all keys that begin with this.
    Prefix(Vec<u8>),
}

/// Where a piece's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PieceData {
    /// Sealed, here: `skip` bytes of plaintext come before the piece.
    Inline {
        /// Names key and nonce.
        block: BlockId,
        /// Ciphertext of the whole content.
        sealed: Bytes,
        /// Plaintext bytes of all of it.
        size: u32,
        /// Plaintext bytes before the piece.
        skip: u32,
    },
    /// In a block. `offset` and `len` are the piece's; `skip` is adjusted to it.
    Extent(Extent),
}

/// A range of an asked content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Where it starts in the asked content.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Its key: an index of [`ContentMap::keys`].
    pub key: u32,
    /// Where it is.
    pub data: PieceData,
}

/// Where a range of a content is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentMap {
    /// Keys that pieces use.
    pub keys: Vec<WrappedKey>,
    /// In order, without gap.
    pub pieces: Vec<Piece>,
    /// If the answer is bounded: the offset to ask [`NamespaceQuery::Extents`] from.
    pub next: Option<u64>,
}

/// An object and where a range of it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// The object.
    pub object: Object,
    /// First byte of the range.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    /// Where it is.
    pub map: ContentMap,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListEntry {
    /// A key and its object.
    Object(Vec<u8>, Box<Object>),
    /// A common prefix: prefix … delimiter.
    Prefix(Vec<u8>),
}

/// A listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// In byte order.
    pub entries: Vec<ListEntry>,
    /// Where to go on; `None`: that was all.
    pub next: Option<ListAfter>,
}

/// An upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadInfo {
    /// Commit sequence of its start.
    pub sequence: u64,
    /// When it was started.
    pub created_ms: u64,
    /// Whose.
    pub owner: String,
    /// For the object.
    pub meta: ObjectMeta,
    /// The checksum that parts carry, and what the object's will cover.
    pub checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// One line of a listing of uploads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UploadEntry {
    /// Key, id and upload.
    Upload(Vec<u8>, UploadId, Box<UploadInfo>),
    /// A common prefix.
    Prefix(Vec<u8>),
}

/// A listing of uploads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadListing {
    /// In order of key, then start.
    pub entries: Vec<UploadEntry>,
    /// Where to go on; `None`: that was all.
    pub next: Option<UploadsAfter>,
}

/// A part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Commit sequence.
    pub sequence: u64,
    /// 1 to 10 000.
    pub number: u16,
    /// Its bytes.
    pub content: ContentId,
    /// How many.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// Verified.
    pub checksums: Vec<Checksum>,
    /// When it was written.
    pub modified_ms: u64,
}

/// A listing of parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartListing {
    /// The upload.
    pub upload: UploadInfo,
    /// In order of number.
    pub parts: Vec<PartInfo>,
    /// Whether there are more.
    pub more: bool,
}

/// A bucket's counters (I8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Objects.
    pub objects: u64,
    /// Bytes of objects.
    pub bytes: u64,
    /// Uploads under way.
    pub uploads: u64,
    /// Bytes of their parts.
    pub part_bytes: u64,
}

/// A writer's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose.
    pub node: NodeId,
    /// How long it lives without renewal.
    pub lease_ms: u64,
    /// When it was opened.
    pub opened_ms: u64,
    /// When it was last renewed.
    pub renewed_ms: u64,
    /// Start of the oldest read that it reported; `None`: none.
    pub oldest_pin_ms: Option<u64>,
    /// When it was closed; `None`: it is open.
    pub closed_ms: Option<u64>,
}

/// A missing shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The PG.
    pub pg: PgId,
    /// The block.
    pub block: BlockId,
    /// The slot whose shard is missing.
    pub slot: u8,
    /// Commit sequence of who named it.
    pub sequence: u64,
    /// Since when.
    pub since_ms: u64,
    /// Epoch of the commit.
    pub epoch: Epoch,
}

/// A block to be deleted from drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadBlock {
    /// The block.
    pub block: BlockId,
    /// The PG.
    pub pg: PgId,
    /// Commit sequence of its death.
    pub sequence: u64,
    /// When it died.
    pub since_ms: u64,
}

/// What is known about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockState {
    /// Extents refer to it.
    Live {
        /// Where it is.
        pg: PgId,
        /// Plaintext bytes that extents refer to.
        live_bytes: u32,
        /// Plaintext bytes of it.
        len: u32,
    },
    /// It waits for its tombstones.
    Dead,
    /// Not known, but its session is open: it may still be committed. Never an orphan.
    Pending,
    /// Not known, and its session is closed: garbage by definition.
    Unknown,
}

/// A query's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceAnswer {
    /// An object.
    Object(Box<Object>),
    /// An object and where a range of it is.
    Get(Box<Got>),
    /// Where a range of a content is.
    Map(ContentMap),
    /// A listing.
    List(Listing),
    /// A listing of uploads.
    Uploads(UploadListing),
    /// An upload.
    Upload(Box<UploadInfo>),
    /// A listing of parts.
    Parts(Box<PartListing>),
    /// Counters.
    Usage(Usage),
    /// Sessions in order of id.
    Sessions {
        /// All below are closed and forgotten (R6).
        floor: SessionId,
        /// The remembered ones.
        sessions: Vec<Session>,
    },
    /// Missing shards in order of PG, block and slot.
    Repairs {
        /// The shards.
        repairs: Vec<Repair>,
        /// Whether there are more.
        more: bool,
    },
    /// Dead blocks in order of id.
    Outbox {
        /// The blocks.
        blocks: Vec<DeadBlock>,
        /// Whether there are more.
        more: bool,
    },
    /// One state per block that was asked for.
    Blocks(Vec<BlockState>),
}

/// A query's reply.
pub type NamespaceQueryReply = Result<NamespaceAnswer, NamespaceError>;

macro_rules! wire {
    ($($type:ty),*) => {$(
        impl $type {
            /// Encodes for the wire.
            pub fn encode(&self) -> Vec<u8> {
                codec::encode(self)
            }

            /// The inverse of `encode`.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                codec::decode(bytes)
            }
        }
    )*};
}
wire!(NamespaceCommand, NamespaceQuery);

/// Reads the reply to a command.
pub fn decode_reply(bytes: &[u8]) -> Result<NamespaceReply, DecodeError> {
    codec::decode(bytes)
}

/// Reads the reply to a query.
pub fn decode_query_reply(bytes: &[u8]) -> Result<NamespaceQueryReply, DecodeError> {
    codec::decode(bytes)
}
