//! Small adapters between the floors: what one has, in the shape another asks for.

use std::net::SocketAddr;
use std::sync::Arc;

use nexusgrid_cluster::{Callers, Channel, MemberState, MethodSpec, Swim};
use nexusgrid_codec::GroupId;
use nexusgrid_env::{NodeId, Roles};
use nexusgrid_gateway::{GatewayAddresses, Readiness};
use nexusgrid_grid::care::checkpoint::KeptMap;
use nexusgrid_grid::shard::wire::{Bulk, ShardMethod};
use nexusgrid_grid::{Liveness, NodeHint};
use nexusgrid_meta::GroupDirectory;
use nexusgrid_meta::raft::wire::MetaMethod;
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::NodeState;

use super::directory::Directory;

/// Gossip as the grid's liveness.
pub struct SwimLiveness {
    /// This node.
    pub own: NodeId,
    /// Gossip.
    pub swim: Swim,
}

impl Liveness for SwimLiveness {
    fn state(&self, node: NodeId) -> NodeHint {
        if node == self.own {
            return NodeHint::Alive;
        }
        match self.swim.state(node) {
            Some(MemberState::Alive) => NodeHint::Alive,
            Some(MemberState::Suspect) => NodeHint::Suspect,
            Some(MemberState::Dead) | None => NodeHint::Dead,
        }
    }
}

impl GroupDirectory for Directory {
    fn voters(&self, group: GroupId) -> Vec<NodeId> {
        self.topology().voters(group).iter().map(|voter| voter.node()).collect()
    }
}

impl KeptMap for Directory {
    fn topology(&self) -> Arc<Topology> {
        Directory::topology(self)
    }

    fn offer(&self, topology: &Arc<Topology>) {
        Directory::offer(self, topology);
    }
}

impl GatewayAddresses for Directory {
    fn gateways(&self) -> Vec<SocketAddr> {
        self.topology()
            .nodes
            .values()
            .filter(|node| node.roles.gateway && node.state == NodeState::Active)
            .filter_map(|node| node.addresses.s3.parse().ok())
            .collect()
    }
}

/// Ready once this node holds a map that names it.
pub struct MapReadiness {
    /// This node.
    pub own: NodeId,
    /// The map.
    pub directory: Arc<Directory>,
}

impl Readiness for MapReadiness {
    fn ready(&self) -> Result<(), String> {
        match self.directory.topology().node(self.own) {
            Some(node) if node.state == NodeState::Active => Ok(()),
            Some(node) => Err(format!("this node is {:?}", node.state).to_lowercase()),
            None => Err("no map was read yet".to_owned()),
        }
    }
}

/// Methods of the Raft host for the transport's register.
pub fn meta_specs(methods: &[MetaMethod]) -> Vec<MethodSpec> {
    methods
        .iter()
        .map(|method| {
            let callers = if method.members_only {
                Callers::AnyOf(Roles { storage: false, meta: true, gateway: false })
            } else {
                Callers::Nodes
            };
            // Install of a snapshot is the longest.
            let spec = MethodSpec::new(method.id.0, method.name, callers)
                .request_max(method.head_bytes_max, method.body_bytes_max)
                .reply_max(method.reply_bytes_max, method.reply_bytes_max)
                .deadline_max(std::time::Duration::from_secs(600));
            if method.held_open { spec.long_poll() } else { spec }
        })
        .collect()
}

/// Methods of checkpoints and restores for the transport's register.
pub fn checkpoint_specs() -> Vec<MethodSpec> {
    // Taking a checkpoint of a large group is the longest.
    let deadline = std::time::Duration::from_secs(600);
    shard_specs(nexusgrid_grid::care::checkpoint::wire::METHODS)
        .into_iter()
        .map(|spec| spec.deadline_max(deadline))
        .collect()
}

/// Methods of the shard service for the transport's register.
pub fn shard_specs(methods: &[ShardMethod]) -> Vec<MethodSpec> {
    methods
        .iter()
        .map(|method| {
            let channel = match method.bulk {
                Bulk::None => Channel::Control,
                Bulk::Request => Channel::ShardWrite,
                Bulk::Reply => Channel::ShardRead,
            };
            MethodSpec::new(method.id.0, method.name, Callers::AnyOf(method.callers))
                .channel(channel)
                .request_max(method.request_head_max, method.request_body_max)
                .reply_max(method.reply_head_max, method.reply_body_max)
        })
        .collect()
}
