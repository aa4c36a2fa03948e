//! What a writer says about a content: its key, its bytes and the blocks that hold them.

use bytes::Bytes;
use nexusgrid_codec::id::{BlockId, Epoch, PgId};
use serde::{Deserialize, Serialize};

use super::{BucketId, ContentId};

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
    /// Staged before, in order (see [`super::NamespaceCommand::Stage`]).
    Staged(Vec<ContentId>),
    /// As `Extents`, of a content that lies in copies, whatever its size.
    Copies(Vec<Extent>),
}
