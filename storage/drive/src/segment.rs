//! Segment files: made, sealed, read back, scanned.
//!
//! ```text
//! 0      segment record: number, incarnation, end of the segment before
//! 4096   records …
//! F      footer record: the list of all records   ┐ only when sealed
//! end−4K trailer record: F                        ┘
//! ```
//!
//! Scanning a tail: what follows the last sync may be torn, reordered or lost, and is cut. What a
//! later record (or the index, or the next segment) proves to have been synced is *never* cut,
//! whatever it looks like: that is damage, reported and left for repair.

#![deny(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_codec::{Epoch, PgId, ShardHeader};
use nexusgrid_env::{Disk, DiskFile, OpenMode};

use crate::limits::{FACTS_BODY_BYTES_MAX, FOOTER_BODY_BYTES_MAX, RECORD_ALIGN};
use crate::log::{self, FactsEntry, LogItem, SegmentLabel, ShardEntry};
use crate::record::{HeadError, RecordHead, RecordKind, align_up};
use crate::types::{Damage, ShardKey};

/// Where the first record after the segment record begins.
pub const DATA_START: u64 = RECORD_ALIGN;

/// An open segment.
#[derive(Clone)]
pub struct SegmentFile {
    /// Its number.
    pub id: u64,
    /// In every record of it.
    pub uuid: [u8; 16],
    /// The file.
    pub file: Arc<dyn DiskFile>,
}

/// Directory of the segments of a drive.
pub fn dir(drive: &Path) -> PathBuf {
    drive.join("segments")
}

/// File of a segment.
pub fn path(drive: &Path, id: u64) -> PathBuf {
    dir(drive).join(format!("{id:016x}.seg"))
}

/// Number of a segment file's name.
pub fn parse_name(path: &Path) -> Option<u64> {
    let hex = path.file_name()?.to_str()?.strip_suffix(".seg")?;
    if hex.len() != 16 {
        return None;
    }
    u64::from_str_radix(hex, 16).ok()
}

fn blank_head(
    kind: RecordKind,
    uuid: [u8; 16],
    offset: u64,
    sequence: u64,
    body: &[u8],
) -> RecordHead {
    RecordHead {
        kind,
        uuid,
        offset,
        sequence,
        born: sequence,
        synced: offset,
        age_ms: 0,
        epoch: 0,
        fill: None,
        trashed: false,
        pg: 0,
        body_crc: crc32c::crc32c(body),
        body_bytes: body.len() as u64,
        shard_header: Vec::new(),
    }
}

/// A whole record of a small body, padded.
pub fn plain_record(
    kind: RecordKind,
    uuid: [u8; 16],
    offset: u64,
    sequence: u64,
    body: &[u8],
) -> Vec<u8> {
    encode_plain(&blank_head(kind, uuid, offset, sequence, body), body)
}

fn encode_plain(head: &RecordHead, body: &[u8]) -> Vec<u8> {
    let mut out = head.encode();
    out.extend_from_slice(body);
    out.resize(head.disk_bytes() as usize, 0);
    out
}

/// A failed sync is never a full disk only: what it left behind is unknown.
fn synced(result: io::Result<()>) -> io::Result<()> {
    result.map_err(|error| io::Error::other(format!("sync: {error}")))
}

/// Makes a segment, durable with its name before this returns.
pub fn create(
    disk: &dyn Disk,
    drive: &Path,
    label: SegmentLabel,
    uuid: [u8; 16],
    sequence: u64,
) -> io::Result<SegmentFile> {
    let path = path(drive, label.id);
    let file = match disk.open(&path, OpenMode::CreateNew) {
        // Left by a try that the disk was too full for, and even for its removal.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove_file(&path)?;
            disk.open(&path, OpenMode::CreateNew)?
        }
        opened => opened?,
    };
    let body = log::encode_label(&label);
    let written = file
        .write_at(&plain_record(RecordKind::Segment, uuid, 0, sequence, &body), 0)
        .and_then(|()| synced(file.sync()))
        .and_then(|()| synced(disk.sync_dir(&dir(drive))));
    if let Err(error) = written {
        // It holds no record: nothing is lost with it.
        let _ = disk.remove_file(&path);
        return Err(error);
    }
    Ok(SegmentFile { id: label.id, uuid, file })
}

/// Writes footer and trailer at `end` and syncs. Takes two sequences.
pub fn seal(segment: &SegmentFile, end: u64, items: &[LogItem], sequence: u64) -> io::Result<()> {
    let footer =
        plain_record(RecordKind::Footer, segment.uuid, end, sequence, &log::encode_footer(items));
    let at = end + footer.len() as u64;
    // One sync for both: a trailer on the disk proves no footer before it.
    let body = end.to_le_bytes();
    let mut head = blank_head(RecordKind::Trailer, segment.uuid, at, sequence + 1, &body);
    head.synced = end;
    let trailer = encode_plain(&head, &body);
    segment.file.write_vectored_at(&[&footer, &trailer], end)?;
    synced(segment.file.sync())
}

/// Like [`seal`], over the remains of another footer.
pub fn seal_anew(
    segment: &SegmentFile,
    end: u64,
    items: &[LogItem],
    sequence: u64,
) -> io::Result<()> {
    // A longer one must not leave its trailer behind the new one.
    segment.file.set_len(end)?;
    seal(segment, end, items, sequence)
}

/// Reads up to `len` bytes at `offset`; fewer at the end of the file.
fn read_up_to(file: &dyn DiskFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    let read = file.read_at(&mut buffer, offset)?;
    buffer.truncate(read);
    Ok(buffer)
}

/// Reads the head at `offset`, whatever segment it is of.
pub fn read_head(file: &dyn DiskFile, offset: u64) -> io::Result<Result<RecordHead, HeadError>> {
    let page = read_up_to(file, offset, RECORD_ALIGN as usize)?;
    match RecordHead::decode(&page) {
        Err(HeadError::Short(needed)) if needed > page.len() => {
            let longer = read_up_to(file, offset, needed)?;
            Ok(RecordHead::decode(&longer))
        }
        decoded => Ok(decoded),
    }
}

/// Reads a body and checks its crc; `None` if it is cut, too long or wrong.
pub fn read_body(
    file: &dyn DiskFile,
    head: &RecordHead,
    max_bytes: u64,
) -> io::Result<Option<Bytes>> {
    if head.body_bytes > max_bytes {
        return Ok(None);
    }
    let at = head.offset + head.head_bytes() as u64;
    let body = read_up_to(file, at, head.body_bytes as usize)?;
    let whole = body.len() as u64 == head.body_bytes && crc32c::crc32c(&body) == head.body_crc;
    Ok(whole.then(|| Bytes::from(body)))
}

/// The segment record: its head and label. `None` if it is damaged or of another drive.
pub fn read_label(
    file: &dyn DiskFile,
    id: u64,
    incarnation: [u8; 16],
) -> io::Result<Option<(RecordHead, SegmentLabel)>> {
    let Ok(head) = read_head(file, 0)? else { return Ok(None) };
    if head.kind != RecordKind::Segment || head.offset != 0 {
        return Ok(None);
    }
    let Some(body) = read_body(file, &head, RECORD_ALIGN)? else { return Ok(None) };
    let label = log::decode_label(&body).ok();
    let ours = label.filter(|label| label.id == id && label.incarnation == incarnation);
    Ok(ours.map(|label| (head, label)))
}

/// The footer's list and where it begins; `None` if the segment is not sealed or the footer is
/// damaged.
pub fn read_footer(file: &dyn DiskFile, uuid: [u8; 16]) -> io::Result<Option<(u64, Vec<LogItem>)>> {
    let Some(at) = file.len()?.checked_sub(RECORD_ALIGN) else { return Ok(None) };
    if !at.is_multiple_of(RECORD_ALIGN) {
        return Ok(None);
    }
    let valid = |head: &RecordHead, kind, offset| {
        head.kind == kind && head.uuid == uuid && head.offset == offset
    };
    let Ok(trailer) = read_head(file, at)? else { return Ok(None) };
    if !valid(&trailer, RecordKind::Trailer, at) {
        return Ok(None);
    }
    let Some(body) = read_body(file, &trailer, RECORD_ALIGN)? else { return Ok(None) };
    let Some(footer_at) = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
        return Ok(None);
    };
    if footer_at >= at || !footer_at.is_multiple_of(RECORD_ALIGN) {
        return Ok(None);
    }
    let Ok(footer) = read_head(file, footer_at)? else { return Ok(None) };
    if !valid(&footer, RecordKind::Footer, footer_at) {
        return Ok(None);
    }
    let Some(body) = read_body(file, &footer, FOOTER_BODY_BYTES_MAX)? else { return Ok(None) };
    Ok(log::decode_footer(&body).ok().map(|items| (footer_at, items)))
}

/// The log entry of a shard record's head; `None` if the embedded header is not one.
pub fn shard_entry(head: &RecordHead) -> Option<ShardEntry> {
    let (shard, rest) = ShardHeader::decode(&head.shard_header).ok()?;
    if !rest.is_empty() || u64::from(shard.body_len()) != head.body_bytes {
        return None;
    }
    Some(ShardEntry {
        key: ShardKey { block: shard.block, index: shard.index },
        offset: head.offset,
        head_bytes: head.head_bytes() as u32,
        body_bytes: head.body_bytes,
        sequence: head.sequence,
        born: head.born,
        pg: PgId(head.pg),
        epoch: Epoch(head.epoch),
        trashed_ms: head.trashed.then_some(head.age_ms),
        digest: shard.digest()?.0,
    })
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Records to fold, in order.
    pub items: Vec<LogItem>,
    /// Where the next record goes, or where the footer begins.
    pub end: u64,
    /// Bytes from there to the end of the file that are an unsynced tail (0 if sealed).
    pub torn_bytes: u64,
    /// Damage below `end`.
    pub damage: Vec<Damage>,
    /// Whether facts may have been lost in the damage.
    pub holes: bool,
    /// A footer record was met.
    pub sealed: bool,
}

enum Found {
    Item(LogItem),
    /// A valid head over a body that fails its crc. A shard is kept if it must not be cut.
    BadBody(Option<LogItem>, u64, u64),
    Gap(u64, u64),
    /// The disk refuses to read. Never cut: it may well be acknowledged data.
    Unreadable(io::Error, u64, u64),
}

/// Scans the records of a segment one by one. Everything below `durable` is known to have been
/// synced. Bodies of shards below `trusted` are not read (the index has folded them).
pub fn scan(segment: &SegmentFile, durable: u64, trusted: u64) -> io::Result<Scan> {
    let file = segment.file.as_ref();
    let len = file.len()?;
    let mut found = Vec::new();
    let mut durable = durable;
    let mut last_sequence = 0;
    let mut at = DATA_START;
    let mut scan = Scan { end: len, ..Scan::default() };
    while at < len {
        let head = match valid_head(segment, at, last_sequence) {
            Ok(Some(head)) => head,
            unusable => {
                let end = next_valid(segment, at + RECORD_ALIGN, len, last_sequence);
                found.push(match unusable {
                    Err(error) => Found::Unreadable(error, at, end),
                    Ok(_) => Found::Gap(at, end),
                });
                at = end;
                continue;
            }
        };
        last_sequence = head.sequence;
        durable = durable.max(head.synced);
        let end = at + head.disk_bytes();
        match head.kind {
            RecordKind::Footer => {
                scan.sealed = true;
                scan.end = at;
                break;
            }
            RecordKind::Segment | RecordKind::Trailer => found.push(Found::Gap(at, end)),
            RecordKind::Facts => {
                let body = read_body(file, &head, FACTS_BODY_BYTES_MAX as u64)
                    .map(|body| body.and_then(|body| log::decode_facts(&body).ok()));
                match body {
                    Ok(Some(facts)) => found.push(Found::Item(LogItem::Facts(FactsEntry {
                        offset: at,
                        disk_bytes: head.disk_bytes(),
                        sequence: head.sequence,
                        age_ms: head.age_ms,
                        facts,
                    }))),
                    Ok(None) => found.push(Found::BadBody(None, at, end)),
                    Err(error) => found.push(Found::Unreadable(error, at, end)),
                }
            }
            RecordKind::Shard => match shard_entry(&head) {
                None => found.push(Found::Gap(at, end)),
                Some(entry) => {
                    let item = LogItem::Shard(entry);
                    let body = if end > len {
                        Ok(None)
                    } else if at < trusted {
                        Ok(Some(Bytes::new()))
                    } else {
                        read_body(file, &head, FOOTER_BODY_BYTES_MAX)
                    };
                    found.push(match body {
                        Ok(Some(_)) => Found::Item(item),
                        Ok(None) => Found::BadBody(Some(item), at, end),
                        // Kept, if it was synced: the reader of that shard meets the error again.
                        Err(_) if at < durable => Found::BadBody(Some(item), at, end),
                        Err(error) => Found::Unreadable(error, at, end),
                    });
                }
            },
        }
        at = end;
    }
    scan.judge(segment.id, found, durable, len)?;
    Ok(scan)
}

impl Scan {
    /// Decides for each thing found whether it is kept, damage, or the beginning of the tail.
    fn judge(&mut self, segment: u64, found: Vec<Found>, durable: u64, len: u64) -> io::Result<()> {
        for thing in found {
            let (start, end, what, item) = match thing {
                Found::Item(item) => {
                    self.items.push(item);
                    continue;
                }
                Found::BadBody(item, start, end) => (start, end, "body fails its crc", item),
                Found::Gap(start, end) => (start, end, "no valid record", None),
                Found::Unreadable(error, start, _) if start >= durable && !self.sealed => {
                    return Err(error);
                }
                Found::Unreadable(_, start, end) => (start, end, "cannot be read", None),
            };
            if start >= durable && !self.sealed {
                self.end = start;
                self.torn_bytes = len.saturating_sub(start);
                break;
            }
            self.holes |= item.is_none();
            self.items.extend(item);
            let bytes = end.saturating_sub(start);
            self.damage.push(Damage { segment, offset: start, bytes, what: what.into() });
        }
        // Records after the tail's beginning were part of it.
        let end = self.end;
        self.items.retain(|item| item.offset() < end);
        self.end = align_up(self.end);
        Ok(())
    }
}

fn valid_head(
    segment: &SegmentFile,
    at: u64,
    last_sequence: u64,
) -> io::Result<Option<RecordHead>> {
    let Ok(head) = read_head(segment.file.as_ref(), at)? else { return Ok(None) };
    let ours = head.uuid == segment.uuid && head.offset == at && head.sequence > last_sequence;
    Ok(ours.then_some(head))
}

/// Where the next valid record begins, or the end.
fn next_valid(segment: &SegmentFile, from: u64, len: u64, last_sequence: u64) -> u64 {
    let mut at = from;
    while at < len {
        if matches!(valid_head(segment, at, last_sequence), Ok(Some(_))) {
            return at;
        }
        at += RECORD_ALIGN;
    }
    len
}
