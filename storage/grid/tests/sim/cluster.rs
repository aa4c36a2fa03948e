//! Seven nodes in one process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use nexusgrid_codec::{ClusterId, DriveId, GroupId, MasterKey};
use nexusgrid_drive::{DriveIdentity, DriveOptions, DriveStore};
use nexusgrid_env::sim::World;
use nexusgrid_env::{NodeId, Peer, Roles, RpcError, RpcRequest, RpcResponse, RpcService};
use nexusgrid_grid::node::{GridNode, NodeParts};
use nexusgrid_grid::{
    BodyStream, CommandId, Finish, Grid, GridError, GridOptions, Liveness, MetaPort, NodeHint,
    ObjectMeta, ObjectSeal, Precondition, PutOutcome, PutRequest, ReadStream, Tenant,
};
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::{
    Addresses, ClusterSettings, Init, NewDrive, NewNode, NodeClass, RootCommand, RootOk,
    SecretBytes, WorkerSetting, decode_reply,
};
use parking_lot::Mutex;

use super::meta::{OneCopy, OneCopyPort};

pub const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const GROUPS: u32 = 4;

/// Brings calls to the service of their range.
#[derive(Default)]
pub struct Router {
    pub services: Mutex<BTreeMap<u8, Arc<dyn RpcService>>>,
    /// Sees every request before it is served; may refuse or delay it.
    pub filter: Mutex<Option<Filter>>,
}

pub type Filter = Arc<dyn Fn(&RpcRequest) -> Verdict + Send + Sync>;

#[derive(Clone, Debug)]
pub enum Verdict {
    Pass,
    Delay(Duration),
    Fail,
}

#[async_trait]
impl RpcService for Router {
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        let filter = self.filter.lock().clone();
        match filter.map_or(Verdict::Pass, |filter| filter(&request)) {
            Verdict::Pass => {}
            Verdict::Delay(by) => tokio::time::sleep(by).await,
            Verdict::Fail => return Err(RpcError::Failed("by the test".to_owned())),
        }
        let range = (request.method.0 >> 8) as u8;
        let service = self.services.lock().get(&range).cloned();
        match service {
            Some(service) => service.serve(from, request).await,
            None => Err(RpcError::Refused("not served".to_owned())),
        }
    }
}

/// Membership as an observer would have it: a node that went down is missed after a while.
pub struct Observer {
    pub world: World,
    pub down_since: Mutex<BTreeMap<NodeId, Duration>>,
    /// Hints set by a test.
    pub set: Mutex<BTreeMap<NodeId, NodeHint>>,
}

const NOTICED_AFTER: Duration = Duration::from_secs(3);

impl Liveness for Observer {
    fn state(&self, node: NodeId) -> NodeHint {
        if let Some(hint) = self.set.lock().get(&node) {
            return *hint;
        }
        let mut down = self.down_since.lock();
        if self.world.is_up(node) {
            down.remove(&node);
            return NodeHint::Alive;
        }
        let since = *down.entry(node).or_insert_with(|| self.world.elapsed());
        let gone = self.world.elapsed().saturating_sub(since) >= NOTICED_AFTER;
        if gone { NodeHint::Dead } else { NodeHint::Alive }
    }
}

pub struct Member {
    pub grid: Grid,
    pub node: GridNode,
    pub router: Arc<Router>,
    pub drive: DriveStore,
}

pub struct Cluster {
    pub world: World,
    pub meta: Arc<OneCopy>,
    pub observer: Arc<Observer>,
    pub members: Mutex<BTreeMap<NodeId, Arc<Member>>>,
    pub options: GridOptions,
    pub count: u64,
}

pub fn options(nodes: u64) -> GridOptions {
    let mut options = GridOptions::default();
    options.placement.hosts_expected = nodes as usize;
    // Blocks small enough that many fit into a test.
    options.block_bytes = 1 << 20;
    options
}

pub fn new_node(index: u64) -> NewNode {
    NewNode {
        name: format!("node{index}"),
        host: format!("host{index}"),
        zone: String::new(),
        class: NodeClass::Stable,
        roles: Roles::ALL,
        addresses: Addresses {
            rpc: format!("10.0.0.{index}:1"),
            shard: format!("10.0.0.{index}:2"),
            gossip: format!("10.0.0.{index}:3"),
            s3: format!("10.0.0.{index}:4"),
        },
        key_hash: [index as u8; 32],
    }
}

pub fn init_command() -> RootCommand {
    RootCommand::Init(Box::new(Init {
        cluster: CLUSTER,
        ca_cert: vec![1; 100],
        sealed_ca_key: vec![2; 100],
        gossip_key: SecretBytes(vec![3; 32]),
        settings: ClusterSettings::default(),
        metadata_groups: GROUPS,
        node: new_node(1),
        master_key_check: vec![4; 100],
        now_ms: 1,
    }))
}

/// The commands that let node `index` in.
pub fn join_commands(index: u64) -> [RootCommand; 2] {
    let token = format!("token{index:04}");
    [
        RootCommand::CreateToken {
            id: token.clone(),
            secret_hash: [9; 32],
            expires_ms: u64::MAX / 2,
            roles: Roles::ALL,
            now_ms: 1,
        },
        RootCommand::RedeemToken { token, secret_hash: [9; 32], node: new_node(index), now_ms: 2 },
    ]
}

pub fn add_drive(index: u64, incarnation: [u8; 16]) -> RootCommand {
    RootCommand::AddDrive(NewDrive {
        node: NodeId(index),
        incarnation,
        size_bytes: 100 << 30,
        weight: 100,
    })
}

pub fn master_key() -> MasterKey {
    MasterKey::from_bytes([5; 32])
}

pub fn drive_dir() -> PathBuf {
    PathBuf::from("/drive")
}

pub fn identity(index: u64) -> DriveIdentity {
    DriveIdentity { cluster: CLUSTER, drive: DriveId(index) }
}

impl Cluster {
    /// A grid of `count` nodes, ready to write. Call within `World::run`.
    pub async fn start(world: &World, count: u64) -> Cluster {
        Cluster::start_with(world, count, options(count)).await
    }

    pub async fn start_with(world: &World, count: u64, options: GridOptions) -> Cluster {
        let meta = OneCopy::new(world, GROUPS);
        let observer = Arc::new(Observer {
            world: world.clone(),
            down_since: Mutex::default(),
            set: Mutex::default(),
        });
        let cluster = Cluster {
            world: world.clone(),
            meta,
            observer,
            members: Mutex::default(),
            options,
            count,
        };
        assert_eq!(cluster.root(&init_command()), RootOk::Node(NodeId(1)));
        for index in 2..=count {
            let [create, redeem] = join_commands(index);
            cluster.root(&create);
            assert_eq!(cluster.root(&redeem), RootOk::Node(NodeId(index)));
        }
        for index in 1..=count {
            cluster.format_drive(index).await;
        }
        for index in 1..=count {
            cluster.start_node(NodeId(index)).await;
        }
        cluster.until_ready().await;
        cluster
    }

    async fn format_drive(&self, index: u64) {
        let env = self.world.start(NodeId(index));
        let info = DriveStore::format(&env, &drive_dir(), identity(index), &DriveOptions::small())
            .await
            .unwrap();
        let added = self.root(&add_drive(index, info.incarnation.0));
        assert_eq!(added, RootOk::Drive(DriveId(index)));
    }

    /// One more node, the next after those there are.
    pub async fn join(&mut self, index: u64) {
        let [create, redeem] = join_commands(index);
        self.root(&create);
        assert_eq!(self.root(&redeem), RootOk::Node(NodeId(index)));
        self.format_drive(index).await;
        self.start_node(NodeId(index)).await;
        self.count = self.count.max(index);
    }

    pub fn root(&self, command: &RootCommand) -> RootOk {
        let mut id = [0; 16];
        nexusgrid_env::Rng::fill(&*self.world.rng(), &mut id);
        let reply = self.meta.apply(GroupId(0), CommandId(id), &command.encode()).unwrap();
        decode_reply(&reply).unwrap().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Pauses or resumes a worker on all nodes, and waits until they have heard.
    pub async fn pause(&self, name: &str, paused: bool) {
        let setting = WorkerSetting { paused, bytes_per_second: None };
        self.root(&RootCommand::SetWorker { name: name.to_owned(), setting });
        let begin = tokio::time::Instant::now();
        let has_heard = |node: NodeId| {
            let workers = self.member(node.0).node.workers().list();
            workers.iter().any(|worker| worker.name == name && worker.paused == paused)
        };
        let nodes = || self.members.lock().keys().copied().collect::<Vec<_>>();
        while !nodes().into_iter().all(has_heard) {
            assert!(begin.elapsed() < Duration::from_secs(60), "{name}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn start_node(&self, node: NodeId) -> Arc<Member> {
        let env = self.world.start(node);
        let router = Arc::new(Router::default());
        let rpc = self.world.net().endpoint(node, router.clone());
        let identity = identity(node.0);
        let drive = DriveStore::open(&env, &drive_dir(), identity, None, &DriveOptions::small())
            .await
            .unwrap();
        let (world, first) = (self.world.clone(), node);
        let leads =
            Arc::new(move || (1..=64).map(NodeId).find(|node| world.is_up(*node)) == Some(first));
        let meta: Arc<dyn MetaPort> = Arc::new(OneCopyPort { meta: Arc::clone(&self.meta), leads });
        let parts = NodeParts {
            env,
            node,
            cluster: CLUSTER,
            rpc,
            liveness: self.observer.clone(),
            meta,
            drives: vec![(identity.drive, drive.clone())],
            failed: Vec::new(),
            master: Some(master_key()),
            options: self.options.clone(),
        };
        let grid_node = GridNode::start(parts);
        router.services.lock().insert(3, grid_node.shard_service());
        let member = Arc::new(Member { grid: grid_node.grid(), node: grid_node, router, drive });
        self.members.lock().insert(node, Arc::clone(&member));
        member
    }

    pub fn member(&self, index: u64) -> Arc<Member> {
        Arc::clone(&self.members.lock()[&NodeId(index)])
    }

    pub fn grid(&self, index: u64) -> Grid {
        self.member(index).grid.clone()
    }

    pub fn kill(&self, index: u64) {
        self.world.kill(NodeId(index));
        self.members.lock().remove(&NodeId(index));
        // The observer begins to miss it now.
        self.observer.state(NodeId(index));
    }

    pub fn crash(&self, index: u64) {
        self.world.crash(NodeId(index));
        self.members.lock().remove(&NodeId(index));
        self.observer.state(NodeId(index));
    }

    pub fn topology(&self) -> Topology {
        use nexusgrid_meta::root::types::{RootAnswer, RootQuery, decode_query_reply};
        let query = RootQuery::Topology { unless_version: 0 }.encode();
        let reply = self.meta.ask(GroupId(0), &query).unwrap();
        match decode_query_reply(&reply).unwrap().unwrap() {
            RootAnswer::Topology(Some(topology)) => *topology,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until placement groups are drawn and every node has told its drives.
    pub async fn until_ready(&self) {
        until(Duration::from_secs(60), || {
            let topology = self.topology();
            let drawn = topology.active_pgs(None).count() >= self.count as usize;
            let members = self.members.lock();
            drawn
                && members.values().all(|member| {
                    member.node.shard_service().is_ready()
                        && member.grid.topology().pgs.len() == topology.pgs.len()
                })
        })
        .await;
    }
}

/// Waits in virtual time until `holds`.
pub async fn until(patience: Duration, mut holds: impl FnMut() -> bool) {
    let begin = tokio::time::Instant::now();
    while !holds() {
        assert!(begin.elapsed() < patience, "waited in vain");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Bytes that depend on everything about them.
pub fn content(tag: u64, len: usize) -> Bytes {
    let mut state = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}

pub fn body(bytes: &Bytes) -> BodyStream {
    let chunks: Vec<_> = bytes.chunks(64 << 10).map(|chunk| Ok(bytes.slice_ref(chunk))).collect();
    Box::pin(stream::iter(chunks))
}

pub fn seal(tag: &str) -> Finish {
    let etag = tag.to_owned();
    Box::new(move || Ok(ObjectSeal { etag, ..ObjectSeal::default() }))
}

pub fn put_request(bucket: &str, key: &str, len: Option<usize>) -> PutRequest {
    PutRequest {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        meta: ObjectMeta::default(),
        precondition: Precondition::default(),
        length: len.map(|len| len as u64),
        tenant: Tenant("test".to_owned()),
    }
}

pub async fn put(
    grid: &Grid,
    bucket: &str,
    key: &str,
    bytes: &Bytes,
) -> Result<PutOutcome, GridError> {
    let request = put_request(bucket, key, Some(bytes.len()));
    grid.put(request, body(bytes), seal(&format!("etag-{}", bytes.len()))).await
}

pub async fn collect(mut stream: ReadStream) -> Result<Vec<u8>, GridError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

pub async fn get(grid: &Grid, bucket: &str, key: &str) -> Result<Vec<u8>, GridError> {
    collect(grid.get(bucket, key, None).await?.body).await
}
