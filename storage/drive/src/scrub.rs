//! The search for rot: everything a drive stores, bit by bit, in steps of a byte budget.
//!
//! ```text
//!  superblock ─► each segment: label, footer, facts, live shards ─► each row of the index
//!                 (what the segment lists as live against what the index counts there)
//!             ─► all files of the index, against their checksums
//! ```
//!
//! What is found is healed at once, if asked:
//!
//! | rotten | recovery |
//! |---|---|
//! | a shard's body | to the trash: no longer served or listed, rebuilt by repair, a last resort until purged |
//! | a shard's head | dropped: repair rebuilds it |
//! | a copy of the superblock | written again from the other |
//! | a label, a footer, facts | written again from the records, the index, the footer (see `heal`) |
//! | the index | the drive stops; opening it again rebuilds the index from the segments |
//!
//! State: the walk through the index's files, in memory: after a restart it begins anew. The caller
//! keeps the cursor, and the findings before it.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexusgrid_codec::PgId;
use nexusgrid_env::{KvError, ScanRange};
use serde::{Deserialize, Serialize};

use crate::error::DriveError;
use crate::heal;
use crate::index::{self, SegmentRow, ShardRow};
use crate::limits::{SCRUB_FINDINGS_MAX, SCRUB_ROW_BYTES, SCRUB_ROWS};
use crate::list::{next_key, scan};
use crate::log::LogItem;
use crate::metrics::add;
use crate::op::{Op, Reply};
use crate::queue::Lane;
use crate::read;
use crate::segment::{self, SegmentFile};
use crate::shared::Shared;
use crate::store::submit;
use crate::superblock;
use crate::types::ShardKey;

/// Where a scrub goes on; the default is the beginning. Worth persisting: a pass takes weeks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubCursor {
    stage: Stage,
    segment: u64,
    /// Where in the segment.
    offset: u64,
    /// Live bytes of the segment found so far, and those that the index counted at its beginning.
    live_found: u64,
    live_counted: u64,
    shard: Option<ShardKey>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    #[default]
    Superblock,
    Segments,
    Index,
    /// The files of the index.
    Files,
}

/// How to scrub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// Heal what is found; default true.
    pub heal: bool,
}

impl Default for ScrubOptions {
    fn default() -> ScrubOptions {
        ScrubOptions { heal: true }
    }
}

/// Something rotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rot {
    /// A shard that was live: put its slot on the repair queue. After healing it counts as absent.
    Shard {
        /// Block and slot.
        key: ShardKey,
        /// Placement group it was stamped with.
        pg: PgId,
    },
    /// A copy of the superblock.
    Superblock,
    /// The first record of a segment.
    Label {
        /// The segment.
        segment: u64,
    },
    /// The list of a sealed segment's records, or facts that it should list.
    Footer {
        /// The segment.
        segment: u64,
    },
    /// A record of facts.
    Facts {
        /// The segment.
        segment: u64,
        /// Where it begins there.
        offset: u64,
    },
    /// Rows of the index disagree with the segments or with each other.
    Index,
}

/// What a scrub found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is rotten.
    pub rot: Rot,
    /// What was seen.
    pub what: String,
    /// Whether it was healed; see [`Rot::Shard`] for what that means there.
    pub healed: bool,
}

/// What one step did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStep {
    /// Where to go on; `None` once the pass is complete.
    pub next: Option<ScrubCursor>,
    /// Bytes checked, about.
    pub bytes: u64,
    /// Live shards checked.
    pub shards: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// A live shard that does not verify.
struct Suspect {
    key: ShardKey,
    row: ShardRow,
    what: String,
    readable: bool,
}

/// What the reading part of a step found.
#[derive(Default)]
struct Seen {
    next: Option<ScrubCursor>,
    bytes: u64,
    shards: u64,
    suspects: Vec<Suspect>,
    label: Option<u64>,
    /// A segment whose footer cannot be used, or which lost facts.
    footer: Option<u64>,
    facts: Vec<(u64, LogItem)>,
    superblock: bool,
    index: Option<String>,
}

impl Seen {
    fn suspect(&mut self, key: ShardKey, row: ShardRow, fault: read::Fault) {
        let (what, readable) = (fault.reason, fault.readable);
        self.suspects.push(Suspect { key, row, what, readable });
    }

    fn is_over(&self, budget_bytes: u64) -> bool {
        self.bytes >= budget_bytes
            || self.suspects.len() + self.facts.len() >= SCRUB_FINDINGS_MAX
            || self.label.is_some()
            || self.footer.is_some()
            || self.superblock
            || self.index.is_some()
    }
}

/// One step.
pub(crate) async fn step(
    shared: &Arc<Shared>,
    cursor: ScrubCursor,
    budget_bytes: u64,
    options: ScrubOptions,
) -> Result<ScrubStep, DriveError> {
    shared.check()?;
    let worker = shared.clone();
    let seen = shared.env.exec.blocking(move || look(&worker, cursor, budget_bytes)).await?;
    add(&shared.metrics.scrubbed_bytes, seen.bytes);
    let mut step =
        ScrubStep { next: seen.next, bytes: seen.bytes, shards: seen.shards, findings: Vec::new() };
    heal_all(shared, seen, options.heal, &mut step.findings).await?;
    for finding in &step.findings {
        let drive = shared.info.identity.drive.0;
        tracing::error!(drive, ?finding.rot, finding.what, finding.healed, "scrub found rot");
    }
    Ok(step)
}

async fn heal_all(
    shared: &Arc<Shared>,
    seen: Seen,
    heal: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), DriveError> {
    let mut found = |rot, what: &str, healed| {
        findings.push(Finding { rot, what: what.to_owned(), healed });
    };
    for Suspect { key, row, what, readable } in seen.suspects {
        let mut healed = false;
        if heal {
            let op = Op::Rotten { key, born: row.born, readable };
            healed = match submit(shared, Lane::Maintenance, op).await {
                Ok(Reply::Count(changed)) => {
                    if changed == 0 {
                        // Deleted or written anew meanwhile.
                        continue;
                    }
                    true
                }
                Ok(_) | Err(DriveError::NoSpace { .. }) => false,
                Err(error) => return Err(error),
            };
        }
        // What lies in the trash is nobody's shard.
        if row.trashed_ms.is_none() {
            found(Rot::Shard { key, pg: row.pg }, &what, healed);
        }
    }
    if seen.superblock {
        let healed = heal && heal::superblock(shared).await?;
        found(Rot::Superblock, "a copy is damaged", healed);
    }
    for (segment, item) in seen.facts {
        let offset = item.offset();
        let healed = heal && heal::facts(shared, segment, item).await?;
        found(Rot::Facts { segment, offset }, "facts do not read as written", healed);
    }
    if let Some(segment) = seen.footer {
        let healed = heal && heal::footer(shared, segment).await?;
        found(Rot::Footer { segment }, "footer is damaged, or facts were lost", healed);
    }
    if let Some(segment) = seen.label {
        let healed = heal && heal::label(shared, segment).await?;
        found(Rot::Label { segment }, "segment record is damaged", healed);
    }
    if let Some(what) = seen.index {
        if heal {
            shared.index_failed(&KvError::Corrupt(what.clone()));
        }
        found(Rot::Index, &what, heal);
    }
    Ok(())
}

/// The reading part: goes on until the budget is used, something needs care, or the end.
fn look(shared: &Shared, cursor: ScrubCursor, budget_bytes: u64) -> Result<Seen, DriveError> {
    let mut seen = Seen::default();
    let mut cursor = cursor;
    loop {
        shared.check()?;
        let next = match cursor.stage {
            Stage::Superblock => {
                let whole = superblock::whole_copies(shared.env.disk.as_ref(), &shared.dir);
                seen.superblock = !matches!(whole, Ok([true, true]));
                seen.bytes += 2 * superblock::COPY_BYTES as u64;
                Some(ScrubCursor { stage: Stage::Segments, ..cursor })
            }
            Stage::Segments => look_at_segment(shared, cursor, budget_bytes, &mut seen)?,
            Stage::Index => look_at_index(shared, cursor, budget_bytes, &mut seen)?,
            Stage::Files => look_at_files(shared, cursor, budget_bytes, &mut seen)?,
        };
        seen.next = next;
        match next {
            Some(next) if !seen.is_over(budget_bytes) => cursor = next,
            _ => return Ok(seen),
        }
    }
}

/// The items of a segment that are known for sure: of the active one from memory, of a sealed one
/// from its footer; `None` if that cannot be used.
pub(crate) fn sure_items(
    shared: &Shared,
    file: &SegmentFile,
) -> Result<Option<Vec<LogItem>>, DriveError> {
    {
        let log = shared.log.lock();
        if log.active.id == file.id {
            return Ok(Some(log.items.clone()));
        }
    }
    let footer = segment::read_footer(file.file.as_ref(), file.uuid);
    Ok(footer.ok().flatten().map(|(_, items)| items))
}

fn look_at_segment(
    shared: &Shared,
    cursor: ScrubCursor,
    budget_bytes: u64,
    seen: &mut Seen,
) -> Result<Option<ScrubCursor>, DriveError> {
    let range =
        ScanRange { start: index::segment_key(cursor.segment), ..ScanRange::prefix(&[], 1) };
    let rows = scan(shared, index::SEGMENTS, &range)?;
    let Some((key, value)) = rows.first() else {
        return Ok(Some(ScrubCursor { stage: Stage::Index, ..ScrubCursor::default() }));
    };
    let row: SegmentRow = shared.decode(index::SEGMENTS, value)?;
    let id = index::parse_segment_key(key).unwrap_or(cursor.segment);
    let begins = id != cursor.segment || cursor.offset == 0;
    let after = ScrubCursor { stage: Stage::Segments, segment: id + 1, ..ScrubCursor::default() };
    let (offset, mut live_found, live_counted) = match begins {
        true => (0, 0, row.live_bytes),
        false => (cursor.offset, cursor.live_found, cursor.live_counted),
    };
    // Without its file the index has rows that lead nowhere: the last stage finds them.
    let Ok(file) = shared.segment_file(id)? else { return Ok(Some(after)) };
    if begins {
        let label = segment::read_label(file.file.as_ref(), id, shared.info.incarnation.0);
        if !matches!(label, Ok(Some((head, _))) if head.uuid == row.uuid) {
            seen.label = Some(id);
        }
    }
    let items = sure_items(shared, &file)?;
    // Compaction may have removed it meanwhile.
    if shared.segment_row(id)?.is_none() {
        seen.label = None;
        return Ok(Some(after));
    }
    let Some(items) = items.filter(|_| !row.sealed || !shared.facts_lost.lock().contains(&id))
    else {
        seen.footer = Some(id);
        seen.bytes += row.data_bytes;
        look_at_rows_of(shared, id, seen)?;
        return Ok(Some(after));
    };
    for item in items.iter().filter(|item| item.offset() >= offset) {
        match item {
            LogItem::Facts(facts) => {
                seen.bytes += facts.disk_bytes;
                if !heal::facts_are_whole(&file, facts) {
                    seen.facts.push((id, item.clone()));
                }
            }
            LogItem::Shard(shard) => {
                let here = |row: &ShardRow| row.segment == id && row.offset == shard.offset;
                if shared.shard_row(shard.key)?.filter(here).is_none() {
                    seen.bytes += SCRUB_ROW_BYTES;
                    continue;
                }
                live_found += shard.disk_bytes();
                seen.bytes += shard.disk_bytes();
                seen.shards += 1;
                if let Some(found) = read::examine(shared, shard.key)?
                    && let Some(fault) = found.fault
                {
                    seen.suspect(shard.key, found.row, fault);
                }
            }
        }
        if seen.is_over(budget_bytes) {
            let (segment, offset) = (id, item.end());
            return Ok(Some(ScrubCursor { segment, offset, live_found, live_counted, ..cursor }));
        }
    }
    // A sealed segment only loses live bytes: if it has as many as at the beginning, none died
    // meanwhile, and the records found live must be as many.
    let still = shared.segment_row(id)?.is_some_and(|now| now.live_bytes == live_counted);
    if row.sealed && still && live_found != live_counted {
        seen.index = Some(format!(
            "segment {id:016x} has {live_found} live bytes, the index counts {live_counted}"
        ));
    }
    Ok(Some(after))
}

/// Checks every shard that the index has in a segment whose own list cannot be used.
fn look_at_rows_of(shared: &Shared, segment: u64, seen: &mut Seen) -> Result<(), DriveError> {
    let mut range = ScanRange::prefix(&[], SCRUB_ROWS);
    loop {
        let rows = scan(shared, index::SHARDS, &range)?;
        for (bytes, value) in &rows {
            let row: ShardRow = shared.decode(index::SHARDS, value)?;
            let Some(key) = index::parse_shard_key(bytes) else { continue };
            if row.segment != segment {
                continue;
            }
            seen.shards += 1;
            if let Some(found) = read::examine(shared, key)?
                && let Some(fault) = found.fault
            {
                seen.suspect(key, found.row, fault);
            }
        }
        match rows.last() {
            Some((key, _)) if rows.len() == SCRUB_ROWS => range.start = next_key(key.to_vec()),
            _ => return Ok(()),
        }
    }
}

fn look_at_index(
    shared: &Shared,
    cursor: ScrubCursor,
    budget_bytes: u64,
    seen: &mut Seen,
) -> Result<Option<ScrubCursor>, DriveError> {
    let mut range = ScanRange::prefix(&[], SCRUB_ROWS);
    if let Some(shard) = cursor.shard {
        range.start = next_key(index::shard_key(shard));
    }
    let rows = scan(shared, index::SHARDS, &range)?;
    let mut is_there: BTreeMap<u64, bool> = BTreeMap::new();
    let mut last = cursor.shard;
    for (bytes, _) in &rows {
        let Some(key) = index::parse_shard_key(bytes) else { continue };
        last = Some(key);
        seen.bytes += SCRUB_ROW_BYTES;
        // Of now: it may have moved or gone since the scan.
        let Some(row) = shared.shard_row(key)? else { continue };
        let pg_row = shared
            .kv
            .get(index::BY_PG, &index::pg_key(row.pg, key))
            .map_err(|error| shared.index_failed(&error))?;
        if pg_row.is_none() && shared.shard_row(key)?.as_ref() == Some(&row) {
            seen.index = Some(format!("{key} is not listed under its placement group"));
        }
        let there = match is_there.get(&row.segment) {
            Some(there) => *there,
            None => {
                let there = shared.segment_file(row.segment)?.is_ok();
                is_there.insert(row.segment, there);
                there
            }
        };
        if !there && shared.shard_row(key)?.as_ref() == Some(&row) {
            let reason = format!("segment {:016x} is missing", row.segment);
            seen.suspect(key, row, read::Fault { reason, readable: false });
        }
        if seen.is_over(budget_bytes) {
            break;
        }
    }
    let ended = rows.len() < SCRUB_ROWS
        && last == rows.last().and_then(|(key, _)| index::parse_shard_key(key)).or(cursor.shard);
    let files = ScrubCursor { stage: Stage::Files, ..ScrubCursor::default() };
    Ok(Some(if ended { files } else { ScrubCursor { shard: last, ..cursor } }))
}

/// Reads the index as it is on disk; what lies in memory hides rot until the next start.
fn look_at_files(
    shared: &Shared,
    cursor: ScrubCursor,
    budget_bytes: u64,
    seen: &mut Seen,
) -> Result<Option<ScrubCursor>, DriveError> {
    let walk = shared.index_walk.lock().take();
    let mut walk = match walk {
        Some(walk) => walk,
        None => {
            let space = shared.env.disk.space(&shared.dir).ok();
            if space
                .is_none_or(|space| space.free_bytes < shared.options.marks.index_headroom_bytes)
            {
                // The walk takes a little room itself.
                return Ok(None);
            }
            match shared.kv.verify(&index::verify_path(&shared.dir)) {
                Ok(walk) => walk,
                Err(error) => {
                    seen.index = Some(error.to_string());
                    return Ok(None);
                }
            }
        }
    };
    match walk.step(budget_bytes.saturating_sub(seen.bytes).max(SCRUB_ROW_BYTES)) {
        Ok(Some(bytes)) => {
            seen.bytes += bytes;
            *shared.index_walk.lock() = Some(walk);
            Ok(Some(cursor))
        }
        Ok(None) => Ok(None),
        Err(error) => {
            seen.index = Some(error.to_string());
            Ok(None)
        }
    }
}
