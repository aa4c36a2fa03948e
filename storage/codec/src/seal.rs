//! Sealed regions and the blocks they make.
//!
//! A content is sealed in frames under a key of its own place: key = HKDF(content key, block id ‖
//! offset), nonce = frame index, AAD = cluster, block id, offset, frame index, final flag, length,
//! codec. So a frame opens only where it was sealed: not in another block, place, order, cluster or
//! length, and neither cut short nor extended. Frames open one by one, so a range read opens
//! only what it needs.
//!
//! I14 holds because block ids are never reused and [`SealingBlock`] seals each offset of its block
//! once: a retry with other bytes must take a new block id, hence a new [`SealingBlock`].

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::aead::{Aead, NONCE_LEN};
use crate::error::{CodecError, Result};
use crate::geometry::{BlockLayout, Code, CodecId, Region};
use crate::id::{BlockId, ClusterId};
use crate::keys::ContentKey;
use crate::limits::{BLOCK_LEN_MAX, SEALED_LEN_MAX, TAG_LEN};

const AAD_VERSION: u8 = 1;
const AAD_LEN: usize = 1 + 16 + BlockId::LEN + 4 + 4 + 1 + 4 + 1;

/// Where a region lives: everything its frames are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionContext {
    /// The cluster.
    pub cluster: ClusterId,
    /// The block.
    pub block: BlockId,
    /// The code of the block's placement group.
    pub codec: CodecId,
    /// The region within the block.
    pub region: Region,
}

impl RegionContext {
    /// Version ‖ cluster ‖ block id ‖ region offset ‖ frame index ‖ final flag ‖ plaintext length
    /// ‖ codec; integers big-endian.
    fn aad(&self, frame: u32) -> [u8; AAD_LEN] {
        let last = frame + 1 == self.region.frame_count();
        let mut aad = [0; AAD_LEN];
        aad[0] = AAD_VERSION;
        aad[1..17].copy_from_slice(&self.cluster.0);
        aad[17..33].copy_from_slice(&self.block.to_bytes());
        aad[33..37].copy_from_slice(&self.region.offset().to_be_bytes());
        aad[37..41].copy_from_slice(&frame.to_be_bytes());
        aad[41] = u8::from(last);
        aad[42..46].copy_from_slice(&self.region.plain_len().to_be_bytes());
        aad[46] = self.codec.byte();
        aad
    }
}

fn nonce(frame: u32) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 4..].copy_from_slice(&frame.to_be_bytes());
    nonce
}

/// Opens the frames of one region.
pub struct RegionCipher {
    context: RegionContext,
    aead: Box<dyn Aead>,
}

impl RegionCipher {
    /// For the region of `context`, sealed under `content_key`.
    pub fn new(content_key: &ContentKey, context: RegionContext) -> RegionCipher {
        let block_key = content_key.block_key(context.block, context.region.offset());
        RegionCipher { context, aead: block_key.cipher() }
    }

    /// Where this region lives.
    pub fn context(&self) -> &RegionContext {
        &self.context
    }

    /// Opens stored frame `frame` in place; the plaintext is `stored` without its last 16 bytes.
    pub fn open_frame(&self, frame: u32, stored: &mut [u8]) -> Result<()> {
        let expected_len = self.context.region.stored_len(frame);
        if expected_len.map(|len| len as usize) != Some(stored.len()) {
            return Err(CodecError::Geometry("stored frame length"));
        }
        self.aead
            .open_in_place(nonce(frame), &self.context.aad(frame), stored)
            .map_err(|_| CodecError::FrameCorrupt { frame })
    }

    /// Opens a run of whole stored frames that begins with frame `first`; gives each frame's
    /// plaintext, or [`CodecError::FrameCorrupt`], for each on its own, so that one bad frame can
    /// be rebuilt alone. Copies nothing.
    pub fn open_each(&self, first: u32, mut stored: BytesMut) -> Result<Vec<Result<Bytes>>> {
        let mut frames = Vec::new();
        let mut frame = first;
        while !stored.is_empty() {
            let len = self.context.region.stored_len(frame).map(|len| len as usize);
            let Some(len) = len.filter(|len| *len <= stored.len()) else {
                return Err(CodecError::Geometry("stored frames beyond their region"));
            };
            let mut one = stored.split_to(len);
            frames.push(self.open_frame(frame, &mut one).map(|()| {
                one.truncate(len - TAG_LEN as usize);
                one.freeze()
            }));
            frame += 1;
        }
        Ok(frames)
    }

    /// Opens a run of whole stored frames that begins with frame `first`, or fails with the first
    /// bad frame.
    pub fn open_frames(&self, first: u32, stored: BytesMut) -> Result<Vec<Bytes>> {
        self.open_each(first, stored)?.into_iter().collect()
    }

    /// Opens a run of whole stored frames and keeps only the plaintext bytes `plain` of the region.
    pub fn open_range(
        &self,
        first: u32,
        stored: BytesMut,
        plain: Range<u32>,
    ) -> Result<Vec<Bytes>> {
        let mut pieces = self.open_frames(first, stored)?;
        for (frame, piece) in (first..).zip(&mut pieces) {
            *piece = trim(self.context.region, frame, piece, &plain);
        }
        pieces.retain(|piece| !piece.is_empty());
        Ok(pieces)
    }
}

/// The part of frame `frame`'s plaintext that lies in plaintext bytes `plain` of the region.
pub fn trim(region: Region, frame: u32, opened: &Bytes, plain: &Range<u32>) -> Bytes {
    let covers = region.frame_plain_range(frame);
    let start = plain.start.max(covers.start);
    let end = plain.end.min(covers.end).min(covers.start + opened.len() as u32);
    if start >= end {
        return Bytes::new();
    }
    opened.slice((start - covers.start) as usize..(end - covers.start) as usize)
}

/// Opens a region that is wholly in memory (inline contents): `sealed` are its stored frames.
pub fn open_region(
    content_key: &ContentKey,
    context: RegionContext,
    sealed: BytesMut,
) -> Result<Vec<Bytes>> {
    if sealed.len() != context.region.sealed_len() as usize {
        return Err(CodecError::Geometry("sealed length"));
    }
    RegionCipher::new(content_key, context).open_frames(0, sealed)
}

/// Builds one sealed block: one content, or for copies a pack of several.
///
/// ```text
///  new ──append──▶ append … ──finish──▶ SealedBlock ──encode──▶ EncodedBlock
/// ```
pub struct SealingBlock {
    cluster: ClusterId,
    block: BlockId,
    code: Code,
    sealed: BytesMut,
    plain_len: u32,
    regions: Vec<Region>,
}

impl SealingBlock {
    /// Begins the block of this id. One id is sealed once (I14): never begin it again for other
    /// bytes.
    pub fn new(cluster: ClusterId, block: BlockId, code: Code) -> SealingBlock {
        SealingBlock {
            cluster,
            block,
            code,
            sealed: BytesMut::new(),
            plain_len: 0,
            regions: Vec::new(),
        }
    }

    /// The block's id.
    pub fn block(&self) -> BlockId {
        self.block
    }

    /// Plaintext bytes so far.
    pub fn plain_len(&self) -> u32 {
        self.plain_len
    }

    /// Whether a content of `plain_len` bytes can be appended.
    pub fn fits(&self, plain_len: usize) -> bool {
        u32::try_from(plain_len).is_ok_and(|plain_len| self.place(plain_len).is_ok())
    }

    fn place(&self, plain_len: u32) -> Result<Region> {
        if !self.regions.is_empty() && self.code.codec() != CodecId::Copy {
            return Err(CodecError::Geometry("only copies can be packs"));
        }
        if plain_len > BLOCK_LEN_MAX - self.plain_len {
            return Err(CodecError::Geometry("block too long"));
        }
        Region::new(self.code, self.sealed.len() as u32, plain_len)
    }

    /// Seals one content, given in pieces, under its own key after what is there. The region goes
    /// into the content's extent row. Fails, changing nothing, if it does not fit.
    pub fn append(&mut self, content_key: &ContentKey, pieces: &[Bytes]) -> Result<Region> {
        let plain_len: usize = pieces.iter().map(Bytes::len).sum();
        let plain_len = u32::try_from(plain_len).map_err(|_| CodecError::Geometry("too long"))?;
        let region = self.place(plain_len)?;
        let context = RegionContext {
            cluster: self.cluster,
            block: self.block,
            codec: self.code.codec(),
            region,
        };
        let cipher = RegionCipher::new(content_key, context);
        self.sealed.reserve(region.sealed_len() as usize);
        let mut pieces = Pieces { rest: pieces, at: 0 };
        for frame in 0..region.frame_count() {
            let start = self.sealed.len();
            let plain = region.frame_plain_range(frame);
            pieces.move_to(&mut self.sealed, (plain.end - plain.start) as usize);
            self.sealed.resize(self.sealed.len() + TAG_LEN as usize, 0);
            let sealed = cipher.aead.seal_in_place(
                nonce(frame),
                &context.aad(frame),
                &mut self.sealed[start..],
            );
            // The buffer holds a tag's space by construction: the only reason to fail.
            debug_assert!(sealed.is_ok());
        }
        self.plain_len += plain_len;
        self.regions.push(region);
        Ok(region)
    }

    /// The sealed block. Fails if nothing was appended.
    pub fn finish(self) -> Result<SealedBlock> {
        let layout = match self.regions.as_slice() {
            [] => return Err(CodecError::Geometry("empty block")),
            [region] => BlockLayout::of_region(self.code, *region)?,
            _ => BlockLayout::of_pack(self.code, self.sealed.len() as u32)?,
        };
        debug_assert!(layout.sealed_len() <= SEALED_LEN_MAX);
        Ok(SealedBlock { block: self.block, layout, bytes: self.sealed.freeze() })
    }
}

/// Seals one content alone: a whole block, or inline bytes (which take a block id too).
pub fn seal_one(
    cluster: ClusterId,
    block: BlockId,
    code: Code,
    content_key: &ContentKey,
    pieces: &[Bytes],
) -> Result<(SealedBlock, Region)> {
    let mut sealing = SealingBlock::new(cluster, block, code);
    let region = sealing.append(content_key, pieces)?;
    Ok((sealing.finish()?, region))
}

/// A sealed block, ready to be coded. Ciphertext only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedBlock {
    /// The block's id.
    pub block: BlockId,
    /// How it is cut.
    pub layout: BlockLayout,
    /// The stored frames, `layout.sealed_len()` bytes.
    pub bytes: Bytes,
}

/// A cursor over plaintext in pieces.
struct Pieces<'a> {
    rest: &'a [Bytes],
    at: usize,
}

impl Pieces<'_> {
    fn move_to(&mut self, out: &mut BytesMut, mut len: usize) {
        while let Some((piece, rest)) = self.rest.split_first().filter(|_| len > 0) {
            let available = piece.get(self.at..).unwrap_or_default();
            let taken = available.get(..len).unwrap_or(available);
            out.extend_from_slice(taken);
            len -= taken.len();
            self.at += taken.len();
            if self.at >= piece.len() {
                self.rest = rest;
                self.at = 0;
            }
        }
        debug_assert_eq!(len, 0, "the pieces were counted before");
    }
}
