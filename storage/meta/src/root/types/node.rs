//! Nodes: what they say about themselves, how they live, and who they are to Raft.

use nexusgrid_env::{NodeId, Roles};
use serde::{Deserialize, Serialize};

/// SHA-256 of a public key.
pub type Fingerprint = [u8; 32];

/// A member of a Raft group; never reused (I15). Node ‖ generation, so that whoever holds the id
/// knows whom to call.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct RaftId(pub u64);

impl RaftId {
    const GENERATION_BITS: u32 = 16;

    /// The highest generation: a further one would repeat an id (I15).
    pub const GENERATION_MAX: u32 = (1 << RaftId::GENERATION_BITS) - 1;

    /// The id of `node` in the generation that [`super::RootCommand::NextRaftGeneration`] gave it.
    pub fn new(node: NodeId, generation: u32) -> RaftId {
        RaftId((node.0 << RaftId::GENERATION_BITS) | u64::from(generation & RaftId::GENERATION_MAX))
    }

    /// The generation that it names.
    pub fn generation(self) -> u16 {
        (self.0 & u64::from(RaftId::GENERATION_MAX)) as u16
    }

    /// The node behind it.
    pub fn node(self) -> NodeId {
        NodeId(self.0 >> RaftId::GENERATION_BITS)
    }
}

/// How long a machine is there.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum NodeClass {
    /// A server: always on.
    #[default]
    Stable,
    /// A workstation: people switch it off.
    Sleepy,
}

/// Where a node stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// Admitted, not yet serving.
    Joining,
    /// A full member.
    Active,
    /// Being drained.
    Leaving,
    /// Gone for good; its certificate is revoked.
    Removed,
}

/// Socket addresses, `host:port`, that other nodes reach a node at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Control RPC (mTLS).
    pub rpc: String,
    /// Shard transport.
    pub shard: String,
    /// Gossip (UDP).
    pub gossip: String,
    /// S3; empty if it serves none.
    pub s3: String,
}

/// What a node says about itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNode {
    /// Name for people.
    pub name: String,
    /// Failure domain; a machine unless configured otherwise.
    pub host: String,
    /// Groups hosts (a room, a site); may be empty.
    pub zone: String,
    /// Stable or sleepy.
    pub class: NodeClass,
    /// What it may do.
    pub roles: Roles,
    /// Where to reach it.
    pub addresses: Addresses,
    /// Of the public key it joins with: the same token with the same key again is a repeat.
    pub key_hash: Fingerprint,
}

/// What happened to a node, as another saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sighting {
    /// It answers.
    Up,
    /// It does not.
    Down,
    /// It said that it goes to sleep.
    Asleep,
}
