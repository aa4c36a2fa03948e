//! Encoding of the simulated key-value store's files.
//!
//! A record says how much of the log was durable when it was written. So a reader can tell a tail
//! that a crash took (nothing after it claims otherwise) from bytes that went bad later.

#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::KvError;
use crate::kv::Change;

/// Rows of one family.
pub(super) type Rows = BTreeMap<Bytes, Bytes>;
/// All families of a store, shared with its snapshots until written.
pub(super) type Families = BTreeMap<String, Arc<Rows>>;

const RECORD_MAGIC: &[u8; 4] = b"kvr1";
const IMAGE_MAGIC: &[u8; 4] = b"kvi1";
/// Magic, crc, payload length, sequence, durable length.
const RECORD_HEADER_BYTES: usize = 4 + 4 + 4 + 8 + 8;

/// A change read back, its family by name.
pub(super) enum Replayed {
    Put(String, Bytes, Bytes),
    Delete(String, Bytes),
    DeleteRange(String, Bytes, Bytes),
}

impl Replayed {
    pub(super) fn of(change: &Change) -> Replayed {
        let copy = |bytes: &Vec<u8>| Bytes::copy_from_slice(bytes);
        match change {
            Change::Put(family, key, value) => {
                Replayed::Put((*family).to_owned(), copy(key), copy(value))
            }
            Change::Delete(family, key) => Replayed::Delete((*family).to_owned(), copy(key)),
            Change::DeleteRange(family, start, end) => {
                Replayed::DeleteRange((*family).to_owned(), copy(start), copy(end))
            }
        }
    }

    pub(super) fn apply(self, families: &mut Families) {
        match self {
            Replayed::Put(family, key, value) => {
                rows_of(families, family).insert(key, value);
            }
            Replayed::Delete(family, key) => {
                rows_of(families, family).remove(&key);
            }
            Replayed::DeleteRange(family, start, end) if start < end => {
                let rows = rows_of(families, family);
                let doomed: Vec<Bytes> =
                    rows.range(start..end).map(|(key, _)| key.clone()).collect();
                for key in doomed {
                    rows.remove(&key);
                }
            }
            Replayed::DeleteRange(..) => {}
        }
    }
}

fn rows_of(families: &mut Families, family: String) -> &mut Rows {
    Arc::make_mut(families.entry(family).or_default())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// One record of the log.
pub(super) fn encode_record(sequence: u64, durable_bytes: u64, changes: &[Change]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&(changes.len() as u32).to_le_bytes());
    for change in changes {
        let (kind, family, first, second): (u8, _, _, &[u8]) = match change {
            Change::Put(family, key, value) => (0, family, key, value),
            Change::Delete(family, key) => (1, family, key, &[]),
            Change::DeleteRange(family, start, end) => (2, family, start, end),
        };
        payload.push(kind);
        put_bytes(&mut payload, family.as_bytes());
        put_bytes(&mut payload, first);
        put_bytes(&mut payload, second);
    }
    let mut covered = Vec::with_capacity(20 + payload.len());
    covered.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    covered.extend_from_slice(&sequence.to_le_bytes());
    covered.extend_from_slice(&durable_bytes.to_le_bytes());
    covered.extend_from_slice(&payload);
    let mut record = Vec::with_capacity(8 + covered.len());
    record.extend_from_slice(RECORD_MAGIC);
    record.extend_from_slice(&crc32c::crc32c(&covered).to_le_bytes());
    record.extend_from_slice(&covered);
    record
}

/// Takes bytes off the front of a slice.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        self.take(len)
    }
    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }
}

struct Record<'a> {
    bytes: usize,
    sequence: u64,
    durable_bytes: u64,
    payload: &'a [u8],
}

fn decode_record(bytes: &[u8]) -> Option<Record<'_>> {
    let mut cursor = Cursor(bytes);
    if cursor.take(4)? != RECORD_MAGIC {
        return None;
    }
    let crc = cursor.u32()?;
    let len = Cursor(cursor.0).u32()? as usize;
    let covered = Cursor(cursor.0).take(len.checked_add(RECORD_HEADER_BYTES - 8)?)?;
    if crc32c::crc32c(covered) != crc {
        return None;
    }
    cursor.u32()?;
    let (sequence, durable_bytes) = (cursor.u64()?, cursor.u64()?);
    let payload = cursor.take(len)?;
    Some(Record { bytes: RECORD_HEADER_BYTES + len, sequence, durable_bytes, payload })
}

fn decode_changes(payload: &[u8]) -> Option<Vec<Replayed>> {
    let mut cursor = Cursor(payload);
    let count = cursor.u32()?;
    let mut changes = Vec::new();
    for _ in 0..count {
        let kind = cursor.u8()?;
        let family = cursor.text()?;
        let first = Bytes::copy_from_slice(cursor.bytes()?);
        let second = Bytes::copy_from_slice(cursor.bytes()?);
        changes.push(match kind {
            0 => Replayed::Put(family, first, second),
            1 => Replayed::Delete(family, first),
            2 => Replayed::DeleteRange(family, first, second),
            _ => return None,
        });
    }
    Some(changes)
}

/// What a log holds: the sequence after its last good record, and where that record ends.
pub(super) struct Replay {
    pub(super) next_sequence: u64,
    pub(super) good_bytes: u64,
}

/// Applies a log to `families`, up to the tail that a crash took.
pub(super) fn replay(
    log: &[u8],
    first_sequence: u64,
    families: &mut Families,
) -> Result<Replay, KvError> {
    let mut state = Replay { next_sequence: first_sequence, good_bytes: 0 };
    let mut rest = log;
    while let Some(record) = decode_record(rest).filter(|r| r.sequence == state.next_sequence) {
        let changes = decode_changes(record.payload)
            .ok_or_else(|| KvError::Corrupt("log record with a good checksum".to_owned()))?;
        changes.into_iter().for_each(|change| change.apply(families));
        state.next_sequence += 1;
        state.good_bytes += record.bytes as u64;
        rest = rest.get(record.bytes..).unwrap_or_default();
    }
    // A later record that knew more to be durable proves that this is no torn tail.
    let mut tail = rest;
    while !tail.is_empty() {
        if let Some(record) = decode_record(tail)
            && record.sequence > state.next_sequence
            && record.durable_bytes > state.good_bytes
        {
            let at = state.good_bytes;
            return Err(KvError::Corrupt(format!("log at byte {at} was durable and is bad")));
        }
        tail = tail.get(1..).unwrap_or_default();
    }
    Ok(state)
}

/// An image of the whole store.
pub(super) fn encode_image(next_sequence: u64, families: &Families) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&next_sequence.to_le_bytes());
    payload.extend_from_slice(&(families.len() as u32).to_le_bytes());
    for (family, rows) in families {
        put_bytes(&mut payload, family.as_bytes());
        payload.extend_from_slice(&(rows.len() as u64).to_le_bytes());
        for (key, value) in rows.iter() {
            put_bytes(&mut payload, key);
            put_bytes(&mut payload, value);
        }
    }
    let mut image = Vec::with_capacity(8 + payload.len());
    image.extend_from_slice(IMAGE_MAGIC);
    image.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    image.extend_from_slice(&payload);
    image
}

/// Reads an image back: the sequence of the log's first record, and the rows.
pub(super) fn decode_image(bytes: &[u8]) -> Result<(u64, Families), KvError> {
    decode_image_inner(bytes).ok_or_else(|| KvError::Corrupt("image".to_owned()))
}

fn decode_image_inner(bytes: &[u8]) -> Option<(u64, Families)> {
    let mut cursor = Cursor(bytes);
    if cursor.take(4)? != IMAGE_MAGIC || cursor.u32()? != crc32c::crc32c(cursor.0) {
        return None;
    }
    let next_sequence = cursor.u64()?;
    let family_count = cursor.u32()?;
    let mut families = Families::new();
    for _ in 0..family_count {
        let family = cursor.text()?;
        let row_count = cursor.u64()?;
        let mut rows = Rows::new();
        for _ in 0..row_count {
            let key = Bytes::copy_from_slice(cursor.bytes()?);
            rows.insert(key, Bytes::copy_from_slice(cursor.bytes()?));
        }
        families.insert(family, Arc::new(rows));
    }
    cursor.0.is_empty().then_some((next_sequence, families))
}
