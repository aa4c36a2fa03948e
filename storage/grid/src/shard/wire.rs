//! What crosses the wire between a writer, reader or repair worker and a node's drives.
//!
//! A request's head is a version byte and a postcard of [`ShardRequest`]; a reply's head likewise
//! of [`ShardReply`]. Shard bytes travel as body, never inside the head.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::{BlockId, DriveId, Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::{MethodId, Roles};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::limits;

/// Version of heads.
const VERSION: u8 = 1;

/// Which way the bulk of a method's bytes goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bulk {
    /// Little either way: control.
    None,
    /// In the request: the whole request must be authenticated.
    Request,
    /// In the reply: its body proves itself to the reader.
    Reply,
}

/// One method of the shard service, for whoever registers it with the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardMethod {
    /// Its number.
    pub id: MethodId,
    /// Its name, for logs and metrics.
    pub name: &'static str,
    /// A caller has at least one of these roles.
    pub callers: Roles,
    /// Where its bulk bytes are; anything but `None` belongs on the shard channel.
    pub bulk: Bulk,
    /// Longest request head.
    pub request_head_max: usize,
    /// Longest request body.
    pub request_body_max: usize,
    /// Longest reply head.
    pub reply_head_max: usize,
    /// Longest reply body.
    pub reply_body_max: usize,
}

const SMALL: usize = 64 << 10;

const fn method(id: u16, name: &'static str, bulk: Bulk) -> ShardMethod {
    let (request_body_max, reply_body_max) = match bulk {
        Bulk::None => (0, 0),
        Bulk::Request => (limits::SHARD_BODY_BYTES_MAX, 0),
        Bulk::Reply => (0, limits::SHARD_BODY_BYTES_MAX),
    };
    ShardMethod {
        id: MethodId(id),
        name,
        callers: Roles::ALL,
        bulk,
        request_head_max: match bulk {
            Bulk::Request => limits::SHARD_HEAD_BYTES_MAX,
            Bulk::None | Bulk::Reply => SMALL,
        },
        request_body_max,
        reply_head_max: match bulk {
            Bulk::Request => SMALL,
            Bulk::None => limits::SHARD_HEAD_BYTES_MAX,
            Bulk::Reply => limits::SHARD_HEAD_BYTES_MAX,
        },
        reply_body_max,
    }
}

/// Stores a shard.
pub const PUT: ShardMethod = method(0x0301, "shard_put", Bulk::Request);
/// Reads a shard or a range of it.
pub const GET: ShardMethod = method(0x0302, "shard_get", Bulk::Reply);
/// What the index knows of shards.
pub const STAT: ShardMethod = method(0x0303, "shard_stat", Bulk::None);
/// A page of a placement group's shards (R2).
pub const LIST: ShardMethod = method(0x0304, "shard_list", Bulk::None);
/// Adopts an epoch durably (R1, R2).
pub const FENCE: ShardMethod = method(0x0305, "shard_fence", Bulk::None);
/// Deletes blocks (R5).
pub const TOMBSTONE: ShardMethod = method(0x0306, "shard_tombstone", Bulk::None);
/// Raises the writers' session floor (R6).
pub const SESSION_FLOOR: ShardMethod = method(0x0307, "shard_session_floor", Bulk::None);
/// Closes a repair session (R4).
pub const CLOSE_FILL: ShardMethod = method(0x0308, "shard_close_fill", Bulk::None);

/// All methods.
pub const METHODS: &[ShardMethod] =
    &[PUT, GET, STAT, LIST, FENCE, TOMBSTONE, SESSION_FLOOR, CLOSE_FILL];

/// A request's head. Each method takes its own variant only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardRequest {
    /// See [`PUT`]; the body is the shard's.
    Put {
        /// To which drive.
        drive: DriveId,
        /// Of which placement group.
        pg: PgId,
        /// The writer acts under this epoch (R1, R3).
        epoch: Epoch,
        /// The repair session, if this is a repair write (R4).
        fill: Option<u64>,
        /// Gives way to clients' writes.
        backfill: bool,
        /// The codec's shard header, encoded.
        header: Vec<u8>,
    },
    /// See [`GET`].
    Get {
        /// From which drive.
        drive: DriveId,
        /// The block.
        block: BlockId,
        /// The slot.
        index: u8,
        /// Bytes of the body; `None` is all.
        range: Option<(u64, u64)>,
        /// Check the whole shard first, and send its header.
        verify: bool,
    },
    /// See [`STAT`].
    Stat {
        /// On which drive.
        drive: DriveId,
        /// Which shards.
        shards: Vec<(BlockId, u8)>,
    },
    /// See [`LIST`].
    List {
        /// On which drive.
        drive: DriveId,
        /// Of which placement group.
        pg: PgId,
        /// After this one.
        after: Option<(BlockId, u8)>,
        /// At most so many.
        limit: u32,
    },
    /// See [`FENCE`].
    Fence {
        /// Which drive.
        drive: DriveId,
        /// Which placement group.
        pg: PgId,
        /// Its new epoch.
        epoch: Epoch,
    },
    /// See [`TOMBSTONE`].
    Tombstone {
        /// On which drive.
        drive: DriveId,
        /// Of which placement group.
        pg: PgId,
        /// Which blocks.
        blocks: Vec<BlockId>,
    },
    /// See [`SESSION_FLOOR`].
    SessionFloor {
        /// On which drive.
        drive: DriveId,
        /// Of which metadata group.
        group: GroupId,
        /// All sessions below are closed.
        floor: SessionId,
    },
    /// See [`CLOSE_FILL`].
    CloseFill {
        /// On which drive.
        drive: DriveId,
        /// Of which placement group.
        pg: PgId,
        /// This session and all before it are closed.
        session: u64,
    },
}

/// A reply's head.
pub type ShardReply = Result<ShardOk, ShardFault>;

/// A shard that a drive has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFacts {
    /// The block.
    pub block: BlockId,
    /// The slot.
    pub index: u8,
    /// Placement group it is stamped with.
    pub pg: PgId,
    /// Epoch it is stamped with.
    pub epoch: Epoch,
    /// Length of its body.
    pub body_bytes: u64,
    /// Its digest.
    pub digest: [u8; 32],
}

/// A success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShardOk {
    /// Durable; stamped with this epoch (R3).
    Stored {
        /// The stamp.
        epoch: Epoch,
    },
    /// The reply's body holds the bytes asked for.
    Read {
        /// The codec's shard header, if the shard was to be verified; else empty.
        header: Vec<u8>,
        /// Where the bytes begin in the shard's body.
        offset: u64,
    },
    /// One per shard asked for.
    Stats(Vec<Option<ShardFacts>>),
    /// A page.
    Page {
        /// The epoch that the drive knows.
        epoch: Epoch,
        /// Shards in key order.
        shards: Vec<ShardFacts>,
        /// Whether more follow.
        more: bool,
    },
    /// Done.
    Done,
}

/// Why a drive did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ShardFault {
    /// R1: read the map again.
    #[error("epoch is stale, the drive knows {}", .known.0)]
    StaleEpoch {
        /// The drive's.
        known: Epoch,
    },
    /// R5: the block was deleted.
    #[error("block is deleted")]
    Tombstoned,
    /// R6: the writer's session is closed.
    #[error("write session is closed")]
    SessionClosed,
    /// R4: the repair session is closed.
    #[error("repair session is closed")]
    FillClosed,
    /// I3: an alarm.
    #[error("another digest is stored under this id")]
    DigestConflict,
    /// No such shard.
    #[error("no such shard")]
    NotFound,
    /// The shard's bytes are not what was written: rebuild it.
    #[error("shard is damaged: {0}")]
    Damaged(String),
    /// The drive is full.
    #[error("drive is full")]
    NoSpace,
    /// The drive has failed or is closed.
    #[error("drive failed: {0}")]
    Failed(String),
    /// The node has not read the map since it started or slept: ask later.
    #[error("not ready: the map was not read yet")]
    NotReady,
    /// The drive is not on this node.
    #[error("no such drive here")]
    NoSuchDrive,
    /// A bug of the caller.
    #[error("invalid request: {0}")]
    Invalid(String),
    /// Metadata was restored, or its map was not read yet: nothing is deleted meanwhile.
    #[error("deletes are frozen")]
    Frozen,
}

/// Bytes that are no head of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed or unknown shard message")]
pub struct MalformedHead;

/// Encodes a head.
pub fn encode<T: Serialize>(head: &T) -> Vec<u8> {
    // Fails only for types that postcard cannot represent; a lone version byte is refused.
    postcard::to_extend(head, vec![VERSION]).unwrap_or_else(|_| vec![VERSION])
}

/// The inverse of [`encode`]; trailing bytes are refused.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MalformedHead> {
    match bytes.split_first() {
        Some((&VERSION, body)) => match postcard::take_from_bytes(body) {
            Ok((head, [])) => Ok(head),
            _ => Err(MalformedHead),
        },
        _ => Err(MalformedHead),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> BlockId {
        BlockId { group: GroupId(3), session: SessionId(7), counter: 9 }
    }

    #[test]
    fn golden_heads() {
        let put = ShardRequest::Put {
            drive: DriveId(1),
            pg: PgId(2),
            epoch: Epoch(3),
            fill: None,
            backfill: false,
            header: vec![0xaa, 0xbb],
        };
        assert_eq!(encode(&put), [1, 0, 1, 2, 3, 0, 0, 2, 0xaa, 0xbb]);
        let get = ShardRequest::Get {
            drive: DriveId(1),
            block: block(),
            index: 5,
            range: Some((0, 300)),
            verify: true,
        };
        assert_eq!(encode(&get), [1, 1, 1, 3, 7, 9, 5, 1, 0, 0xac, 2, 1]);
        let stored: ShardReply = Ok(ShardOk::Stored { epoch: Epoch(4) });
        assert_eq!(encode(&stored), [1, 0, 0, 4]);
        let stale: ShardReply = Err(ShardFault::StaleEpoch { known: Epoch(4) });
        assert_eq!(encode(&stale), [1, 1, 0, 4]);
        assert_eq!(decode::<ShardRequest>(&encode(&put)), Ok(put));
        assert_eq!(decode::<ShardRequest>(&encode(&get)), Ok(get));
    }

    #[test]
    fn refuses_other_versions_and_trailing_bytes() {
        let mut head = encode(&ShardOk::Done);
        head.push(0);
        assert_eq!(decode::<ShardOk>(&head), Err(MalformedHead));
        assert_eq!(decode::<ShardOk>(&[2, 4]), Err(MalformedHead));
        assert_eq!(decode::<ShardOk>(&[]), Err(MalformedHead));
    }
}
