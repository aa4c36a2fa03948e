//! Who holds which bytes: frames, regions, shards. Arithmetic only.
//!
//! ```text
//!  plaintext of a region   │ frame 0 │ frame 1 │ … │ last │          frame_len bytes each
//!  sealed region           │ frame 0 ‖ tag │ frame 1 ‖ tag │ … │      frame_len + 16 bytes each
//!  sealed block            one region; or, for copies, a pack: region ‖ region ‖ …
//!  data shard i of k       stored frames [i·⌈F/k⌉, (i+1)·⌈F/k⌉), the last shards fewer or none
//!  parity shard            as long as data shard 0; bytes that a data shard lacks count as zero
//! ```
//!
//! Lengths and offsets are bytes in `u32`: a sealed block is a little over 8 MiB at most.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::{CodecError, Result};
use crate::limits::{
    BLOCK_LEN_MAX, DATA_SHARDS_MAX, FRAME_LEN_MAX, FRAME_LEN_STEP, FRAMES_MAX, SEALED_LEN_MAX,
    SHARDS_MAX, TAG_LEN,
};

/// How a sealed block becomes shards. The byte stands in placement groups, shard headers, extents
/// and every AAD; zero is never a codec, so that zeroed bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CodecId {
    /// Every shard is the whole sealed block.
    Copy = 1,
    /// Reed–Solomon over GF(2^8), systematic, Vandermonde.
    ReedSolomon = 2,
}

impl CodecId {
    /// The codec of this byte.
    pub fn from_byte(byte: u8) -> Result<CodecId> {
        match byte {
            1 => Ok(CodecId::Copy),
            2 => Ok(CodecId::ReedSolomon),
            _ => Err(CodecError::Malformed("codec byte")),
        }
    }

    /// The byte of this codec.
    pub fn byte(self) -> u8 {
        self as u8
    }
}

/// A codec with its parameters: any `k` of `k + m` shards restore a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8, u8)", into = "(u8, u8, u8)")]
pub struct Code {
    codec: CodecId,
    k: u8,
    m: u8,
}

impl Code {
    /// `copies` whole copies: k = 1, m = copies − 1.
    pub fn copies(copies: u8) -> Result<Code> {
        if copies == 0 || copies > SHARDS_MAX {
            return Err(CodecError::Geometry("number of copies"));
        }
        Ok(Code { codec: CodecId::Copy, k: 1, m: copies - 1 })
    }

    /// Reed–Solomon with `k` ≥ 2 data and `m` ≥ 1 parity shards.
    pub fn reed_solomon(k: u8, m: u8) -> Result<Code> {
        let shards = u16::from(k) + u16::from(m);
        if !(2..=DATA_SHARDS_MAX).contains(&k) || m == 0 || shards > u16::from(SHARDS_MAX) {
            return Err(CodecError::Geometry("Reed-Solomon parameters"));
        }
        Ok(Code { codec: CodecId::ReedSolomon, k, m })
    }

    /// From the three bytes that stand in headers and rows.
    pub fn from_parts(codec: u8, k: u8, m: u8) -> Result<Code> {
        match (CodecId::from_byte(codec)?, k, m.checked_add(1)) {
            (CodecId::Copy, 1, Some(copies)) => Code::copies(copies),
            (CodecId::Copy, _, _) => Err(CodecError::Geometry("copies have k = 1")),
            (CodecId::ReedSolomon, k, _) => Code::reed_solomon(k, m),
        }
    }

    /// The codec.
    pub fn codec(self) -> CodecId {
        self.codec
    }

    /// Shards that suffice to restore.
    pub fn k(self) -> u8 {
        self.k
    }

    /// Shards beyond those.
    pub fn m(self) -> u8 {
        self.m
    }

    /// All shards of a block: k + m.
    pub fn shards(self) -> u8 {
        self.k + self.m
    }

    /// Acknowledgements that make a write durable (I1): min(k + 1, k + m).
    pub fn quorum(self) -> u8 {
        self.k + self.m.min(1)
    }

    /// The frame length for a region of `plain_len` bytes: min(64 KiB, ⌈plain_len / k⌉ rounded up
    /// to 512 B), so that small blocks still spread over all k shards.
    pub fn frame_len(self, plain_len: u32) -> u32 {
        let per_shard = plain_len.div_ceil(u32::from(self.k)).max(1);
        per_shard.min(FRAME_LEN_MAX).next_multiple_of(FRAME_LEN_STEP)
    }
}

impl TryFrom<(u8, u8, u8)> for Code {
    type Error = CodecError;

    fn try_from((codec, k, m): (u8, u8, u8)) -> Result<Code> {
        Code::from_parts(codec, k, m)
    }
}

impl From<Code> for (u8, u8, u8) {
    fn from(code: Code) -> (u8, u8, u8) {
        (code.codec.byte(), code.k, code.m)
    }
}

/// One separately sealed content within a block: where it starts, how long it is, how it is cut.
/// Stands in extents; needed to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
pub struct Region {
    offset: u32,
    plain_len: u32,
    frame_len: u32,
}

impl Region {
    /// The region of `plain_len` bytes at `offset` of a sealed block under `code`. Only copies can
    /// hold a region beyond offset 0.
    pub fn new(code: Code, offset: u32, plain_len: u32) -> Result<Region> {
        if offset != 0 && code.codec != CodecId::Copy {
            return Err(CodecError::Geometry("only copies can be packs"));
        }
        Region::from_parts(offset, plain_len, code.frame_len(plain_len.min(BLOCK_LEN_MAX)))
    }

    /// From the numbers of an extent row.
    pub fn from_parts(offset: u32, plain_len: u32, frame_len: u32) -> Result<Region> {
        check_frame_len(frame_len)?;
        if plain_len > BLOCK_LEN_MAX || offset > SEALED_LEN_MAX {
            return Err(CodecError::Geometry("region beyond a block"));
        }
        let region = Region { offset, plain_len, frame_len };
        if region.frame_count() > FRAMES_MAX {
            return Err(CodecError::Geometry("too many frames"));
        }
        if offset + region.sealed_len() > SEALED_LEN_MAX {
            return Err(CodecError::Geometry("region beyond a block"));
        }
        Ok(region)
    }

    /// Where the region's first frame starts in the sealed block.
    pub fn offset(self) -> u32 {
        self.offset
    }

    /// Plaintext length.
    pub fn plain_len(self) -> u32 {
        self.plain_len
    }

    /// Plaintext bytes of each frame but the last.
    pub fn frame_len(self) -> u32 {
        self.frame_len
    }

    /// Bytes of each stored frame but the last: ciphertext and tag.
    pub fn stored_frame_len(self) -> u32 {
        self.frame_len + TAG_LEN
    }

    /// Frames; at least one, so that emptiness is authenticated too.
    pub fn frame_count(self) -> u32 {
        self.plain_len.div_ceil(self.frame_len).max(1)
    }

    /// Ciphertext and tags, in bytes.
    pub fn sealed_len(self) -> u32 {
        self.plain_len + self.frame_count() * TAG_LEN
    }

    /// Plaintext bytes that frame `frame` covers; empty beyond the last frame.
    pub fn frame_plain_range(self, frame: u32) -> Range<u32> {
        let start = frame.saturating_mul(self.frame_len).min(self.plain_len);
        start..start.saturating_add(self.frame_len).min(self.plain_len)
    }

    /// Length of stored frame `frame`; `None` beyond the last.
    pub fn stored_len(self, frame: u32) -> Option<u32> {
        (frame < self.frame_count()).then(|| {
            let plain = self.frame_plain_range(frame);
            plain.end - plain.start + TAG_LEN
        })
    }

    /// The frames that cover plaintext bytes `plain` of this region (clamped to it).
    pub fn frames_covering(self, plain: Range<u32>) -> Range<u32> {
        let end = plain.end.min(self.plain_len);
        if plain.start >= end {
            return 0..0;
        }
        plain.start / self.frame_len..end.div_ceil(self.frame_len)
    }

    /// Bytes of the sealed *block* where the stored frames `frames` lie.
    pub fn sealed_range(self, frames: Range<u32>) -> Range<u32> {
        let at = |frame: u32| {
            self.offset + frame.saturating_mul(self.stored_frame_len()).min(self.sealed_len())
        };
        at(frames.start)..at(frames.end)
    }

    /// What to fetch for plaintext bytes `plain` of this region: whole stored frames, by shard, in
    /// order. Under [`CodecId::Copy`] there is one span, and any shard serves it.
    pub fn spans(self, code: Code, plain: Range<u32>) -> Result<Vec<ShardSpan>> {
        let frames = self.frames_covering(plain);
        if frames.is_empty() {
            return Ok(Vec::new());
        }
        if code.codec == CodecId::Copy {
            let body = self.sealed_range(frames.clone());
            return Ok(vec![ShardSpan { shard: 0, body, frames }]);
        }
        let layout = BlockLayout::of_region(code, self)?;
        let per_shard = layout.frames_per_shard();
        let mut spans = Vec::new();
        let mut first = frames.start;
        while first < frames.end {
            let shard = first / per_shard;
            let end = ((shard + 1) * per_shard).min(frames.end);
            let sealed = self.sealed_range(first..end);
            let base = shard * layout.shard_len();
            spans.push(ShardSpan {
                shard: u8::try_from(shard).map_err(|_| CodecError::Geometry("shard index"))?,
                body: sealed.start - base..sealed.end - base,
                frames: first..end,
            });
            first = end;
        }
        Ok(spans)
    }
}

impl TryFrom<(u32, u32, u32)> for Region {
    type Error = CodecError;

    fn try_from((offset, plain_len, frame_len): (u32, u32, u32)) -> Result<Region> {
        Region::from_parts(offset, plain_len, frame_len)
    }
}

impl From<Region> for (u32, u32, u32) {
    fn from(region: Region) -> (u32, u32, u32) {
        (region.offset, region.plain_len, region.frame_len)
    }
}

/// Part of one shard's body that a read needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSpan {
    /// The shard's index in its block (for copies: 0, and any other serves as well).
    pub shard: u8,
    /// Bytes of the shard's body: whole stored frames.
    pub body: Range<u32>,
    /// Which frames of the region these are.
    pub frames: Range<u32>,
}

/// How a sealed block is cut into shards. Three numbers determine everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockLayout {
    code: Code,
    frame_len: u32,
    sealed_len: u32,
}

impl BlockLayout {
    /// From the numbers of a shard header.
    pub fn new(code: Code, frame_len: u32, sealed_len: u32) -> Result<BlockLayout> {
        check_frame_len(frame_len)?;
        if !(TAG_LEN..=SEALED_LEN_MAX).contains(&sealed_len) {
            return Err(CodecError::Geometry("sealed length"));
        }
        let layout = BlockLayout { code, frame_len, sealed_len };
        let frames = layout.frame_count();
        if frames > FRAMES_MAX {
            return Err(CodecError::Geometry("too many frames"));
        }
        let last = sealed_len - (frames - 1) * layout.stored_frame_len();
        let last_is_frame = last > TAG_LEN || (frames == 1 && last == TAG_LEN);
        if code.codec != CodecId::Copy && !last_is_frame {
            return Err(CodecError::Geometry("last frame shorter than its tag"));
        }
        Ok(layout)
    }

    /// The layout of a block that holds this region alone.
    pub fn of_region(code: Code, region: Region) -> Result<BlockLayout> {
        if region.offset != 0 {
            return Err(CodecError::Geometry("region is part of a pack"));
        }
        BlockLayout::new(code, region.frame_len, region.sealed_len())
    }

    /// The layout of a pack of `sealed_len` bytes. Its regions have frames of their own lengths, so
    /// its checksummed frames are plain cuts of [`FRAME_LEN_MAX`] + 16 bytes.
    pub fn of_pack(code: Code, sealed_len: u32) -> Result<BlockLayout> {
        if code.codec != CodecId::Copy {
            return Err(CodecError::Geometry("only copies can be packs"));
        }
        BlockLayout::new(code, FRAME_LEN_MAX, sealed_len)
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Plaintext bytes of a full frame.
    pub fn frame_len(&self) -> u32 {
        self.frame_len
    }

    /// Bytes of a full stored frame.
    pub fn stored_frame_len(&self) -> u32 {
        self.frame_len + TAG_LEN
    }

    /// Bytes of the sealed block.
    pub fn sealed_len(&self) -> u32 {
        self.sealed_len
    }

    /// Stored frames of the sealed block.
    pub fn frame_count(&self) -> u32 {
        self.sealed_len.div_ceil(self.stored_frame_len())
    }

    /// Stored frames of a full data shard.
    pub fn frames_per_shard(&self) -> u32 {
        self.frame_count().div_ceil(u32::from(self.code.k))
    }

    /// Bytes of data shard 0, and of every parity shard or copy: the longest body of the block.
    pub fn shard_len(&self) -> u32 {
        (self.frames_per_shard() * self.stored_frame_len()).min(self.sealed_len)
    }

    /// Bytes of the sealed block that data shard `shard` holds; a copy holds all of them. `None`
    /// for a parity shard and beyond the last shard.
    pub fn data_range(&self, shard: u8) -> Option<Range<u32>> {
        if shard >= self.code.shards() {
            return None;
        }
        if self.code.codec == CodecId::Copy {
            return Some(0..self.sealed_len);
        }
        (shard < self.code.k).then(|| {
            let at = |index: u32| (index * self.shard_len()).min(self.sealed_len);
            at(u32::from(shard))..at(u32::from(shard) + 1)
        })
    }

    /// Bytes of shard `shard`'s body; `None` beyond the last shard.
    pub fn body_len(&self, shard: u8) -> Option<u32> {
        if shard >= self.code.shards() {
            return None;
        }
        Some(self.data_range(shard).map_or(self.shard_len(), |range| range.end - range.start))
    }

    /// Stored frames of shard `shard`'s body; `None` beyond the last shard.
    pub fn body_frames(&self, shard: u8) -> Option<u32> {
        Some(self.body_len(shard)?.div_ceil(self.stored_frame_len()))
    }

    /// Bytes of shard `shard`'s body where its stored frames `frames` lie (clamped to the body).
    pub fn body_range(&self, shard: u8, frames: Range<u32>) -> Option<Range<u32>> {
        let len = self.body_len(shard)?;
        let at = |frame: u32| frame.saturating_mul(self.stored_frame_len()).min(len);
        Some(at(frames.start)..at(frames.end))
    }
}

fn check_frame_len(frame_len: u32) -> Result<()> {
    let valid = (FRAME_LEN_STEP..=FRAME_LEN_MAX).contains(&frame_len)
        && frame_len.is_multiple_of(FRAME_LEN_STEP);
    if valid { Ok(()) } else { Err(CodecError::Geometry("frame length")) }
}
