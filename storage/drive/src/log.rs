//! What the log says: shard entries and facts, as they stand in footers and as the index folds
//! them.
//!
//! A drive is a log of records over its segments, and its index is a fold of that log: the same
//! [`crate::fold`] runs when a batch commits, when a stale index catches up, and when a lost one is
//! rebuilt. So everything durable must be in the log, also what no shard record carries: *facts*.
//! Compaction may drop a fact only when the fold without it comes out the same: each fact below
//! says when that is.

#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::{BlockId, Epoch, GroupId, PgId, SessionId};
use serde::{Deserialize, Serialize};

use crate::limits::{FACTS_BODY_BYTES_MAX, FOOTER_BODY_BYTES_MAX};
use crate::types::{FillSessionId, ShardKey};

/// Version byte before encoded facts and footers.
pub const LOG_VERSION: u8 = 2;

/// A durable fact. Order of variants is part of the format: only append.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// R1, I5: the drive knows this epoch. Droppable once a later fact holds a newer one.
    Epoch {
        /// The placement group.
        pg: PgId,
        /// Its epoch.
        epoch: Epoch,
    },
    /// R6: every session of the group below the floor is closed. Droppable once raised.
    SessionFloor {
        /// The metadata group.
        group: GroupId,
        /// The lowest session that may be open.
        floor: SessionId,
    },
    /// R6: this session is closed. Droppable once the floor is above it.
    SessionClosed {
        /// The metadata group.
        group: GroupId,
        /// The session.
        session: SessionId,
    },
    /// R4: every fill session of the PG below the floor is closed. Droppable once raised.
    FillFloor {
        /// The placement group.
        pg: PgId,
        /// The lowest fill session that may be open.
        floor: FillSessionId,
    },
    /// R4: this fill session is closed. Droppable once the floor is above it.
    FillClosed {
        /// The placement group.
        pg: PgId,
        /// The fill session.
        session: FillSessionId,
    },
    /// R5: the block is deleted and must not come back. Droppable once dropped.
    Tombstone {
        /// The block.
        block: BlockId,
        /// Its placement group.
        pg: PgId,
    },
    /// R5, R6: the tombstone that stands in `segment` is erased. Droppable once that segment is gone.
    TombstoneDropped {
        /// The block.
        block: BlockId,
        /// The segment that holds the tombstone's fact.
        segment: u64,
    },
    /// The shard record born with this sequence is dead. Droppable once all segments are gone that
    /// may hold a copy of it; dropping it earlier would let a rebuild bring it back (L2).
    Dead {
        /// The shard.
        key: ShardKey,
        /// Which record.
        born: u64,
        /// Segments that may hold copies.
        segments: Vec<u64>,
    },
    /// R3, R7: the shard record born with this sequence has this stamp now. Droppable once another
    /// stamp follows, once the record is copied (the copy carries it), or once it is dead.
    Stamp {
        /// The shard.
        key: ShardKey,
        /// Which record.
        born: u64,
        /// Placement group.
        pg: PgId,
        /// Epoch.
        epoch: Epoch,
        /// Age of the drive, in ms, when the shard went to the trash; `None` if it is served.
        trashed_ms: Option<u64>,
    },
}

/// A shard record, as a footer lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Block and slot.
    pub key: ShardKey,
    /// Where the record begins in its segment.
    pub offset: u64,
    /// Length of its head.
    pub head_bytes: u32,
    /// Length of its body.
    pub body_bytes: u64,
    /// Sequence of the record.
    pub sequence: u64,
    /// Sequence of the original record.
    pub born: u64,
    /// Placement group.
    pub pg: PgId,
    /// Epoch.
    pub epoch: Epoch,
    /// When it went to the trash, if it was there as it was copied.
    pub trashed_ms: Option<u64>,
    /// The shard's own digest.
    pub digest: [u8; 32],
}

/// A facts record, as a footer lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactsEntry {
    /// Where the record begins in its segment.
    pub offset: u64,
    /// What it takes there.
    pub disk_bytes: u64,
    /// Sequence of the record.
    pub sequence: u64,
    /// Age of the drive when it was written, in ms.
    pub age_ms: u64,
    /// The facts, in order.
    pub facts: Vec<Fact>,
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogItem {
    /// A shard.
    Shard(ShardEntry),
    /// Facts.
    Facts(FactsEntry),
}

impl LogItem {
    /// Where the record begins.
    pub fn offset(&self) -> u64 {
        match self {
            LogItem::Shard(shard) => shard.offset,
            LogItem::Facts(facts) => facts.offset,
        }
    }

    /// Where it ends, padding included.
    pub fn end(&self) -> u64 {
        match self {
            LogItem::Shard(shard) => shard.offset + shard.disk_bytes(),
            LogItem::Facts(facts) => facts.offset + facts.disk_bytes,
        }
    }

    /// Its sequence.
    pub fn sequence(&self) -> u64 {
        match self {
            LogItem::Shard(shard) => shard.sequence,
            LogItem::Facts(facts) => facts.sequence,
        }
    }
}

impl ShardEntry {
    /// What the record takes in its segment.
    pub fn disk_bytes(&self) -> u64 {
        crate::record::align_up(u64::from(self.head_bytes) + self.body_bytes)
    }
}

/// What the first record of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentLabel {
    /// Number of the segment on its drive; never reused.
    pub id: u64,
    /// The drive's incarnation: a segment copied from elsewhere is refused.
    pub incarnation: [u8; 16],
    /// Where the records of the segment before it end: all of them were synced when this one was
    /// made, so that only what lies beyond (a torn footer) may be cut there.
    pub previous_end: u64,
}

/// Why a body does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Unknown version byte, or none.
    #[error("unknown version")]
    Version,
    /// Longer than `limits.rs` allows.
    #[error("too long")]
    TooLong,
    /// Not an encoding of the type, or bytes follow.
    #[error("malformed")]
    Malformed,
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    // Writing plain structs to a Vec cannot fail; if it ever did, an empty body is refused on read.
    postcard::to_extend(value, vec![LOG_VERSION]).unwrap_or_default()
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], max: u64) -> Result<T, DecodeError> {
    if bytes.len() as u64 > max {
        return Err(DecodeError::TooLong);
    }
    let (version, rest) = bytes.split_first().ok_or(DecodeError::Version)?;
    if *version != LOG_VERSION {
        return Err(DecodeError::Version);
    }
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        _ => Err(DecodeError::Malformed),
    }
}

/// Body of a facts record.
pub fn encode_facts(facts: &[Fact]) -> Vec<u8> {
    encode(facts)
}

/// The inverse of [`encode_facts`].
pub fn decode_facts(bytes: &[u8]) -> Result<Vec<Fact>, DecodeError> {
    decode(bytes, FACTS_BODY_BYTES_MAX as u64)
}

/// Body of a footer record.
pub fn encode_footer(items: &[LogItem]) -> Vec<u8> {
    encode(items)
}

/// The inverse of [`encode_footer`].
pub fn decode_footer(bytes: &[u8]) -> Result<Vec<LogItem>, DecodeError> {
    decode(bytes, FOOTER_BODY_BYTES_MAX)
}

/// Body of a segment's first record.
pub fn encode_label(label: &SegmentLabel) -> Vec<u8> {
    encode(label)
}

/// The inverse of [`encode_label`].
pub fn decode_label(bytes: &[u8]) -> Result<SegmentLabel, DecodeError> {
    decode(bytes, FACTS_BODY_BYTES_MAX as u64)
}
