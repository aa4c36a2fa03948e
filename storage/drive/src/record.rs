//! The record: the one unit of a segment, hand-laid-out, little-endian, 4 KiB-aligned.
//!
//! ```text
//! 0    8  magic "NXGDREC\x01" (last byte: format version)
//! 8    1  kind: 1 segment, 2 shard, 3 facts, 4 footer, 5 trailer
//! 9    1  flags: 1 has a fill session, 2 in the trash
//! 10   2  zero
//! 12   4  length of the embedded shard header (0 unless a shard)
//! 16  16  segment uuid
//! 32   8  offset of this record in its segment (a misdirected write is seen)
//! 40   8  sequence: grows with every record of the drive
//! 48   8  born: sequence of the original, if this is compaction's copy; else = sequence
//! 56   8  synced: everything below this offset of the segment was durable when this was written
//! 64   8  age of the drive in ms when this was written; of the trashing, if flag 2 is set
//! 72   8  epoch
//! 80   8  fill session (0 without flag 1)
//! 88   4  placement group
//! 92   4  crc32c of the body
//! 96   8  length of the body
//! 104  n  embedded shard header
//! +n   4  crc32c of all of the above
//! +4   …  body, then zeroes up to a multiple of 4096
//! ```

#![deny(clippy::indexing_slicing)]

use crate::limits::{RECORD_ALIGN, SHARD_HEADER_BYTES_MAX};

/// Begins every record.
pub const MAGIC: [u8; 8] = *b"NXGDREC\x01";
/// Length of the head without the embedded header and the crc.
pub const HEAD_FIXED_BYTES: usize = 104;
const CRC_BYTES: usize = 4;
const FLAG_FILL: u8 = 1;
const FLAG_TRASHED: u8 = 2;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// First of every segment: whose it is.
    Segment,
    /// A shard.
    Shard,
    /// Durable facts that no shard record carries.
    Facts,
    /// List of the records of a sealed segment.
    Footer,
    /// Last 4 KiB of a sealed segment: where the footer is.
    Trailer,
}

impl RecordKind {
    fn code(self) -> u8 {
        match self {
            RecordKind::Segment => 1,
            RecordKind::Shard => 2,
            RecordKind::Facts => 3,
            RecordKind::Footer => 4,
            RecordKind::Trailer => 5,
        }
    }

    fn of(code: u8) -> Option<RecordKind> {
        Some(match code {
            1 => RecordKind::Segment,
            2 => RecordKind::Shard,
            3 => RecordKind::Facts,
            4 => RecordKind::Footer,
            5 => RecordKind::Trailer,
            _ => return None,
        })
    }
}

/// A decoded head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// What follows.
    pub kind: RecordKind,
    /// Uuid of the segment.
    pub uuid: [u8; 16],
    /// Offset in the segment.
    pub offset: u64,
    /// Sequence in the drive's log.
    pub sequence: u64,
    /// Sequence of the original.
    pub born: u64,
    /// Everything below was durable.
    pub synced: u64,
    /// Age of the drive, or of the trashing.
    pub age_ms: u64,
    /// Epoch of a shard.
    pub epoch: u64,
    /// Fill session of a shard.
    pub fill: Option<u64>,
    /// Whether the shard was in the trash when it was copied.
    pub trashed: bool,
    /// Placement group of a shard.
    pub pg: u32,
    /// crc32c of the body.
    pub body_crc: u32,
    /// Length of the body.
    pub body_bytes: u64,
    /// The codec's header, encoded.
    pub shard_header: Vec<u8>,
}

/// Why bytes are not a record's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not a record at all (or zeroes).
    #[error("no record here")]
    NoMagic,
    /// More bytes are needed: the head is so long.
    #[error("head is cut: it has {0} bytes")]
    Short(usize),
    /// A bit flipped or the write was torn.
    #[error("head fails its crc")]
    Crc,
    /// The crc holds but a field makes no sense.
    #[error("head has an impossible field")]
    Field,
}

impl RecordHead {
    /// Length of the head, crc included.
    pub fn head_bytes(&self) -> usize {
        head_bytes(self.shard_header.len())
    }

    /// What the record takes in its segment, padding included.
    pub fn disk_bytes(&self) -> u64 {
        align_up(self.head_bytes() as u64 + self.body_bytes)
    }

    /// Encodes the head.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.head_bytes());
        let flags = if self.fill.is_some() { FLAG_FILL } else { 0 }
            | if self.trashed { FLAG_TRASHED } else { 0 };
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.kind.code(), flags, 0, 0]);
        out.extend_from_slice(&(self.shard_header.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.uuid);
        for word in [
            self.offset,
            self.sequence,
            self.born,
            self.synced,
            self.age_ms,
            self.epoch,
            self.fill.unwrap_or(0),
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.pg.to_le_bytes());
        out.extend_from_slice(&self.body_crc.to_le_bytes());
        out.extend_from_slice(&self.body_bytes.to_le_bytes());
        debug_assert_eq!(out.len(), HEAD_FIXED_BYTES);
        out.extend_from_slice(&self.shard_header);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes a head from the first bytes of `bytes`; what follows is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<RecordHead, HeadError> {
        let mut fields = Fields { rest: bytes };
        if fields.array::<8>().ok_or(HeadError::NoMagic)? != MAGIC {
            return Err(HeadError::NoMagic);
        }
        let short = HeadError::Short(HEAD_FIXED_BYTES + CRC_BYTES);
        let [kind, flags, zero_a, zero_b] = fields.array::<4>().ok_or(short)?;
        let shard_header_bytes = fields.u32().ok_or(short)? as usize;
        if shard_header_bytes > SHARD_HEADER_BYTES_MAX {
            return Err(HeadError::Field);
        }
        let crc_at = HEAD_FIXED_BYTES + shard_header_bytes;
        let short = HeadError::Short(crc_at + CRC_BYTES);
        let (covered, after) = bytes.split_at_checked(crc_at).ok_or(short)?;
        let crc = Fields { rest: after }.u32().ok_or(short)?;
        if crc32c::crc32c(covered) != crc {
            return Err(HeadError::Crc);
        }
        let uuid = fields.array::<16>().ok_or(short)?;
        let offset = fields.u64().ok_or(short)?;
        let sequence = fields.u64().ok_or(short)?;
        let born = fields.u64().ok_or(short)?;
        let synced = fields.u64().ok_or(short)?;
        let age_ms = fields.u64().ok_or(short)?;
        let epoch = fields.u64().ok_or(short)?;
        let fill = fields.u64().ok_or(short)?;
        let pg = fields.u32().ok_or(short)?;
        let body_crc = fields.u32().ok_or(short)?;
        let body_bytes = fields.u64().ok_or(short)?;
        let shard_header = fields.rest.get(..shard_header_bytes).ok_or(short)?.to_vec();
        let head = RecordHead {
            kind: RecordKind::of(kind).ok_or(HeadError::Field)?,
            uuid,
            offset,
            sequence,
            born,
            synced,
            age_ms,
            epoch,
            fill: (flags & FLAG_FILL != 0).then_some(fill),
            trashed: flags & FLAG_TRASHED != 0,
            pg,
            body_crc,
            body_bytes,
            shard_header,
        };
        let possible = zero_a == 0
            && zero_b == 0
            && flags & !(FLAG_FILL | FLAG_TRASHED) == 0
            && (head.fill.is_some() || fill == 0)
            && offset.is_multiple_of(RECORD_ALIGN)
            && born <= sequence
            && body_bytes <= crate::limits::FOOTER_BODY_BYTES_MAX;
        if possible { Ok(head) } else { Err(HeadError::Field) }
    }
}

/// Length of a head with an embedded header of `shard_header_bytes`.
pub fn head_bytes(shard_header_bytes: usize) -> usize {
    HEAD_FIXED_BYTES + shard_header_bytes + CRC_BYTES
}

/// The next multiple of [`RECORD_ALIGN`].
pub fn align_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(RECORD_ALIGN)
}

struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
