//! The fold: what each record of the log does to the index. Live commits, catching up and rebuilds
//! all come through here, so that they cannot disagree.
//!
//! Keeps: I5 (epochs only grow), the sums in [`crate::index::Totals`], live bytes per segment.

use nexusgrid_env::KvError;

use crate::index::{self, HoleRow, Sessions, ShardRow, TombRow};
use crate::limits::RECORD_ALIGN;
use crate::log::{Fact, LogItem, ShardEntry};
use crate::txn::Txn;
use crate::types::ShardKey;

/// Folds one record of `segment` into `txn`. `punch_min_bytes` decides which dead records are
/// queued for holes.
pub fn apply(
    txn: &mut Txn<'_>,
    segment: u64,
    item: &LogItem,
    punch_min_bytes: u64,
) -> Result<(), KvError> {
    match item {
        LogItem::Shard(shard) => apply_shard(txn, segment, shard)?,
        LogItem::Facts(facts) => {
            for fact in &facts.facts {
                apply_fact(txn, segment, fact, punch_min_bytes)?;
            }
        }
    }
    advance(txn, segment, item)
}

/// Moves the cursor behind a record whose content is folded already.
pub fn advance(txn: &mut Txn<'_>, segment: u64, item: &LogItem) -> Result<(), KvError> {
    if let LogItem::Facts(facts) = item {
        txn.meta.age_ms = txn.meta.age_ms.max(facts.age_ms);
    }
    if let Some(mut row) = txn.segment(segment)? {
        row.data_bytes = row.data_bytes.max(item.end());
        txn.put_segment(segment, &row);
    }
    txn.meta.sequence = txn.meta.sequence.max(item.sequence());
    txn.meta.cursor_segment = segment;
    txn.meta.cursor_offset = item.end();
    Ok(())
}

fn apply_shard(txn: &mut Txn<'_>, segment: u64, shard: &ShardEntry) -> Result<(), KvError> {
    let mut stale = Vec::new();
    if let Some(old) = txn.shard(shard.key)? {
        forget(txn, shard.key, &old)?;
        if old.born == shard.born {
            // A copy by compaction: the old place may hold the record until its segment is gone.
            stale = old.stale;
            if old.segment != segment && !stale.contains(&old.segment) {
                stale.push(old.segment);
            }
        }
    }
    let row = ShardRow {
        segment,
        offset: shard.offset,
        head_bytes: shard.head_bytes,
        body_bytes: shard.body_bytes,
        born: shard.born,
        pg: shard.pg,
        epoch: shard.epoch,
        trashed_ms: shard.trashed_ms,
        digest: shard.digest,
        stale,
    };
    remember(txn, shard.key, &row)?;
    raise_epoch(txn, shard.pg, shard.epoch)
}

/// Takes a shard out of rows and sums.
fn forget(txn: &mut Txn<'_>, key: ShardKey, row: &ShardRow) -> Result<(), KvError> {
    txn.delete(index::SHARDS, index::shard_key(key));
    txn.delete(index::BY_PG, index::pg_key(row.pg, key));
    let totals = &mut txn.meta.totals;
    match row.trashed_ms {
        Some(time) => {
            totals.trash_shards = totals.trash_shards.saturating_sub(1);
            totals.trash_bytes = totals.trash_bytes.saturating_sub(row.body_bytes);
            txn.delete(index::TRASH, index::trash_key(time, key));
        }
        None => {
            totals.shards = totals.shards.saturating_sub(1);
            totals.shard_bytes = totals.shard_bytes.saturating_sub(row.body_bytes);
        }
    }
    if let Some(mut segment) = txn.segment(row.segment)? {
        segment.live_bytes = segment.live_bytes.saturating_sub(row.disk_bytes());
        txn.put_segment(row.segment, &segment);
    }
    Ok(())
}

/// The inverse of [`forget`].
fn remember(txn: &mut Txn<'_>, key: ShardKey, row: &ShardRow) -> Result<(), KvError> {
    txn.put(index::SHARDS, index::shard_key(key), index::encode(row));
    txn.put(index::BY_PG, index::pg_key(row.pg, key), Vec::new());
    let totals = &mut txn.meta.totals;
    match row.trashed_ms {
        Some(time) => {
            totals.trash_shards += 1;
            totals.trash_bytes += row.body_bytes;
            txn.put(index::TRASH, index::trash_key(time, key), Vec::new());
        }
        None => {
            totals.shards += 1;
            totals.shard_bytes += row.body_bytes;
        }
    }
    if let Some(mut segment) = txn.segment(row.segment)? {
        segment.live_bytes += row.disk_bytes();
        txn.put_segment(row.segment, &segment);
    }
    Ok(())
}

fn raise_epoch(
    txn: &mut Txn<'_>,
    pg: nexusgrid_codec::PgId,
    epoch: nexusgrid_codec::Epoch,
) -> Result<(), KvError> {
    if epoch > txn.epoch(pg)? {
        txn.put(index::EPOCHS, index::epoch_key(pg), index::encode(&epoch));
    }
    Ok(())
}

fn raise_floor(txn: &mut Txn<'_>, sessions: Sessions, floor: u64) -> Result<(), KvError> {
    if floor <= txn.floor(sessions)? {
        return Ok(());
    }
    txn.put(index::SESSIONS, sessions.floor_key(), index::encode(&floor));
    for closed in txn.closed(sessions)? {
        if closed < floor {
            txn.delete(index::SESSIONS, sessions.closed_key(closed));
        }
    }
    Ok(())
}

fn close(txn: &mut Txn<'_>, sessions: Sessions, session: u64) -> Result<(), KvError> {
    if session >= txn.floor(sessions)? {
        txn.put(index::SESSIONS, sessions.closed_key(session), Vec::new());
    }
    Ok(())
}

/// Folds one fact that stands in `segment`.
pub fn apply_fact(
    txn: &mut Txn<'_>,
    segment: u64,
    fact: &Fact,
    punch_min_bytes: u64,
) -> Result<(), KvError> {
    match fact {
        Fact::Epoch { pg, epoch } => raise_epoch(txn, *pg, *epoch)?,
        Fact::SessionFloor { group, floor } => {
            raise_floor(txn, Sessions::Writers(*group), floor.0)?;
        }
        Fact::SessionClosed { group, session } => {
            close(txn, Sessions::Writers(*group), session.0)?;
        }
        Fact::FillFloor { pg, floor } => raise_floor(txn, Sessions::Fills(*pg), floor.0)?,
        Fact::FillClosed { pg, session } => close(txn, Sessions::Fills(*pg), session.0)?,
        Fact::Tombstone { block, pg } => {
            match txn.tombstone(*block)? {
                None => txn.meta.totals.tombstones += 1,
                Some(old) => txn.delete(index::TOMBS_BY_PG, index::tomb_key(old.pg, *block)),
            }
            let row = TombRow { segment, pg: *pg };
            txn.put(index::TOMBSTONES, block.to_bytes().to_vec(), index::encode(&row));
            txn.put(index::TOMBS_BY_PG, index::tomb_key(*pg, *block), Vec::new());
        }
        Fact::TombstoneDropped { block, segment: holder } => {
            if let Some(row) = txn.tombstone(*block)?.filter(|row| row.segment == *holder) {
                txn.delete(index::TOMBS_BY_PG, index::tomb_key(row.pg, *block));
                txn.meta.totals.tombstones = txn.meta.totals.tombstones.saturating_sub(1);
                txn.delete(index::TOMBSTONES, block.to_bytes().to_vec());
            }
        }
        Fact::Dead { key, born, .. } => {
            if let Some(row) = txn.shard(*key)?.filter(|row| row.born == *born) {
                forget(txn, *key, &row)?;
                let large = row.disk_bytes() >= punch_min_bytes && row.disk_bytes() > RECORD_ALIGN;
                if large {
                    let hole = HoleRow { disk_bytes: row.disk_bytes() };
                    let hole_key = index::hole_key(row.segment, row.offset);
                    txn.put(index::HOLES, hole_key, index::encode(&hole));
                }
            }
        }
        Fact::Stamp { key, born, pg, epoch, trashed_ms } => {
            if let Some(row) = txn.shard(*key)?.filter(|row| row.born == *born) {
                forget(txn, *key, &row)?;
                let stamped = ShardRow { pg: *pg, epoch: *epoch, trashed_ms: *trashed_ms, ..row };
                remember(txn, *key, &stamped)?;
            }
            raise_epoch(txn, *pg, *epoch)?;
        }
    }
    Ok(())
}
