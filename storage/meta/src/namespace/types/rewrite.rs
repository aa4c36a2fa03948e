//! What moves contents to other blocks says and learns.

use nexusgrid_codec::id::BlockId;
use serde::{Deserialize, Serialize};

use super::{ContentId, Extent, WrappedKey};

/// One extent to be replaced: the same bytes of the same content, in another block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swap {
    /// Whose.
    pub content: ContentId,
    /// As it must be, to the last field.
    pub old: Extent,
    /// Of a block that the same command names; offset and length are the old one's.
    pub new: Extent,
}

/// Extents of one code, of contents that are large enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeFilter {
    /// Data shards.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
    /// Only of contents of more bytes than this; `None`: of all.
    pub over: Option<u64>,
}

/// Which extents are looked for: those that lie in one of the blocks, or pass one of the filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentFilter {
    /// Blocks.
    pub blocks: Vec<BlockId>,
    /// Codes.
    pub codes: Vec<CodeFilter>,
}

/// An extent that was looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundExtent {
    /// Whose.
    pub content: ContentId,
    /// Bytes of that content, as far as its code depends on them: 0 of one that is to lie in copies.
    pub size: u64,
    /// Its key.
    pub key: WrappedKey,
    /// The extent.
    pub extent: Extent,
}

/// What one code protects in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeUsage {
    /// Data shards.
    pub k: u8,
    /// Parity shards.
    pub m: u8,
    /// Live blocks.
    pub blocks: u64,
    /// Plaintext bytes of live blocks, dead ones in them included.
    pub block_bytes: u64,
    /// Plaintext bytes that extents of contents lie in.
    pub bytes: u64,
    /// Those of contents that are too large for packs.
    pub large_bytes: u64,
}
