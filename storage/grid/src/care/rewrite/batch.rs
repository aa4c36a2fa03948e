//! One new block: some extents' bytes are read and proved, written like any body, and swapped in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::{ContentKey, GroupId};
use nexusgrid_meta::namespace::types::{
    FoundExtent, NamespaceCommand, NamespaceError, NamespaceOk, Swap,
};

use crate::budget::Reservation;
use crate::care::remap::throttle::Throttle;
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::limits;
use crate::meta_port::MetaError;
use crate::placement::Classes;
use crate::read::Near;
use crate::stripe::{BlockKind, Payload, Stored};
use crate::write::extent;

/// What became of a batch.
#[derive(Default)]
pub(crate) struct Moved {
    /// Extents that lie elsewhere now.
    pub(crate) extents: u64,
    /// Bytes written.
    pub(crate) bytes: u64,
    /// Extents that could not be read now, and why the first of them.
    pub(crate) unreadable: Vec<FoundExtent>,
    pub(crate) why: Option<String>,
}

/// Moves extents of one group into one new block.
pub(crate) async fn move_into_one_block(
    core: &Arc<Core>,
    group: GroupId,
    kind: BlockKind,
    wanted: Classes,
    batch: Vec<FoundExtent>,
    throttle: &Throttle,
) -> Result<Moved, GridError> {
    let len: u64 = batch.iter().map(|found| found.extent.len).sum();
    throttle.take(len).await;
    // Plain, sealed and coded.
    let _reservation = spare(core, 3 * len).await?;
    let session = core.sessions.get(group).await?;
    // What was found is not freed while it is read.
    let _pin = core.sessions.pin(group);
    let mut moved = Moved::default();
    let mut contents: Vec<(ContentKey, Vec<Bytes>)> = Vec::new();
    let mut read: Vec<FoundExtent> = Vec::new();
    for found in batch {
        match read_extent(core, &found).await {
            Ok(content) => {
                contents.push(content);
                read.push(found);
            }
            Err(error @ (GridError::Unreadable(_) | GridError::DataLost(_))) => {
                moved.why.get_or_insert_with(|| error.to_string());
                moved.unreadable.push(found);
            }
            Err(error) => return Err(error),
        }
    }
    if contents.is_empty() {
        return Ok(moved);
    }
    let stored = core.store_block(&session, kind, Payload::Plain(contents)).await?;
    let class = match kind {
        BlockKind::Large => wanted.large,
        BlockKind::Pack => wanted.small,
    };
    if (stored.row.k, stored.row.m) != (class.k(), class.m()) {
        // Nothing refers to it. To swap it in would be to move it again in the next round.
        return Err(GridError::Unavailable("no drives for today's code".to_owned()));
    }
    let swaps = swaps(&read, &stored)?;
    let command = NamespaceCommand::Rewrite {
        session: session.id,
        blocks: vec![stored.row],
        swaps,
        now_ms: core.meta.now_ms(),
    };
    match core.meta.command(group, &command).await {
        Ok(NamespaceOk::Rewritten(count)) => {
            moved.extents = u64::from(count);
            moved.bytes = u64::from(stored.row.len);
            core.refill_after_commit(stored.refill);
            Ok(moved)
        }
        Ok(_) => Err(internal("reply to a rewrite")),
        Err(error) => {
            if let MetaError::Namespace(NamespaceError::SessionClosed(_)) = error {
                core.sessions.forget(&session);
            }
            Err(error.into())
        }
    }
}

/// Bytes of the budget that clients leave alone: at most half of it is taken for this, and nothing
/// while one of them waits.
async fn spare(core: &Core, bytes: u64) -> Result<Reservation, GridError> {
    let half = core.budget.capacity_bytes() / 2;
    for _ in 0..limits::REWRITE_BUDGET_TRIES {
        if core.budget.free_bytes() > half
            && let Some(reservation) = core.budget.try_reserve(bytes)
        {
            return Ok(reservation);
        }
        core.env.clock.sleep(Duration::from_secs(1)).await;
    }
    Err(GridError::SlowDown)
}

async fn read_extent(
    core: &Core,
    found: &FoundExtent,
) -> Result<(ContentKey, Vec<Bytes>), GridError> {
    let corrupt = || GridError::DataLost("an extent row is corrupt".to_owned());
    let extent = &found.extent;
    let len = u32::try_from(extent.len).map_err(|_| corrupt())?;
    let end = extent.skip.checked_add(len).filter(|end| *end <= extent.region_len);
    let key = core.content_key(&found.key).await?;
    let pieces =
        core.read_region(extent, &key, extent.skip..end.ok_or_else(corrupt)?, Near::Not).await?;
    let got: usize = pieces.iter().map(Bytes::len).sum();
    if got != len as usize {
        return Err(internal("a region gave another length"));
    }
    Ok((key, pieces))
}

fn swaps(read: &[FoundExtent], stored: &Stored) -> Result<Vec<Swap>, GridError> {
    if read.len() != stored.regions.len() {
        return Err(internal("a region per content"));
    }
    let swap = |(found, region): (&FoundExtent, &nexusgrid_codec::Region)| Swap {
        content: found.content,
        old: found.extent,
        new: extent(stored, *region, found.extent.offset),
    };
    Ok(read.iter().zip(&stored.regions).map(swap).collect())
}
