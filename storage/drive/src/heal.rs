//! Writing again what rotted, from what is still known.
//!
//! A label comes from the index, a footer from the records, a facts record from the footer (or the
//! writer's memory). Facts that stand nowhere any more are taken from the index: everything that a
//! fold of the remaining log would get wrong is declared anew, so that the index can be lost again.
//!
//! Each function says whether it healed; a disk too full for it is no failure, a failed sync is.

use std::io;
use std::sync::Arc;

use nexusgrid_codec::PgId;
use nexusgrid_env::ScanRange;

use crate::error::DriveError;
use crate::index::{self, SegmentRow, Sessions, ShardRow, TombRow};
use crate::limits::{FACTS_BODY_BYTES_MAX, FACTS_PER_OP_MAX};
use crate::list::scan;
use crate::log::{self, Fact, FactsEntry, LogItem, SegmentLabel, ShardEntry};
use crate::op::Op;
use crate::queue::Lane;
use crate::record::{RecordHead, RecordKind};
use crate::scrub::sure_items;
use crate::segment::{self, SegmentFile};
use crate::shared::{Shared, is_full};
use crate::store::submit;
use crate::superblock;

/// All segments there may be.
const SEGMENTS_MAX: usize = 1 << 24;
/// No segment has this number.
const NO_SEGMENT: u64 = u64::MAX;

async fn blocking<R: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> R + Send + 'static,
) -> R {
    let worker = shared.clone();
    shared.env.exec.blocking(move || work(&worker)).await
}

/// What a write or sync of healing means for the drive.
fn judge(shared: &Shared, written: io::Result<()>) -> Result<bool, DriveError> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if is_full(&error) => Ok(false),
        Err(error) => Err(shared.fail(format!("healing: {error}"))),
    }
}

/// Writes both copies of the superblock again.
pub async fn superblock(shared: &Arc<Shared>) -> Result<bool, DriveError> {
    blocking(shared, |shared| {
        match superblock::rewrite(shared.env.disk.as_ref(), &shared.dir, &shared.info) {
            Ok(()) => Ok(true),
            Err(crate::OpenError::Failed { reason, .. }) => Err(shared.fail(reason)),
            Err(_) => Ok(false),
        }
    })
    .await
}

/// Whether a facts record reads as it was written.
pub fn facts_are_whole(file: &SegmentFile, facts: &FactsEntry) -> bool {
    let Ok(Ok(head)) = segment::read_head(file.file.as_ref(), facts.offset) else { return false };
    let right = head.kind == RecordKind::Facts
        && head.uuid == file.uuid
        && head.offset == facts.offset
        && head.sequence == facts.sequence;
    let body = segment::read_body(file.file.as_ref(), &head, FACTS_BODY_BYTES_MAX as u64);
    let found = body.ok().flatten().and_then(|body| log::decode_facts(&body).ok());
    right && found.as_ref() == Some(&facts.facts)
}

/// Writes a facts record again in its place.
pub async fn facts(shared: &Arc<Shared>, id: u64, item: LogItem) -> Result<bool, DriveError> {
    let _one = shared.maintaining.lock().await;
    blocking(shared, move |shared| {
        let LogItem::Facts(facts) = item else { return Ok(false) };
        let Some(file) = open(shared, id)? else { return Ok(false) };
        let body = log::encode_facts(&facts.facts);
        let head = RecordHead {
            kind: RecordKind::Facts,
            uuid: file.uuid,
            offset: facts.offset,
            sequence: facts.sequence,
            born: facts.sequence,
            synced: facts.offset,
            age_ms: facts.age_ms,
            epoch: 0,
            fill: None,
            trashed: false,
            pg: 0,
            body_crc: crc32c::crc32c(&body),
            body_bytes: body.len() as u64,
            shard_header: Vec::new(),
        };
        let mut record = head.encode();
        record.extend_from_slice(&body);
        record.resize(facts.disk_bytes as usize, 0);
        judge(shared, write(&file, &record, facts.offset))
    })
    .await
}

fn write(file: &SegmentFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.file.write_at(bytes, offset)?;
    file.file.sync().map_err(|error| io::Error::other(format!("sync: {error}")))
}

/// The file of a segment that the index still has.
fn open(shared: &Shared, id: u64) -> Result<Option<SegmentFile>, DriveError> {
    if shared.segment_row(id)?.is_none() {
        return Ok(None);
    }
    Ok(shared.segment_file(id)?.ok())
}

/// Writes a segment's first record again.
pub async fn label(shared: &Arc<Shared>, id: u64) -> Result<bool, DriveError> {
    let _one = shared.maintaining.lock().await;
    let healed = blocking(shared, move |shared| {
        let Some(file) = open(shared, id)? else { return Ok(false) };
        let before = ScanRange {
            end: Some(index::segment_key(id)),
            reverse: true,
            ..ScanRange::prefix(&[], 1)
        };
        let previous_end = match scan(shared, index::SEGMENTS, &before)?.first() {
            Some((_, value)) => shared.decode::<SegmentRow>(index::SEGMENTS, value)?.data_bytes,
            None => 0,
        };
        let first = sure_items(shared, &file)?.and_then(|items| Some(items.first()?.sequence()));
        let sequence = first.map_or(0, |first| first.saturating_sub(1));
        let incarnation = shared.info.incarnation.0;
        let body = log::encode_label(&SegmentLabel { id, incarnation, previous_end });
        let record = segment::plain_record(RecordKind::Segment, file.uuid, 0, sequence, &body);
        judge(shared, write(&file, &record, 0))
    })
    .await?;
    if healed && shared.facts_lost.lock().contains(&id) {
        // Recovery held all of it in doubt.
        footer_of(shared, id).await?;
    }
    Ok(healed)
}

/// Gives a sealed segment its footer again, after declaring anew what its records no longer tell.
pub async fn footer(shared: &Arc<Shared>, id: u64) -> Result<bool, DriveError> {
    let _one = shared.maintaining.lock().await;
    footer_of(shared, id).await
}

async fn footer_of(shared: &Arc<Shared>, id: u64) -> Result<bool, DriveError> {
    let doubted = shared.facts_lost.lock().contains(&id);
    let listed = blocking(shared, move |shared| list_items(shared, id)).await?;
    let Some(Listed { file, row, items, lost, by_footer }) = listed else { return Ok(false) };
    if (lost || doubted) && !declare(shared, id, items.clone()).await? {
        return Ok(false);
    }
    let healed = by_footer
        || blocking(shared, move |shared| {
            let sequence = items.last().map_or(0, LogItem::sequence) + 1;
            judge(shared, segment::seal_anew(&file, row.data_bytes, &items, sequence))
        })
        .await?;
    if healed {
        shared.facts_lost.lock().remove(&id);
    }
    Ok(healed)
}

struct Listed {
    file: SegmentFile,
    row: SegmentRow,
    items: Vec<LogItem>,
    /// Whether facts may stand nowhere any more.
    lost: bool,
    by_footer: bool,
}

/// What a sealed segment holds, by its footer or else by its records.
fn list_items(shared: &Shared, id: u64) -> Result<Option<Listed>, DriveError> {
    let Some(row) = shared.segment_row(id)?.filter(|row| row.sealed) else { return Ok(None) };
    let Some(file) = open(shared, id)? else { return Ok(None) };
    if let Some(items) = sure_items(shared, &file)? {
        return Ok(Some(Listed { file, row, items, lost: false, by_footer: true }));
    }
    let Ok(scan) = segment::scan(&file, row.data_bytes, u64::MAX) else { return Ok(None) };
    let mut items = scan.items;
    items.retain(|item| item.end() <= row.data_bytes);
    Ok(Some(Listed { file, row, items, lost: scan.holes, by_footer: false }))
}

/// Writes into the log what a fold of it would get wrong without the lost facts of `lost`, whose
/// other records are `items`. False if the disk is too full for it.
async fn declare(shared: &Arc<Shared>, lost: u64, items: Vec<LogItem>) -> Result<bool, DriveError> {
    let (pgs, sessions) = blocking(shared, epochs_and_sessions).await?;
    let mut facts = sessions;
    facts.extend(blocking(shared, move |shared| tombstones_in(shared, lost)).await?);
    // The writer holds each against the index of that moment, so that nothing outdated is said.
    if !submit_all(shared, lost, pgs, facts).await? {
        return Ok(false);
    }
    let ids = blocking(shared, |shared| -> Result<Vec<u64>, DriveError> {
        let rows = scan(shared, index::SEGMENTS, &ScanRange::prefix(&[], SEGMENTS_MAX))?;
        Ok(rows.iter().filter_map(|(key, _)| index::parse_segment_key(key)).collect())
    })
    .await?;
    for id in ids {
        let own = if id == lost { Some(items.clone()) } else { None };
        let facts = blocking(shared, move |shared| {
            let items = match own {
                Some(items) => Some(items),
                None => items_of(shared, id)?,
            };
            deaths_and_stamps(shared, id, &items.unwrap_or_default())
        })
        .await?;
        if !submit_all(shared, NO_SEGMENT, Vec::new(), facts).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn items_of(shared: &Shared, id: u64) -> Result<Option<Vec<LogItem>>, DriveError> {
    let Some(file) = open(shared, id)? else { return Ok(None) };
    if let Some(items) = sure_items(shared, &file)? {
        return Ok(Some(items));
    }
    let Some(row) = shared.segment_row(id)? else { return Ok(None) };
    Ok(segment::scan(&file, row.data_bytes, u64::MAX).ok().map(|scan| scan.items))
}

async fn submit_all(
    shared: &Arc<Shared>,
    victim: u64,
    pgs: Vec<PgId>,
    facts: Vec<Fact>,
) -> Result<bool, DriveError> {
    let mut ops = Vec::new();
    for pgs in pgs.chunks(FACTS_PER_OP_MAX) {
        ops.push(Op::Relog { victim, pgs: pgs.to_vec(), facts: Vec::new() });
    }
    for facts in facts.chunks(FACTS_PER_OP_MAX) {
        ops.push(Op::Relog { victim, pgs: Vec::new(), facts: facts.to_vec() });
    }
    for op in ops {
        match submit(shared, Lane::Maintenance, op).await {
            Ok(_) => {}
            Err(DriveError::NoSpace { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn epochs_and_sessions(shared: &Shared) -> Result<(Vec<PgId>, Vec<Fact>), DriveError> {
    let all = ScanRange::prefix(&[], usize::MAX);
    let pgs = scan(shared, index::EPOCHS, &all)?;
    let pgs = pgs.iter().filter_map(|(key, _)| Some(PgId(u32::from_be_bytes(*key.first_chunk()?))));
    let mut facts = Vec::new();
    for (key, value) in scan(shared, index::SESSIONS, &all)? {
        let Some((sessions, closed)) = Sessions::parse_key(&key) else { continue };
        facts.push(match closed {
            Some(session) => sessions.closed_fact(session),
            None => sessions.floor_fact(shared.decode(index::SESSIONS, &value)?),
        });
    }
    Ok((pgs.collect(), facts))
}

fn tombstones_in(shared: &Shared, segment: u64) -> Result<Vec<Fact>, DriveError> {
    let mut facts = Vec::new();
    for (key, value) in scan(shared, index::TOMBSTONES, &ScanRange::prefix(&[], usize::MAX))? {
        let row: TombRow = shared.decode(index::TOMBSTONES, &value)?;
        let Some(block) = key.first_chunk().map(|key| nexusgrid_codec::BlockId::from_bytes(*key))
        else {
            continue;
        };
        if row.segment == segment {
            facts.push(Fact::Tombstone { block, pg: row.pg });
        }
    }
    Ok(facts)
}

fn deaths_and_stamps(
    shared: &Shared,
    segment: u64,
    items: &[LogItem],
) -> Result<Vec<Fact>, DriveError> {
    let mut said = Vec::new();
    for item in items {
        match item {
            LogItem::Shard(shard) => {
                said.extend(death_or_stamp(segment, shard, shared.shard_row(shard.key)?));
            }
            LogItem::Facts(entry) => {
                for fact in &entry.facts {
                    let Fact::Tombstone { block, .. } = fact else { continue };
                    let row = shared
                        .kv
                        .get(index::TOMBSTONES, &block.to_bytes())
                        .map_err(|error| shared.index_failed(&error))?
                        .map(|bytes| shared.decode::<TombRow>(index::TOMBSTONES, &bytes))
                        .transpose()?;
                    if row.is_none_or(|row| row.segment != segment) {
                        said.push(Fact::TombstoneDropped { block: *block, segment });
                    }
                }
            }
        }
    }
    Ok(said)
}

fn death_or_stamp(segment: u64, shard: &ShardEntry, row: Option<ShardRow>) -> Option<Fact> {
    let (key, born) = (shard.key, shard.born);
    match row.filter(|row| row.born == born) {
        None => Some(Fact::Dead { key, born, segments: vec![segment] }),
        Some(row) => {
            let stamped = (shard.pg, shard.epoch, shard.trashed_ms);
            let ShardRow { pg, epoch, trashed_ms, .. } = row;
            ((pg, epoch, trashed_ms) != stamped).then_some(Fact::Stamp {
                key,
                born,
                pg,
                epoch,
                trashed_ms,
            })
        }
    }
}
