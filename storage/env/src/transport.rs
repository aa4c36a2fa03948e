//! Messages between nodes.
//!
//! A call carries a small `head` (an encoded request) and a bounded `body` (bulk bytes: a shard, a
//! snapshot chunk); so does the reply. The product sends them over HTTP/1.1 (`cluster`), the
//! simulation over [`crate::sim`]'s network.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A node of the cluster; assigned once by the root group, never reused. Zero is no node.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct NodeId(pub u64);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// What a node may do in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Roles {
    /// Holds shards on its drives.
    pub storage: bool,
    /// May vote in metadata groups.
    pub meta: bool,
    /// Serves S3 and holds bucket keys.
    pub gateway: bool,
}

impl Roles {
    /// All roles.
    pub const ALL: Roles = Roles { storage: true, meta: true, gateway: true };
}

/// Who sent a request, as its certificate proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Its roles, as the root group has them.
    pub roles: Roles,
}

/// A remote procedure. Ranges: 0x01.. cluster, 0x02.. meta, 0x03.. drive, 0x04.. grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MethodId(pub u16);

/// A request.
#[derive(Clone, Debug)]
pub struct RpcRequest {
    /// The procedure.
    pub method: MethodId,
    /// Its encoded arguments.
    pub head: Bytes,
    /// Bulk bytes.
    pub body: Bytes,
}

/// A reply.
#[derive(Clone, Debug, Default)]
pub struct RpcResponse {
    /// The encoded result.
    pub head: Bytes,
    /// Bulk bytes.
    pub body: Bytes,
}

/// Why a call failed. Each variant is a different thing for the caller to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The request certainly did not reach the service: safe to send elsewhere.
    #[error("node {0} cannot be reached: {1}")]
    Unreachable(NodeId, String),
    /// No answer in time, or the connection broke: it may or may not have been done.
    #[error("no answer from node {0}: {1}")]
    Unknown(NodeId, String),
    /// The peer refused: not permitted, unknown method, malformed or too large. Do not repeat.
    #[error("refused: {0}")]
    Refused(String),
    /// The peer is too busy now: repeat later.
    #[error("busy: {0}")]
    Busy(String),
    /// The service failed while handling it.
    #[error("remote failure: {0}")]
    Failed(String),
}

/// Calls other nodes (and one's own node, without the network).
#[async_trait]
pub trait Rpc: Send + Sync + 'static {
    /// Sends `request` to `to` and waits at most `deadline` for the reply.
    async fn call(
        &self,
        to: NodeId,
        request: RpcRequest,
        deadline: Duration,
    ) -> Result<RpcResponse, RpcError>;
}

/// Answers calls of other nodes.
#[async_trait]
pub trait RpcService: Send + Sync + 'static {
    /// Handles one request from an authenticated peer.
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError>;
}

/// Unreliable small messages between nodes (UDP): for gossip.
#[async_trait]
pub trait Datagram: Send + Sync + 'static {
    /// Sends `packet`; may be lost, doubled or reordered.
    async fn send(&self, to: std::net::SocketAddr, packet: &[u8]) -> std::io::Result<()>;
    /// Waits for the next packet.
    async fn receive(&self) -> std::io::Result<(std::net::SocketAddr, Bytes)>;
    /// The address others reach this end at.
    fn local(&self) -> std::net::SocketAddr;
}
