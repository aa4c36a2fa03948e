//! A body's way into blocks: small ones whole (for inline or pack), large ones as a pipeline.
//!
//! ```text
//!  reserve block + parity ─▶ read ≤ 8 MiB ─▶ (seal, code, put) in a task of its own
//!        ▲                                        at most 2 at once per request
//!        └────────────── until the body ends ──────────┘
//! ```
//!
//! What is not reserved is not read: nothing is buffered whole. If anything fails, what was written
//! stays without a reference and is garbage once its session closes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_codec::ContentKey;
use nexusgrid_meta::namespace::limits as meta_limits;
use nexusgrid_meta::namespace::types::{
    ContentBody, Extent, NamespaceCommand, NamespaceOk, NewBlock, NewContent,
};
use tokio::task::JoinHandle;

use crate::api::Tenant;
use crate::body::{BodyReader, total};
use crate::budget::Reservation;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::keys::FreshKey;
use crate::limits;
use crate::placement;
use crate::session::Session;
use crate::shard::client::ShardToPut;
use crate::stripe::{BlockKind, Payload, Stored};

/// A body that was read, by size.
pub(crate) enum Received {
    /// At most as long as a packed content may be.
    Small { pieces: Vec<Bytes>, len: u64, reservation: Reservation },
    /// In blocks already.
    Large(LargeContent),
}

/// A content in blocks, not yet committed.
pub(crate) struct LargeContent {
    pub(crate) session: Arc<Session>,
    pub(crate) content: NewContent,
    pub(crate) blocks: Vec<NewBlock>,
    pub(crate) refill: Vec<(u8, ShardToPut)>,
}

impl LargeContent {
    /// The content as one command can commit it. Each missing shard is a row there, and rows of a
    /// command are bounded: what a degraded grid took gigabytes of is staged in pieces first.
    pub(crate) async fn staged(mut self, core: &Core) -> Result<LargeContent, GridError> {
        let missing = |block: &NewBlock| block.missing_mask.count_ones() as usize;
        let fits = self.blocks.len() <= meta_limits::BLOCKS_MAX
            && self.blocks.iter().map(missing).sum::<usize>() <= meta_limits::MISSING_MAX;
        if fits {
            return Ok(self);
        }
        let whole = std::mem::replace(&mut self.content.body, ContentBody::Staged(Vec::new()));
        type ToBody = fn(Vec<Extent>) -> ContentBody;
        let (extents, to_body): (_, ToBody) = match whole {
            ContentBody::Extents(extents) => (extents, ContentBody::Extents),
            ContentBody::Copies(extents) => (extents, ContentBody::Copies),
            _ => return Err(internal("missing shards of a content without extents")),
        };
        // Nothing that is staged from now on is freed before it is linked.
        let _pin = core.sessions.pin(self.session.group);
        let mut extents = extents.into_iter().peekable();
        let mut blocks = std::mem::take(&mut self.blocks).into_iter().peekable();
        let mut staged = Vec::new();
        while blocks.peek().is_some() {
            let mut rest = meta_limits::MISSING_MAX;
            let mut of_piece: Vec<NewBlock> = Vec::new();
            let room = |taken: usize| taken < meta_limits::BLOCKS_MAX;
            while room(of_piece.len())
                && let Some(block) = blocks.next_if(|block| missing(block) <= rest)
            {
                rest -= missing(&block);
                of_piece.push(block);
            }
            let mut piece: Vec<Extent> = Vec::new();
            let mut size = 0;
            let holds = |extent: &Extent| of_piece.iter().any(|block| block.block == extent.block);
            while let Some(extent) = extents.next_if(holds) {
                piece.push(Extent { offset: size, ..extent });
                size += extent.len;
            }
            let body = to_body(piece);
            let command = NamespaceCommand::Stage {
                session: self.session.id,
                blocks: of_piece,
                content: NewContent { size, key: self.content.key.clone(), body },
                now_ms: core.meta.now_ms(),
            };
            match core.meta.command(self.session.group, &command).await? {
                NamespaceOk::Staged(piece) => staged.push(piece),
                _ => return Err(internal("reply to staging")),
            }
        }
        self.content.body = ContentBody::Staged(staged);
        Ok(self)
    }
}

/// A running task that ends with its owner.
struct Running(JoinHandle<Option<Result<Stored, GridError>>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Running {
    async fn result(mut self) -> Result<Stored, GridError> {
        match (&mut self.0).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(GridError::Stopping),
            Err(error) => Err(GridError::Internal(error.to_string())),
        }
    }
}

impl Core {
    /// Bytes to reserve for a block of `len` bytes: itself and its parity.
    fn block_cost(&self, kind: BlockKind, len: usize) -> u64 {
        let class = placement::classes_of(&self.map.current()).map(|classes| match kind {
            BlockKind::Large => classes.large,
            BlockKind::Pack => classes.small,
        });
        let (k, m) = class.map_or((1, 0), |class| (u64::from(class.k()), u64::from(class.m())));
        let len = len as u64;
        // Copies share their bytes: sealed and plain are all there is.
        if k == 1 { 2 * len } else { len + (len * m).div_ceil(k) }
    }

    /// Reads a body: small ones into memory, large ones into blocks of a kind under `key`.
    pub(crate) async fn receive(
        self: &Arc<Core>,
        tenant: &Tenant,
        body: &mut BodyReader,
        group: nexusgrid_codec::GroupId,
        key: &FreshKey,
        kind: BlockKind,
    ) -> Result<Received, GridError> {
        let packed = self.options.packed_bytes;
        let first_len = match body.remaining() {
            Some(len) if len <= packed as u64 => len as usize,
            Some(len) => usize::try_from(len).unwrap_or(usize::MAX).min(self.options.block_bytes),
            None => self.options.block_bytes,
        };
        let mut reservation = self.budget.reserve(tenant, self.block_cost(kind, first_len)).await?;
        let pieces = body.take(first_len.max(1)).await?;
        let len = total(&pieces);
        if body.ended() && len <= packed {
            reservation.shrink_to(2 * len as u64);
            return Ok(Received::Small { pieces, len: len as u64, reservation });
        }
        let begun = Some((pieces, reservation));
        let large = self.receive_blocks(tenant, body, group, key, kind, begun);
        Ok(Received::Large(large.await?))
    }

    /// Reads a body, or the rest of one that has begun, into blocks, whatever its size.
    pub(crate) async fn receive_blocks(
        self: &Arc<Core>,
        tenant: &Tenant,
        body: &mut BodyReader,
        group: nexusgrid_codec::GroupId,
        key: &FreshKey,
        kind: BlockKind,
        begun: Option<(Vec<Bytes>, Reservation)>,
    ) -> Result<LargeContent, GridError> {
        let session = self.sessions.get(group).await?;
        let mut pipeline = Pipeline {
            core: self,
            session: Arc::clone(&session),
            key: key.open.clone(),
            kind,
            running: VecDeque::new(),
            done: Vec::new(),
        };
        if let Some((pieces, reservation)) = begun {
            pipeline.push(pieces, reservation).await?;
        }
        while !body.ended() {
            let left = body
                .remaining()
                .map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
            let len = left.clamp(1, self.options.block_bytes);
            let mut reservation = self.budget.reserve(tenant, self.block_cost(kind, len)).await?;
            let pieces = body.take(len).await?;
            if pieces.is_empty() {
                break;
            }
            reservation.shrink_to(self.block_cost(kind, total(&pieces)));
            pipeline.push(pieces, reservation).await?;
        }
        let stored = pipeline.finish().await?;
        Ok(large_content(session, key, kind, stored))
    }
}

/// Blocks of one body on their way.
struct Pipeline<'a> {
    core: &'a Arc<Core>,
    session: Arc<Session>,
    key: ContentKey,
    kind: BlockKind,
    running: VecDeque<Running>,
    done: Vec<Stored>,
}

impl Pipeline<'_> {
    async fn push(
        &mut self,
        pieces: Vec<Bytes>,
        reservation: Reservation,
    ) -> Result<(), GridError> {
        if self.running.len() >= limits::WRITE_BLOCKS_IN_FLIGHT {
            self.join_one().await?;
        }
        let (core, session) = (Arc::clone(self.core), Arc::clone(&self.session));
        let kind = self.kind;
        let payload = Payload::Plain(vec![(self.key.clone(), pieces)]);
        self.running.push_back(Running(self.core.env.exec.spawn(async move {
            let _reservation = reservation;
            core.store_block(&session, kind, payload).await
        })));
        Ok(())
    }

    async fn join_one(&mut self) -> Result<(), GridError> {
        if let Some(oldest) = self.running.pop_front() {
            self.done.push(oldest.result().await?);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Vec<Stored>, GridError> {
        while !self.running.is_empty() {
            self.join_one().await?;
        }
        Ok(self.done)
    }
}

/// Extents of blocks that each hold one region, in order.
fn large_content(
    session: Arc<Session>,
    key: &FreshKey,
    kind: BlockKind,
    stored: Vec<Stored>,
) -> LargeContent {
    let mut offset = 0;
    let mut extents = Vec::new();
    let mut blocks = Vec::new();
    let mut refill = Vec::new();
    for block in stored {
        for region in &block.regions {
            extents.push(extent(&block, *region, offset));
            offset += u64::from(region.plain_len());
        }
        blocks.push(block.row);
        refill.extend(block.refill);
    }
    let body = match kind {
        BlockKind::Large => ContentBody::Extents(extents),
        BlockKind::Pack => ContentBody::Copies(extents),
    };
    let content = NewContent { size: offset, key: key.row.clone(), body };
    LargeContent { session, content, blocks, refill }
}

/// The extent of a whole region.
pub(crate) fn extent(block: &Stored, region: nexusgrid_codec::Region, offset: u64) -> Extent {
    Extent {
        offset,
        len: u64::from(region.plain_len()),
        block: block.row.block,
        pg: block.row.pg,
        region_offset: region.offset(),
        region_len: region.plain_len(),
        skip: 0,
        frame_len: region.frame_len(),
        codec: block.code.codec().byte(),
        k: block.code.k(),
        m: block.code.m(),
    }
}
