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
//!          'K' sequence ordinal                      → EndRow     lifecycle rules did it, to be told
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
//!          'Y' bucket                                → u64        what lifecycle rules do here is told
//! ```
//!
//! What mounts know has more rows: [`super::posix::rows`]; so have snapshots: [`super::snapshots::rows`].
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

use super::limits;
use super::posix::rows::{Directory, Inode};
use super::types::{
    Allowance, BucketId, ContentId, DeleteMarker, End, Extent, Ino, Lifecycle, MountId, Object,
    PartInfo, SnapshotId, UploadId, UploadInfo, Usage, VersionRules, WrappedKey,
};

mod keys;

pub use keys::*;

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
    /// A directory that mounts know.
    Directory(Directory),
    /// Another node that mounts know, and that has this name only.
    Inode(Inode),
    /// One of the names of a node, which stands in its 'J' row.
    Link(Ino),
}

impl Dentry {
    /// What every directory has, if it is one.
    pub fn dir(&self) -> Option<DirRow> {
        match self {
            Dentry::Dir(row) => Some(*row),
            Dentry::Directory(dir) => Some(dir.row),
            Dentry::File(_) | Dentry::Inode(_) | Dentry::Link(_) => None,
        }
    }
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
    /// In use, and its owner has a quota.
    Limited(LiveBucket, VersionRules, Allowance),
}

impl BucketRow {
    /// The bucket, if it is in use.
    pub fn live(self) -> Option<LiveBucket> {
        match self {
            BucketRow::Live(row) => Some(row),
            BucketRow::Versioned(row, rules) => Some(LiveBucket { rules, ..row }),
            BucketRow::Limited(row, rules, allowance) => {
                Some(LiveBucket { rules, allowance, ..row })
            }
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
    /// What its owner's quota leaves it; stands beside this, too.
    #[serde(skip)]
    pub allowance: Allowance,
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
    /// As `Linked`, and it may grow at its end ([`super::append`]). No object's content is one: it is seen
    /// through a view, a content of one segment, whose size is fixed.
    Log,
    /// Of a file that mounts write: extents and segments in order, with gaps, which are zeros
    /// ([`super::posix`]).
    File {
        /// Its key.
        key: WrappedKey,
        /// Whether it is to lie in copies.
        copies: bool,
    },
}

impl ContentRow {
    /// Bytes, as far as it depends on them in which code it is to lie: none of what is to lie in copies.
    pub fn coded_size(&self) -> u64 {
        if matches!(self.kind, ContentKind::Copies { .. }) { 0 } else { self.size }
    }

    /// As [`ContentRow::coded_size`], of one of its extents: those of a file that mounts write each count by
    /// themselves, for it has no size that lasts.
    pub fn coded_size_of(&self, extent: &Extent) -> u64 {
        match self.kind {
            ContentKind::File { copies: true, .. } => 0,
            ContentKind::File { copies: false, .. } => extent.len,
            _ => self.coded_size(),
        }
    }

    /// The key of what is written by ranges to the file of so many bytes that has this content, if it is the file's
    /// own. One that ends behind the file is about to lose its end ([`super::posix`]): nothing is written there.
    pub fn own_key(&self, size: u64) -> Option<&WrappedKey> {
        match &self.kind {
            _ if self.size > size => None,
            ContentKind::Extents { key } | ContentKind::Copies { key }
                if self.references == 1 && self.size <= limits::LOOSENED_BYTES_MAX =>
            {
                Some(key)
            }
            ContentKind::File { key, .. } if self.references == 1 => Some(key),
            _ => None,
        }
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
    /// Of a file that mounts write: between parts there may be gaps.
    Mixed {
        /// Commit sequence.
        sequence: u64,
        /// The parts.
        parts: Vec<Part>,
    },
}

impl Page {
    /// What it holds, in order.
    pub fn into_parts(self) -> Vec<Part> {
        match self {
            Page::Extents { extents, .. } => extents.into_iter().map(Part::Own).collect(),
            Page::Segments { segments, .. } => segments.into_iter().map(Part::Of).collect(),
            Page::Mixed { parts, .. } => parts,
        }
    }
}

/// A range of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Bytes of its own.
    Own(Extent),
    /// Bytes of another content.
    Of(Segment),
}

impl Part {
    /// Where it starts in the content.
    pub fn offset(&self) -> u64 {
        match self {
            Part::Own(extent) => extent.offset,
            Part::Of(segment) => segment.offset,
        }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        match self {
            Part::Own(extent) => extent.len,
            Part::Of(segment) => segment.len,
        }
    }

    /// Whether it has none; never stored.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where it ends in the content.
    pub fn end(&self) -> u64 {
        self.offset().saturating_add(self.len())
    }

    /// What of it lies in `from..to` of the content; `None`: nothing.
    pub fn piece(&self, from: u64, to: u64) -> Option<Part> {
        let (start, end) = (self.offset().max(from), self.end().min(to));
        let len = end.checked_sub(start).filter(|len| *len > 0)?;
        let into = start - self.offset();
        Some(match self {
            Part::Own(extent) => {
                let skip =
                    u32::try_from(into).ok().and_then(|into| extent.skip.checked_add(into))?;
                Part::Own(Extent { offset: start, len, skip, ..*extent })
            }
            Part::Of(segment) => {
                let skip = segment.skip.saturating_add(into);
                Part::Of(Segment { offset: start, len, skip, ..*segment })
            }
        })
    }
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
    /// What a mount that has ended held, locked and reserved.
    Mount(MountId),
    /// Where nodes that are gone were, their extended attributes and locks.
    Nodes(BucketId, Vec<Ino>),
    /// The end of a file that was cut: what lies behind its `CutRow`.
    End(ContentId),
    /// What was kept for a snapshot that is dropped.
    Snapshot(BucketId, SnapshotId),
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

/// What lifecycle rules did, to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRow {
    /// Commit sequence.
    pub sequence: u64,
    /// What it was.
    pub end: End,
}
