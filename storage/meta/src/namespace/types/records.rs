//! What rows hold besides objects, as queries show it: uploads, parts, sessions, counters and what
//! is left to do.

use nexusgrid_codec::id::{BlockId, Epoch, PgId, SessionId};
use nexusgrid_env::NodeId;
use serde::{Deserialize, Serialize};

use super::{Checksum, ChecksumAlgorithm, ChecksumKind, ContentId, ObjectMeta};

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

/// A bucket's counters (I8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Objects, all their versions.
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

/// A shard that was missing and is there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The PG.
    pub pg: PgId,
    /// The block.
    pub block: BlockId,
    /// The slot.
    pub slot: u8,
    /// [`Repair::sequence`] as it was before the shard was seen whole.
    pub sequence: u64,
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

/// A block that extents refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveBlock {
    /// The block.
    pub block: BlockId,
    /// Where it is.
    pub pg: PgId,
    /// Epoch of its commit.
    pub epoch: Epoch,
    /// Plaintext bytes of it.
    pub len: u32,
    /// Plaintext bytes that extents refer to.
    pub live_bytes: u32,
    /// Data shards.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
    /// Bit i: the shard of slot i is on the repair queue.
    pub missing_mask: u32,
}
