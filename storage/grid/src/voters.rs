//! Who votes in the metadata groups: the seam between membership's hints, the root group's node
//! table, and the hosts of the groups.
//!
//! State: since when each candidate has seemed dead. Two duties run on every node: the hosts' own
//! keeper asks here for candidates, and the leader of a group tells the root group who votes, so
//! that nodes without a replica know whom to ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::GroupId;
use nexusgrid_env::{BootInstant, Env, NodeId};
use nexusgrid_meta::host::plan::Candidate;
use nexusgrid_meta::host::{CandidateSource, VoterKeeper};
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::{NodeClass, NodeState, RaftId, RootCommand};
use nexusgrid_meta::{GroupDirectory, MetaHost};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::liveness::{Liveness, NodeHint};
use crate::meta_port::{MetaClient, MetaOptions, MetaPort};

/// How often a group's leader compares who votes with what the root group was told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The map, wherever it comes from, as the directory of groups.
pub struct MapDirectory(pub watch::Receiver<Arc<Topology>>);

impl GroupDirectory for MapDirectory {
    fn voters(&self, group: GroupId) -> Vec<NodeId> {
        self.0.borrow().voters(group).iter().map(|voter| voter.node()).collect()
    }
}

struct Candidates {
    env: Env,
    own: NodeId,
    map: watch::Receiver<Arc<Topology>>,
    liveness: Arc<dyn Liveness>,
    dead_since: Mutex<BTreeMap<NodeId, BootInstant>>,
}

impl CandidateSource for Candidates {
    fn candidates(&self) -> Vec<Candidate> {
        let now = self.env.clock.now();
        let map = Arc::clone(&self.map.borrow());
        let mut dead_since = self.dead_since.lock();
        dead_since.retain(|node, _| map.node(*node).is_some());
        map.nodes
            .values()
            .filter(|node| {
                node.roles.meta
                    && node.class == NodeClass::Stable
                    && matches!(node.state, NodeState::Active | NodeState::Joining)
            })
            .map(|node| {
                let dead = node.id != self.own && self.liveness.state(node.id) == NodeHint::Dead;
                let dead_for = if dead {
                    Some(now.since(*dead_since.entry(node.id).or_insert(now)))
                } else {
                    dead_since.remove(&node.id);
                    None
                };
                Candidate { node: node.id, host: node.host.clone(), dead_for }
            })
            .collect()
    }
}

/// Starts both duties; they end with `env.exec`.
pub fn keep_voters(
    env: &Env,
    host: &MetaHost,
    port: Arc<dyn MetaPort>,
    map: watch::Receiver<Arc<Topology>>,
    liveness: Arc<dyn Liveness>,
) {
    let source = Candidates {
        env: env.clone(),
        own: host.node(),
        map: map.clone(),
        liveness,
        dead_since: Mutex::default(),
    };
    VoterKeeper::start(host, Arc::new(source));
    let meta = MetaClient::new(port, env.clone(), MetaOptions::default());
    drop(env.exec.spawn(tell(env.clone(), host.clone(), meta, map)));
}

async fn tell(env: Env, host: MetaHost, meta: MetaClient, map: watch::Receiver<Arc<Topology>>) {
    loop {
        env.clock.sleep(TELL_EVERY).await;
        for group in host.groups() {
            if !host.is_leader(group) {
                continue;
            }
            let Ok(status) = host.status(group) else { continue };
            let voters: Vec<RaftId> = status
                .members
                .iter()
                .filter(|member| member.voter)
                .map(|member| RaftId(member.id))
                .collect();
            if map.borrow().version == 0 || map.borrow().voters(group) == voters {
                continue;
            }
            if let Err(error) =
                meta.root_command(&RootCommand::SetGroupVoters { group, voters }).await
            {
                tracing::debug!(%error, group = group.0, "telling the root group who votes");
            }
        }
    }
}
