//! What a metadata group can be asked.

use nexusgrid_codec::id::{BlockId, PgId};
use serde::{Deserialize, Serialize};

use super::{
    BucketId, ContentId, ExtentFilter, Ino, MountId, PosixQuery, SnapshotId, UploadId, UploadRef,
    VersionRef, VersionsAfter,
};
use crate::rows::codec;

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
    /// Sizes of the parts of a content that an upload made. → `PartSizes`.
    PartSizes {
        /// The content.
        content: ContentId,
    },
    /// Whether anything waits to be freed, and since when. → `Backlog`.
    Backlog,
    /// Live blocks in order of id: for whoever compares them with drives. → `LiveBlocks`.
    LiveBlocks {
        /// After this one.
        after: Option<BlockId>,
        /// At most so many.
        limit: u32,
    },
    /// What each code protects. → `Codes`.
    Codes,
    /// Extents that a rewrite is to move, content by content. → `FoundExtents`.
    FindExtents {
        /// Which.
        filter: ExtentFilter,
        /// After this page: content and offset.
        after: Option<(ContentId, u64)>,
        /// So many are enough; the answer ends with the page that brings them.
        limit: u32,
    },
    /// Whether places that contents moved away from wait to be freed. → `OldestMoved`.
    OldestMoved,
    /// From and to which commit sequence things wait to be freed. → `Released`.
    Released,
    /// How a bucket treats versions. → `Rules`.
    Rules {
        /// The bucket.
        bucket: BucketId,
    },
    /// As `Head`, of any version; of one that is a delete marker it says so. → `Object`.
    HeadVersion {
        /// Which.
        version: VersionRef,
    },
    /// As `Get`, of any version. → `Get`.
    GetVersion {
        /// Which.
        version: VersionRef,
        /// Which bytes.
        range: RangeSpec,
    },
    /// Versions and delete markers: keys in byte order, of each the newest first. → `Versions`.
    ListVersions {
        /// The bucket.
        bucket: BucketId,
        /// Keys begin with this.
        prefix: Vec<u8>,
        /// Rolls up keys that hold it after the prefix.
        delimiter: Option<Vec<u8>>,
        /// Where to go on.
        after: Option<VersionsAfter>,
        /// At most so many versions, markers and common prefixes together.
        limit: u32,
    },
    /// Parts of a content that an upload made, in order; a last one without bytes is not among them.
    /// → `PartsOf`.
    PartsOf {
        /// The content.
        content: ContentId,
        /// How many parts to leave out at the beginning.
        skip: u32,
        /// At most so many.
        limit: u32,
    },
    /// What becomes of a bucket's objects with time, as the owner gave it. → `LifecycleText`.
    Lifecycle {
        /// The bucket.
        bucket: BucketId,
    },
    /// What waits to be carried out of that, of all buckets. → `LifecycleLeft`.
    LifecycleLeft {
        /// Now.
        now_ms: u64,
    },
    /// The contents in whose blocks a content's bytes lie, in order of id. → `Leaves`.
    Leaves {
        /// The content.
        content: ContentId,
        /// After this one.
        after: Option<ContentId>,
        /// At most so many.
        limit: u32,
    },
    /// All mounts, in order of id. → `Mounts`.
    Mounts,
    /// What a mount asks. → as it says.
    Posix {
        /// The bucket.
        bucket: BucketId,
        /// What.
        query: PosixQuery,
    },
    /// What lifecycle rules did that is to be told, oldest first. → `Ends`.
    Ends {
        /// At most so many, and `limits::ENDS_MAX`.
        limit: u32,
    },
    /// What a bucket holds, and what its owner's quota leaves it. → `Held`.
    Held {
        /// The bucket.
        bucket: BucketId,
    },
    /// Whether a mount has the bucket to itself. → `Delegation`.
    Delegation {
        /// The bucket.
        bucket: BucketId,
    },
    /// Rows that a mount needs which has its bucket to itself. → `Rows`, one answer each.
    Rows {
        /// Whose.
        mount: MountId,
        /// Under which delegation.
        grant: u64,
        /// Which; at most `limits::ROWS_WANTED_MAX`.
        wanted: Vec<RowsWanted>,
    },
    /// A bucket's snapshots, oldest first. → `Snapshots`.
    Snapshots {
        /// The bucket.
        bucket: BucketId,
        /// Only those that show this directory.
        of: Option<Ino>,
    },
    /// As `Posix`, of what a snapshot shows. → as there.
    Past {
        /// The bucket.
        bucket: BucketId,
        /// The snapshot.
        snapshot: SnapshotId,
        /// What.
        query: PosixQuery,
    },
}

/// Rows of a metadata group, by the name of their family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RowsWanted {
    /// The row of this key, if there is one.
    Get {
        /// Which family.
        family: String,
        /// Its key.
        key: Vec<u8>,
    },
    /// Rows of `start..end`, as many as one answer may hold.
    Scan {
        /// Which family.
        family: String,
        /// The first key.
        start: Vec<u8>,
        /// The first key beyond; `None`: to the family's end.
        end: Option<Vec<u8>>,
        /// From the end backwards.
        reverse: bool,
        /// At most so many (1 to `limits::ANSWER_ROWS_MAX`).
        limit: u32,
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

codec::wire!(NamespaceQuery);
