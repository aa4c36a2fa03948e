//! Listings: what the index holds, page by page.

use bytes::Bytes;
use nexusgrid_codec::{BlockId, Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::ScanRange;

use crate::error::DriveError;
use crate::index::{self, SegmentRow, Sessions};
use crate::limits::LIST_ROWS_MAX;
use crate::reclaim;
use crate::shared::Shared;
use crate::types::{ListPage, ShardKey, ShardStat, TombstonePage, TrashCursor, TrashPage, Usage};

/// A row as callers see it.
pub fn stat_of(key: ShardKey, row: &index::ShardRow) -> ShardStat {
    ShardStat {
        key,
        pg: row.pg,
        epoch: row.epoch,
        body_bytes: row.body_bytes,
        digest: row.digest,
        trashed: row.trashed_ms.is_some(),
        trashed_ms: row.trashed_ms.unwrap_or(0),
    }
}

/// The epoch known for a PG; zero if none.
pub fn epoch_of(shared: &Shared, pg: PgId) -> Result<Epoch, DriveError> {
    shared.check()?;
    let row = shared
        .kv
        .get(index::EPOCHS, &index::epoch_key(pg))
        .map_err(|error| shared.index_failed(&error))?;
    Ok(row.map(|bytes| shared.decode(index::EPOCHS, &bytes)).transpose()?.unwrap_or_default())
}

/// The key after a key.
pub fn next_key(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// Scans the index.
pub fn scan(
    shared: &Shared,
    family: &'static str,
    range: &ScanRange,
) -> Result<Vec<(Bytes, Bytes)>, DriveError> {
    shared.kv.scan(family, range).map_err(|error| shared.index_failed(&error))
}

/// A page of a PG's served shards.
pub fn of_pg(
    shared: &Shared,
    pg: PgId,
    after: Option<ShardKey>,
    limit: usize,
) -> Result<ListPage, DriveError> {
    let epoch = epoch_of(shared, pg)?;
    let limit = limit.clamp(1, LIST_ROWS_MAX);
    let mut range = ScanRange::prefix(&pg.0.to_be_bytes(), limit + 1);
    if let Some(after) = after {
        range.start = next_key(index::pg_key(pg, after));
    }
    let mut page = ListPage { epoch, shards: Vec::new(), more: false };
    loop {
        let rows = scan(shared, index::BY_PG, &range)?;
        let last = rows.len() <= limit;
        for (bytes, _) in &rows {
            let Some(key) = index::parse_pg_key(bytes) else { continue };
            let row = shared.shard_row(key)?.filter(|row| row.pg == pg);
            let Some(row) = row.filter(|row| row.trashed_ms.is_none()) else { continue };
            if page.shards.len() == limit {
                page.more = true;
                return Ok(page);
            }
            page.shards.push(stat_of(key, &row));
        }
        match rows.last() {
            Some((key, _)) if !last => range.start = next_key(key.to_vec()),
            _ => return Ok(page),
        }
    }
}

/// All served shards after a key, in key order.
pub fn all(
    shared: &Shared,
    after: Option<ShardKey>,
    limit: usize,
) -> Result<Vec<ShardStat>, DriveError> {
    shared.check()?;
    let limit = limit.clamp(1, LIST_ROWS_MAX);
    let mut range = ScanRange::prefix(&[], limit);
    if let Some(after) = after {
        range.start = next_key(index::shard_key(after));
    }
    let mut found = Vec::new();
    loop {
        let rows = scan(shared, index::SHARDS, &range)?;
        for (bytes, value) in &rows {
            let Some(key) = index::parse_shard_key(bytes) else { continue };
            let row: index::ShardRow = shared.decode(index::SHARDS, value)?;
            if row.trashed_ms.is_none() && found.len() < limit {
                found.push(stat_of(key, &row));
            }
        }
        match rows.last() {
            Some((key, _)) if rows.len() == limit && found.len() < limit => {
                range.start = next_key(key.to_vec());
            }
            _ => return Ok(found),
        }
    }
}

/// A page of the trash.
pub fn trash(
    shared: &Shared,
    after: Option<TrashCursor>,
    limit: usize,
) -> Result<TrashPage, DriveError> {
    shared.check()?;
    let limit = limit.clamp(1, LIST_ROWS_MAX);
    let mut range = ScanRange::prefix(&[], limit);
    if let Some(after) = after {
        range.start = next_key(index::trash_key(after.trashed_ms, after.key));
    }
    let rows = scan(shared, index::TRASH, &range)?;
    let mut page = TrashPage { shards: Vec::new(), next: None };
    for (bytes, _) in &rows {
        let Some((trashed_ms, key)) = index::parse_trash_key(bytes) else { continue };
        page.next = Some(TrashCursor { trashed_ms, key });
        // It may have gone since the scan.
        let row = shared.shard_row(key)?.filter(|row| row.trashed_ms == Some(trashed_ms));
        page.shards.extend(row.map(|row| stat_of(key, &row)));
    }
    if rows.len() < limit {
        page.next = None;
    }
    Ok(page)
}

/// A page of a PG's tombstones.
pub fn tombstones(
    shared: &Shared,
    pg: PgId,
    after: Option<BlockId>,
    limit: usize,
) -> Result<TombstonePage, DriveError> {
    shared.check()?;
    let limit = limit.clamp(1, LIST_ROWS_MAX);
    let mut range = ScanRange::prefix(&pg.0.to_be_bytes(), limit + 1);
    if let Some(after) = after {
        range.start = next_key(index::tomb_key(pg, after));
    }
    let rows = scan(shared, index::TOMBS_BY_PG, &range)?;
    let blocks = rows.iter().take(limit).filter_map(|(key, _)| index::parse_tomb_key(key));
    Ok(TombstonePage { blocks: blocks.collect(), more: rows.len() > limit })
}

/// Whether a writer session is closed here.
pub fn is_session_closed(
    shared: &Shared,
    group: GroupId,
    session: SessionId,
) -> Result<bool, DriveError> {
    shared.check()?;
    let txn = crate::txn::Txn::new(shared.kv.as_ref(), index::Meta::default());
    txn.is_closed(Sessions::Writers(group), session.0).map_err(|error| shared.index_failed(&error))
}

/// Space and contents.
pub fn usage(shared: &Shared) -> Result<Usage, DriveError> {
    shared.check()?;
    let space = shared.env.disk.space(&shared.dir).map_err(|error| {
        DriveError::Invalid(format!("file system does not tell its space: {error}"))
    })?;
    let budget = crate::space::Budget::of(space, &shared.options.marks);
    let totals = shared.meta.lock().totals;
    let rows = scan(shared, index::SEGMENTS, &ScanRange::prefix(&[], 1 << 24))?;
    let (mut live_bytes, mut taken_bytes, mut reclaimable_bytes) = (0, 0, 0);
    for (_, value) in &rows {
        let row: SegmentRow = shared.decode(index::SEGMENTS, value)?;
        live_bytes += row.live_bytes;
        taken_bytes += reclaim::taken_bytes(&row);
        reclaimable_bytes += reclaim::dead_bytes(&row);
    }
    let segments_kept = shared.kept.lock().len() + shared.facts_lost.lock().len();
    Ok(Usage {
        total_bytes: space.total_bytes,
        capacity_bytes: budget.capacity_bytes,
        available_bytes: budget.available_bytes,
        level: budget.level(0, &shared.options.marks),
        shards: totals.shards,
        shard_bytes: totals.shard_bytes,
        trash_shards: totals.trash_shards,
        trash_bytes: totals.trash_bytes,
        tombstones: totals.tombstones,
        segments: rows.len() as u64,
        live_bytes,
        taken_bytes,
        reclaimable_bytes,
        segments_kept: segments_kept as u64,
    })
}
