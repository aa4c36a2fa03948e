//! Messages between members of groups, and between a group and those who ask it.
//!
//! A request's head says which group and which incarnations talk; a message to another incarnation
//! than the one that runs here is answered with [`Answer::Gone`], never handed on: a node that came
//! back without its log does not act under its old id (I15).

use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{MethodId, NodeId};
use serde::{Deserialize, Serialize};

use super::types::{RaftId, SnapshotMeta, Vote};
use crate::host::{Fact, Touched, WatchCall, Watcher};
use crate::limits::{
    APPEND_BYTES_MAX, COMMAND_BYTES_MAX, QUERY_BYTES_MAX, REPLY_BYTES_MAX, SNAPSHOT_CHUNK_BYTES,
};

/// A remote procedure of this crate. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaMethod {
    /// Its number.
    pub id: MethodId,
    /// Its name, for metrics and logs.
    pub name: &'static str,
    /// Whether only nodes with the role `meta` may call it.
    pub members_only: bool,
    /// Largest head of a request.
    pub head_bytes_max: usize,
    /// Largest body of a request.
    pub body_bytes_max: usize,
    /// Largest reply.
    pub reply_bytes_max: usize,
    /// Whether it waits on purpose for something to happen.
    pub held_open: bool,
}

const SMALL: usize = 4 * 1024;
/// Room for terms, ids and lengths around bulk bytes.
const MARGIN: usize = 64 * 1024;

const fn member(id: u16, name: &'static str, head: usize, body: usize) -> MetaMethod {
    MetaMethod {
        id: MethodId(id),
        name,
        members_only: true,
        head_bytes_max: head,
        body_bytes_max: body,
        reply_bytes_max: MARGIN,
        held_open: false,
    }
}

/// Append entries, or a heartbeat.
pub const APPEND: MetaMethod = member(0x0201, "raft append", SMALL, APPEND_BYTES_MAX + MARGIN);
/// Ask for a vote.
pub const VOTE: MetaMethod = member(0x0202, "raft vote", SMALL, SMALL);
/// Ask whether a vote would be given.
pub const PRE_VOTE: MetaMethod = member(0x0203, "raft pre-vote", SMALL, SMALL);
/// Hand leadership over.
pub const TRANSFER_LEADER: MetaMethod = member(0x0204, "raft transfer leader", SMALL, SMALL);
/// Begin to send a snapshot.
pub const SNAPSHOT_BEGIN: MetaMethod = member(0x0205, "raft snapshot begin", SMALL, 1024 * 1024);
/// One chunk of a snapshot's file.
pub const SNAPSHOT_CHUNK: MetaMethod =
    member(0x0206, "raft snapshot chunk", SMALL, SNAPSHOT_CHUNK_BYTES);
/// All chunks are sent: install.
pub const SNAPSHOT_END: MetaMethod = member(0x0207, "raft snapshot end", SMALL, SMALL);
/// Ask a node whether it can become a member.
pub const INVITE: MetaMethod = member(0x0208, "raft invite", SMALL, 0);
/// Make a node begin as a learner.
pub const JOIN: MetaMethod = member(0x0209, "raft join", SMALL, 0);
/// Ask a leader for a read index.
pub const READ_INDEX: MetaMethod = member(0x020a, "meta read index", SMALL, 0);
/// Ask a member whether an incarnation still belongs to the group.
pub const STANDING: MetaMethod = member(0x020b, "raft standing", SMALL, 0);
/// Ask a voter whether it has granted a higher vote than the asking leader's.
pub const CONFIRM: MetaMethod = member(0x020c, "raft confirm", SMALL, SMALL);
/// Propose a command to a leader.
pub const PROPOSE: MetaMethod = MetaMethod {
    id: MethodId(0x0210),
    name: "meta propose",
    members_only: false,
    head_bytes_max: SMALL,
    body_bytes_max: COMMAND_BYTES_MAX,
    reply_bytes_max: REPLY_BYTES_MAX,
    held_open: false,
};
/// Have a member answer a query.
pub const QUERY: MetaMethod = MetaMethod {
    id: MethodId(0x0211),
    name: "meta query",
    members_only: false,
    head_bytes_max: SMALL,
    body_bytes_max: QUERY_BYTES_MAX,
    reply_bytes_max: REPLY_BYTES_MAX,
    held_open: false,
};
/// Have a member say when the group has decided more.
pub const NEWS: MetaMethod = MetaMethod {
    id: MethodId(0x0212),
    name: "meta news",
    members_only: false,
    head_bytes_max: SMALL,
    body_bytes_max: 0,
    reply_bytes_max: SMALL,
    held_open: true,
};

/// Have a leader say what changed of what a mount remembers.
pub const WATCH: MetaMethod = MetaMethod {
    id: MethodId(0x0213),
    name: "meta watch",
    members_only: false,
    head_bytes_max: SMALL,
    body_bytes_max: 0,
    reply_bytes_max: MARGIN,
    held_open: true,
};
/// Have a leader answer a query that a mount will remember.
pub const REMEMBER: MetaMethod = MetaMethod {
    id: MethodId(0x0214),
    name: "meta remember",
    members_only: false,
    head_bytes_max: SMALL,
    body_bytes_max: QUERY_BYTES_MAX,
    reply_bytes_max: REPLY_BYTES_MAX,
    held_open: false,
};

/// Propose a command to a leader, by one that remembers what it was answered.
pub const PROPOSE_BY: MetaMethod =
    MetaMethod { id: MethodId(0x0215), name: "meta propose by a watcher", ..PROPOSE };

/// Every method of this crate.
pub const METHODS: &[MetaMethod] = &[
    APPEND,
    VOTE,
    PRE_VOTE,
    TRANSFER_LEADER,
    SNAPSHOT_BEGIN,
    SNAPSHOT_CHUNK,
    SNAPSHOT_END,
    INVITE,
    JOIN,
    READ_INDEX,
    STANDING,
    CONFIRM,
    PROPOSE,
    QUERY,
    NEWS,
    WATCH,
    REMEMBER,
    PROPOSE_BY,
];

/// Head of messages between members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub group: GroupId,
    pub from: RaftId,
    pub to: RaftId,
}

/// What a member answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer<T> {
    /// The result.
    Done(T),
    /// No such incarnation runs here, and none ever will again.
    Gone,
    /// It is not running now.
    Stopped,
}

/// Head of the messages that carry a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkHead {
    pub route: Route,
    pub transfer: u64,
    pub file: u32,
    pub offset: u64,
    pub crc: u32,
}

/// Body of [`SNAPSHOT_BEGIN`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BeginBody {
    pub transfer: u64,
    pub files: Vec<(String, u64)>,
}

/// Body of [`SNAPSHOT_END`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndBody {
    pub transfer: u64,
    pub vote: Vote,
    pub meta: SnapshotMeta,
}

/// Answer to [`INVITE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invited {
    /// To be repeated in [`JOIN`]: so that a join sent to an earlier life of the node, and delayed,
    /// starts nothing.
    pub nonce: u64,
    /// The incarnation the node has now, running or not; zero for none.
    pub have: RaftId,
    /// Whether that incarnation runs.
    pub running: bool,
}

/// Head of [`JOIN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinHead {
    pub group: GroupId,
    pub raft_id: RaftId,
    pub nonce: u64,
}

/// Head of [`STANDING`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StandingHead {
    pub group: GroupId,
    pub raft_id: RaftId,
}

/// What a member knows of an incarnation, by entries that are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Standing {
    /// A member, as far as this one has applied.
    Member,
    /// No member, and never one again: ids are not used twice (I15).
    Gone,
    /// Not heard of yet.
    Unknown,
}

/// Head of [`PROPOSE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProposeHead {
    pub group: GroupId,
    pub request_id: u128,
}

/// Head of [`PROPOSE_BY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProposeByHead {
    pub propose: ProposeHead,
    pub by: Watcher,
}

/// Head of [`QUERY`], [`INVITE`] and [`READ_INDEX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupHead {
    pub group: GroupId,
    /// Of a query: whether the answer may be old. Of an invitation: whether it is only a look.
    pub stale: bool,
}

/// Head of [`WATCH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WatchHead {
    pub group: GroupId,
    pub call: WatchCall,
}

/// Head of [`REMEMBER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RememberHead {
    pub group: GroupId,
    pub by: Watcher,
}

/// Head of [`NEWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewsHead {
    pub group: GroupId,
    /// The asker knows of entries up to here.
    pub after: u64,
}

/// Outcome of [`PROPOSE`], [`QUERY`], [`READ_INDEX`] and [`NEWS`] at one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Done; the reply (of a read index and of news: eight bytes) is the body.
    Done,
    /// Not done here; perhaps there.
    NotLeader(Option<NodeId>),
    /// The node is no member of the group, or its replica is stopped.
    NoReplica,
    /// It was handed on and may still be done.
    Unknown,
    /// Of a proposal: done, the reply is the body, and this is to be forgotten by who proposed.
    Touched(Touched),
    /// Of a query: the answer is the body, and it may be remembered while none of these changes.
    Fact(Fact),
    /// Likewise, perhaps; and this is to be forgotten by who asked.
    FactAnd(Option<Fact>, Touched),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::encode::{decode, encode};

    #[test]
    fn methods_are_distinct_and_of_this_crate() {
        for (at, method) in METHODS.iter().enumerate() {
            assert_eq!(method.id.0 >> 8, 2, "{}", method.name);
            assert!(METHODS[..at].iter().all(|other| other.id != method.id));
        }
    }

    #[test]
    fn golden_bytes_of_heads() {
        let route = Route { group: GroupId(3), from: 0x1_0001, to: 0x2_0001 };
        assert_eq!(encode(&route), [1, 3, 0x81, 0x80, 0x04, 0x81, 0x80, 0x08]);
        let standing = StandingHead { group: GroupId(3), raft_id: 0x1_0001 };
        assert_eq!(encode(&standing), [1, 3, 0x81, 0x80, 0x04]);
        assert_eq!(encode(&Standing::Gone), [1, 1]);
        assert_eq!(encode(&NewsHead { group: GroupId(3), after: 300 }), [1, 3, 0xac, 0x02]);
        let propose = ProposeHead { group: GroupId(1), request_id: 300 };
        assert_eq!(encode(&propose), [1, 1, 0xac, 0x02]);
        let by = Watcher { id: 5, session: 6 };
        assert_eq!(encode(&ProposeByHead { propose, by }), [1, 1, 0xac, 0x02, 5, 6]);
        assert_eq!(encode(&Outcome::NotLeader(Some(NodeId(5)))), [1, 1, 1, 5]);
        assert_eq!(decode::<Outcome>(&[1, 3], "outcome"), Ok(Outcome::Unknown));
        assert!(decode::<Outcome>(&[2, 3], "outcome").is_err());
        assert!(decode::<Route>(&[1, 3, 0xff], "route").is_err());
    }
}
