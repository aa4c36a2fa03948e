//! One node's part of the grid, put together: the shard service of its drives, the façade, and the
//! standing duties. The agent and the simulation start it alike.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_codec::{ClusterId, DriveId, GroupId, MasterKey};
use nexusgrid_drive::DriveStore;
use nexusgrid_env::{Env, NodeId, Rpc};
use nexusgrid_meta::host::{Remembered, Touched, WatchCall, Watched, Watcher};
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::{Consistency, MetaError as HostError, MetaHost};
use tokio::sync::mpsc;

use crate::cache::FrameCache;
use crate::care::checkpoint::{CheckpointParts, Checkpoints};
use crate::care::remap::{self, leftovers, planner};
use crate::care::{Workers, collect, fsck, lifecycle, rewrite, scrub, sweep};
use crate::core::{Core, GridOptions};
use crate::facade::Grid;
use crate::keys::KeyRing;
use crate::limits;
use crate::liveness::Liveness;
use crate::map::MapView;
use crate::meta_port::{Answered, CommandId, MetaClient, MetaPort, PortError, ROOT};
use crate::shard::{ShardClient, ShardService};
use crate::{keeper, refill};

/// What a node's part of the grid is made of.
pub struct NodeParts {
    /// The machine.
    pub env: Env,
    /// This node.
    pub node: NodeId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Calls other nodes, and this one without the network.
    pub rpc: Arc<dyn Rpc>,
    /// Membership's hints.
    pub liveness: Arc<dyn Liveness>,
    /// The Raft groups.
    pub meta: Arc<dyn MetaPort>,
    /// This node's drives, open.
    pub drives: Vec<(DriveId, DriveStore)>,
    /// This node's drives that failed before, or cannot be opened: the root group is told.
    pub failed: Vec<DriveId>,
    /// The master key, on gateways only.
    pub master: Option<MasterKey>,
    /// How it behaves.
    pub options: GridOptions,
}

/// A running node. Its tasks end with `env.exec`.
pub struct GridNode {
    grid: Grid,
    shards: Arc<ShardService>,
    core: Arc<Core>,
    workers: Workers,
}

impl GridNode {
    /// Starts the duties. Register [`GridNode::shard_service`] for the methods of
    /// [`crate::shard::wire::METHODS`] with the transport behind `rpc`.
    pub fn start(parts: NodeParts) -> GridNode {
        let NodeParts { env, node, cluster, rpc, liveness, meta, drives, failed, master, options } =
            parts;
        let meta = MetaClient::new(meta, env.clone(), options.meta);
        let map = MapView::new(meta.clone(), Arc::clone(&liveness), node);
        let keys = KeyRing::new(env.clone(), meta.clone(), cluster, master);
        let client = ShardClient::new(rpc, options.shard_deadline);
        let (bad_shards, reports) = mpsc::channel(limits::REPORT_QUEUE_MAX);
        let core =
            Arc::new(Core::new(env.clone(), node, options, meta, map, keys, client, bad_shards));
        let shards = ShardService::new(env.clone(), Arc::clone(&core.deletions));
        for (drive, store) in drives {
            shards.add(drive, store);
        }
        let workers = Workers::new(env.clone());
        drop(env.exec.spawn(follow_map(Arc::clone(&core), Arc::clone(&shards), workers.clone())));
        drop(env.exec.spawn(Arc::clone(&core.sessions).keep()));
        drop(env.exec.spawn(keeper::run(Arc::clone(&core), liveness, Arc::clone(&shards), failed)));
        let worker = workers.add("refill", "rebuilds shards that are missing or bad");
        drop(env.exec.spawn(refill::run(Arc::clone(&core), reports, worker)));
        let worker = workers.add("collect", "frees what was deleted, buries dead blocks");
        drop(env.exec.spawn(collect::run(Arc::clone(&core), worker)));
        let worker = workers.add_paced("scrub", "reads and checks all that is stored");
        drop(env.exec.spawn(scrub::run(Arc::clone(&core), Arc::clone(&shards), worker)));
        let worker = workers.add("inventory", "compares metadata with drives");
        drop(env.exec.spawn(fsck::watch(Arc::clone(&core), worker)));
        let worker = workers.add("sweep", "drops settled tombstones, finds orphans");
        drop(env.exec.spawn(sweep::run(Arc::clone(&core), Arc::clone(&shards), worker)));
        let worker = workers.add_paced("rewrite", "empties half-dead packs, moves to today's code");
        drop(env.exec.spawn(rewrite::worker::run(Arc::clone(&core), worker)));
        let worker = workers.add_paced("lifecycle", "ends objects as their owners laid down");
        drop(env.exec.spawn(lifecycle::run(Arc::clone(&core), worker)));
        let worker =
            workers.add("remap-plan", "decides which slots move off lost and leaving drives");
        let balancer = workers.add("balance", "evens out how much drives hold for their weight");
        drop(env.exec.spawn(planner::run(Arc::clone(&core), worker, balancer)));
        let worker = workers.add_paced("remap", "fills slots that moved to this node's drives");
        drop(env.exec.spawn(remap::worker::run(Arc::clone(&core), Arc::clone(&shards), worker)));
        let worker = workers.add("leftovers", "trashes shards of slots that moved away");
        drop(env.exec.spawn(leftovers::run(Arc::clone(&core), Arc::clone(&shards), worker)));
        GridNode { grid: Grid::new(Arc::clone(&core)), shards, core, workers }
    }

    /// The façade.
    pub fn grid(&self) -> Grid {
        self.grid.clone()
    }

    /// The background jobs of this node.
    pub fn workers(&self) -> Workers {
        self.workers.clone()
    }

    /// Follows this node's copy of the map.
    pub fn map(&self) -> tokio::sync::watch::Receiver<Arc<Topology>> {
        self.core.map.watch()
    }

    /// Serves this node's drives to others.
    pub fn shard_service(&self) -> Arc<ShardService> {
        Arc::clone(&self.shards)
    }

    /// Hands over the master key, should this node have become a gateway.
    pub fn set_master_key(&self, master: MasterKey) {
        self.core.keys.set_master(master);
    }

    /// Serves one more drive; it takes writes once the map was told to it.
    pub fn add_drive(&self, drive: DriveId, store: DriveStore) {
        self.shards.add(drive, store);
    }

    /// Keeps frames that are read from now on; only the first counts.
    pub fn set_cache(&self, cache: Arc<dyn FrameCache>) {
        // A second one would be a second opener of the same directory, which that refuses.
        let _ = self.core.cache.set(cache);
    }

    /// Takes checkpoints of the groups of this node from now on; whoever administers the node asks the
    /// result. Register it for the methods of [`crate::care::checkpoint::wire::METHODS`].
    pub fn keep_checkpoints(&self, parts: CheckpointParts) -> Arc<Checkpoints> {
        let checkpoints = Checkpoints::new(Arc::clone(&self.core), parts);
        let worker = self.workers.add("checkpoint", "keeps copies of metadata in the grid");
        drop(self.core.env.exec.spawn(Arc::clone(&checkpoints).run(worker)));
        let worker =
            self.workers.add("log-tail", "keeps what metadata decided since on a few nodes");
        drop(self.core.env.exec.spawn(Arc::clone(&checkpoints).run_tails(worker)));
        checkpoints
    }

    /// Clean end: closes the write sessions, so that their groups need not wait for the leases.
    /// Give it a short while, then stop `env.exec`.
    pub async fn close(&self) {
        let cache = async {
            if let Some(cache) = self.core.cache.get() {
                cache.close().await;
            }
        };
        futures_util::join!(self.core.sessions.close_all(), cache);
    }
}

/// Keeps the map fresh, and the drives told: reads it whenever the root group has decided something,
/// and every few seconds for safety's sake.
async fn follow_map(core: Arc<Core>, shards: Arc<ShardService>, workers: Workers) {
    let mut jumps = core.env.clock.suspend_jumps();
    let mut known = 0;
    loop {
        jumps.borrow_and_update();
        let jumps_before = shards.jumps();
        match core.map.refresh().await {
            Ok(map) if map.version > 0 => {
                workers.follow(&map.workers);
                shards.adopt(&map, jumps_before).await;
                core.deletions.follow(&core, &shards, &map).await;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "reading the map"),
        }
        tokio::select! {
            biased;
            changed = jumps.changed() => if changed.is_err() { return },
            () = core.env.clock.sleep(core.options.map_every) => {}
        }
        tokio::select! {
            biased;
            changed = jumps.changed() => if changed.is_err() { return },
            news = core.meta.news(ROOT, known) => match news {
                Ok(index) => known = index,
                Err(error) => tracing::debug!(%error, "waiting for news of the map"),
            },
        }
    }
}

/// The metadata host as the grid's port to it.
pub struct HostPort {
    host: MetaHost,
    deadline: Duration,
}

impl HostPort {
    /// Asks through `host`, each time at most `deadline` long.
    pub fn new(host: MetaHost, deadline: Duration) -> HostPort {
        HostPort { host, deadline }
    }
}

fn port_error(error: HostError) -> PortError {
    match error {
        HostError::UnknownOutcome(_) => PortError::Unknown(error.to_string()),
        HostError::TooLarge { .. } | HostError::Refused(_) => PortError::Refused(error.to_string()),
        other => PortError::Unavailable(other.to_string()),
    }
}

#[async_trait]
impl MetaPort for HostPort {
    async fn propose(
        &self,
        group: GroupId,
        id: CommandId,
        command: Vec<u8>,
    ) -> Result<Vec<u8>, PortError> {
        let id = u128::from_be_bytes(id.0);
        let reply = self.host.propose(group, id, Bytes::from(command), self.deadline).await;
        reply.map(Into::into).map_err(port_error)
    }

    async fn query(&self, group: GroupId, query: Vec<u8>) -> Result<Vec<u8>, PortError> {
        let query = Bytes::from(query);
        let answer = self.host.query(group, query, Consistency::Linearizable, self.deadline).await;
        answer.map(Into::into).map_err(port_error)
    }

    async fn news(&self, group: GroupId, after: u64) -> Result<u64, PortError> {
        self.host.news(group, after).await.map_err(port_error)
    }

    async fn propose_by(
        &self,
        by: Watcher,
        group: GroupId,
        id: CommandId,
        command: Vec<u8>,
    ) -> Result<(Vec<u8>, Touched), PortError> {
        let (id, command) = (u128::from_be_bytes(id.0), Bytes::from(command));
        let done = self.host.propose_by(Some(by), group, id, command, self.deadline).await;
        done.map(|(reply, touched)| (reply.into(), touched)).map_err(port_error)
    }

    async fn remember(
        &self,
        by: Watcher,
        group: GroupId,
        query: Vec<u8>,
    ) -> Result<Answered, PortError> {
        let answered = self.host.remember(group, by, Bytes::from(query), self.deadline).await;
        let Remembered { answer, fact, touched } = answered.map_err(port_error)?;
        Ok(Answered { answer: answer.into(), fact, touched })
    }

    async fn watch(&self, group: GroupId, call: WatchCall) -> Result<Watched, PortError> {
        self.host.watch(group, call).await.map_err(port_error)
    }

    fn leads(&self, group: GroupId) -> bool {
        self.host.is_leader(group)
    }
}
