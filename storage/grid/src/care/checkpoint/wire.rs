//! What nodes say to each other about checkpoints: heads are [`crate::shard::wire`] encodings of
//! `Request` and `Reply`.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::GroupId;
use nexusgrid_env::{MethodId, Roles};
use nexusgrid_meta::root::types::Restore;
use serde::{Deserialize, Serialize};

use super::record::RecordHead;
use crate::limits::{BOOTSTRAP_HEAD_BYTES_MAX, BOOTSTRAP_RECORD_BYTES_MAX};
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

/// Keeps a record, durably.
pub const PUT: ShardMethod = method(0x0501, "bootstrap_put", BOOTSTRAP_RECORD_BYTES_MAX, 0);
/// Which records are kept, and the newest map known.
pub const LIST: ShardMethod = method(0x0502, "bootstrap_list", 0, BOOTSTRAP_RECORD_BYTES_MAX);
/// One record.
pub const GET: ShardMethod = method(0x0503, "bootstrap_get", 0, BOOTSTRAP_RECORD_BYTES_MAX);
/// Takes a checkpoint now, if it is this node's to take.
pub const TAKE: ShardMethod = method(0x0504, "checkpoint_take", 0, 0);
/// Groups were restored: replicas of the lost ones go, and here is the map.
pub const ANNOUNCE: ShardMethod = method(0x0505, "restore_announce", BOOTSTRAP_RECORD_BYTES_MAX, 0);

/// All methods.
pub const METHODS: &[ShardMethod] = &[PUT, LIST, GET, TAKE, ANNOUNCE];

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
}

#[cfg(test)]
mod tests {
    use nexusgrid_meta::root::types::RestoredGroup;

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
    }
}
