//! What a metadata group answers to queries.

use bytes::Bytes;
use nexusgrid_codec::id::{BlockId, PgId, SessionId};
use serde::{Deserialize, Serialize};

use super::{
    Allowance, CodeUsage, ContentId, DeadBlock, DirEntry, End, EndMark, Extent, FoundExtent, Ino,
    LifecycleLeft, Listing, LiveBlock, Lock, Mount, MountId, NamespaceError, Node, Object,
    PartInfo, Repair, Session, Snapshot, UploadId, UploadInfo, UploadsAfter, Usage, VersionListing,
    VersionRules, WrappedKey,
};
use crate::rows::codec::{self, DecodeError};

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
    /// Nowhere: zeros. The piece's key means nothing.
    Hole,
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
    /// If the answer is bounded: the offset to ask [`super::NamespaceQuery::Extents`] from.
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
    /// Not known, and its session is known to be closed: garbage by definition.
    Unknown,
    /// Of a session that this group never opened: this state is older than the block. Never garbage.
    Unheard,
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
    /// In order; a last part without bytes is not among them.
    PartSizes(Vec<u64>),
    /// Live blocks in order of id.
    LiveBlocks {
        /// The blocks.
        blocks: Vec<LiveBlock>,
        /// Whether there are more.
        more: bool,
    },
    /// What waits to be freed.
    Backlog {
        /// When the first of it was released; `None`: nothing waits.
        oldest_released_ms: Option<u64>,
    },
    /// What each code protects, by (k, m).
    Codes(Vec<CodeUsage>),
    /// Extents that were looked for.
    FoundExtents {
        /// The extents.
        found: Vec<FoundExtent>,
        /// The page after which to go on; `None`: all were seen.
        next: Option<(ContentId, u64)>,
    },
    /// The first move whose old places wait to be freed: commit sequence, and when; `None`: none does.
    OldestMoved(Option<(u64, u64)>),
    /// What waits to be freed: the first and the last commit sequence; `None`: nothing does.
    Released {
        /// Of what nothing refers to any more.
        outbox: Option<(u64, u64)>,
        /// Of places that contents moved away from.
        moved: Option<(u64, u64)>,
    },
    /// How a bucket treats versions.
    Rules(VersionRules),
    /// A listing of versions.
    Versions(VersionListing),
    /// Parts in order; none: no upload made the content.
    PartsOf(Vec<PartInfo>),
    /// A bucket's rules as their owner gave them; `None`: there are none.
    LifecycleText(Option<Vec<u8>>),
    /// What waits to be carried out.
    LifecycleLeft(LifecycleLeft),
    /// Contents that lie in blocks, with their bytes.
    Leaves {
        /// The contents.
        leaves: Vec<(ContentId, u64)>,
        /// Whether there are more.
        more: bool,
    },
    /// All mounts, in order of id.
    Mounts(Vec<Mount>),
    /// A node.
    Node(Box<Node>),
    /// What is in a directory.
    Entries {
        /// In order of stored name.
        entries: Vec<DirEntry>,
        /// Whether there are more.
        more: bool,
    },
    /// An extended attribute.
    Xattr(Vec<u8>),
    /// Names of extended attributes.
    Xattrs(Vec<Vec<u8>>),
    /// A file, and where a range of its bytes is.
    FileMap {
        /// The file.
        node: Box<Node>,
        /// Its key; `None`: it has none of its own, or shares it.
        key: Option<WrappedKey>,
        /// Where its bytes are.
        map: ContentMap,
    },
    /// What lifecycle rules did.
    Ends(Vec<(EndMark, End)>),
    /// What a bucket holds, and what its owner's quota leaves it.
    Held(Usage, Allowance),
    /// A lock that is in the way.
    Conflict(Option<Lock>),
    /// What a mount holds.
    Holds {
        /// Its nodes, in order.
        inos: Vec<Ino>,
        /// Whether there are more.
        more: bool,
    },
    /// The delegation under which a mount has the bucket to itself, and whether it was asked to give it back.
    Delegation(Option<(MountId, u64, bool)>),
    /// For each that was wanted.
    Rows(Vec<RowsFound>),
    /// A bucket's snapshots, oldest first.
    Snapshots(Vec<Snapshot>),
}

/// Rows of a metadata group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsFound {
    /// Keys and values, in the order in which they were wanted.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Whether there may be more.
    pub more: bool,
}

/// A query's reply.
pub type NamespaceQueryReply = Result<NamespaceAnswer, NamespaceError>;

/// Why a query was refused, if it was; nothing else of the reply is read.
pub fn refusal(reply: &[u8]) -> Option<NamespaceError> {
    // The version, then which of the two it is: see [`codec::encode`].
    match reply.get(1) {
        Some(1) => decode_query_reply(reply).ok()?.err(),
        _ => None,
    }
}

/// Reads the reply to a query.
pub fn decode_query_reply(bytes: &[u8]) -> Result<NamespaceQueryReply, DecodeError> {
    codec::decode(bytes)
}
