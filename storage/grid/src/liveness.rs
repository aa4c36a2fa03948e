//! What membership holds of other nodes: hints for how long to wait, never a decision.

use nexusgrid_env::NodeId;

/// A hint about one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeHint {
    /// It answers probes.
    Alive,
    /// It missed a probe; others are asked.
    Suspect,
    /// It is gone, or asleep.
    Dead,
}

/// Membership's opinion. Answers at once, from memory.
pub trait Liveness: Send + Sync + 'static {
    /// What is held of `node` now; a node never heard of is `Dead`.
    fn state(&self, node: NodeId) -> NodeHint;
}
