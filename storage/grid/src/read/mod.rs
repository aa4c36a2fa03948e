//! Reading: from a range of an object to a stream of verified plaintext.
//!
//! One version is read from first byte to last: a content's extent map never changes, and a pin
//! keeps what it names. All memory that a stream will use is reserved before it is returned, so
//! that a client hears SlowDown instead of half a body; and what looks unreadable is tried before it
//! is returned ([`prove`]), so that a client hears that instead of half a body, too.

mod fetch;
pub(crate) mod hedge;
mod near;
mod prove;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use nexusgrid_codec::{Code, ContentKey, GroupId, Region, RegionContext, seal};
use nexusgrid_meta::namespace::types::{
    ContentId, ContentMap, NamespaceAnswer, NamespaceError, NamespaceQuery, Piece, PieceData,
    WrappedKey,
};

use crate::api::{ByteRange, ReadStream, ResolvedRange, Tenant};
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::meta_port::MetaError;
use crate::session::Pin;

pub(crate) use near::Near;

/// A range of one content, to be read in order.
pub(crate) struct ContentRange {
    pub(crate) group: GroupId,
    pub(crate) content: ContentId,
    pub(crate) range: ResolvedRange,
    /// What is known of the map already; may begin elsewhere or be empty.
    pub(crate) map: ContentMap,
}

/// One fetch: part of one piece.
struct Work {
    /// `None`: there is nothing to be opened.
    key: Option<ContentKey>,
    data: PieceData,
    /// Where in the content.
    at: u64,
    /// Plaintext bytes of the region.
    skip: u32,
    len: u32,
    near: Near,
}

/// Walks a content's pieces, asking for more of the map as it goes.
struct Walk {
    core: Arc<Core>,
    range: ContentRange,
    at: u64,
    keys: BTreeMap<u32, ContentKey>,
    _pin: Pin,
}

impl ByteRange {
    /// The bytes of an object of `size` bytes; `InvalidRange` if there are none.
    pub fn resolve(self, size: u64) -> Result<ResolvedRange, GridError> {
        let unsatisfiable = GridError::InvalidRange { size };
        let (start, end) = match self {
            ByteRange::FromTo(first, last) if first <= last => (first, last.saturating_add(1)),
            ByteRange::FromTo(..) => return Err(unsatisfiable),
            ByteRange::From(first) => (first, size),
            ByteRange::Suffix(0) => return Err(unsatisfiable),
            ByteRange::Suffix(len) => (size.saturating_sub(len), size),
        };
        if start >= size {
            return Err(unsatisfiable);
        }
        Ok(ResolvedRange { start, end: end.min(size) })
    }
}

impl Core {
    /// A stream of the bytes of a range. Reserves its memory first, and looks whether all of it can
    /// be read.
    pub(crate) async fn stream(
        self: &Arc<Core>,
        tenant: &Tenant,
        range: ContentRange,
        pin: Pin,
    ) -> Result<ReadStream, GridError> {
        let len = range.range.end.saturating_sub(range.range.start);
        if len == 0 {
            return Ok(Box::pin(stream::empty()));
        }
        let window = (limits::READ_PIECES_AHEAD as u64 + 1) * limits::READ_PIECE_BYTES;
        let reservation = self.budget.reserve(tenant, len.min(window)).await?;
        let at = range.range.start;
        let mut walk = Walk { core: Arc::clone(self), range, at, keys: BTreeMap::new(), _pin: pin };
        let source = (walk.range.group, walk.range.content);
        walk.prove().await?;
        let works = stream::try_unfold(walk, |mut walk| async move {
            Ok::<_, GridError>(walk.next().await?.map(|work| (work, walk)))
        });
        let core = Arc::clone(self);
        let fetched = works
            .map(move |work| {
                let core = Arc::clone(&core);
                async move { core.fetch_of(source, work?).await }
            })
            .buffered(limits::READ_PIECES_AHEAD + 1)
            .map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok)))
            .try_flatten();
        // The reservation lives as long as the stream.
        let held = fetched.map(move |chunk| {
            let _ = &reservation;
            chunk
        });
        Ok(Box::pin(held))
    }

    /// Opens a content's key.
    pub(crate) async fn content_key(&self, row: &WrappedKey) -> Result<ContentKey, GridError> {
        let name = {
            let map = self.map.current();
            map.bucket_by_id(row.bucket).map(|bucket| bucket.name.clone())
        };
        let name = match name {
            Some(name) => name,
            None => {
                let map = self.map.refresh().await?;
                let bucket = map.bucket_by_id(row.bucket).ok_or_else(|| {
                    GridError::DataLost("the bucket of a content key is gone".to_owned())
                })?;
                bucket.name.clone()
            }
        };
        self.keys.open(row, &name).await
    }

    /// As [`Core::fetch`]. What is lost because nothing refers to it any more is no loss: clocks that
    /// differ by more than the reader horizon can free what someone reads.
    async fn fetch_of(
        &self,
        (group, content): (GroupId, ContentId),
        work: Work,
    ) -> Result<Vec<Bytes>, GridError> {
        let (at, data) = (work.at, work.data.clone());
        let fetched = self.fetch(work).await;
        let Err(error @ GridError::DataLost(_)) = fetched else { return fetched };
        let query = NamespaceQuery::Extents { content, offset: at, len: 1 };
        match self.meta.ask(group, &query).await {
            Err(freed @ MetaError::Namespace(NamespaceError::NoSuchContent)) => Err(freed.into()),
            Ok(NamespaceAnswer::Map(now)) if now.pieces.iter().all(|piece| piece.data != data) => {
                Err(GridError::Unreadable("the content moved while it was read".to_owned()))
            }
            _ => Err(error),
        }
    }

    async fn fetch(&self, work: Work) -> Result<Vec<Bytes>, GridError> {
        let key = || work.key.as_ref().ok_or_else(|| internal("bytes without a key"));
        match work.data {
            PieceData::Hole => Ok(vec![Bytes::from(vec![0; work.len as usize])]),
            PieceData::Inline { block, sealed, size, .. } => {
                let corrupt = |_| GridError::DataLost("inline bytes cannot be verified".to_owned());
                let code = Code::copies(1).map_err(internal)?;
                let region = Region::new(code, 0, size).map_err(corrupt)?;
                let context = RegionContext {
                    cluster: self.keys.cluster(),
                    block,
                    codec: code.codec(),
                    region,
                };
                let opened = seal::open_region(key()?, context, BytesMut::from(sealed.as_ref()))
                    .map_err(corrupt)?;
                let wanted = work.skip..work.skip.saturating_add(work.len);
                let trimmed = (0u32..)
                    .zip(&opened)
                    .map(|(frame, piece)| seal::trim(region, frame, piece, &wanted))
                    .filter(|piece| !piece.is_empty());
                Ok(trimmed.collect())
            }
            PieceData::Extent(extent) => {
                let end = work.skip.checked_add(work.len);
                let end = end
                    .filter(|end| *end <= extent.region_len)
                    .ok_or_else(|| GridError::DataLost("an extent row is corrupt".to_owned()))?;
                let range = work.skip..end;
                let pieces = self.read_region(&extent, key()?, range, work.near).await?;
                let got: usize = pieces.iter().map(Bytes::len).sum();
                if got != work.len as usize {
                    return Err(internal("a region gave another length"));
                }
                Ok(pieces)
            }
        }
    }
}

/// Where a fetch from `at` on, which lies in the piece, ends: at multiples of the piece size within
/// the piece, so that full blocks are read shard by shard.
fn cut(piece: &Piece, at: u64) -> u64 {
    let into = at.saturating_sub(piece.offset);
    let cut = (into / limits::READ_PIECE_BYTES + 1) * limits::READ_PIECE_BYTES;
    piece.offset + piece.len.min(cut)
}

impl Walk {
    /// The next fetch; `None` at the end.
    async fn next(&mut self) -> Result<Option<Work>, GridError> {
        if self.at >= self.range.range.end {
            return Ok(None);
        }
        let piece = match self.find() {
            Some(piece) => piece,
            None => {
                self.load().await?;
                self.find()
                    .ok_or_else(|| GridError::DataLost("an extent map has a gap".to_owned()))?
            }
        };
        let key = match piece.data {
            PieceData::Hole => None,
            _ => Some(self.key(piece.key).await?),
        };
        let into = self.at - piece.offset;
        let end = cut(&piece, self.at).min(self.range.range.end);
        let corrupt = |_| GridError::DataLost("an extent row is corrupt".to_owned());
        let skip = match &piece.data {
            PieceData::Inline { skip, .. } => *skip,
            PieceData::Extent(extent) => extent.skip,
            PieceData::Hole => 0,
        };
        let skip = match &piece.data {
            PieceData::Hole => 0,
            _ => u32::try_from(u64::from(skip) + into).map_err(corrupt)?,
        };
        let len = u32::try_from(end - self.at).map_err(corrupt)?;
        let at = std::mem::replace(&mut self.at, end);
        Ok(Some(Work { key, data: piece.data, at, skip, len, near: Near::Kept }))
    }

    /// The piece that holds the next byte, if the map at hand has it.
    fn find(&self) -> Option<Piece> {
        let pieces = &self.range.map.pieces;
        let after = pieces.partition_point(|piece| piece.offset <= self.at);
        let piece = pieces.get(after.checked_sub(1)?)?;
        (self.at < piece.offset + piece.len).then(|| piece.clone())
    }

    /// The map from the next byte on.
    async fn load(&mut self) -> Result<(), GridError> {
        let query = NamespaceQuery::Extents {
            content: self.range.content,
            offset: self.at,
            len: self.range.range.end - self.at,
        };
        match self.core.meta.ask(self.range.group, &query).await? {
            NamespaceAnswer::Map(map) => {
                self.range.map = map;
                self.keys.clear();
                Ok(())
            }
            _ => Err(internal("answer to an extents query")),
        }
    }

    async fn key(&mut self, index: u32) -> Result<ContentKey, GridError> {
        if let Some(key) = self.keys.get(&index) {
            return Ok(key.clone());
        }
        let corrupt = || GridError::DataLost("a key index is corrupt".to_owned());
        let row = self.range.map.keys.get(index as usize).ok_or_else(corrupt)?.clone();
        let key = self.core.content_key(&row).await?;
        self.keys.insert(index, key.clone());
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_resolve_as_slices_do(size in 0u64..100, a in 0u64..120, b in 0u64..120) {
            let bytes: Vec<u64> = (0..size).collect();
            let check = |range: ByteRange, expected: Vec<u64>| match range.resolve(size) {
                Ok(ResolvedRange { start, end }) => {
                    assert!(!expected.is_empty());
                    assert_eq!(bytes[start as usize..end as usize], expected);
                }
                Err(error) => {
                    assert_eq!(error, GridError::InvalidRange { size });
                    assert!(expected.is_empty());
                }
            };
            let within = |at: &u64| (a..=b).contains(at);
            check(ByteRange::FromTo(a, b), bytes.iter().copied().filter(within).collect());
            check(ByteRange::From(a), bytes.iter().copied().filter(|at| *at >= a).collect());
            let suffix = bytes.iter().copied().filter(|at| at + a >= size).collect();
            check(ByteRange::Suffix(a), suffix);
        }
    }
}
