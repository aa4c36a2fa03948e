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
    let (row, raw, range) = locate(shared, key, false, |row| {
        if options.verify { 0..row.body_bytes } else { clip(options.range.clone(), row.body_bytes) }
    })?;
    let wanted = clip(options.range.clone(), row.body_bytes);
    let bytes = if options.verify {
        if raw.header.verify(&raw.bytes).is_err() {
            return Err(damaged(shared, key, "body does not match its header"));
        }
        raw.bytes.slice(wanted.start as usize..wanted.end as usize)
    } else {
        debug_assert_eq!(range, wanted);
        raw.bytes
    };
    add(&shared.metrics.gets, 1);
    add(&shared.metrics.get_bytes, bytes.len() as u64);
    Ok(ShardRead { header: raw.header, pg: row.pg, epoch: row.epoch, offset: wanted.start, bytes })
}

/// Serves `verify`: everything that can be checked without the key.
pub fn verify(shared: &Shared, key: ShardKey) -> Result<Verdict, DriveError> {
    let read = locate(shared, key, true, |row| 0..row.body_bytes);
    let (row, raw, _) = match read {
        Ok(found) => found,
        Err(DriveError::NotFound(_)) => return Ok(Verdict::Missing),
        Err(DriveError::Damaged { reason, .. }) => return Ok(Verdict::Damaged(reason)),
        Err(other) => return Err(other),
    };
    add(&shared.metrics.verified, 1);
    add(&shared.metrics.verified_bytes, row.disk_bytes());
    let sound = crc32c::crc32c(&raw.bytes) == raw.head.body_crc
        && raw.header.verify(&raw.bytes).is_ok()
        && raw.header.digest().is_some_and(|digest| digest.0 == row.digest);
    Ok(if sound {
        Verdict::Good { bytes: row.disk_bytes() }
    } else {
        Verdict::Damaged("body does not match its crcs and digest".into())
    })
}

fn clip(range: Option<Range<u64>>, body_bytes: u64) -> Range<u64> {
    let range = range.unwrap_or(0..body_bytes);
    let end = range.end.min(body_bytes);
    range.start.min(end)..end
}

fn damaged(shared: &Shared, key: ShardKey, reason: impl Into<String>) -> DriveError {
    add(&shared.metrics.read_errors, 1);
    DriveError::Damaged { key, reason: reason.into() }
}

/// Finds a shard and reads a range of its body, following it if it moves.
fn locate(
    shared: &Shared,
    key: ShardKey,
    trash_too: bool,
    range: impl Fn(&ShardRow) -> Range<u64>,
) -> Result<(ShardRow, RawRecord, Range<u64>), DriveError> {
    for _ in 0..MOVES_MAX {
        shared.check()?;
        let row = shared.shard_row(key)?.filter(|row| trash_too || row.trashed_ms.is_none());
        let Some(row) = row else { return Err(DriveError::NotFound(key)) };
        let wanted = range(&row);
        let read = read_record(shared, key, &row, wanted.clone())?;
        // The index again: only if the row still stands, what was read means something.
        let still = shared.shard_row(key)?.is_some_and(|now| same_place(&now, &row));
        if !still {
            continue;
        }
        return match read {
            Ok(raw) => {
                shared.read_went_well();
                Ok((row, raw, wanted))
            }
            Err(Bad::Io(error)) => {
                shared.read_failed(&error);
                shared.check()?;
                Err(DriveError::Damaged { key, reason: format!("cannot be read: {error}") })
            }
            Err(Bad::Other(reason)) => Err(damaged(shared, key, reason)),
        };
    }
    Err(damaged(shared, key, "moved too often while it was read"))
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
        Err(error) => Err(Bad::Io(error)),
    })
}

fn read_from(
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
