//! Before the first byte of a read: is what it will need still there?
//!
//! A client that was told 200 can only be told more by a broken connection. What a read fetches first
//! is verified before its first byte anyway; this looks further, at all of the map at hand. Where
//! membership holds a drive that the read needs for anything but alive, one frame is fetched from
//! there, or rebuilt, for good: drives of a placement group fail together, so one frame speaks for
//! the group. A read of a grid in health costs a look at the hints and nothing else.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use nexusgrid_codec::geometry::CodecId;
use nexusgrid_codec::{Code, Region};
use nexusgrid_meta::namespace::types::{Extent, PieceData};
use nexusgrid_meta::root::topology::Topology;

use super::{Near, Walk, Work, cut};
use crate::core::Core;
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;

impl Walk {
    /// Fails as the read would, if fewer shards than it needs can be reached.
    pub(super) async fn prove(&mut self) -> Result<(), GridError> {
        let map = self.core.map.current();
        let (start, end) = (self.range.range.start, self.range.range.end);
        // The first fetch proves itself.
        let from = self.find().map_or(start, |piece| cut(&piece, start));
        let mut looked_at = BTreeSet::new();
        let mut doubtful = Vec::new();
        for piece in &self.range.map.pieces {
            let PieceData::Extent(extent) = &piece.data else { continue };
            let (first, last) = (piece.offset.max(from), (piece.offset + piece.len).min(end));
            if first >= last || looked_at.contains(&extent.pg) {
                continue;
            }
            let skip = u64::from(extent.skip);
            let plain = skip + (first - piece.offset)..skip + (last - piece.offset);
            if let Some(at) = self.core.doubt(&map, extent, plain) {
                looked_at.insert(extent.pg);
                doubtful.push((piece.key, piece.data.clone(), piece.offset, at));
            }
        }
        let mut works = Vec::with_capacity(doubtful.len());
        for (key, data, at, skip) in doubtful {
            // What is near says nothing of the drives that hold the rest.
            let (key, near) = (Some(self.key(key).await?), Near::Not);
            works.push(Work { key, data, at, skip, len: 1, near });
        }
        let (core, source) = (&self.core, (self.range.group, self.range.content));
        stream::iter(works)
            .map(|work| core.fetch_of(source, work))
            .buffer_unordered(limits::READ_PIECES_AHEAD + 1)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
    }
}

impl Core {
    /// A plaintext byte of the region, within `plain`, whose drive is not held alive.
    fn doubt(&self, map: &Topology, extent: &Extent, plain: std::ops::Range<u64>) -> Option<u32> {
        let (from, to) = (u32::try_from(plain.start).ok()?, u32::try_from(plain.end).ok()?);
        let Some(pg) = map.pgs.get(&extent.pg) else { return Some(from) };
        let awake: BTreeSet<u8> = self
            .slot_nodes(map, pg)
            .filter(|(_, _, hint)| *hint == NodeHint::Alive)
            .map(|(slot, _, _)| slot)
            .collect();
        if awake.len() == pg.slots.len() {
            return None;
        }
        // Rows that contradict themselves are told by the fetch.
        let code = Code::from_parts(extent.codec, extent.k, extent.m).ok()?;
        if code.codec() == CodecId::Copy {
            return awake.is_empty().then_some(from);
        }
        let region =
            Region::from_parts(extent.region_offset, extent.region_len, extent.frame_len).ok()?;
        let spans = region.spans(code, from..to.min(extent.region_len)).ok()?;
        let span = spans.into_iter().find(|span| !awake.contains(&span.shard))?;
        Some(span.frames.start.saturating_mul(region.frame_len()).max(from))
    }
}
