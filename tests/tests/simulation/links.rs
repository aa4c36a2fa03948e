//! What stands between the machines: calls that are lost or held up, and who is thought to be alive.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nexusgrid_env::sim::World;
use nexusgrid_env::{NodeId, Rpc, RpcError, RpcRequest, RpcResponse};
use nexusgrid_grid::{Liveness, NodeHint};
use parking_lot::Mutex;

/// A node that cannot be reached is suspected after so long, and held dead after so long.
const SUSPECTED_AFTER: Duration = Duration::from_secs(1);
const MISSED_AFTER: Duration = Duration::from_secs(3);

/// What stands between machines, as membership would find out after a while.
#[derive(Default)]
pub struct Links {
    /// How many machines there are.
    pub nodes: u64,
    /// Nodes that reach no metadata: their calls of it are lost, while shards still travel.
    pub muffled: BTreeSet<NodeId>,
    /// Shards that the first writes to the second wait on their way until this ends.
    pub held: BTreeSet<(NodeId, NodeId)>,
    pub cuts: BTreeSet<(NodeId, NodeId)>,
    pub suspended: BTreeSet<NodeId>,
}

/// Whether a node asks a metadata group by this method; Raft's own are others.
fn is_question(method: u16) -> bool {
    method == 0x020a || (0x0210..0x0300).contains(&method)
}

/// Methods that bring shards.
pub const PUTS: std::ops::Range<u16> = 0x0301..0x0302;

/// How often what is held looks whether it may go on.
const HELD_FOR: Duration = Duration::from_millis(10);

/// Calls of one node, lost where [`Links::muffled`] says so, late where [`Links::held`] does.
pub struct Muffler {
    pub inner: Arc<dyn Rpc>,
    pub own: NodeId,
    pub links: Arc<Mutex<Links>>,
}

#[async_trait]
impl Rpc for Muffler {
    async fn call(
        &self,
        to: NodeId,
        request: RpcRequest,
        deadline: Duration,
    ) -> Result<RpcResponse, RpcError> {
        let is_muffled = self.links.lock().muffled.contains(&self.own);
        if is_muffled && to != self.own && is_question(request.method.0) {
            tokio::time::sleep(deadline).await;
            return Err(RpcError::Unknown(to, "muffled".to_owned()));
        }
        while PUTS.contains(&request.method.0) && self.links.lock().held.contains(&(self.own, to)) {
            tokio::time::sleep(HELD_FOR).await;
        }
        self.inner.call(to, request, deadline).await
    }
}

/// Membership's opinion at one node.
pub struct Observer {
    pub world: World,
    pub own: NodeId,
    pub links: Arc<Mutex<Links>>,
    pub silent_since: Mutex<BTreeMap<NodeId, Duration>>,
}

impl Liveness for Observer {
    fn state(&self, node: NodeId) -> NodeHint {
        let reaches = |from: NodeId, to: NodeId| {
            let links = self.links.lock();
            !links.cuts.contains(&(from, to)) && !links.cuts.contains(&(to, from))
        };
        let answers =
            |node: NodeId| self.world.is_up(node) && !self.links.lock().suspended.contains(&node);
        // As with SWIM, a third node that reaches both vouches for it.
        let vouched = || {
            let all = self.links.lock().nodes;
            let mut thirds = (1..=all).map(NodeId);
            thirds.any(|third| answers(third) && reaches(self.own, third) && reaches(third, node))
        };
        let mut silent = self.silent_since.lock();
        if answers(node) && (reaches(self.own, node) || vouched()) {
            silent.remove(&node);
            return NodeHint::Alive;
        }
        let since = *silent.entry(node).or_insert_with(|| self.world.elapsed());
        match self.world.elapsed().saturating_sub(since) {
            missed if missed >= MISSED_AFTER => NodeHint::Dead,
            missed if missed >= SUSPECTED_AFTER => NodeHint::Suspect,
            _ => NodeHint::Alive,
        }
    }
}
