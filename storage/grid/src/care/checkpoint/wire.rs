//! What nodes say to each other about checkpoints: heads are [`crate::shard::wire`] encodings of
//! `Request` and `Reply`.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::GroupId;
use nexusgrid_env::{MethodId, NodeId, Roles};
use nexusgrid_meta::root::types::Restore;
use serde::{Deserialize, Serialize};

use super::record::{RecordHead, TailHead};
use crate::limits::{BOOTSTRAP_HEAD_BYTES_MAX, BOOTSTRAP_RECORD_BYTES_MAX, TAIL_BYTES_MAX};
use crate::shard::wire::{Bulk, ShardMethod};

const GATEWAYS: Roles = Roles { storage: false, meta: false, gateway: true };

const fn method(id: u16, name: &'static str, request: usize, reply: usize) -> ShardMethod {
    ShardMethod {
        id: MethodId(id),
        name,
        callers: GATEWAYS,
        bulk: Bulk::None,
        request_head_max: BOOTSTRAP_HEAD_BYTES_MAX,
        request_body_max: request,
        reply_head_max: BOOTSTRAP_HEAD_BYTES_MAX,
        reply_body_max: reply,
    }
}

/// What any node may ask: records are sealed.
const fn anyone(id: u16, name: &'static str, reply: usize) -> ShardMethod {
    ShardMethod { callers: Roles::ALL, ..method(id, name, 0, reply) }
}

/// Keeps a record, durably.
pub const PUT: ShardMethod = method(0x0501, "bootstrap_put", BOOTSTRAP_RECORD_BYTES_MAX, 0);
/// Which records are kept, and the newest map known.
pub const LIST: ShardMethod = anyone(0x0502, "bootstrap_list", BOOTSTRAP_RECORD_BYTES_MAX);
/// One record.
pub const GET: ShardMethod = anyone(0x0503, "bootstrap_get", BOOTSTRAP_RECORD_BYTES_MAX);
/// Takes a checkpoint now, if it is this node's to take.
pub const TAKE: ShardMethod = method(0x0504, "checkpoint_take", 0, 0);
/// Groups were restored: replicas of the lost ones go, and here is the map.
pub const ANNOUNCE: ShardMethod = method(0x0505, "restore_announce", BOOTSTRAP_RECORD_BYTES_MAX, 0);
/// Keeps a tail of a group's log, durably.
pub const TAIL_PUT: ShardMethod = method(0x0506, "log_tail_put", TAIL_BYTES_MAX, 0);
/// Which tails of a group are kept.
pub const TAIL_LIST: ShardMethod = method(0x0507, "log_tail_list", 0, 0);
/// One tail.
pub const TAIL_GET: ShardMethod = method(0x0508, "log_tail_get", 0, TAIL_BYTES_MAX);
/// How far a group's tails have come, of whoever seals them.
pub const TAIL_STATE: ShardMethod = method(0x0509, "log_tail_state", 0, 0);
/// Says that the caller restores, or does not any more.
pub const CLAIM: ShardMethod = method(0x050a, "restore_claim", 0, 0);

/// All methods.
pub const METHODS: &[ShardMethod] =
    &[PUT, LIST, GET, TAKE, ANNOUNCE, TAIL_PUT, TAIL_LIST, TAIL_GET, TAIL_STATE, CLAIM];

/// A request's head. Each method takes its own variant only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// See [`PUT`]; the body is the record.
    Put,
    /// See [`LIST`].
    List,
    /// See [`GET`].
    Get(RecordHead),
    /// See [`TAKE`].
    Take(GroupId),
    /// See [`ANNOUNCE`]; the body is the map.
    Announce(Vec<Restore>),
    /// See [`TAIL_PUT`]; the body is the sealed tail.
    PutTail,
    /// See [`TAIL_LIST`].
    Tails(GroupId),
    /// See [`TAIL_GET`].
    GetTail(TailHead),
    /// See [`TAIL_STATE`].
    TailState(GroupId),
    /// See [`CLAIM`].
    Claim(Claim),
}

/// What a node that restores says to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    /// The incarnation that it would begin.
    pub incarnation: u64,
    /// Whether the root group is among the lost: nobody else would notice two who begin the same.
    pub root: bool,
    /// Whether it goes on; else it gave up.
    pub held: bool,
}

/// How far the tails of a group have come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailState {
    /// The newest entry up to which a majority of the keepers hold all that is worth it.
    pub index: u64,
    /// All of importance that was committed up to then, ms since 1970, is in tails.
    pub as_of_ms: u64,
    /// Nodes that keep all of it.
    pub keepers: Vec<NodeId>,
    /// How many should.
    pub wanted: usize,
}

/// A reply's head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Done; durable.
    Done,
    /// Records kept; the body is the newest map.
    Listed(Vec<RecordHead>),
    /// The body is the record.
    Got,
    /// There is none such.
    None,
    /// Taken; its record is durable on a majority of the stable nodes.
    Taken(RecordHead),
    /// Another node's to take.
    NotMine,
    /// It did not work.
    Failed(String),
    /// Tails that are kept.
    Tails(Vec<TailHead>),
    /// There is no room for more tails of the group.
    Full,
    /// How far tails have come.
    TailState(TailState),
    /// Another node restores.
    Claimed(NodeId),
    /// An incarnation as high as this one was begun already.
    Past(u64),
}

#[cfg(test)]
mod tests {
    use nexusgrid_meta::root::types::RestoredGroup;
    use nexusgrid_meta::tail::LogPlace;

    use super::*;
    use crate::shard::wire::{decode, encode};

    #[test]
    fn golden_heads() {
        let head = RecordHead { group: GroupId(3), incarnation: 1, index: 300, taken_ms: 5 };
        assert_eq!(encode(&Request::Get(head)), [1, 2, 3, 1, 0xac, 2, 5]);
        let group =
            RestoredGroup { group: GroupId(3), generation: 256, index: 300, checkpoint_ms: 5 };
        let restore = Restore { incarnation: 2, at_ms: 9, groups: vec![group] };
        let announce = Request::Announce(vec![restore]);
        assert_eq!(encode(&announce), [1, 4, 1, 2, 9, 1, 3, 0x80, 2, 0xac, 2, 5]);
        assert_eq!(encode(&Reply::Listed(vec![head])), [1, 1, 1, 3, 1, 0xac, 2, 5]);
        assert_eq!(decode::<Request>(&encode(&announce)), Ok(announce));
        let place = |index, term| LogPlace { index, term };
        let (after, end) = (place(300, 2), place(301, 3));
        let tail = TailHead { group: GroupId(3), incarnation: 1, after, end, taken_ms: 5 };
        let golden = [1, 7, 3, 1, 0xac, 2, 2, 0xad, 2, 3, 5];
        assert_eq!(encode(&Request::GetTail(tail)), golden);
        assert_eq!(encode(&Request::Tails(GroupId(3))), [1, 6, 3]);
        let claim = Claim { incarnation: 2, root: true, held: false };
        assert_eq!(encode(&Request::Claim(claim)), [1, 9, 2, 1, 0]);
        let state = TailState { index: 300, as_of_ms: 5, keepers: vec![NodeId(4)], wanted: 3 };
        assert_eq!(encode(&Reply::TailState(state)), [1, 9, 0xac, 2, 5, 1, 4, 3]);
        assert_eq!(encode(&Reply::Full), [1, 8]);
        assert_eq!(encode(&Reply::Claimed(NodeId(4))), [1, 10, 4]);
        assert_eq!(encode(&Reply::Past(300)), [1, 11, 0xac, 2]);
    }
}
