//! Reads: from the index straight to the segment, past the writer.
//!
//! A read proves that the record it found is the one asked for: magic, segment uuid, own offset,
//! key, birth and the head's crc (a misdirected write or a stale segment fails these). Then it
//! looks at the index again: space is freed only after the index forgot the record, so if the row
//! still stands, the bytes were not a hole's zeroes (L5).

use std::io;
use std::ops::Range;

use bytes::Bytes;
use nexusgrid_codec::ShardHeader;

use crate::error::DriveError;
use crate::index::ShardRow;
use crate::limits::{ONE_READ_BYTES_MAX, RECORD_ALIGN};
use crate::metrics::add;
use crate::record::{RecordHead, RecordKind};
use crate::segment::SegmentFile;
use crate::shared::Shared;
use crate::types::{ReadOptions, ShardKey, ShardRead, Verdict};

/// Times a record may move away under a read; compaction moves it once per segment.
const MOVES_MAX: usize = 16;

/// A record as read.
pub struct RawRecord {
    /// Its head.
    pub head: RecordHead,
    /// The codec's header.
    pub header: ShardHeader,
    /// The bytes asked for.
    pub bytes: Bytes,
}

/// Serves `get`.
pub fn get(shared: &Shared, key: ShardKey, options: &ReadOptions) -> Result<ShardRead, DriveError> {
    let found = locate(shared, key, false, |row| {
        if options.verify { 0..row.body_bytes } else { clip(options.range.clone(), row.body_bytes) }
    })?;
    let Located { row, read } = found.ok_or(DriveError::NotFound(key))?;
    let raw = read.map_err(|reason| DriveError::Damaged { key, reason })?;
    let wanted = clip(options.range.clone(), row.body_bytes);
    let bytes = if options.verify {
        if raw.header.verify(&raw.bytes).is_err() {
            add(&shared.metrics.read_errors, 1);
            let reason = "body does not match its header".into();
            return Err(DriveError::Damaged { key, reason });
        }
        raw.bytes.slice(wanted.start as usize..wanted.end as usize)
    } else {
        raw.bytes
    };
    add(&shared.metrics.gets, 1);
    add(&shared.metrics.get_bytes, bytes.len() as u64);
    Ok(ShardRead { header: raw.header, pg: row.pg, epoch: row.epoch, offset: wanted.start, bytes })
}

/// A shard of the index, and what is wrong with what is stored of it.
pub struct Examined {
    /// Its row.
    pub row: ShardRow,
    /// What is wrong, if anything.
    pub fault: Option<Fault>,
}

/// What is wrong with a stored shard.
pub struct Fault {
    /// What was found.
    pub reason: String,
    /// Whether its record can still be read, so that other frames of it may serve.
    pub readable: bool,
}

/// Checks everything of a shard that can be checked without the key; `None` if it is not here.
pub fn examine(shared: &Shared, key: ShardKey) -> Result<Option<Examined>, DriveError> {
    let Some(Located { row, read }) = locate(shared, key, true, |row| 0..row.body_bytes)? else {
        return Ok(None);
    };
    let raw = match read {
        Ok(raw) => raw,
        Err(reason) => {
            return Ok(Some(Examined { row, fault: Some(Fault { reason, readable: false }) }));
        }
    };
    add(&shared.metrics.verified, 1);
    add(&shared.metrics.verified_bytes, row.disk_bytes());
    let sound = is_sound(&raw, &row);
    let reason = "body does not match its crcs and digest".into();
    let fault = (!sound).then_some(Fault { reason, readable: true });
    Ok(Some(Examined { row, fault }))
}

/// Whether a whole record as read is what its row and its own header say.
pub fn is_sound(raw: &RawRecord, row: &ShardRow) -> bool {
    crc32c::crc32c(&raw.bytes) == raw.head.body_crc
        && raw.header.verify(&raw.bytes).is_ok()
        && raw.header.digest().is_some_and(|digest| digest.0 == row.digest)
}

/// Serves `verify`.
pub fn verify(shared: &Shared, key: ShardKey) -> Result<Verdict, DriveError> {
    Ok(match examine(shared, key)? {
        None => Verdict::Missing,
        Some(Examined { fault: Some(fault), .. }) => Verdict::Damaged(fault.reason),
        Some(Examined { row, fault: None }) => Verdict::Good { bytes: row.disk_bytes() },
    })
}

/// Serves `headers`: the codec's header of a served shard as stored, `None` if it is not here.
pub fn header(shared: &Shared, key: ShardKey) -> Result<Option<ShardHeader>, DriveError> {
    match locate(shared, key, false, |_| 0..0)? {
        None => Ok(None),
        Some(Located { read, .. }) => match read {
            Ok(raw) => Ok(Some(raw.header)),
            Err(reason) => Err(DriveError::Damaged { key, reason }),
        },
    }
}

fn clip(range: Option<Range<u64>>, body_bytes: u64) -> Range<u64> {
    let range = range.unwrap_or(0..body_bytes);
    let end = range.end.min(body_bytes);
    range.start.min(end)..end
}

/// A row of the index, and what its place gave.
struct Located {
    row: ShardRow,
    read: Result<RawRecord, String>,
}

/// Finds a shard and reads a range of its body, following it if it moves. `None` if it is not here.
fn locate(
    shared: &Shared,
    key: ShardKey,
    trash_too: bool,
    range: impl Fn(&ShardRow) -> Range<u64>,
) -> Result<Option<Located>, DriveError> {
    let mut moves = 0;
    loop {
        shared.check()?;
        let row = shared.shard_row(key)?.filter(|row| trash_too || row.trashed_ms.is_none());
        let Some(row) = row else { return Ok(None) };
        let read = read_record(shared, key, &row, range(&row))?;
        // The index again: only if the row still stands, what was read means something.
        let still = shared.shard_row(key)?.is_some_and(|now| same_place(&now, &row));
        moves += 1;
        if !still && moves < MOVES_MAX {
            continue;
        }
        let read = match read {
            Ok(raw) if still => Ok(raw),
            Ok(_) => Err("moved too often while it was read".into()),
            Err(Bad::Io(error)) => {
                shared.read_failed(key, &error);
                shared.check()?;
                Err(format!("cannot be read: {error}"))
            }
            Err(Bad::Other(reason)) => {
                add(&shared.metrics.read_errors, 1);
                Err(reason.into())
            }
        };
        return Ok(Some(Located { row, read }));
    }
}

fn same_place(now: &ShardRow, then: &ShardRow) -> bool {
    now.segment == then.segment && now.offset == then.offset && now.born == then.born
}

/// What is wrong with a record.
pub enum Bad {
    /// The disk did not read it.
    Io(io::Error),
    /// It is not the record it should be.
    Other(&'static str),
}

/// Reads a record of the index and proves that it is that one. The body's bytes are not checked.
pub fn read_record(
    shared: &Shared,
    key: ShardKey,
    row: &ShardRow,
    range: Range<u64>,
) -> Result<Result<RawRecord, Bad>, DriveError> {
    Ok(match shared.segment_file(row.segment)? {
        Ok(segment) => read_from(&segment, key, row, range),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Bad::Other("its segment is missing"))
        }
        Err(error) => Err(Bad::Io(error)),
    })
}

/// As [`read_record`], from the segment itself.
pub fn read_from(
    segment: &SegmentFile,
    key: ShardKey,
    row: &ShardRow,
    range: Range<u64>,
) -> Result<RawRecord, Bad> {
    let file = segment.file.as_ref();
    let head_bytes = u64::from(row.head_bytes);
    let together = range.start < ONE_READ_BYTES_MAX;
    let first_bytes = if together { head_bytes + range.end } else { head_bytes.max(RECORD_ALIGN) };
    let first = read_exact(file, row.offset, first_bytes, together)?;
    let head = RecordHead::decode(&first).map_err(|_| Bad::Other("record head is damaged"))?;
    let right = head.kind == RecordKind::Shard
        && head.uuid == segment.uuid
        && head.offset == row.offset
        && head.born == row.born
        && head.head_bytes() as u64 == head_bytes
        && head.body_bytes == row.body_bytes;
    if !right {
        return Err(Bad::Other("another record stands there"));
    }
    let (header, _) = ShardHeader::decode(&head.shard_header)
        .map_err(|_| Bad::Other("shard header is damaged"))?;
    let same = header.block == key.block
        && header.index == key.index
        && header.digest().is_some_and(|digest| digest.0 == row.digest);
    if !same {
        return Err(Bad::Other("another shard stands there"));
    }
    let bytes = if together {
        first.slice((head_bytes + range.start) as usize..)
    } else {
        read_exact(file, row.offset + head_bytes + range.start, range.end - range.start, true)?
    };
    Ok(RawRecord { head, header, bytes })
}

fn read_exact(
    file: &dyn nexusgrid_env::DiskFile,
    offset: u64,
    len: u64,
    all: bool,
) -> Result<Bytes, Bad> {
    let mut buffer = vec![0; len as usize];
    let read = file.read_at(&mut buffer, offset).map_err(Bad::Io)?;
    if all && read < buffer.len() {
        return Err(Bad::Other("record is cut short"));
    }
    buffer.truncate(read);
    Ok(Bytes::from(buffer))
}
