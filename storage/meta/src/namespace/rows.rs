//! Rows of a metadata group: keys and values.
//!
//! ```text
//! tree     bucket slot16 parent name·0000            → Dentry     a child of a directory
//! content  'c' content                               → ContentRow
//!          'e' content offset                        → Page       extents or segments from offset on
//!          'b' block                                 → BlockRow
//! inline   content                                   → ciphertext (blob files)
//! state    'B' bucket                                → BucketRow
//!          'C' k m                                   → CodeRow    bytes of a code
//!          'D' block                                 → DeadRow    waits for its tombstones
//!          'E' pg                                    → Epoch      older ones are not committed
//!          'F'                                       → SessionId  session floor
//!          'G'                                       → GapsRow    sessions that a restore lost
//!          'I' bucket                                → WalkRow    its keys are looked through
//!          'L' bucket                                → LifecycleRow rules about its objects' ends
//!          'M' sequence                              → MovedRow   extents given up, to be freed
//!          'N' bucket key·0000                       → u64        where an older null version stands in 'V'
//!          'O' sequence ordinal                      → OutboxRow  released, to be expanded
//!          'P' upload number                         → PartRow
//!          'R' pg block slot                         → RepairRow  missing shard
//!          'S' session                               → Session
//!          'T' bucket                                → those rules as the owner gave them
//!          'U' bucket key·0000 upload                → UploadRow
//!          'V' bucket key·0000 !order                → VersionRow older versions and delete markers
//!          'W' ms bucket key·0000                    → DueRow     when to look at a key
//! ```
//!
//! `name·0000` is escaped and ended (see [`crate::rows::key`]). In `tree` a directory is stored as
//! `name/` and a file as `name`: then a depth-first walk is byte order of whole keys. The tree holds
//! what a client sees: current versions that are no delete markers. All others stand in 'V', newest
//! first. `slot16` spreads directories over the key space, so that a range of them
//! can be split off to another group without changing a key. Every row carries the commit sequence
//! of its last change.
//!
//! Ids of contents, directories and sessions are made of the commit sequence: never reused, and no
//! counter row that each command rewrites.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::{BlockId, Epoch, PgId, SessionId};
use serde::{Deserialize, Serialize};

use super::types::{
    BucketId, ContentId, DeleteMarker, Extent, Lifecycle, Object, PartInfo, UploadId, UploadInfo,
    UploadRef, Usage, VersionRules, WrappedKey,
};
use crate::rows::key::{KeyBuf, KeyReader};

/// Dentries.
pub const TREE: &str = "tree";
/// Contents, extents, blocks.
pub const CONTENT: &str = "content";
/// Sealed bytes of small contents.
pub const INLINE: &str = "inline";
/// All else.
pub const STATE: &str = "state";

/// All families.
pub const FAMILIES: &[&str] = &[TREE, CONTENT, INLINE, STATE];
/// Those with blob files.
pub const BLOB_FAMILIES: &[&str] = &[INLINE];

/// A directory, within its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DirId(pub u64);

impl DirId {
    /// A bucket's root. Others are ≥ 4 096: they hold a commit sequence.
    pub const ROOT: DirId = DirId(1);

    /// Spreads directories over the key space: stable for ever, as it stands in keys
    /// (splitmix64's finalizer, top 16 bits).
    pub fn slot16(self) -> u16 {
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 48) as u16
    }
}

/// Ids made by one command: `sequence ‖ ordinal`.
const ORDINAL_BITS: u32 = 12;

/// The `ordinal`-th id of the command at `sequence`; `None` if there are no more.
pub fn id_of(sequence: u64, ordinal: u32) -> Option<u64> {
    (ordinal >> ORDINAL_BITS == 0).then_some((sequence << ORDINAL_BITS) | u64::from(ordinal))
}

/// The commit sequence that an id was made of.
pub fn sequence_of(id: u64) -> u64 {
    id >> ORDINAL_BITS
}

/// A child of a directory.
#[allow(clippy::large_enum_variant, reason = "files are the common case, and live only briefly")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dentry {
    /// A directory: the row's name ends with `/`.
    Dir(DirRow),
    /// A file: dentry and inode in one.
    File(Object),
}

/// A directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirRow {
    /// Commit sequence.
    pub sequence: u64,
    /// Its id.
    pub id: DirId,
    /// Dentries in it (I13).
    pub children: u64,
    /// Stays when its last child goes (`mkdir`).
    pub explicit: bool,
    /// When it was made.
    pub created_ms: u64,
}

/// Where a bucket stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketRow {
    /// In use.
    Live(LiveBucket),
    /// Dropped for good: a late `InitBucket` must not bring it back.
    Dropped {
        /// Commit sequence.
        sequence: u64,
    },
    /// In use, and versions are kept, or were.
    Versioned(LiveBucket, VersionRules),
}

impl BucketRow {
    /// The bucket, if it is in use.
    pub fn live(self) -> Option<LiveBucket> {
        match self {
            BucketRow::Live(row) => Some(row),
            BucketRow::Versioned(row, rules) => Some(LiveBucket { rules, ..row }),
            BucketRow::Dropped { .. } => None,
        }
    }
}

/// A bucket in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveBucket {
    /// Commit sequence.
    pub sequence: u64,
    /// Dentries in its root directory (I13).
    pub children: u64,
    /// Counters (I8).
    pub usage: Usage,
    /// Most bytes of objects and parts.
    pub quota_bytes: Option<u64>,
    /// How it treats versions; stands beside this in the row, so that the row of a bucket without is
    /// what it always was.
    #[serde(skip)]
    pub rules: VersionRules,
}

/// A version that is not the current object of its key.
#[allow(clippy::large_enum_variant, reason = "objects are the common case, and live only briefly")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionRow {
    /// An older version.
    Object(Object),
    /// A delete marker; as the newest version it hides the key.
    Marker(DeleteMarker),
}

/// A content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentRow {
    /// Commit sequence.
    pub sequence: u64,
    /// Dentries, parts and segments that refer to it (I7); 0: in the outbox.
    pub references: u32,
    /// Bytes.
    pub size: u64,
    /// How deep its links nest; 0: its bytes are its own.
    pub depth: u8,
    /// Where its bytes are.
    pub kind: ContentKind,
}

/// Where a content's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentKind {
    /// There are none.
    Empty,
    /// Sealed, in the inline family.
    Inline {
        /// Its key.
        key: WrappedKey,
        /// Names key and nonce.
        block: BlockId,
    },
    /// In blocks: pages of extents.
    Extents {
        /// Its key.
        key: WrappedKey,
    },
    /// In other contents: pages of segments, each of which counts as a reference.
    Linked,
    /// In an upload's parts: pages of segments say where; the upload's part rows are what refers to
    /// the parts, and live on with this content, so that a completion writes few rows.
    Parts {
        /// The upload.
        upload: UploadId,
    },
    /// As `Extents`, of a content that lies in copies, or is to, whatever its size.
    Copies {
        /// Its key.
        key: WrappedKey,
    },
}

impl ContentRow {
    /// Bytes, as far as it depends on them in which code it is to lie: none of what is to lie in copies.
    pub fn coded_size(&self) -> u64 {
        if matches!(self.kind, ContentKind::Copies { .. }) { 0 } else { self.size }
    }
}

/// A page: entries in order without gap, the first at the page's offset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Page {
    /// Of a content with bytes of its own.
    Extents {
        /// Commit sequence.
        sequence: u64,
        /// The extents.
        extents: Vec<Extent>,
    },
    /// Of a linked content.
    Segments {
        /// Commit sequence.
        sequence: u64,
        /// The segments.
        segments: Vec<Segment>,
    },
}

/// A range of a linked content that is a range of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Where it starts in the linked content.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The other content.
    pub content: ContentId,
    /// Where it starts in the other.
    pub skip: u64,
}

/// A block that extents refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// Commit sequence.
    pub sequence: u64,
    /// The PG that holds it.
    pub pg: PgId,
    /// Epoch of the commit.
    pub epoch: Epoch,
    /// Plaintext bytes.
    pub len: u32,
    /// Bytes that extents refer to.
    pub live: u32,
    /// Data shards.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
    /// Slots with a row in the repair queue (I2).
    pub missing_mask: u32,
}

/// A block that waits for its tombstones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRow {
    /// Commit sequence.
    pub sequence: u64,
    /// The PG that holds it.
    pub pg: PgId,
    /// When it died.
    pub since_ms: u64,
}

/// Released, to be expanded (I10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRow {
    /// Commit sequence.
    pub sequence: u64,
    /// When it was released.
    pub released_ms: u64,
    /// What.
    pub what: Released,
}

/// What was released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Released {
    /// A content without references.
    Content(ContentId),
    /// All parts of an aborted upload.
    Upload(UploadId),
    /// Parts that a completion did not name.
    Parts(UploadId, Vec<u16>),
}

/// Extents that contents had before they moved to other blocks: they keep those alive for readers
/// that hold the old map, and for a restore of a state that does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedRow {
    /// Commit sequence of the move.
    pub sequence: u64,
    /// When it was.
    pub released_ms: u64,
    /// The extents.
    pub extents: Vec<Extent>,
}

/// What a code protects; absent: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeRow {
    /// Commit sequence.
    pub sequence: u64,
    /// Live blocks.
    pub blocks: u64,
    /// Plaintext bytes of live blocks, dead ones in them included.
    pub block_bytes: u64,
    /// Plaintext bytes that extents of contents lie in.
    pub bytes: u64,
    /// Those of contents that are too large for packs.
    pub large_bytes: u64,
}

/// Sessions of which only a state that was lost knew what they committed; absent: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapsRow {
    /// First, and end (excluded), of each range.
    pub gaps: Vec<(SessionId, SessionId)>,
}

/// An upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRow {
    /// As queries show it.
    pub info: UploadInfo,
    /// Bytes of its parts: leaves the bucket's counter with it.
    pub part_bytes: u64,
}

/// A part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRow {
    /// As queries show it.
    pub info: PartInfo,
    /// Its content's depth, so that a completion need not read 10 000 contents.
    pub depth: u8,
}

/// A missing shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRow {
    /// Commit sequence.
    pub sequence: u64,
    /// Since when.
    pub since_ms: u64,
    /// Epoch of the commit.
    pub epoch: Epoch,
}

/// What becomes of a bucket's objects with time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRow {
    /// Commit sequence.
    pub sequence: u64,
    /// The rules that are in force.
    pub rules: Lifecycle,
}

/// How far a bucket's keys were looked through since its rules changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkRow {
    /// Commit sequence.
    pub sequence: u64,
    /// Where it goes on.
    pub place: WalkPlace,
    /// Whether it begins anew at its end: what lies behind it changed, or the rules did.
    pub again: bool,
}

/// Where a walk goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WalkPlace {
    /// With the first key after this that has a version.
    Keys(Option<Vec<u8>>),
    /// With the first key after this that has an upload.
    Uploads(Option<Vec<u8>>),
}

/// When to look at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DueRow {
    /// Commit sequence.
    pub sequence: u64,
    /// Where among its older versions; `None`: from its beginning.
    pub further: Option<Further>,
}

/// Where a look at a key's older versions goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Further {
    /// Order of the last version that was looked at.
    pub order: u64,
    /// When the next was replaced.
    pub since_ms: u64,
}

/// Begins the keys of a directory's children.
pub fn dir_prefix(bucket: BucketId, dir: DirId) -> KeyBuf {
    KeyBuf::new().u64(bucket.0).u16(dir.slot16()).u64(dir.0)
}

/// Bytes before a dentry's name.
pub const DIR_PREFIX_LEN: usize = 18;

/// A dentry.
pub fn dentry(bucket: BucketId, dir: DirId, name: &[u8]) -> Vec<u8> {
    dir_prefix(bucket, dir).name(name).done()
}

/// The name of a dentry's key, if it is that of a current version.
pub fn dentry_name(key: &[u8]) -> Option<Vec<u8>> {
    let mut reader = KeyReader(key.get(DIR_PREFIX_LEN..)?);
    let name = reader.name()?;
    reader.is_done().then_some(name)
}

/// A content.
pub fn content(content: ContentId) -> Vec<u8> {
    KeyBuf::tag(b'c').u64(content.0).done()
}

/// A content's pages.
pub fn pages(content: ContentId) -> KeyBuf {
    KeyBuf::tag(b'e').u64(content.0)
}

/// A content's page.
pub fn page(content: ContentId, offset: u64) -> Vec<u8> {
    pages(content).u64(offset).done()
}

/// All contents' pages.
pub fn all_pages() -> Vec<u8> {
    KeyBuf::tag(b'e').done()
}

/// The inverse of [`page`].
pub fn parse_page(key: &[u8]) -> Option<(ContentId, u64)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some((ContentId(reader.u64()?), reader.u64()?))
}

/// All codes.
pub fn codes() -> Vec<u8> {
    KeyBuf::tag(b'C').done()
}

/// What a code protects.
pub fn code(k: u8, m: u8) -> Vec<u8> {
    KeyBuf::tag(b'C').u8(k).u8(m).done()
}

/// The inverse of [`code`].
pub fn parse_code(key: &[u8]) -> Option<(u8, u8)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some((reader.u8()?, reader.u8()?))
}

/// What restores lost.
pub fn gaps() -> Vec<u8> {
    KeyBuf::tag(b'G').done()
}

/// A live block.
pub fn block(block: BlockId) -> Vec<u8> {
    KeyBuf::tag(b'b').raw(&block.to_bytes()).done()
}

/// The oldest epoch of a PG that commits may still refer to.
pub fn fence(pg: PgId) -> Vec<u8> {
    KeyBuf::tag(b'E').u32(pg.0).done()
}

/// All live blocks.
pub fn blocks() -> Vec<u8> {
    KeyBuf::tag(b'b').done()
}

/// Inline bytes.
pub fn inline(content: ContentId) -> Vec<u8> {
    KeyBuf::new().u64(content.0).done()
}

/// A bucket.
pub fn bucket(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'B').u64(bucket.0).done()
}

/// A dead block.
pub fn dead(block: BlockId) -> Vec<u8> {
    KeyBuf::tag(b'D').raw(&block.to_bytes()).done()
}

/// The session floor.
pub fn floor() -> Vec<u8> {
    KeyBuf::tag(b'F').done()
}

/// All extents given up.
pub fn all_moved() -> Vec<u8> {
    KeyBuf::tag(b'M').done()
}

/// Extents that one command gave up.
pub fn moved(sequence: u64) -> Vec<u8> {
    KeyBuf::tag(b'M').u64(sequence).done()
}

/// An outbox row.
pub fn outbox(sequence: u64, ordinal: u32) -> Vec<u8> {
    KeyBuf::tag(b'O').u64(sequence).u32(ordinal).done()
}

/// An upload's parts.
pub fn parts(upload: UploadId) -> KeyBuf {
    KeyBuf::tag(b'P').raw(&upload.0)
}

/// A part.
pub fn part(upload: UploadId, number: u16) -> Vec<u8> {
    parts(upload).u16(number).done()
}

/// A missing shard.
pub fn repair(pg: PgId, block: BlockId, slot: u8) -> Vec<u8> {
    KeyBuf::tag(b'R').u32(pg.0).raw(&block.to_bytes()).u8(slot).done()
}

/// The inverse of [`repair`].
pub fn parse_repair(key: &[u8]) -> Option<(PgId, BlockId, u8)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some((PgId(reader.u32()?), BlockId::from_bytes(reader.bytes16()?), reader.u8()?))
}

/// The inverse of [`dead`] and [`block`].
pub fn parse_block(key: &[u8]) -> Option<BlockId> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some(BlockId::from_bytes(reader.bytes16()?))
}

/// A session.
pub fn session(session: SessionId) -> Vec<u8> {
    KeyBuf::tag(b'S').u64(session.0).done()
}

/// A bucket's uploads.
pub fn uploads(bucket: BucketId) -> KeyBuf {
    KeyBuf::tag(b'U').u64(bucket.0)
}

/// An upload.
pub fn upload(upload: &UploadRef) -> Vec<u8> {
    uploads(upload.bucket).name(&upload.key).raw(&upload.id.0).done()
}

/// A bucket's older versions and delete markers.
pub fn versions(bucket: BucketId) -> KeyBuf {
    KeyBuf::tag(b'V').u64(bucket.0)
}

/// An older version; a greater `order` is a newer one and comes first.
pub fn version(bucket: BucketId, key: &[u8], order: u64) -> Vec<u8> {
    versions(bucket).name(key).u64(!order).done()
}

/// Key and order of a version's row.
pub fn parse_version(row: &[u8]) -> Option<(Vec<u8>, u64)> {
    let mut reader = KeyReader(row);
    reader.u8()?;
    reader.u64()?;
    Some((reader.name()?, !reader.u64()?))
}

/// Where the null version of a key stands among its older ones.
pub fn null_version(bucket: BucketId, key: &[u8]) -> Vec<u8> {
    KeyBuf::tag(b'N').u64(bucket.0).name(key).done()
}

/// A bucket's rules about the ends of its objects.
pub fn lifecycle(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'L').u64(bucket.0).done()
}

/// Those rules as the owner gave them.
pub fn lifecycle_text(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'T').u64(bucket.0).done()
}

/// All walks.
pub fn walks() -> Vec<u8> {
    KeyBuf::tag(b'I').done()
}

/// A bucket that is looked through.
pub fn walk(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'I').u64(bucket.0).done()
}

/// The inverse of [`walk`].
pub fn parse_walk(key: &[u8]) -> Option<BucketId> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some(BucketId(reader.u64()?))
}

/// All keys that are to be looked at.
pub fn all_due() -> Vec<u8> {
    KeyBuf::tag(b'W').done()
}

/// Where those begin that are due after a time.
pub fn due_after(at_ms: u64) -> Vec<u8> {
    KeyBuf::tag(b'W').u64(at_ms.saturating_add(1)).done()
}

/// When to look at a key.
pub fn due(at_ms: u64, bucket: BucketId, key: &[u8]) -> Vec<u8> {
    KeyBuf::tag(b'W').u64(at_ms).u64(bucket.0).name(key).done()
}

/// The inverse of [`due`].
pub fn parse_due(row: &[u8]) -> Option<(u64, BucketId, Vec<u8>)> {
    let mut reader = KeyReader(row);
    reader.u8()?;
    Some((reader.u64()?, BucketId(reader.u64()?), reader.name()?))
}

/// Key and id of an upload's row.
pub fn parse_upload(key: &[u8]) -> Option<(Vec<u8>, UploadId)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    reader.u64()?;
    Some((reader.name()?, UploadId(reader.bytes16()?)))
}
