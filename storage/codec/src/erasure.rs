//! Shards from a sealed block, and missing shards from any k others. Ciphertext only: this is all
//! that a repair worker needs.
//!
//! Data shards are slices of the sealed block, never copies. Reconstruction works on any window of
//! bytes: byte i of every shard depends on byte i of k others only, so a range read rebuilds the
//! few frames it misses and no more.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{CodecError, Result};
use crate::geometry::{BlockLayout, CodecId};
use crate::header::{ShardDigest, ShardHeader, frame_crcs};
use crate::id::BlockId;
use crate::matrix::{Generator, combine};
use crate::seal::SealedBlock;

/// All shards of one block, ready to be sent to their drives.
#[derive(Clone, Debug)]
pub struct EncodedBlock {
    /// The block's id.
    pub block: BlockId,
    /// How it is cut.
    pub layout: BlockLayout,
    /// The k + m bodies. The last data shards of a short block may be empty.
    pub shards: Vec<Bytes>,
    /// crc32c of each stored frame, by shard.
    pub crcs: Vec<Arc<[u32]>>,
    /// One digest per shard; every header carries them all.
    pub digests: Arc<[ShardDigest]>,
}

impl EncodedBlock {
    /// The header of shard `index`; `None` beyond the last.
    pub fn header(&self, index: u8) -> Option<ShardHeader> {
        let crcs = self.crcs.get(usize::from(index))?;
        Some(ShardHeader {
            block: self.block,
            layout: self.layout,
            index,
            crcs: Arc::clone(crcs),
            digests: Arc::clone(&self.digests),
        })
    }
}

/// Cuts and codes a sealed block.
pub fn encode(sealed: &SealedBlock) -> Result<EncodedBlock> {
    let layout = sealed.layout;
    if sealed.bytes.len() != layout.sealed_len() as usize {
        return Err(CodecError::Geometry("sealed length"));
    }
    let code = layout.code();
    let mut shards: Vec<Bytes> = (0..code.shards())
        .filter_map(|shard| layout.data_range(shard))
        .map(|range| sealed.bytes.slice(range.start as usize..range.end as usize))
        .collect();
    if code.codec() == CodecId::ReedSolomon {
        let generator = Generator::get(code.k(), code.m())?;
        let inputs: Vec<&[u8]> = shards.iter().map(Bytes::as_ref).collect();
        let mut parity = vec![vec![0; layout.shard_len() as usize]; usize::from(code.m())];
        let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        combine(generator.parity_rows(), &inputs, &mut outputs);
        shards.extend(parity.into_iter().map(Bytes::from));
    }
    let crcs: Vec<Arc<[u32]>> = match (code.codec(), shards.first()) {
        (CodecId::Copy, Some(body)) => {
            vec![frame_crcs(&layout, body).into(); shards.len()]
        }
        _ => shards.iter().map(|body| frame_crcs(&layout, body).into()).collect(),
    };
    let digests = (0u8..)
        .zip(shards.iter().zip(&crcs))
        .map(|(index, (body, crcs))| ShardDigest::compute(sealed.block, &layout, index, crcs, body))
        .collect();
    Ok(EncodedBlock { block: sealed.block, layout, shards, crcs, digests })
}

/// Rebuilds the bytes `window` of shard `wanted`'s body from the same window of others.
///
/// `present` holds (shard index, that shard's bytes of the window); a shard whose body ends before
/// the window's end gives what it has, possibly nothing. Any k distinct shards suffice; more are
/// ignored. The result is as long as `wanted`'s body reaches into the window. Nothing is verified
/// here: frames verify by their tags, shards by their digests.
pub fn reconstruct_window(
    layout: &BlockLayout,
    wanted: u8,
    window: Range<u32>,
    present: &[(u8, Bytes)],
) -> Result<Bytes> {
    let wanted_len = reach(layout, wanted, &window)?;
    for (shard, bytes) in present {
        if bytes.len() != reach(layout, *shard, &window)? {
            return Err(CodecError::Geometry("window of another length"));
        }
    }
    let code = layout.code();
    if let Some((_, bytes)) = present.iter().find(|(shard, _)| *shard == wanted) {
        return Ok(bytes.clone());
    }
    if code.codec() == CodecId::Copy {
        let copy = present.first().map(|(_, bytes)| bytes.clone());
        return copy.ok_or(CodecError::NotEnoughShards { have: 0, need: 1 });
    }
    let mut used: Vec<&(u8, Bytes)> = present.iter().collect();
    used.sort_by_key(|(shard, _)| *shard);
    used.dedup_by_key(|(shard, _)| *shard);
    if used.len() < usize::from(code.k()) {
        return Err(CodecError::NotEnoughShards { have: used.len() as u8, need: code.k() });
    }
    used.truncate(usize::from(code.k()));
    let indices: Vec<u8> = used.iter().map(|(shard, _)| *shard).collect();
    let row = Generator::get(code.k(), code.m())?.solve(&indices, wanted)?;
    // Beyond the wanted body's end the combination is zero and of no use.
    let inputs: Vec<&[u8]> =
        used.iter().map(|(_, bytes)| bytes.get(..wanted_len).unwrap_or(bytes)).collect();
    let mut rebuilt = vec![0; wanted_len];
    combine(&[row], &inputs, &mut [rebuilt.as_mut_slice()]);
    Ok(Bytes::from(rebuilt))
}

/// Rebuilds whole shard bodies from any k others (whole bodies), in the order of `wanted`.
pub fn reconstruct(
    layout: &BlockLayout,
    wanted: &[u8],
    present: &[(u8, Bytes)],
) -> Result<Vec<Bytes>> {
    let whole = 0..layout.shard_len();
    wanted.iter().map(|shard| reconstruct_window(layout, *shard, whole.clone(), present)).collect()
}

/// Rebuilds shard `wanted` with its header, and verifies it against the digest that `sibling`'s
/// header holds for it. [`CodecError::ShardCorrupt`] means that one of the given bodies is not what
/// was written: verify each by its own header ([`ShardHeader::verify`]) and leave the bad one out.
pub fn rebuild(
    sibling: &ShardHeader,
    wanted: u8,
    present: &[(u8, Bytes)],
) -> Result<(ShardHeader, Bytes)> {
    let whole = 0..sibling.layout.shard_len();
    let body = reconstruct_window(&sibling.layout, wanted, whole, present)?;
    let header = ShardHeader {
        index: wanted,
        crcs: frame_crcs(&sibling.layout, &body).into(),
        ..sibling.clone()
    };
    header.verify(&body)?;
    Ok((header, body))
}

/// How many bytes of `window` lie within shard `shard`'s body.
fn reach(layout: &BlockLayout, shard: u8, window: &Range<u32>) -> Result<usize> {
    let len = layout.body_len(shard).ok_or(CodecError::Geometry("shard index"))?;
    Ok((window.end.min(len).saturating_sub(window.start)) as usize)
}
