//! The cluster as a whole: how it begins, its settings, and what stands behind its certificates.

use std::fmt;

use nexusgrid_codec::id::ClusterId;
use nexusgrid_env::{NodeId, Roles};
use serde::{Deserialize, Serialize};

use super::NewNode;

/// Bytes that only their owner may see: never printed (I16).
#[derive(
    Clone, PartialEq, Eq, Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop,
)]
pub struct SecretBytes(pub Vec<u8>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes(<{} bytes>)", self.0.len())
    }
}

/// Settings of a whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// A writer's session lives so long after its last renewal, ms.
    pub session_lease_ms: u64,
    /// A released content is expanded and its blocks freed after this long, ms.
    pub reader_horizon_ms: u64,
    /// Down reports of one node count together within this long, ms.
    pub report_window_ms: u64,
    /// A PG is closed to new blocks at this many bytes.
    pub pg_size_cap_bytes: u64,
}

impl Default for ClusterSettings {
    fn default() -> ClusterSettings {
        ClusterSettings {
            session_lease_ms: 60_000,
            reader_horizon_ms: 600_000,
            report_window_ms: 30_000,
            pg_size_cap_bytes: 1 << 40,
        }
    }
}

/// What an administrator set for one kind of background worker, on all nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSetting {
    /// Rests until it is resumed.
    pub paused: bool,
    /// Bytes per second that it may move on a drive; `None`: its default.
    pub bytes_per_second: Option<u64>,
}

/// The first command of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Drawn at random.
    pub cluster: ClusterId,
    /// The cluster's CA certificate, DER.
    pub ca_cert: Vec<u8>,
    /// Its private key, sealed by the master key.
    pub sealed_ca_key: Vec<u8>,
    /// Seals gossip packets.
    pub gossip_key: SecretBytes,
    /// Timers and caps.
    pub settings: ClusterSettings,
    /// Metadata groups to make (at least [`METADATA_GROUPS_MIN`](crate::root::limits::METADATA_GROUPS_MIN)): ids 1..=n.
    pub metadata_groups: u32,
    /// The first node; becomes [`NodeId`] 1, Active.
    pub node: NewNode,
    /// A known text sealed by the master key, by which a gateway tells its copy of the key from a
    /// wrong one.
    pub master_key_check: Vec<u8>,
    /// Now.
    pub now_ms: u64,
}

/// What stands behind every node's certificate and gossip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster.
    pub id: ClusterId,
    /// CA certificate, DER.
    pub ca_cert: Vec<u8>,
    /// The CA's private key, sealed by the master key.
    pub sealed_ca_key: Vec<u8>,
    /// A known text sealed by the master key, by which a gateway tells its copy of the key from a
    /// wrong one.
    pub master_key_check: Vec<u8>,
    /// Seals gossip packets.
    pub gossip_key: SecretBytes,
    /// Timers and caps.
    pub settings: ClusterSettings,
    /// Raised by a restore: drives refuse deletes until thawed.
    pub incarnation: u64,
}

/// A stored token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Public half.
    pub id: String,
    /// When it ends.
    pub expires_ms: u64,
    /// Roles it allows.
    pub roles: Roles,
    /// Who used it.
    pub used_by: Option<NodeId>,
}
