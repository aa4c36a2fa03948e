//! Plaintext of a range of one region: the frames that cover it, from the shards that hold them,
//! rebuilt from others where they are missing, bad or slow.
//!
//! ```text
//!  span of a shard ──▶ its drive ──ok──▶ open frames ──ok──▶ plaintext
//!                        │ error           │ bad tag: report
//!                        │ slow: hedge     ▼
//!                        └────────▶ k other shards, same window ──▶ rebuild ──▶ open frames
//!                                                      bad tag: once more, drives verify theirs
//! ```
//!
//! Every frame is proved by its tag before a byte of it is returned.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use nexusgrid_codec::erasure::reconstruct_window;
use nexusgrid_codec::geometry::{BlockLayout, CodecId, ShardSpan};
use nexusgrid_codec::seal::{self, RegionCipher};
use nexusgrid_codec::{Code, ContentKey, Region, RegionContext};
use nexusgrid_meta::namespace::types::Extent;
use nexusgrid_meta::root::topology::{Pg, Topology};

use crate::cache::FrameCache;
use crate::core::{BadShard, Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::liveness::NodeHint;
use crate::metrics::Counters;
use crate::read::Near;
use crate::shard::client::ShardError;
use crate::shard::wire::ShardFault;

/// One region being read.
pub(super) struct RegionRead<'a> {
    pub(super) core: &'a Core,
    pub(super) extent: &'a Extent,
    pub(super) code: Code,
    pub(super) region: Region,
    pub(super) cipher: RegionCipher,
    /// Asked first, and told.
    pub(super) cache: Option<&'a dyn FrameCache>,
    /// Slots that drives of this node hold.
    pub(super) own_slots: Vec<u8>,
}

/// Why a shard gave no usable bytes.
enum Miss {
    /// It may come back: its node does not answer.
    Away,
    /// It is gone or bad.
    Gone,
}

impl Core {
    /// Plaintext bytes `plain` of the region that `extent` lies in; `near`: whether this node's cache is asked, and
    /// told.
    pub(crate) async fn read_region(
        &self,
        extent: &Extent,
        content_key: &ContentKey,
        plain: Range<u32>,
        near: Near,
    ) -> Result<Vec<Bytes>, GridError> {
        let corrupt_row = |_| GridError::DataLost("an extent row is corrupt".to_owned());
        let code = Code::from_parts(extent.codec, extent.k, extent.m).map_err(corrupt_row)?;
        let region = Region::from_parts(extent.region_offset, extent.region_len, extent.frame_len)
            .map_err(corrupt_row)?;
        let context = RegionContext {
            cluster: self.keys.cluster(),
            block: extent.block,
            codec: code.codec(),
            region,
        };
        let cipher = RegionCipher::new(content_key, context);
        let map = self.map.current();
        let cache = self.cache.get().filter(|_| near == Near::Kept).map(Arc::as_ref);
        let pg = cache.and(map.pgs.get(&extent.pg));
        let slots = pg.map(|pg| self.slot_nodes(&map, pg)).into_iter().flatten();
        let own = |(slot, node, _)| (node == self.node).then_some(slot);
        let own_slots = slots.filter_map(own).collect();
        let read = RegionRead { core: self, extent, code, region, cipher, cache, own_slots };
        let spans = region.spans(code, plain.clone()).map_err(corrupt_row)?;
        let fetched = match read.fetch_all(&map, &spans).await {
            Ok(fetched) => fetched,
            // The placement group may have moved since this map: look once more.
            Err(error @ (GridError::Unreadable(_) | GridError::DataLost(_))) => {
                let slots = |map: &Topology| map.pgs.get(&extent.pg).map(|pg| pg.slots.clone());
                match self.map.refresh().await {
                    Ok(newer) if slots(&newer) != slots(&map) => {
                        read.fetch_all(&newer, &spans).await?
                    }
                    _ => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let mut pieces = Vec::new();
        for (span, frames) in spans.iter().zip(fetched) {
            for (frame, opened) in span.frames.clone().zip(frames) {
                let piece = seal::trim(region, frame, &opened, &plain);
                if !piece.is_empty() {
                    pieces.push(piece);
                }
            }
        }
        Ok(pieces)
    }
}

impl RegionRead<'_> {
    async fn fetch_all(
        &self,
        map: &Arc<Topology>,
        spans: &[ShardSpan],
    ) -> Result<Vec<Vec<Bytes>>, GridError> {
        let pg = map.pgs.get(&self.extent.pg).ok_or_else(|| {
            GridError::Unreadable(format!("placement group {} is unknown", self.extent.pg.0))
        })?;
        let fetch = |span| async move {
            match self.cache.filter(|_| !self.is_here(span)) {
                Some(cache) => self.fetch_near(cache, map, pg, span).await,
                None => self.fetch_span(map, pg, span).await,
            }
        };
        try_join_all(spans.iter().map(fetch)).await
    }

    /// A span from drives.
    pub(super) async fn fetch_span(
        &self,
        map: &Topology,
        pg: &Pg,
        span: &ShardSpan,
    ) -> Result<Vec<Bytes>, GridError> {
        match self.code.codec() {
            CodecId::Copy => self.fetch_copy(map, pg, span).await,
            CodecId::ReedSolomon => self.fetch_coded(map, pg, span).await,
        }
    }

    /// Slots in the order to ask them: this node's own, then the awake, suspects, the dead.
    fn order(&self, map: &Topology, pg: &Pg, except: Option<u8>) -> Vec<(u8, NodeHint)> {
        let mut slots: Vec<(NodeHint, bool, u64, u8)> = self
            .core
            .slot_nodes(map, pg)
            .filter(|(slot, _, _)| Some(*slot) != except)
            .map(|(slot, node, hint)| (hint, node != self.core.node, self.core.env.rng.u64(), slot))
            .collect();
        slots.sort_unstable();
        slots.into_iter().map(|(hint, _, _, slot)| (slot, hint)).collect()
    }

    /// Bytes `window` of a slot's shard body.
    async fn read_slot(
        &self,
        map: &Topology,
        pg: &Pg,
        slot: u8,
        window: Range<u32>,
        verify: bool,
    ) -> Result<Bytes, Miss> {
        let drive = *pg.slots.get(usize::from(slot)).ok_or(Miss::Gone)?;
        let Some((node, _)) = self.core.map.drive(map, drive) else { return Err(Miss::Gone) };
        let block = self.extent.block;
        match self.core.shards.get(node, drive, block, slot, window, verify).await {
            Ok(bytes) => {
                self.core.trust(node);
                Ok(bytes)
            }
            Err(ShardError::Fault(ShardFault::NotFound | ShardFault::Damaged(_))) => {
                self.report(slot);
                Err(Miss::Gone)
            }
            Err(ShardError::Fault(_)) => Err(Miss::Away),
            Err(ShardError::Rpc(_) | ShardError::Reply) => {
                self.core.distrust(node);
                Err(Miss::Away)
            }
        }
    }

    fn report(&self, slot: u8) {
        tracing::info!(block = %self.extent.block, slot, "shard missing or bad: to repair");
        self.core.report(BadShard { pg: self.extent.pg, block: self.extent.block, slot });
    }

    /// Opens the frames of a span; `None` if one is not what was sealed.
    fn open(&self, span: &ShardSpan, bytes: Bytes) -> Option<Vec<Bytes>> {
        let kept = self.cache.filter(|_| !self.is_here(span)).map(|_| bytes.clone());
        // In place, unless someone else (the cache, a copy on this very node) holds the same bytes.
        let stored = bytes.try_into_mut().unwrap_or_else(|bytes| BytesMut::from(bytes.as_ref()));
        let opened = self.cipher.open_frames(span.frames.start, stored).ok()?;
        if let Some(sealed) = kept {
            self.keep(span, sealed);
        }
        Some(opened)
    }

    /// A span of copies: from any, the next when one fails or is slow.
    async fn fetch_copy(
        &self,
        map: &Topology,
        pg: &Pg,
        span: &ShardSpan,
    ) -> Result<Vec<Bytes>, GridError> {
        let mut waiting = self.order(map, pg, None).into_iter();
        let mut asked = FuturesUnordered::new();
        let mut gone = 0;
        let mut first = true;
        let ask = |slot| async move {
            let result = self.timed(self.read_slot(map, pg, slot, span.body.clone(), false)).await;
            (slot, result)
        };
        loop {
            if asked.is_empty() {
                match waiting.next() {
                    Some((slot, _)) => asked.push(ask(slot)),
                    None => return Err(self.unreadable(gone, 1)),
                }
            }
            tokio::select! {
                biased;
                Some((slot, result)) = asked.next() => match result {
                    Ok(bytes) => match self.open(span, bytes) {
                        Some(frames) => return Ok(frames),
                        None => {
                            self.report(slot);
                            gone += 1;
                        }
                    },
                    Err(Miss::Gone) => gone += 1,
                    Err(Miss::Away) => {}
                },
                () = self.patience(first, 1) => {
                    if let Some((slot, _)) = waiting.next() {
                        asked.push(ask(slot));
                    }
                }
            }
            first = false;
        }
    }

    /// A span of a data shard: from its drive, or rebuilt.
    async fn fetch_coded(
        &self,
        map: &Topology,
        pg: &Pg,
        span: &ShardSpan,
    ) -> Result<Vec<Bytes>, GridError> {
        let slot = span.shard;
        let hint = self.core.slot_nodes(map, pg).find(|(at, _, _)| *at == slot);
        let is_dead = hint.is_none_or(|(_, _, hint)| hint == NodeHint::Dead);
        if is_dead {
            return self.rebuild(map, pg, span, true).await;
        }
        let direct = async {
            let read = self.read_slot(map, pg, slot, span.body.clone(), false);
            let bytes = self.timed(read).await.ok()?;
            let frames = self.open(span, bytes);
            if frames.is_none() {
                self.report(slot);
            }
            frames
        };
        tokio::pin!(direct);
        tokio::select! {
            biased;
            result = &mut direct => match result {
                Some(frames) => return Ok(frames),
                None => return self.rebuild(map, pg, span, false).await,
            },
            () = self.patience(true, usize::from(self.code.k())) => {}
        }
        // Slow: whichever comes first.
        let rebuilt = self.rebuild(map, pg, span, false);
        tokio::pin!(rebuilt);
        tokio::select! {
            biased;
            result = &mut direct => match result {
                Some(frames) => Ok(frames),
                None => rebuilt.await,
            },
            result = &mut rebuilt => match result {
                Ok(frames) => Ok(frames),
                Err(error) => direct.await.ok_or(error),
            },
        }
    }

    /// Waits until it is time to ask others: the hedging delay if the budget then allows `reads`
    /// more, else so long that the source is rather away than slow.
    async fn patience(&self, first: bool, reads: usize) {
        let mut waited = Duration::ZERO;
        if first {
            waited = self.core.hedging.delay();
            self.core.env.clock.sleep(waited).await;
            if self.core.hedging.take(reads) {
                Counters::add(&self.core.counters.reads_hedged, 1);
                return;
            }
        }
        self.core.env.clock.sleep(limits::READ_PATIENCE.saturating_sub(waited)).await;
    }

    /// Measures a read for the hedging delay.
    async fn timed(&self, read: impl Future<Output = Result<Bytes, Miss>>) -> Result<Bytes, Miss> {
        let began = self.core.env.clock.now();
        let result = read.await;
        if result.is_ok() {
            self.core.hedging.record(self.core.env.clock.now().since(began));
        }
        result
    }

    /// Rebuilds a span from k other shards. `with_own` asks the span's own slot as a last resort.
    async fn rebuild(
        &self,
        map: &Topology,
        pg: &Pg,
        span: &ShardSpan,
        with_own: bool,
    ) -> Result<Vec<Bytes>, GridError> {
        for verify in [false, true] {
            let bytes = self.rebuild_once(map, pg, span, with_own, verify).await?;
            if let Some(frames) = self.open(span, bytes) {
                Counters::add(&self.core.counters.reads_degraded, 1);
                return Ok(frames);
            }
            // Some shard is bad and only its drive can tell which: have them checked.
        }
        Err(GridError::DataLost(format!("block {} cannot be verified", self.extent.block)))
    }

    async fn rebuild_once(
        &self,
        map: &Topology,
        pg: &Pg,
        span: &ShardSpan,
        with_own: bool,
        verify: bool,
    ) -> Result<Bytes, GridError> {
        let layout = BlockLayout::of_region(self.code, self.region).map_err(internal)?;
        let k = usize::from(self.code.k());
        let mut candidates = self.order(map, pg, Some(span.shard));
        if with_own {
            candidates.push((span.shard, NodeHint::Dead));
        }
        let mut candidates = candidates.into_iter();
        let mut present: Vec<(u8, Bytes)> = Vec::new();
        let mut asked = FuturesUnordered::new();
        let mut gone = 0;
        let layout_ref = &layout;
        let ask = |slot: u8| async move {
            let len = layout_ref.body_len(slot).unwrap_or(0);
            let window = span.body.start.min(len)..span.body.end.min(len);
            if window.is_empty() {
                return (slot, Ok(Bytes::new()));
            }
            (slot, self.read_slot(map, pg, slot, window, verify).await)
        };
        while present.len() < k {
            while present.len() + asked.len() < k {
                match candidates.next() {
                    Some((slot, _)) => asked.push(ask(slot)),
                    None => return Err(self.unreadable(gone, k)),
                }
            }
            tokio::select! {
                biased;
                Some((slot, result)) = asked.next() => match result {
                    Ok(bytes) => present.push((slot, bytes)),
                    Err(Miss::Gone) => gone += 1,
                    Err(Miss::Away) => {}
                },
                () = self.core.env.clock.sleep(limits::READ_PATIENCE) => {
                    if let Some((slot, _)) = candidates.next() {
                        asked.push(ask(slot));
                    }
                }
            }
        }
        reconstruct_window(&layout, span.shard, span.body.clone(), &present).map_err(internal)
    }

    /// Fewer than `need` shards: lost if so many are gone that those away do not suffice.
    fn unreadable(&self, gone: usize, need: usize) -> GridError {
        Counters::add(&self.core.counters.reads_unreadable, 1);
        let block = self.extent.block;
        let shards = usize::from(self.code.shards());
        if shards.saturating_sub(gone) < need {
            GridError::DataLost(format!("block {block}: {gone} of {shards} shards are gone"))
        } else {
            GridError::Unreadable(format!("block {block}: fewer than {need} shards answer"))
        }
    }
}
