//! A span's frames from this node's cache; what that does not have, or has no more as it was sealed, from drives.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::future::{join_all, try_join_all};
use nexusgrid_codec::geometry::{CodecId, ShardSpan};
use nexusgrid_meta::root::topology::{Pg, Topology};

use super::fetch::RegionRead;
use crate::cache::{FrameCache, FrameId};
use crate::error::GridError;
use crate::metrics::Counters;

/// Whether a read has to do with this node's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Near {
    /// It asks there first, and what it reads is kept.
    Kept,
    /// It is one that nobody repeats, and that would only push out what somebody does; or it is to tell how drives are.
    Not,
}

impl RegionRead<'_> {
    fn id(&self, frame: u32) -> FrameId {
        FrameId { block: self.extent.block, region: self.region.offset(), frame }
    }

    /// Whether a drive of this node has a span: then it is near enough.
    pub(super) fn is_here(&self, span: &ShardSpan) -> bool {
        match self.code.codec() {
            CodecId::Copy => !self.own_slots.is_empty(),
            CodecId::ReedSolomon => self.own_slots.contains(&span.shard),
        }
    }

    /// Has the frames of a span kept, which have been proved.
    pub(super) fn keep(&self, span: &ShardSpan, mut sealed: Bytes) {
        let Some(cache) = self.cache else { return };
        for frame in span.frames.clone() {
            let len = self.region.stored_len(frame).map(|len| len as usize);
            let Some(len) = len.filter(|len| *len <= sealed.len()) else { return };
            cache.put(self.id(frame), sealed.split_to(len));
        }
    }

    /// A frame as the cache has it, opened.
    async fn near(&self, cache: &dyn FrameCache, frame: u32) -> Option<Bytes> {
        let counters = &self.core.counters;
        let Some(sealed) = cache.get(self.id(frame)).await else {
            Counters::add(&counters.cache_frames_missed, 1);
            return None;
        };
        let stored = sealed.try_into_mut().unwrap_or_else(|sealed| BytesMut::from(sealed.as_ref()));
        match self.cipher.open_frames(frame, stored).ok().as_deref() {
            Some([opened]) => {
                Counters::add(&counters.cache_frames_found, 1);
                Some(opened.clone())
            }
            _ => {
                tracing::info!(block = %self.extent.block, frame, "a frame has rotted in this node's cache");
                Counters::add(&counters.cache_frames_bad, 1);
                cache.remove(self.id(frame));
                None
            }
        }
    }

    /// A span's frames, from the cache as far as it has them.
    pub(super) async fn fetch_near(
        &self,
        cache: &dyn FrameCache,
        map: &Topology,
        pg: &Pg,
        span: &ShardSpan,
    ) -> Result<Vec<Bytes>, GridError> {
        let near = join_all(span.frames.clone().map(|frame| self.near(cache, frame))).await;
        let runs = missing(span.frames.start, &near);
        let parts: Vec<ShardSpan> = runs.iter().map(|run| self.part(span, run.clone())).collect();
        let fetches = parts.iter().map(|part| self.fetch_span(map, pg, part));
        let mut fetched = try_join_all(fetches).await?.into_iter().flatten();
        // As many were fetched as were missing, in their order.
        Ok(near.into_iter().filter_map(|frame| frame.or_else(|| fetched.next())).collect())
    }

    /// Some of a span's frames.
    fn part(&self, span: &ShardSpan, frames: Range<u32>) -> ShardSpan {
        let at = |range: Range<u32>| self.region.sealed_range(range);
        let base = at(span.frames.clone()).start;
        let sealed = at(frames.clone());
        let body = |offset: u32| span.body.start + offset.saturating_sub(base);
        ShardSpan { shard: span.shard, body: body(sealed.start)..body(sealed.end), frames }
    }
}

/// Runs of numbers, from `first` on, of what is not there.
fn missing<T>(first: u32, found: &[Option<T>]) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for (number, _) in (first..).zip(found).filter(|(_, found)| found.is_none()) {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end = number + 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_asked_for_in_runs() {
        let found = |text: &str| -> Vec<Option<()>> {
            text.bytes().map(|byte| (byte == b'x').then_some(())).collect()
        };
        assert_eq!(missing(7, &found("xx..x.")), [9..11, 12..13]);
        assert_eq!(missing(0, &found("....x.")), [0..4, 5..6]);
        assert!(missing(3, &found("xxx")).is_empty());
    }
}
