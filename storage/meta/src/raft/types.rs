//! The types Raft is instantiated with, and who is who.
//!
//! A *raft id* names one incarnation of a node's membership in a group: `node << 16 | generation`.
//! A node that lost its log (or may have) comes back under a new generation and starts as a learner;
//! the old id never votes again (I15).

use std::fmt;

use bytes::Bytes;
use nexusgrid_env::NodeId;
use openraft::rt::deterministic_rng::DeterministicRng;
use serde::{Deserialize, Serialize};

/// One incarnation of a node in a group.
pub type RaftId = u64;

/// Bits of a [`RaftId`] that count generations.
const GENERATION_BITS: u32 = 16;

/// The raft id of `node` in its `generation`; generations begin at 1.
pub fn raft_id(node: NodeId, generation: u16) -> RaftId {
    (node.0 << GENERATION_BITS) | u64::from(generation)
}

/// The node of a raft id.
pub fn node_of(id: RaftId) -> NodeId {
    NodeId(id >> GENERATION_BITS)
}

/// The generation of a raft id.
pub fn generation_of(id: RaftId) -> u16 {
    (id & 0xffff) as u16
}

/// A command as it stands in the log: the caller's id for deduplication, and the machine's bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Chosen by the proposer; the same for every retry of one command.
    pub request_id: u128,
    /// The state machine's command.
    pub body: Bytes,
}

// Bodies may hold names and wrapped keys: neither Debug nor Display shows them (I16).
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command {:032x} of {} bytes", self.request_id, self.body.len())
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A state machine's reply to a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply(pub Bytes);

openraft::declare_raft_types!(
    /// Raft as this crate uses it. Election timeouts come from a seed in the task's context, so
    /// that a simulation replays.
    pub MetaTypes:
        D = Envelope,
        R = Reply,
        NodeId = u64,
        Node = NodeId,
        AsyncRuntime = DeterministicRng<openraft_rt_tokio::TokioRuntime>,
);

pub(crate) type Entry = openraft::type_config::alias::EntryOf<MetaTypes>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<MetaTypes>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<MetaTypes>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<MetaTypes>;
pub(crate) type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<MetaTypes>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<MetaTypes>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raft_id_names_node_and_generation() {
        let id = raft_id(NodeId(7), 3);
        assert_eq!((node_of(id), generation_of(id)), (NodeId(7), 3));
        assert_ne!(id, raft_id(NodeId(7), 4));
    }
}
