//! Giving space back: the trash by age, large dead records by holes, small ones by compaction.
//!
//! Compaction of a segment, in the only safe order (L3):
//!
//! ```text
//! copy live records and needed facts through the log ─ synced, index follows
//!   └► flush the index ─ no crash brings back a row that points into the segment
//!       └► unlink, sync the directory
//!           └► forget the segment's row
//! ```
//!
//! A crash anywhere leaves either the old place or both; a full disk stops the copying and changes
//! nothing. A record that cannot be copied whole keeps its segment. Holes leave the first 4 KiB of
//! a record, so that a scan still finds the next one, and only sealed segments get them, so that a
//! tail scan never takes one for a torn record.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nexusgrid_env::ScanRange;

use crate::error::DriveError;
use crate::index::{self, HoleRow, SegmentRow};
use crate::limits::{COMPACT_CHUNK_BYTES, MAINTAIN_ROWS, RECORD_ALIGN, SEAL_DEAD_BYTES_MIN};
use crate::log::{Fact, LogItem};
use crate::metrics::add;
use crate::op::{CopyOp, Op, Reply};
use crate::queue::Lane;
use crate::read::{Bad, read_record};
use crate::segment;
use crate::shared::{Shared, is_full};
use crate::store::submit;
use crate::types::{Maintained, ShardKey, SpaceLevel};

/// Segments that one step compacts at most.
const SEGMENTS_PER_STEP_MAX: usize = 4;

/// One step: purge, punch, compact.
pub async fn maintain(shared: &Arc<Shared>) -> Result<Maintained, DriveError> {
    let _one = shared.maintaining.lock().await;
    shared.check()?;
    let mut done = Maintained::default();
    purge(shared, &mut done).await?;
    punch(shared, &mut done).await?;
    seal_dead(shared).await?;
    for _ in 0..SEGMENTS_PER_STEP_MAX {
        let Some(victim) = blocking(shared, pick_victim).await? else { break };
        match compact(shared, victim, &mut done).await {
            Ok(true) => done.segments_removed += 1,
            Ok(false) => {
                done.segments_stuck += 1;
                blocking(shared, move |shared| keep(shared, victim)).await?;
            }
            // No room for copies: later, nothing has changed.
            Err(DriveError::NoSpace { .. }) => {
                done.segments_stuck += 1;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

async fn blocking<R: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> R + Send + 'static,
) -> R {
    let worker = shared.clone();
    shared.env.exec.blocking(move || work(&worker)).await
}

async fn purge(shared: &Arc<Shared>, done: &mut Maintained) -> Result<(), DriveError> {
    if shared.purge_held.load(Ordering::Acquire) {
        return Ok(());
    }
    let keep_ms = u64::try_from(shared.options.trash_age.as_millis()).unwrap_or(u64::MAX);
    let Some(due_ms) = shared.age_ms().checked_sub(keep_ms) else { return Ok(()) };
    loop {
        let rows = blocking(shared, move |shared| {
            let range = ScanRange {
                start: Vec::new(),
                end: Some(due_ms.saturating_add(1).to_be_bytes().to_vec()),
                reverse: false,
                limit: MAINTAIN_ROWS,
            };
            shared.kv.scan(index::TRASH, &range).map_err(|error| shared.index_failed(&error))
        })
        .await?;
        let due: Vec<(Option<u64>, ShardKey)> = rows
            .iter()
            .filter_map(|(key, _)| index::parse_trash_key(key))
            .map(|(time, key)| (Some(time), key))
            .collect();
        if due.is_empty() {
            return Ok(());
        }
        match submit(shared, Lane::Maintenance, Op::Purge(due)).await? {
            Reply::Count(purged) if purged > 0 => done.purged += purged,
            _ => return Ok(()),
        }
    }
}

/// Ends the active segment if much of it is dead: only sealed ones give space back, and a drive
/// that is no longer written to would keep its last segment for ever.
async fn seal_dead(shared: &Arc<Shared>) -> Result<(), DriveError> {
    let segment = shared.meta.lock().cursor_segment;
    let row = blocking(shared, move |shared| shared.segment_row(segment)).await?;
    let Some(row) = row.filter(|row| !row.sealed) else { return Ok(()) };
    let dead = dead_bytes(&row);
    let enough = SEAL_DEAD_BYTES_MIN.min(shared.options.segment_bytes / 4);
    let share = dead * 100 / taken_bytes(&row).max(1);
    if dead >= enough && share >= u64::from(shared.options.compact_dead_percent) {
        submit(shared, Lane::Maintenance, Op::Seal { segment }).await?;
    }
    Ok(())
}

async fn punch(shared: &Arc<Shared>, done: &mut Maintained) -> Result<(), DriveError> {
    let holes = blocking(shared, ready_holes).await?;
    for (segment, offset, bytes) in holes {
        let punched =
            blocking(shared, move |shared| punch_one(shared, segment, offset, bytes)).await?;
        let Some(punched) = punched else { return Ok(()) };
        if punched > 0 {
            done.holes += 1;
            done.hole_bytes += punched;
            add(&shared.metrics.punched_bytes, punched);
        }
        let op = Op::Punched { segment, offset, bytes: punched };
        submit(shared, Lane::Maintenance, op).await?;
    }
    Ok(())
}

/// Holes in sealed segments (or in segments that are gone, whose rows may go too).
fn ready_holes(shared: &Shared) -> Result<Vec<(u64, u64, u64)>, DriveError> {
    let rows = shared
        .kv
        .scan(index::HOLES, &ScanRange::prefix(&[], MAINTAIN_ROWS))
        .map_err(|error| shared.index_failed(&error))?;
    let mut ready = Vec::new();
    for (key, value) in rows {
        let Some((segment, offset)) = index::parse_hole_key(&key) else { continue };
        let hole: HoleRow = shared.decode(index::HOLES, &value)?;
        if shared.segment_row(segment)?.is_none_or(|row| row.sealed) {
            ready.push((segment, offset, hole.disk_bytes));
        }
    }
    Ok(ready)
}

/// Bytes freed; `None` if the disk is too full for it now.
fn punch_one(
    shared: &Shared,
    segment: u64,
    offset: u64,
    bytes: u64,
) -> Result<Option<u64>, DriveError> {
    let Ok(file) = shared.segment_file(segment)? else { return Ok(Some(0)) };
    let freed = bytes.saturating_sub(RECORD_ALIGN);
    match file.file.punch_hole(offset + RECORD_ALIGN, freed) {
        Ok(()) => Ok(Some(freed)),
        Err(error) if is_full(&error) => Ok(None),
        Err(error) => {
            // A file system without holes: compaction frees the record instead.
            tracing::warn!(%error, segment, "cannot punch a hole");
            Ok(Some(0))
        }
    }
}

/// Remembers that a damaged record keeps a segment.
fn keep(shared: &Shared, victim: u64) -> Result<(), DriveError> {
    if let Some(row) = shared.segment_row(victim)? {
        shared.kept.lock().insert(victim, row.live_bytes);
    }
    Ok(())
}

/// The sealed segment with the largest dead share, if that is large enough.
fn pick_victim(shared: &Shared) -> Result<Option<u64>, DriveError> {
    let rows = shared
        .kv
        .scan(index::SEGMENTS, &ScanRange::prefix(&[], 1 << 24))
        .map_err(|error| shared.index_failed(&error))?;
    let facts_lost = shared.facts_lost.lock().clone();
    let kept = shared.kept.lock().clone();
    let dead_percent_min = worth_percent(shared);
    let mut best: Option<(u64, u64)> = None;
    for (key, value) in rows {
        let row: SegmentRow = shared.decode(index::SEGMENTS, &value)?;
        let Some(id) = index::parse_segment_key(&key) else { continue };
        let dead_percent = dead_bytes(&row) * 100 / taken_bytes(&row).max(1);
        let worth = row.sealed
            && !facts_lost.contains(&id)
            && kept.get(&id) != Some(&row.live_bytes)
            && (row.live_bytes == 0 || dead_percent >= dead_percent_min);
        if worth && best.is_none_or(|(share, _)| dead_percent > share) {
            best = Some((dead_percent, id));
        }
    }
    Ok(best.map(|(_, id)| id))
}

/// From which dead share on compaction is worth its copies: the fuller the drive, the less.
fn worth_percent(shared: &Shared) -> u64 {
    let percent = u64::from(shared.options.compact_dead_percent);
    let level = shared.budget().map(|budget| budget.level(0, &shared.options.marks));
    match level {
        Ok(SpaceLevel::Warn) => (percent / 2).max(1),
        Ok(SpaceLevel::NoBackfill | SpaceLevel::NoWrites) => (percent / 8).max(1),
        Ok(SpaceLevel::Normal) | Err(_) => percent,
    }
}

/// Bytes of records that a segment still takes on disk.
pub fn taken_bytes(row: &SegmentRow) -> u64 {
    row.data_bytes.saturating_sub(segment::DATA_START).saturating_sub(row.punched_bytes)
}

/// Bytes of them that no live record holds.
pub fn dead_bytes(row: &SegmentRow) -> u64 {
    taken_bytes(row).saturating_sub(row.live_bytes)
}

/// Compacts and removes a segment; false if something in it must stay.
async fn compact(
    shared: &Arc<Shared>,
    victim: u64,
    done: &mut Maintained,
) -> Result<bool, DriveError> {
    let Some(items) = blocking(shared, move |shared| list_items(shared, victim)).await? else {
        return Ok(false);
    };
    let mut pgs = BTreeSet::new();
    let mut facts: Vec<Fact> = Vec::new();
    let mut keys = Vec::new();
    for item in items {
        match item {
            LogItem::Shard(shard) => {
                pgs.insert(shard.pg);
                keys.push((shard.key, shard.offset));
            }
            LogItem::Facts(entry) => facts.extend(entry.facts),
        }
    }
    for fact in &facts {
        if let Fact::Epoch { pg, .. } | Fact::Stamp { pg, .. } = fact {
            pgs.insert(*pg);
        }
    }
    if !copy_live(shared, victim, keys, done).await? {
        return Ok(false);
    }
    let relog = Op::Relog { victim, pgs: pgs.into_iter().collect(), facts };
    submit(shared, Lane::Maintenance, relog).await?;
    let empty = blocking(shared, move |shared| shared.segment_row(victim))
        .await?
        .is_some_and(|row| row.live_bytes == 0);
    if !empty {
        return Ok(false);
    }
    blocking(shared, move |shared| unlink(shared, victim)).await?;
    submit(shared, Lane::Maintenance, Op::Forget { segment: victim }).await?;
    shared.kept.lock().remove(&victim);
    add(&shared.metrics.segments_removed, 1);
    Ok(true)
}

/// All records of a segment; `None` if some cannot be known.
fn list_items(shared: &Shared, victim: u64) -> Result<Option<Vec<LogItem>>, DriveError> {
    let Ok(file) = shared.segment_file(victim)? else { return Ok(None) };
    if let Ok(Some((_, items))) = segment::read_footer(file.file.as_ref(), file.uuid) {
        return Ok(Some(items));
    }
    let Some(row) = shared.segment_row(victim)? else { return Ok(None) };
    // Sealed: all of it was synced, and bodies are checked as they are copied.
    match segment::scan(&file, row.data_bytes, u64::MAX) {
        Ok(scan) if !scan.holes => Ok(Some(scan.items)),
        _ => Ok(None),
    }
}

async fn copy_live(
    shared: &Arc<Shared>,
    victim: u64,
    keys: Vec<(ShardKey, u64)>,
    done: &mut Maintained,
) -> Result<bool, DriveError> {
    let mut answers = Vec::new();
    let mut waiting_bytes = 0;
    for (key, offset) in keys {
        let read = blocking(shared, move |shared| read_live(shared, victim, key, offset)).await?;
        let copy = match read {
            Live::Gone => continue,
            Live::Damaged => return Ok(false),
            Live::Record(copy) => copy,
        };
        let bytes = copy.body.len() as u64;
        let answer = shared.queue.push(Lane::Maintenance, Op::Copy(copy), bytes).await?;
        answers.push((answer, bytes));
        waiting_bytes += bytes;
        if waiting_bytes >= COMPACT_CHUNK_BYTES {
            settle(shared, &mut answers, done).await?;
            waiting_bytes = 0;
        }
    }
    settle(shared, &mut answers, done).await?;
    Ok(true)
}

type Answers = Vec<(tokio::sync::oneshot::Receiver<Result<Reply, DriveError>>, u64)>;

async fn settle(
    shared: &Arc<Shared>,
    answers: &mut Answers,
    done: &mut Maintained,
) -> Result<(), DriveError> {
    for (answer, bytes) in answers.drain(..) {
        if let Reply::Count(1) = crate::store::wait(shared, answer).await? {
            done.copied_bytes += bytes;
            add(&shared.metrics.compacted_bytes, bytes);
        }
    }
    Ok(())
}

enum Live {
    /// Not live there any more.
    Gone,
    /// Live, but cannot be read whole: its segment must stay.
    Damaged,
    /// To copy.
    Record(Box<CopyOp>),
}

fn read_live(shared: &Shared, victim: u64, key: ShardKey, offset: u64) -> Result<Live, DriveError> {
    let here = |shared: &Shared| -> Result<_, DriveError> {
        let row = shared.shard_row(key)?;
        Ok(row.filter(|row| row.segment == victim && row.offset == offset))
    };
    let Some(row) = here(shared)? else { return Ok(Live::Gone) };
    let read = read_record(shared, key, &row, 0..row.body_bytes)?;
    if let Ok(raw) = &read
        && crc32c::crc32c(&raw.bytes) == raw.head.body_crc
    {
        return Ok(Live::Record(Box::new(CopyOp {
            key,
            segment: victim,
            offset,
            head: raw.head.clone(),
            body: raw.bytes.clone(),
        })));
    }
    if here(shared)?.is_none() {
        return Ok(Live::Gone);
    }
    if let Err(Bad::Io(error)) = &read {
        shared.read_failed(key, error);
    }
    tracing::error!(%key, segment = victim, "damaged record keeps its segment from compaction");
    Ok(Live::Damaged)
}

fn unlink(shared: &Shared, victim: u64) -> Result<(), DriveError> {
    shared.kv.flush().map_err(|error| shared.index_failed(&error))?;
    shared.forget_file(victim);
    let disk = &shared.env.disk;
    match disk.remove_file(&segment::path(&shared.dir, victim)) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if is_full(&error) => return Err(DriveError::NoSpace { available_bytes: 0 }),
        Err(error) => return Err(shared.fail(format!("remove a segment: {error}"))),
    }
    disk.sync_dir(&segment::dir(&shared.dir))
        .map_err(|error| shared.fail(format!("sync the segments' directory: {error}")))
}
