//! What this crate must ask of the root group, as small traits that `meta` (or the agent) fills in.

use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_env::{NodeId, Roles};
use serde::{Deserialize, Serialize};

use crate::token::TokenRefusal;

/// What the root group knows of a node, as far as transport needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node.
    pub node: NodeId,
    /// Where its RPC port listens.
    pub rpc_addr: SocketAddr,
    /// Where its gossip socket listens (UDP).
    pub gossip_addr: SocketAddr,
    /// What it may do.
    pub roles: Roles,
    /// Removed from the cluster: all its calls are refused, whatever its certificate says.
    pub revoked: bool,
    /// Generation of the newest certificate issued to it (the first is 1). A peer that presents
    /// one older than the previous generation is a clone of an old disk, and is refused.
    pub generation: u32,
}

/// The node table, as this process knows it. Answers at once, from memory: it is asked on every
/// request. The node table *is* the revocation list.
pub trait NodeDirectory: Send + Sync + 'static {
    /// The record of a node; `None` if this process does not know it (yet).
    fn lookup(&self, node: NodeId) -> Option<NodeRecord>;

    /// RPC addresses of nodes that hold the CA key and can admit and renew; tried in order.
    fn signers(&self) -> Vec<(NodeId, SocketAddr)>;
}

/// A drive that a joining node brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveFacts {
    /// Directory or device, as the node names it.
    pub path: String,
    /// Bytes it offers.
    pub size_bytes: u64,
}

/// Whether a machine runs day and night.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeClass {
    /// Runs day and night.
    Stable,
    /// May be switched off.
    Sleepy,
}

/// What a joining node says of itself. The root group decides what of it to believe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Failure domain; the machine's host name unless configured.
    pub host: String,
    /// Group of hosts.
    pub zone: String,
    /// Day and night, or not.
    pub class: NodeClass,
    /// Roles it asks for.
    pub roles: Roles,
    /// Where its RPC port listens.
    pub rpc_addr: SocketAddr,
    /// Where its gossip socket listens (UDP).
    pub gossip_addr: SocketAddr,
    /// Its drives.
    pub drives: Vec<DriveFacts>,
}

/// A join request, checked as far as this crate can: the token names this cluster, and the signing
/// request is well formed, signed by its key and claims no identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAttempt {
    /// Which token.
    pub token_id: [u8; 8],
    /// SHA-256 of the token's secret, to compare (in constant time) with the token's record.
    pub secret_hash: [u8; 32],
    /// SHA-256 of the public key that asks. The same token with the same key again is the repeat
    /// of a join whose answer was lost: admit it as the same node. With another key it is reuse.
    pub key_hash: [u8; 32],
    /// What the node says of itself.
    pub facts: NodeFacts,
}

/// A node that the root group has admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its new id: never used before.
    pub node: NodeId,
    /// Generation of the certificate to sign now (1 unless this repeats a join).
    pub generation: u32,
    /// What the node needs to begin (topology, voters, sealed keys for gateways), opaque here.
    pub bootstrap: Bytes,
}

/// Why the root group did not admit or renew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// The token does not admit.
    #[error(transparent)]
    Token(#[from] TokenRefusal),
    /// The node may not have what it asks for (revoked, unknown, an old generation).
    #[error("{0}")]
    Refused(String),
    /// The root group cannot decide now: repeat.
    #[error("not now: {0}")]
    Unavailable(String),
}

/// Decisions of the root group about who is in. Each is one replicated command: when it returns
/// `Ok`, the decision is durable.
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// Uses up a token and assigns a node id.
    async fn redeem(&self, attempt: JoinAttempt) -> Result<Admitted, AdmissionError>;

    /// Moves a node's certificate on by one generation and returns the new one, by
    /// [`next_generation`]; refused for a revoked node. `key_hash` is the hash of the new key.
    async fn renew(
        &self,
        node: NodeId,
        current: u32,
        key_hash: [u8; 32],
    ) -> Result<u32, AdmissionError>;
}

/// Which generation to sign for a node that asks with certificate `current` and a new key: a pure
/// function for the root group's `apply`. `newest` and `newest_key` are of the certificate issued
/// last.
///
/// # Errors
/// [`AdmissionError::Refused`] for a certificate that was renewed already with another key: two
/// machines run with copies of one disk.
pub fn next_generation(
    newest: u32,
    newest_key: &[u8; 32],
    current: u32,
    key_hash: &[u8; 32],
) -> Result<u32, AdmissionError> {
    if current == newest {
        return Ok(newest.saturating_add(1));
    }
    if current.saturating_add(1) == newest && newest_key == key_hash {
        // The answer to the same question was lost.
        return Ok(newest);
    }
    Err(AdmissionError::Refused(format!(
        "certificate {current} was already renewed ({newest} is the newest): is this node running \
         twice, from a copied disk?"
    )))
}
