//! Looks through a drive that nobody has open, and changes nothing: superblock, labels, footers, facts,
//! every shard of the index against its record, the index against itself.
//!
//! What a start would mend or fold is no fault: a newest segment without a footer, records behind the
//! index's cursor, an unsynced tail. Blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use nexusgrid_codec::{BlockId, PgId};
use nexusgrid_env::{Env, KvError, KvRead, OpenMode, ScanRange};

use crate::error::OpenError;
use crate::heal;
use crate::index::{self, ShardRow};
use crate::limits::{INSPECTION_FAULTS_MAX, SCRUB_ROWS};
use crate::list::next_key;
use crate::log::LogItem;
use crate::read;
use crate::segment::{self, DATA_START, SegmentFile};
use crate::superblock;
use crate::types::{ShardKey, SuperblockInfo};

/// What was found.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Whose drive it is.
    pub info: SuperblockInfo,
    /// Segment files.
    pub segments: u64,
    /// Shards that would be served, by key, and their placement groups.
    pub shards: BTreeMap<ShardKey, PgId>,
    /// Shards in the trash.
    pub trash: u64,
    /// Blocks with tombstones.
    pub tombstones: BTreeSet<BlockId>,
    /// Bytes of shards read and found sound.
    pub sound_bytes: u64,
    /// Bytes behind the last whole record: what a loss of power leaves.
    pub torn_bytes: u64,
    /// Records and files that do not read as they were written.
    pub corrupt: u64,
    /// Shards of the index whose segment is not there.
    pub missing: u64,
    /// Shards that would be served and cannot: missing, or not as they were written.
    pub bad: BTreeSet<ShardKey>,
    /// Rows of the index that lead nowhere in it.
    pub dangling: u64,
    /// The first faults, for people.
    pub faults: Vec<String>,
}

impl Inspection {
    fn fault(&mut self, what: impl FnOnce() -> String) {
        if self.faults.len() < INSPECTION_FAULTS_MAX {
            self.faults.push(what());
        }
    }

    fn corrupt(&mut self, what: impl FnOnce() -> String) {
        self.corrupt += 1;
        self.fault(what);
    }
}

/// Looks through the drive in `dir`. Only a drive that cannot be told at all is an error.
pub fn inspect(env: &Env, dir: &Path) -> Result<Inspection, OpenError> {
    let disk = env.disk.as_ref();
    let info = superblock::read(disk, dir)?;
    let mut found = Inspection {
        info,
        segments: 0,
        shards: BTreeMap::new(),
        trash: 0,
        tombstones: BTreeSet::new(),
        sound_bytes: 0,
        torn_bytes: 0,
        corrupt: 0,
        missing: 0,
        bad: BTreeSet::new(),
        dangling: 0,
        faults: Vec::new(),
    };
    if superblock::whole_copies(disk, dir)? != [true, true] {
        found.corrupt(|| "a copy of the superblock is damaged".into());
    }
    let segments = look_at_segments(env, dir, &mut found)?;
    match env.kv.open_read_only(&index::path(dir), &index::options()) {
        Err(error) => found.corrupt(|| format!("the index: {error} (a start rebuilds it)")),
        Ok(kv) => {
            if let Err(error) = look_at_index(&kv, &segments, &mut found) {
                found.corrupt(|| format!("the index: {error} (a start rebuilds it)"));
            }
        }
    }
    Ok(found)
}

/// Segments by number, for those whose records can be told.
type Segments = BTreeMap<u64, SegmentFile>;

fn look_at_segments(env: &Env, dir: &Path, found: &mut Inspection) -> Result<Segments, OpenError> {
    let disk = env.disk.as_ref();
    let names = disk.list(&segment::dir(dir)).map_err(OpenError::io("list the segments"))?;
    let mut ids: Vec<u64> = names.iter().filter_map(|name| segment::parse_name(name)).collect();
    ids.sort_unstable();
    let newest = ids.last().copied();
    let mut segments = Segments::new();
    for id in ids {
        found.segments += 1;
        let doing = || format!("read segment {id:016x}");
        let file =
            disk.open(&segment::path(dir, id), OpenMode::Read).map_err(OpenError::io(doing()))?;
        let len = file.len().map_err(OpenError::io(doing()))?;
        if len <= DATA_START && Some(id) == newest {
            // Power failed while it was made, or nothing was written yet.
            found.torn_bytes += len;
        }
        let label = segment::read_label(file.as_ref(), id, found.info.incarnation.0);
        let uuid = match label.ok().flatten() {
            Some((head, _)) => head.uuid,
            None if len <= DATA_START && Some(id) == newest => continue,
            None => {
                found.corrupt(|| format!("segment {id:016x}: its first record is damaged"));
                let head = segment::read_head(file.as_ref(), DATA_START);
                let Ok(Ok(head)) = head else { continue };
                head.uuid
            }
        };
        let segment = SegmentFile { id, uuid, file };
        look_at_records(&segment, Some(id) == newest, found).map_err(OpenError::io(doing()))?;
        segments.insert(id, segment);
    }
    Ok(segments)
}

/// Checks what the index does not lead to: the footer, and facts.
fn look_at_records(
    segment: &SegmentFile,
    is_newest: bool,
    found: &mut Inspection,
) -> std::io::Result<()> {
    let id = segment.id;
    let items = match segment::read_footer(segment.file.as_ref(), segment.uuid)? {
        Some((_, items)) => items,
        None => {
            // Bodies of shards are read where the index knows them.
            let scan = segment::scan(segment, 0, u64::MAX)?;
            found.torn_bytes += if is_newest { scan.torn_bytes } else { 0 };
            if scan.sealed {
                found.corrupt(|| format!("segment {id:016x}: its footer is damaged"));
            }
            for damage in &scan.damage {
                let at = damage.offset;
                found.corrupt(|| format!("segment {id:016x} at {at}: {}", damage.what));
            }
            scan.items
        }
    };
    for item in &items {
        if let LogItem::Facts(facts) = item
            && !heal::facts_are_whole(segment, facts)
        {
            found.corrupt(|| format!("segment {id:016x} at {}: facts are damaged", facts.offset));
        }
    }
    Ok(())
}

/// Goes through all rows of a family.
fn each_row(
    kv: &Arc<dyn KvRead>,
    family: &'static str,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), KvError>,
) -> Result<(), KvError> {
    let mut range = ScanRange::prefix(&[], SCRUB_ROWS);
    loop {
        let rows = kv.scan(family, &range)?;
        for (key, value) in &rows {
            visit(key, value)?;
        }
        match rows.last() {
            Some((key, _)) if rows.len() == SCRUB_ROWS => range.start = next_key(key.to_vec()),
            _ => return Ok(()),
        }
    }
}

fn look_at_index(
    kv: &Arc<dyn KvRead>,
    segments: &Segments,
    found: &mut Inspection,
) -> Result<(), KvError> {
    let malformed = || KvError::Corrupt("a row does not decode".into());
    each_row(kv, index::SHARDS, |bytes, value| {
        let key = index::parse_shard_key(bytes).ok_or_else(malformed)?;
        let row: ShardRow = index::decode(value).ok_or_else(malformed)?;
        if kv.get(index::BY_PG, &index::pg_key(row.pg, key))?.is_none() {
            found.dangling += 1;
            found.fault(|| format!("{key} is not listed under its placement group"));
        }
        let Some(segment) = segments.get(&row.segment) else {
            found.missing += 1;
            if row.trashed_ms.is_none() {
                found.bad.insert(key);
            }
            found.fault(|| format!("{key}: segment {:016x} is missing", row.segment));
            return Ok(());
        };
        let before = found.corrupt;
        match read::read_from(segment, key, &row, 0..row.body_bytes) {
            Ok(raw) if read::is_sound(&raw, &row) => found.sound_bytes += row.body_bytes,
            Ok(_) => found.corrupt(|| format!("{key}: body does not match its digest")),
            Err(read::Bad::Io(error)) => found.corrupt(|| format!("{key}: {error}")),
            Err(read::Bad::Other(what)) => found.corrupt(|| format!("{key}: {what}")),
        }
        if found.corrupt > before && row.trashed_ms.is_none() {
            found.bad.insert(key);
        }
        match row.trashed_ms {
            Some(_) => found.trash += 1,
            None => drop(found.shards.insert(key, row.pg)),
        }
        Ok(())
    })?;
    each_row(kv, index::BY_PG, |bytes, _| {
        let key = index::parse_pg_key(bytes).ok_or_else(malformed)?;
        if kv.get(index::SHARDS, &index::shard_key(key))?.is_none() {
            found.dangling += 1;
            found.fault(|| format!("{key} is listed, but not known"));
        }
        Ok(())
    })?;
    each_row(kv, index::TOMBS_BY_PG, |bytes, _| {
        let block = index::parse_tomb_key(bytes).ok_or_else(malformed)?;
        found.tombstones.insert(block);
        Ok(())
    })?;
    // The rest only against its checksums.
    for family in [
        index::TRASH,
        index::TOMBSTONES,
        index::EPOCHS,
        index::SESSIONS,
        index::SEGMENTS,
        index::HOLES,
    ] {
        each_row(kv, family, |_, _| Ok(()))?;
    }
    Ok(())
}
