//! Bytes of a log segment.
//!
//! ```text
//! segment = header record*
//! header  = "NGRL" version u8 | number u64 | first sequence u64 | crc u32
//! record  = "rec1" | length u32 | crc u32 | sequence u64 | durable u64 | kind u8 | group u32 | index u64 | payload
//! ```
//! Integers are little-endian; the crc covers everything of the record behind itself, and the
//! length. `sequence` counts all records of the log, so that a missing one shows; `durable` is the
//! sequence below which everything was synced when the record was written: a record that proves a
//! broken predecessor durable turns "torn tail" into "corrupt".

#![deny(clippy::indexing_slicing)]

/// Bytes of a segment header.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 4 + 1 + 8 + 8 + 4;
/// Bytes of a record before its payload.
pub(crate) const RECORD_HEADER_BYTES: usize = 4 + 4 + 4 + 8 + 8 + 1 + 4 + 8;

const SEGMENT_MAGIC: [u8; 4] = *b"NGRL";
const RECORD_MAGIC: [u8; 4] = *b"rec1";
const VERSION: u8 = 1;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An entry of the group's log at `index`; ends whatever stood at or behind it.
    Entry,
    /// An entry copied forward from a segment about to go; ends nothing.
    Copy,
    /// Nothing of the group stands at or behind `index` any more.
    Truncate,
    /// Vote, committed and purged ids of the group, as payload.
    State,
    /// The group is gone from this node: forget all of it.
    Drop,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Entry => 1,
            Kind::Copy => 2,
            Kind::Truncate => 3,
            Kind::State => 4,
            Kind::Drop => 5,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        [Kind::Entry, Kind::Copy, Kind::Truncate, Kind::State, Kind::Drop]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// The head of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub number: u64,
    pub first_sequence: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = SEGMENT_MAGIC.to_vec();
        out.push(VERSION);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.first_sequence.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let (head, rest) = bytes.split_at_checked(SEGMENT_HEADER_BYTES - 4)?;
        let crc = u32::from_le_bytes(*rest.first_chunk()?);
        let (magic, head_rest) = head.split_first_chunk::<4>()?;
        let (version, head_rest) = head_rest.split_first()?;
        let (number, first) = head_rest.split_first_chunk::<8>()?;
        let first = first.first_chunk::<8>()?;
        (*magic == SEGMENT_MAGIC && *version == VERSION && crc == crc32c::crc32c(head)).then_some(
            SegmentHeader {
                number: u64::from_le_bytes(*number),
                first_sequence: u64::from_le_bytes(*first),
            },
        )
    }
}

/// A record before its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub payload_bytes: u32,
    pub sequence: u64,
    pub durable: u64,
    pub kind: Kind,
    pub group: u32,
    pub index: u64,
}

/// Appends a record to `out`.
pub(crate) fn put_record(out: &mut Vec<u8>, header: RecordHeader, payload: &[u8]) {
    let mut body = Vec::with_capacity(RECORD_HEADER_BYTES);
    body.extend_from_slice(&header.sequence.to_le_bytes());
    body.extend_from_slice(&header.durable.to_le_bytes());
    body.push(header.kind.code());
    body.extend_from_slice(&header.group.to_le_bytes());
    body.extend_from_slice(&header.index.to_le_bytes());
    let length = (payload.len() as u32).to_le_bytes();
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&length), &body), payload);
    out.extend_from_slice(&RECORD_MAGIC);
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(payload);
}

/// The record at the beginning of `bytes`, and its payload; `None` if there is no whole, right one.
pub(crate) fn take_record(bytes: &[u8]) -> Option<(RecordHeader, &[u8])> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    if *magic != RECORD_MAGIC {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let payload_bytes = u32::from_le_bytes(*length);
    let body_bytes = (RECORD_HEADER_BYTES - 12).checked_add(payload_bytes as usize)?;
    let (body, _) = rest.split_at_checked(body_bytes)?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c_append(crc32c::crc32c(length), body) {
        return None;
    }
    let (sequence, body) = body.split_first_chunk::<8>()?;
    let (durable, body) = body.split_first_chunk::<8>()?;
    let (kind, body) = body.split_first()?;
    let (group, body) = body.split_first_chunk::<4>()?;
    let (index, payload) = body.split_first_chunk::<8>()?;
    let header = RecordHeader {
        payload_bytes,
        sequence: u64::from_le_bytes(*sequence),
        durable: u64::from_le_bytes(*durable),
        kind: Kind::from_code(*kind)?,
        group: u32::from_le_bytes(*group),
        index: u64::from_le_bytes(*index),
    };
    Some((header, payload))
}

/// Whether behind a broken record that should have had `sequence` stands a whole one that was
/// written when `sequence` was durable already.
pub(crate) fn proves_loss(mut bytes: &[u8], sequence: u64) -> bool {
    loop {
        let Some(at) = bytes.windows(4).position(|window| window == RECORD_MAGIC) else {
            return false;
        };
        let Some((_, from)) = bytes.split_at_checked(at) else { return false };
        if take_record(from).is_some_and(|(header, _)| header.durable > sequence) {
            return true;
        }
        let Some((_, rest)) = from.split_at_checked(1) else { return false };
        bytes = rest;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    fn header() -> RecordHeader {
        RecordHeader {
            payload_bytes: 3,
            sequence: 5,
            durable: 4,
            kind: Kind::Entry,
            group: 2,
            index: 9,
        }
    }

    #[test]
    fn golden_record() {
        let mut out = Vec::new();
        put_record(&mut out, header(), b"abc");
        assert_eq!(out.len(), RECORD_HEADER_BYTES + 3);
        assert_eq!(&out[..8], b"rec1\x03\0\0\0");
        assert_eq!(
            &out[12..],
            &[
                5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0,
                0, b'a', b'b', b'c'
            ]
        );
        assert_eq!(take_record(&out), Some((header(), &b"abc"[..])));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_no_record() {
        let mut out = Vec::new();
        put_record(&mut out, header(), b"abc");
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(take_record(&bad), None, "bit {bit}");
        }
        for len in 0..out.len() {
            assert_eq!(take_record(&out[..len]), None);
        }
        let segment = SegmentHeader { number: 3, first_sequence: 77 };
        let encoded = segment.encode();
        assert_eq!(encoded.len(), SEGMENT_HEADER_BYTES);
        assert_eq!(SegmentHeader::decode(&encoded), Some(segment));
        for bit in 0..encoded.len() * 8 {
            let mut bad = encoded.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad), None);
        }
    }
}
