//! Recovery: finds the end of the log and brings the index up to it.
//!
//! ```text
//! index has a cursor into the log ──► fold what lies behind it
//! index lost, foreign, corrupt, or ahead of the data ──► fold everything, from footers
//! ```
//!
//! The newest segment is scanned record by record; its unsynced tail is cut and reported. All
//! others have footers; one without (the disk was full, or power failed, while it was sealed) is
//! scanned up to the end that its successor's label proves.
//!
//! What is accepted behind the index's cursor is made durable before anything is answered: a process
//! that died between write and sync, or after a sync that failed, leaves records that the page cache
//! shows and the disk may not hold.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use nexusgrid_env::{Disk, Env, Kv, KvError, OpenMode, ScanRange};

use crate::commit::new_row;
use crate::error::OpenError;
use crate::fold;
use crate::index::{self, Meta, SegmentRow};
use crate::limits::{COMPACT_CHUNK_BYTES, DAMAGE_REPORTED_MAX};
use crate::log::{LogItem, SegmentLabel};
use crate::options::DriveOptions;
use crate::segment::{self, DATA_START, SegmentFile};
use crate::shared::LogEnd;
use crate::txn::Txn;
use crate::types::{Damage, OpenReport};

/// Rows changed before a replay writes them.
const REPLAY_ROWS_MAX: usize = 10_000;

/// What recovery hands over.
pub struct Recovered {
    /// The end of the log.
    pub log: LogEnd,
    /// What was found.
    pub report: OpenReport,
    /// Segments whose facts may be lost: never compacted.
    pub facts_lost: BTreeSet<u64>,
}

/// Why the index at hand cannot be used.
pub enum Unusable {
    /// Rebuild it.
    Rebuild(&'static str),
    /// Give up.
    Open(OpenError),
}

impl From<OpenError> for Unusable {
    fn from(error: OpenError) -> Unusable {
        Unusable::Open(error)
    }
}

impl From<KvError> for Unusable {
    fn from(error: KvError) -> Unusable {
        match error {
            KvError::Corrupt(_) => Unusable::Rebuild("the index is corrupt"),
            other => Unusable::Open(OpenError::Index(other.to_string())),
        }
    }
}

struct Known {
    segment: SegmentFile,
    label: Option<SegmentLabel>,
    sequence: u64,
}

struct Recovery<'a> {
    env: &'a Env,
    dir: &'a Path,
    options: &'a DriveOptions,
    incarnation: [u8; 16],
    kv: &'a Arc<dyn Kv>,
    report: OpenReport,
    facts_lost: BTreeSet<u64>,
}

/// Recovers with the index in `kv`, which may be empty.
pub fn recover(
    env: &Env,
    dir: &Path,
    options: &DriveOptions,
    incarnation: [u8; 16],
    kv: &Arc<dyn Kv>,
) -> Result<Recovered, Unusable> {
    let recovery = Recovery {
        env,
        dir,
        options,
        incarnation,
        kv,
        report: OpenReport::default(),
        facts_lost: BTreeSet::new(),
    };
    recovery.run()
}

impl Recovery<'_> {
    fn run(mut self) -> Result<Recovered, Unusable> {
        let meta = match self.kv.get(index::META, index::META_KEY)? {
            None => Meta { incarnation: self.incarnation, ..Meta::default() },
            Some(bytes) => index::decode::<Meta>(&bytes)
                .ok_or(Unusable::Rebuild("the index is of an unknown version"))?,
        };
        if meta.incarnation != self.incarnation {
            return Err(Unusable::Rebuild("the index belongs to another drive"));
        }
        let known = self.find_segments()?;
        let behind = |segment: &Known| segment.segment.id < meta.cursor_segment;
        let cursor_lost = meta.cursor_segment != 0
            && !known.iter().any(|known| known.segment.id == meta.cursor_segment);
        if cursor_lost {
            return Err(Unusable::Rebuild("the index is ahead of the data"));
        }
        let mut txn = Txn::new(self.kv.as_ref(), meta);
        for segment in known.iter().filter(|known| behind(known)) {
            if txn.segment(segment.segment.id)?.is_none() {
                return Err(Unusable::Rebuild("the index misses a segment"));
            }
        }
        self.check_rows(&mut txn, &known)?;
        let mut open_end = None;
        for (at, current) in known.iter().enumerate() {
            let id = current.segment.id;
            let next = known.get(at + 1);
            txn.meta.sequence = txn.meta.sequence.max(current.sequence);
            if id < meta.cursor_segment && next.is_some() {
                continue;
            }
            let from = if id == meta.cursor_segment { meta.cursor_offset } else { 0 };
            let (items, end, sealed) = self.read_segment(current, next, from)?;
            if end < from {
                return Err(Unusable::Rebuild("the index is ahead of the data"));
            }
            if txn.segment(id)?.is_none() {
                txn.put_segment(id, &new_row(current.segment.uuid));
            }
            for item in items.iter().filter(|item| item.offset() >= from) {
                fold::apply(&mut txn, id, item, self.options.punch_min_bytes)?;
                self.report.replayed_records += 1;
                if txn.changed() > REPLAY_ROWS_MAX {
                    let meta = txn.commit()?;
                    txn = Txn::new(self.kv.as_ref(), meta);
                }
            }
            if let Some(row) = txn.segment(id)? {
                txn.put_segment(id, &SegmentRow { sealed, ..row });
            }
            if !sealed {
                open_end = Some((current.segment.clone(), items, end));
            }
        }
        let (active, items, end) = match open_end {
            Some(open_end) => open_end,
            None => {
                let fresh = self.first_or_next_segment(&known, &txn)?;
                txn.put_segment(fresh.id, &new_row(fresh.uuid));
                (fresh, Vec::new(), DATA_START)
            }
        };
        txn.meta.cursor_segment = active.id;
        txn.meta.cursor_offset = end;
        let meta = txn.commit()?;
        let sequence = meta.sequence + 1;
        let log = LogEnd { active, end, items, sequence, meta, uncut: false };
        Ok(Recovered { log, report: self.report, facts_lost: self.facts_lost })
    }

    fn disk(&self) -> &dyn Disk {
        self.env.disk.as_ref()
    }

    /// Opens every segment file, in order of their numbers.
    fn find_segments(&mut self) -> Result<Vec<Known>, Unusable> {
        let names = self
            .disk()
            .list(&segment::dir(self.dir))
            .map_err(OpenError::io("list the segments"))?;
        let mut ids: Vec<u64> = names.iter().filter_map(|name| segment::parse_name(name)).collect();
        ids.sort_unstable();
        let newest = ids.last().copied();
        let mut known = Vec::new();
        for id in ids {
            known.extend(self.find_segment(id, Some(id) == newest)?);
        }
        Ok(known)
    }

    fn find_segment(&mut self, id: u64, newest: bool) -> Result<Option<Known>, Unusable> {
        let path = segment::path(self.dir, id);
        let file = self
            .disk()
            .open(&path, OpenMode::ReadWrite)
            .map_err(OpenError::io(format!("open segment {id:016x}")))?;
        let len = file.len().map_err(OpenError::io(format!("measure segment {id:016x}")))?;
        let label = segment::read_label(file.as_ref(), id, self.incarnation).ok().flatten();
        if let Some((head, label)) = label {
            let segment = SegmentFile { id, uuid: head.uuid, file };
            return Ok(Some(Known { segment, label: Some(label), sequence: head.sequence }));
        }
        if newest && len <= DATA_START {
            // Power failed while it was made: it never held a record.
            drop(file);
            self.disk()
                .remove_file(&path)
                .map_err(OpenError::io(format!("remove the unfinished segment {id:016x}")))?;
            return Ok(None);
        }
        self.damage(id, 0, DATA_START, "segment record is damaged or of another drive");
        self.facts_lost.insert(id);
        let row = self.kv.get(index::SEGMENTS, &index::segment_key(id))?;
        let uuid = row
            .and_then(|bytes| index::decode::<SegmentRow>(&bytes))
            .map(|row| row.uuid)
            .or_else(|| {
                let head = segment::read_head(file.as_ref(), DATA_START).ok()?.ok()?;
                (head.offset == DATA_START).then_some(head.uuid)
            });
        let Some(uuid) = uuid else { return Ok(None) };
        Ok(Some(Known { segment: SegmentFile { id, uuid, file }, label: None, sequence: 0 }))
    }

    /// Rows whose files are gone: after compaction if nothing lived there, else a loss.
    fn check_rows(&mut self, txn: &mut Txn<'_>, known: &[Known]) -> Result<(), Unusable> {
        let here: BTreeSet<u64> = known.iter().map(|known| known.segment.id).collect();
        let rows = self.kv.scan(index::SEGMENTS, &ScanRange::prefix(&[], 1 << 24))?;
        for (key, value) in rows {
            let (Some(id), Some(row)) =
                (index::parse_segment_key(&key), index::decode::<SegmentRow>(&value))
            else {
                return Err(Unusable::Rebuild("a row of the index does not decode"));
            };
            if here.contains(&id) {
                continue;
            }
            if row.live_bytes > 0 {
                self.damage(id, 0, row.data_bytes, "segment file is missing");
            } else {
                txn.delete(index::SEGMENTS, key.to_vec());
            }
        }
        Ok(())
    }

    /// The records of a segment, where they end, and whether it is sealed.
    fn read_segment(
        &mut self,
        known: &Known,
        next: Option<&Known>,
        from: u64,
    ) -> Result<(Vec<LogItem>, u64, bool), Unusable> {
        let segment = &known.segment;
        let doing = format!("read segment {:016x}", segment.id);
        let footer = segment::read_footer(segment.file.as_ref(), segment.uuid).ok().flatten();
        if let Some((end, items)) = footer {
            return Ok((items, end, true));
        }
        // Without the successor's label nothing may be cut.
        let proven = match next {
            Some(next) => next.label.map_or(u64::MAX, |label| label.previous_end),
            None if known.label.is_none() => u64::MAX,
            None => 0,
        };
        let scan = segment::scan(segment, proven.max(from), from).map_err(OpenError::io(doing))?;
        for damage in &scan.damage {
            self.damage(damage.segment, damage.offset, damage.bytes, &damage.what);
        }
        if scan.holes {
            self.facts_lost.insert(segment.id);
        }
        if scan.torn_bytes > 0 {
            segment
                .file
                .set_len(scan.end)
                .and_then(|()| segment.file.sync())
                .map_err(OpenError::write("cut the torn tail"))?;
        }
        if next.is_none() {
            self.make_durable(segment, from, scan.end)
                .map_err(OpenError::write("sync the newest records"))?;
            // What a footer's beginning leaves behind is no shard's tail.
            self.report.torn_tail_bytes += scan.torn_bytes;
        }
        let sealed = next.is_some() || scan.sealed;
        if sealed && !scan.holes {
            self.seal_again(segment, scan.end, &scan.items)?;
        }
        Ok((scan.items, scan.end, sealed))
    }

    /// Writes a range again and syncs it: after a failed sync the pages count as clean, and a sync
    /// alone would do nothing. The index is never ahead of the data, so that `from` is its cursor.
    fn make_durable(&self, segment: &SegmentFile, from: u64, end: u64) -> std::io::Result<()> {
        let mut at = from;
        while at < end {
            let len = (end - at).min(COMPACT_CHUNK_BYTES);
            let mut chunk = vec![0; usize::try_from(len).unwrap_or(0)];
            let read = segment.file.read_at(&mut chunk, at)?;
            if read == 0 {
                break;
            }
            chunk.truncate(read);
            segment.file.write_at(&chunk, at)?;
            at += read as u64;
        }
        segment.file.sync()?;
        self.disk().sync_dir(&segment::dir(self.dir))
    }

    /// Gives a segment the footer that it lacks; not fatal if the disk is too full for it.
    fn seal_again(
        &self,
        segment: &SegmentFile,
        end: u64,
        items: &[LogItem],
    ) -> Result<(), Unusable> {
        let sequence = items.last().map_or(0, LogItem::sequence) + 1;
        let sealed = segment::seal(segment, end, items, sequence);
        match sealed {
            Ok(()) => Ok(()),
            Err(error) if crate::shared::is_full(&error) => {
                let cut = segment.file.set_len(end).and_then(|()| segment.file.sync());
                Ok(cut.map_err(OpenError::write("cut an unfinished footer"))?)
            }
            Err(error) => Err(OpenError::write("seal a segment")(error).into()),
        }
    }

    fn first_or_next_segment(
        &self,
        known: &[Known],
        txn: &Txn<'_>,
    ) -> Result<SegmentFile, Unusable> {
        let last = known.last().map_or(0, |known| known.segment.id);
        let id = last.max(txn.meta.cursor_segment) + 1;
        let previous_end = match known.last() {
            Some(_) => txn.segment(last)?.map_or(u64::MAX, |row| row.data_bytes),
            None => 0,
        };
        let mut uuid = [0; 16];
        self.env.rng.fill(&mut uuid);
        let label = SegmentLabel { id, incarnation: self.incarnation, previous_end };
        let sequence = txn.meta.sequence + 1;
        let made = segment::create(self.disk(), self.dir, label, uuid, sequence);
        Ok(made.map_err(OpenError::write("make a segment"))?)
    }

    fn damage(&mut self, segment: u64, offset: u64, bytes: u64, what: &str) {
        tracing::error!(segment, offset, bytes, what, "damage in synced data");
        if self.report.damage.len() < DAMAGE_REPORTED_MAX {
            self.report.damage.push(Damage { segment, offset, bytes, what: what.into() });
        }
    }
}
