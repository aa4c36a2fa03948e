//! What each shard carries besides its body: a fixed layout, checked by a crc, that the drive puts
//! into its records and the wire ships before a body.
//!
//! ```text
//!   0  version = 1 │ codec │ k │ m │ index │ 0 0 0
//!   8  block id (16)
//!  24  frame_len │ sealed_len │ body_len            (u32 each)
//!  36  number of frames (u16) │ 0 0
//!  40  crc32c of each stored frame of the body      (u32 each)
//!   …  digest of every sibling, this shard's too    (32 bytes each, k + m of them)
//!   …  crc32c of all the above                      (u32)
//! ```
//!
//! Integers are little-endian; the block id is big-endian as everywhere. Where the shard was placed
//! (placement group, epoch, fill session) is the drive's to record: it changes, this never does.
#![deny(clippy::indexing_slicing)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{CodecError, Result};
use crate::geometry::{BlockLayout, Code};
use crate::id::BlockId;
use crate::limits::TAG_LEN;

const VERSION: u8 = 1;
const FIXED_LEN: usize = 40;
const CRC_LEN: usize = 4;
const DIGEST_LABEL: &[u8] = b"nexusgrid shard v1";

/// What binds a shard to its block (I3): SHA-256 over block id, layout, shard index, frame crcs and
/// the last 16 bytes of each stored frame (its tag), not over the bytes: those are bound by the tag
/// for whoever holds the key, and by the crc against accidents. Cheap, since the frames' crcs and
/// tags exist anyway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardDigest(pub [u8; 32]);

impl ShardDigest {
    /// Bytes of a digest.
    pub const LEN: usize = 32;

    /// The digest of a shard whose frame crcs were computed already.
    pub fn compute(
        block: BlockId,
        layout: &BlockLayout,
        index: u8,
        crcs: &[u32],
        body: &[u8],
    ) -> ShardDigest {
        let code = layout.code();
        let mut hash = Sha256::new();
        hash.update(DIGEST_LABEL);
        hash.update(block.to_bytes());
        hash.update([code.codec().byte(), code.k(), code.m(), index]);
        hash.update(layout.frame_len().to_le_bytes());
        hash.update(layout.sealed_len().to_le_bytes());
        hash.update((body.len() as u32).to_le_bytes());
        for (frame, crc) in body.chunks(layout.stored_frame_len() as usize).zip(crcs) {
            let tag_start = frame.len().saturating_sub(TAG_LEN as usize);
            hash.update(crc.to_le_bytes());
            hash.update(frame.get(tag_start..).unwrap_or_default());
        }
        ShardDigest(hash.finalize().into())
    }
}

impl fmt::Display for ShardDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ShardDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// crc32c of each stored frame of a shard body.
pub fn frame_crcs(layout: &BlockLayout, body: &[u8]) -> Vec<u32> {
    body.chunks(layout.stored_frame_len() as usize).map(crc32c::crc32c).collect()
}

/// Describes one shard of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardHeader {
    /// The block.
    pub block: BlockId,
    /// How the block is cut.
    pub layout: BlockLayout,
    /// Which of its k + m shards this is.
    pub index: u8,
    /// crc32c of each stored frame of the body.
    pub crcs: Arc<[u32]>,
    /// The digests of all k + m shards.
    pub digests: Arc<[ShardDigest]>,
}

impl ShardHeader {
    /// Bytes of the body this header describes.
    pub fn body_len(&self) -> u32 {
        self.layout.body_len(self.index).unwrap_or(0)
    }

    /// This shard's own digest.
    pub fn digest(&self) -> Option<ShardDigest> {
        self.digests.get(usize::from(self.index)).copied()
    }

    /// Whether two headers describe shards of the same write of the same block.
    pub fn is_sibling_of(&self, other: &ShardHeader) -> bool {
        self.block == other.block && self.layout == other.layout && self.digests == other.digests
    }

    /// Checks the length and every frame's crc: against accidents on disk or wire.
    pub fn verify_crcs(&self, body: &[u8]) -> Result<()> {
        let corrupt = CodecError::ShardCorrupt { shard: self.index };
        if body.len() != self.body_len() as usize {
            return Err(corrupt);
        }
        let matches = frame_crcs(&self.layout, body) == *self.crcs;
        if matches { Ok(()) } else { Err(corrupt) }
    }

    /// Checks the length, every frame's crc, and the digest that all siblings hold for this shard.
    pub fn verify(&self, body: &[u8]) -> Result<()> {
        self.verify_crcs(body)?;
        let found = ShardDigest::compute(self.block, &self.layout, self.index, &self.crcs, body);
        if self.digest() == Some(found) {
            Ok(())
        } else {
            Err(CodecError::ShardCorrupt { shard: self.index })
        }
    }

    /// Checks the crcs of a run of whole stored frames of the body that begins with `first`.
    pub fn verify_frames(&self, first: u32, bytes: &[u8]) -> Result<()> {
        let corrupt = CodecError::ShardCorrupt { shard: self.index };
        let frames = bytes.len().div_ceil(self.layout.stored_frame_len() as usize);
        let end = first as usize + frames;
        let expected = self.crcs.get(first as usize..end).ok_or(corrupt)?;
        let range = self.frames_range(first..end as u32);
        if range.len() != bytes.len() || frame_crcs(&self.layout, bytes) != expected {
            return Err(corrupt);
        }
        Ok(())
    }

    /// Bytes of the body where its stored frames `frames` lie (clamped to the body).
    pub fn frames_range(&self, frames: Range<u32>) -> Range<usize> {
        let range = self.layout.body_range(self.index, frames).unwrap_or(0..0);
        range.start as usize..range.end as usize
    }

    /// Bytes of [`ShardHeader::encode`].
    pub fn encoded_len(&self) -> usize {
        FIXED_LEN + CRC_LEN * self.crcs.len() + ShardDigest::LEN * self.digests.len() + CRC_LEN
    }

    /// The bytes of this header.
    pub fn encode(&self) -> Vec<u8> {
        let code = self.layout.code();
        let mut out = Vec::with_capacity(self.encoded_len());
        out.extend([VERSION, code.codec().byte(), code.k(), code.m(), self.index, 0, 0, 0]);
        out.extend(self.block.to_bytes());
        out.extend(self.layout.frame_len().to_le_bytes());
        out.extend(self.layout.sealed_len().to_le_bytes());
        out.extend(self.body_len().to_le_bytes());
        out.extend((self.crcs.len() as u16).to_le_bytes());
        out.extend([0, 0]);
        for crc in self.crcs.iter() {
            out.extend(crc.to_le_bytes());
        }
        for digest in self.digests.iter() {
            out.extend(digest.0);
        }
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out
    }

    /// Decodes a header at the start of `bytes`; gives it and what follows it. Refuses anything
    /// that [`ShardHeader::encode`] does not write. Allocates at most what the limits allow.
    pub fn decode(bytes: &[u8]) -> Result<(ShardHeader, &[u8])> {
        let mut reader = Reader { rest: bytes };
        let [version] = reader.array()?;
        if version != VERSION {
            return Err(CodecError::UnknownVersion { format: "shard header", version });
        }
        let [codec, k, m, index, 0, 0, 0] = reader.array()? else {
            return Err(MALFORMED);
        };
        let block = BlockId::from_bytes(reader.array()?);
        let frame_len = u32::from_le_bytes(reader.array()?);
        let sealed_len = u32::from_le_bytes(reader.array()?);
        let body_len = u32::from_le_bytes(reader.array()?);
        let frame_count = u16::from_le_bytes(reader.array()?);
        let [0, 0] = reader.array()? else {
            return Err(MALFORMED);
        };
        let code = Code::from_parts(codec, k, m).map_err(|_| MALFORMED)?;
        let layout = BlockLayout::new(code, frame_len, sealed_len).map_err(|_| MALFORMED)?;
        let consistent = layout.body_len(index) == Some(body_len)
            && layout.body_frames(index) == Some(u32::from(frame_count));
        if !consistent {
            return Err(MALFORMED);
        }
        let crcs = (0..frame_count)
            .map(|_| Ok(u32::from_le_bytes(reader.array()?)))
            .collect::<Result<Arc<[u32]>>>()?;
        let digests = (0..code.shards())
            .map(|_| Ok(ShardDigest(reader.array()?)))
            .collect::<Result<Arc<[ShardDigest]>>>()?;
        let covered_len = bytes.len() - reader.rest.len();
        let (covered, _) = bytes.split_at_checked(covered_len).ok_or(MALFORMED)?;
        if u32::from_le_bytes(reader.array()?) != crc32c::crc32c(covered) {
            return Err(MALFORMED);
        }
        Ok((ShardHeader { block, layout, index, crcs, digests }, reader.rest))
    }
}

const MALFORMED: CodecError = CodecError::Malformed("shard header");

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(MALFORMED)?;
        self.rest = rest;
        Ok(*head)
    }
}
