//! This node's copy of the map, as transport, gossip and reports need it.
//!
//! State: the newest topology seen, kept on disk too, so that a node that starts while others are
//! down knows whom to look for.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexusgrid_cluster::{NodeDirectory, NodeRecord};
use nexusgrid_env::{Env, NodeId};
use nexusgrid_meta::root::topology::{Node, Topology};
use nexusgrid_meta::root::types::NodeState;
use tokio::sync::watch;

use super::files;

/// Name of the kept copy inside a node's directory.
const FILE_NAME: &str = "topology";

/// The node table and all else that the root group decided, as this process knows it.
pub struct Directory {
    current: watch::Sender<Arc<Topology>>,
    path: PathBuf,
    env: Env,
}

impl Directory {
    /// Begins with the copy on disk, if there is one.
    pub fn open(env: &Env, node_dir: &Path) -> anyhow::Result<Arc<Directory>> {
        let path = node_dir.join(FILE_NAME);
        let kept = files::read_if_there(env.disk.as_ref(), &path)?;
        // A copy that does not decode is of another version or damaged: it is only a copy.
        let topology = kept.and_then(|bytes| Topology::decode(&bytes).ok()).unwrap_or_default();
        Ok(Arc::new(Directory {
            current: watch::Sender::new(Arc::new(topology)),
            path,
            env: env.clone(),
        }))
    }

    /// The newest topology.
    pub fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.current.borrow())
    }

    /// Follows the changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Topology>> {
        self.current.subscribe()
    }

    /// Takes a topology if it is newer than the one known, and keeps it on disk.
    pub fn offer(&self, topology: &Arc<Topology>) {
        let newer = self.current.send_if_modified(|current| {
            let newer = topology.version > current.version;
            if newer {
                *current = Arc::clone(topology);
            }
            newer
        });
        if newer
            && let Err(error) =
                files::replace(self.env.disk.as_ref(), &self.path, &topology.encode())
        {
            tracing::warn!(%error, "cannot keep a copy of the map");
        }
    }

    /// RPC addresses of the other nodes that are not removed.
    pub fn others(&self, own: NodeId) -> Vec<(NodeId, SocketAddr)> {
        self.topology()
            .nodes
            .values()
            .filter(|node| node.id != own && node.state != NodeState::Removed)
            .filter_map(|node| Some((node.id, node.addresses.gossip.parse().ok()?)))
            .collect()
    }
}

/// What transport must know of a node.
fn record(node: &Node) -> Option<NodeRecord> {
    Some(NodeRecord {
        node: node.id,
        rpc_addr: node.addresses.rpc.parse().ok()?,
        gossip_addr: node.addresses.gossip.parse().ok()?,
        roles: node.roles,
        revoked: node.state == NodeState::Removed,
        generation: node.cert_generation,
    })
}

impl NodeDirectory for Directory {
    fn lookup(&self, node: NodeId) -> Option<NodeRecord> {
        self.topology().nodes.get(&node).and_then(record)
    }

    fn signers(&self) -> Vec<(NodeId, SocketAddr)> {
        self.topology()
            .nodes
            .values()
            .filter(|node| node.roles.gateway && node.state != NodeState::Removed)
            .filter_map(|node| Some((node.id, node.addresses.rpc.parse().ok()?)))
            .collect()
    }
}
