//! What the writer is asked, and what it answers.

use bytes::Bytes;
use nexusgrid_codec::{BlockId, Epoch, PgId};
use nexusgrid_env::KvError;

use crate::error::DriveError;
use crate::index::Sessions;
use crate::limits::OP_BYTES_MIN;
use crate::log::Fact;
use crate::record::RecordHead;
use crate::types::{PutAck, SessionFloor, ShardKey, ShardWrite};

/// What the writer is asked.
pub enum Op {
    /// Store a shard.
    Put(Box<PutOp>),
    /// R1, R2: know this epoch.
    Fence { pg: PgId, epoch: Epoch },
    /// R5: these blocks of a PG are deleted.
    Tombstone { pg: PgId, blocks: Vec<BlockId> },
    /// R5, R6: raise the floors, then erase the tombstones.
    DropTombstones { blocks: Vec<BlockId>, floors: Vec<SessionFloor> },
    /// R4, R6: close one session.
    CloseSession { sessions: Sessions, session: u64 },
    /// R4, R6: close all sessions below.
    RaiseFloor { sessions: Sessions, floor: u64 },
    /// R7, orphans: to the trash; with `stamped_before` only if the stamp is of that PG and older.
    Trash { keys: Vec<ShardKey>, stamped_before: Option<(PgId, Epoch)> },
    /// Back from the trash.
    Restore(Vec<ShardKey>),
    /// Out of the trash for good; with a time only if it is there since then.
    Purge(Vec<(Option<u64>, ShardKey)>),
    /// Scrub: this record does not verify. What can still be read of it goes to the trash, else it
    /// is dropped.
    Rotten { key: ShardKey, born: u64, readable: bool },
    /// Begin a new segment if this one is still the active one.
    Seal { segment: u64 },
    /// Compaction: a copy of a live record.
    Copy(Box<CopyOp>),
    /// Compaction: facts of a segment that goes.
    Relog { victim: u64, pgs: Vec<PgId>, facts: Vec<Fact> },
    /// Compaction: the segment is gone.
    Forget { segment: u64 },
    /// The hole was punched.
    Punched { segment: u64, offset: u64, bytes: u64 },
}

/// A checked shard write.
#[derive(Clone)]
pub struct PutOp {
    /// As the caller gave it.
    pub write: ShardWrite,
    /// Its header, encoded.
    pub header: Bytes,
    /// crc32c of the body.
    pub body_crc: u32,
    /// Its own digest.
    pub digest: [u8; 32],
    /// What is known of a stored record of the same shard.
    pub stored: StoredBefore,
}

/// What a put knows of a stored record of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredBefore {
    /// Nobody looked: if there is one, the writer asks for that first.
    Unknown,
    /// It verified, or there was none.
    Sound,
    /// The record born with this sequence does not verify.
    Bad(u64),
}

/// A record that compaction read.
pub struct CopyOp {
    /// The shard.
    pub key: ShardKey,
    /// Where it was read.
    pub segment: u64,
    /// See `segment`.
    pub offset: u64,
    /// Its head.
    pub head: RecordHead,
    /// Its body, checked.
    pub body: Bytes,
}

impl Op {
    /// What the operation counts for in the queue.
    pub fn queue_bytes(&self) -> u64 {
        match self {
            Op::Put(put) => put.write.body.len() as u64,
            Op::Copy(copy) => copy.body.len() as u64,
            _ => u64::from(OP_BYTES_MIN),
        }
    }

    /// Whether it needs room for a shard.
    pub fn stores_shard(&self) -> bool {
        matches!(self, Op::Put(_) | Op::Copy(_))
    }
}

/// What the writer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To a put.
    Put(PutAck),
    /// To a put that did not look: the same shard is here. Examine it, then ask again.
    Examine,
    /// To a fence: the epoch known now.
    Epoch(Epoch),
    /// To the others: how many things changed.
    Count(u64),
}

/// Why an operation did not get in.
pub enum Refusal {
    /// The caller's matter.
    Caller(DriveError),
    /// The index failed: the drive's matter.
    Index(KvError),
}

impl From<KvError> for Refusal {
    fn from(error: KvError) -> Refusal {
        Refusal::Index(error)
    }
}

impl From<DriveError> for Refusal {
    fn from(error: DriveError) -> Refusal {
        Refusal::Caller(error)
    }
}
