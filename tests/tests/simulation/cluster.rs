//! A grid of seven simulated machines, wired as the agent wires real ones: Raft groups, drives,
//! the grid's façade, voters and placement groups kept by their own keepers.
//!
//! What a machine keeps outside these crates (its copy of the map) is kept here and survives its
//! crashes, as the agent's file does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nexusgrid_codec::{ClusterId, DriveId, GroupId, MasterKey};
use nexusgrid_drive::{DriveIdentity, DriveStore, OpenError};
use nexusgrid_env::sim::World;
use nexusgrid_env::{
    Env, NodeId, Peer, Rng, Roles, Rpc, RpcError, RpcRequest, RpcResponse, RpcService,
};
use nexusgrid_grid::care::scrub::scrub_metadata;
use nexusgrid_grid::voters::{MapDirectory, keep_voters};
use nexusgrid_grid::{CommandId, Grid, GridNode, HostPort, Liveness, MetaPort, NodeParts};
use nexusgrid_meta::namespace::Namespace;
use nexusgrid_meta::root::Root;
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::{
    Addresses, ClusterSettings, Init, NewDrive, NewNode, NodeClass, RootCommand, RootOk,
    SecretBytes, decode_reply,
};
use nexusgrid_meta::{Machines, MetaHost, ROOT_GROUP, StateMachine};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::knobs::Knobs;
use super::links::{Links, Muffler, Observer};
use super::mutants::Mutant;

pub const NODES: u64 = 7;
pub const GROUPS: u32 = 4;
const CLUSTER: ClusterId = ClusterId([7; 16]);
const VOTERS: usize = 5;

/// How long the port waits for one answer of a group, as the agent has it.
const PORT_DEADLINE: Duration = Duration::from_secs(5);

/// Starting an agent takes no longer, whatever its disk does.
const START_PATIENCE: Duration = Duration::from_secs(60);

pub fn nodes() -> impl Iterator<Item = NodeId> {
    (1..=NODES).map(NodeId)
}

/// Brings calls to the service of their range of methods.
#[derive(Default)]
struct Router {
    services: Mutex<BTreeMap<u16, Arc<dyn RpcService>>>,
}

#[async_trait]
impl RpcService for Router {
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        let service = self.services.lock().get(&(request.method.0 >> 8)).cloned();
        match service {
            Some(service) => service.serve(from, request).await,
            None => Err(RpcError::Busy("not served yet".to_owned())),
        }
    }
}

/// A running agent.
pub struct Member {
    pub env: Env,
    pub grid: Grid,
    pub host: MetaHost,
    pub port: Arc<dyn MetaPort>,
    pub node: GridNode,
}

impl Member {
    /// Its drive; absent if the disk below is too damaged. Not to be held for long: a drive whose
    /// index is lost is opened again once nobody holds it.
    pub fn drive(&self) -> Option<DriveStore> {
        self.node.shard_service().drives().into_iter().next().map(|(_, store)| store)
    }
}

/// Which machines there are.
#[derive(Clone)]
pub struct Shape {
    /// How many at first.
    pub nodes: u64,
    /// The failure domain of each.
    pub host: fn(u64) -> u64,
    /// Whether people switch it off.
    pub class: fn(u64) -> NodeClass,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { nodes: NODES, host: |node| node, class: |_| NodeClass::Stable }
    }
}

/// The machines.
pub struct Cluster {
    pub world: World,
    pub knobs: Knobs,
    mutant: Option<Mutant>,
    shape: Shape,
    pub links: Arc<Mutex<Links>>,
    members: Mutex<BTreeMap<NodeId, Arc<Member>>>,
    /// Each machine's file with the newest map.
    maps: Arc<Mutex<BTreeMap<NodeId, Arc<Topology>>>>,
}

impl Cluster {
    /// A grid ready to write. Call within [`World::run`].
    pub async fn found(
        world: &World,
        knobs: Knobs,
        mutant: Option<Mutant>,
    ) -> Result<Arc<Cluster>, String> {
        Cluster::found_as(world, knobs, mutant, Shape::default()).await
    }

    /// As [`Cluster::found`], of other machines.
    pub async fn found_as(
        world: &World,
        knobs: Knobs,
        mutant: Option<Mutant>,
        shape: Shape,
    ) -> Result<Arc<Cluster>, String> {
        let first_nodes = shape.nodes;
        let cluster = Arc::new(Cluster {
            world: world.clone(),
            knobs,
            mutant,
            shape,
            links: Arc::default(),
            members: Mutex::default(),
            maps: Arc::default(),
        });
        cluster.links.lock().nodes = 1;
        cluster.format(NodeId(1)).await?;
        cluster.start(NodeId(1)).await?;
        let first = cluster.member(NodeId(1)).ok_or("the first node is gone")?;
        for group in 0..=GROUPS {
            let created = first.host.create_group(GroupId(group)).await;
            created.map_err(|error| format!("creating group {group}: {error}"))?;
        }
        cluster.root(&init(&cluster.knobs, cluster.new_node(NodeId(1)))).await?;
        cluster.add_drive(NodeId(1)).await?;
        cluster.grow_to(first_nodes).await?;
        Ok(cluster)
    }

    /// Lets machines in until there are so many, and waits until all is settled.
    pub async fn grow_to(&self, count: u64) -> Result<(), String> {
        let before = self.links.lock().nodes;
        for node in (before + 1..=count).map(NodeId) {
            self.format(node).await?;
            for command in self.join(node) {
                self.root(&command).await?;
            }
            // What a node is told when it joins.
            let (_, first) = self.leader(ROOT_GROUP).ok_or("the root group has no leader")?;
            self.until("a map", || first.grid.topology().nodes.contains_key(&node)).await?;
            self.maps.lock().insert(node, first.grid.topology());
            self.links.lock().nodes = node.0;
            self.start(node).await?;
        }
        for node in (before + 1..=count).map(NodeId) {
            self.add_drive(node).await?;
        }
        self.until_settled().await
    }

    async fn format(&self, node: NodeId) -> Result<(), String> {
        let env = self.world.start(node);
        let formatted = DriveStore::format(&env, drive_dir(), identity(node), &self.knobs.drive);
        formatted.await.map_err(|error| format!("formatting the drive of {node}: {error}"))?;
        self.world.kill(node);
        Ok(())
    }

    async fn add_drive(&self, node: NodeId) -> Result<(), String> {
        let drive = self.member(node).and_then(|member| member.drive()).ok_or("no drive")?;
        let added = self.root(&add_drive(node, drive.info().incarnation.0)).await?;
        if added != RootOk::Drive(DriveId(node.0)) {
            return Err(format!("the drive of {node} got another id: {added:?}"));
        }
        Ok(())
    }

    /// The machines there are.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + Clone + use<> {
        (1..=self.links.lock().nodes).map(NodeId)
    }

    fn new_node(&self, node: NodeId) -> NewNode {
        let index = node.0;
        NewNode {
            name: format!("node{index}"),
            host: format!("host{}", (self.shape.host)(index)),
            zone: String::new(),
            class: (self.shape.class)(index),
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

    /// The commands that let a node in.
    fn join(&self, node: NodeId) -> [RootCommand; 2] {
        let token = format!("token{:04}", node.0);
        [
            RootCommand::CreateToken {
                id: token.clone(),
                secret_hash: [9; 32],
                expires_ms: u64::MAX / 2,
                roles: Roles::ALL,
                now_ms: 1,
            },
            RootCommand::RedeemToken {
                token,
                secret_hash: [9; 32],
                node: self.new_node(node),
                now_ms: 2,
            },
        ]
    }

    pub fn member(&self, node: NodeId) -> Option<Arc<Member>> {
        self.members.lock().get(&node).cloned()
    }

    pub fn members(&self) -> Vec<(NodeId, Arc<Member>)> {
        self.members.lock().iter().map(|(node, member)| (*node, Arc::clone(member))).collect()
    }

    /// Starts a machine's agent on what its disk holds.
    pub async fn start(&self, node: NodeId) -> Result<(), String> {
        match tokio::time::timeout(START_PATIENCE, self.try_start(node)).await {
            Ok(Ok(member)) => {
                self.members.lock().insert(node, Arc::new(member));
                Ok(())
            }
            Ok(Err(error)) => {
                self.world.kill(node);
                Err(format!("{node}: {error}"))
            }
            Err(_) => {
                self.world.kill(node);
                Err(format!("{node} does not start"))
            }
        }
    }

    async fn try_start(&self, node: NodeId) -> Result<Member, String> {
        let env = self.world.start(node);
        let env = self.mutant.map_or_else(|| env.clone(), |mutant| mutant.env(env.clone()));
        let router = Arc::new(Router::default());
        let inner = self.world.net().endpoint(node, router.clone());
        let rpc: Arc<dyn Rpc> =
            Arc::new(Muffler { inner, own: node, links: Arc::clone(&self.links) });
        let kept = self.maps.lock().get(&node).cloned().unwrap_or_default();
        let (newest, map) = watch::channel(kept);
        let machines: Machines = Arc::new(machine_of);
        let host = MetaHost::open(
            env.clone(),
            rpc.clone(),
            node,
            PathBuf::from("/meta"),
            machines,
            Arc::new(MapDirectory(map.clone())),
            self.knobs.host.clone(),
        );
        let host = host.await.map_err(|error| format!("opening metadata: {error}"))?;
        router.services.lock().insert(2, host.service());
        let started =
            host.start_existing().await.map_err(|error| format!("starting groups: {error}"))?;
        for (group, result) in started {
            if let Err(error) = result {
                self.world.trace().record(format_args!("{node} group {}: {error}", group.0));
            }
        }
        let opened =
            DriveStore::open(&env, drive_dir(), identity(node), None, &self.knobs.drive).await;
        if let Err(error) = &opened {
            self.world.trace().record(format_args!("{node} drive: {error}"));
        }
        let failed =
            matches!(opened, Err(OpenError::Failed { .. } | OpenError::SuperblockCorrupt(_)));
        let drive = opened.ok();
        let liveness: Arc<dyn Liveness> = Arc::new(Observer {
            world: self.world.clone(),
            own: node,
            links: Arc::clone(&self.links),
            silent_since: Mutex::default(),
        });
        let port: Arc<dyn MetaPort> = match self.mutant {
            Some(mutant) => mutant.port(&host, &env),
            None => Arc::new(HostPort::new(host.clone(), PORT_DEADLINE)),
        };
        let grid_node = GridNode::start(NodeParts {
            env: env.clone(),
            node,
            cluster: CLUSTER,
            rpc,
            liveness: Arc::clone(&liveness),
            meta: Arc::clone(&port),
            drives: drive.into_iter().map(|drive| (DriveId(node.0), drive)).collect(),
            failed: failed.then_some(DriveId(node.0)).into_iter().collect(),
            master: Some(MasterKey::from_bytes([5; 32])),
            options: self.knobs.grid.clone(),
        });
        router.services.lock().insert(3, grid_node.shard_service());
        let (mut read, maps) = (grid_node.map(), Arc::clone(&self.maps));
        drop(env.exec.spawn(async move {
            while read.changed().await.is_ok() {
                let now = Arc::clone(&read.borrow_and_update());
                if now.version > newest.borrow().version {
                    maps.lock().insert(node, Arc::clone(&now));
                    newest.send_replace(now);
                }
            }
        }));
        keep_voters(&env, &host, Arc::clone(&port), map, liveness);
        let care = &self.knobs.grid.care;
        let (every, bytes) = (care.scrub_every, care.scrub_bytes);
        scrub_metadata(&env, &host, &grid_node.workers(), every, bytes);
        Ok(Member { env, grid: grid_node.grid(), host, port, node: grid_node })
    }

    /// kill -9.
    pub fn kill(&self, node: NodeId) {
        self.members.lock().remove(&node);
        self.links.lock().suspended.remove(&node);
        self.world.kill(node);
    }

    /// Power fails.
    pub fn crash(&self, node: NodeId) {
        self.members.lock().remove(&node);
        self.links.lock().suspended.remove(&node);
        self.world.crash(node);
    }

    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.links.lock().cuts.insert((from, to));
        self.world.net().cut(from, to);
    }

    pub fn mend(&self, from: NodeId, to: NodeId) {
        self.links.lock().cuts.remove(&(from, to));
        self.world.net().mend(from, to);
    }

    pub fn suspend(&self, node: NodeId) {
        self.links.lock().suspended.insert(node);
        self.world.suspend(node);
    }

    pub fn resume(&self, node: NodeId) {
        self.links.lock().suspended.remove(&node);
        self.world.resume(node);
    }

    /// A command of the root group, through any node that runs.
    pub async fn root(&self, command: &RootCommand) -> Result<RootOk, String> {
        let mut id = [0; 16];
        self.world.rng().fill(&mut id);
        let mut last = String::new();
        for _ in 0..100 {
            for (_, member) in self.members() {
                match member.port.propose(ROOT_GROUP, CommandId(id), command.encode()).await {
                    Ok(reply) => {
                        let reply = decode_reply(&reply).map_err(|error| error.to_string())?;
                        return reply.map_err(|error| format!("{command:?}: {error}"));
                    }
                    Err(error) => last = error.to_string(),
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("{command:?}: {last}"))
    }

    /// Waits in virtual time until `holds`.
    pub async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
        let begun = self.world.elapsed();
        while !holds() {
            if self.world.elapsed() - begun > Duration::from_secs(60) {
                return Err(format!("waited in vain for {what}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// The member that leads a group, if one says so.
    pub fn leader(&self, group: GroupId) -> Option<(NodeId, Arc<Member>)> {
        let mut leading: Vec<_> =
            self.members().into_iter().filter(|(_, member)| member.host.is_leader(group)).collect();
        leading.sort_by_key(|(_, member)| {
            member.host.status(group).map_or(0, |status| status.leader.term)
        });
        leading.pop()
    }

    /// Waits until all groups have their voters, all nodes the map, all drives their epochs.
    pub async fn until_settled(&self) -> Result<(), String> {
        let stable = self.nodes().filter(|node| (self.shape.class)(node.0) == NodeClass::Stable);
        let hosts: BTreeSet<u64> = stable.map(|node| (self.shape.host)(node.0)).collect();
        let voters = match hosts.len() {
            0..=2 => 1,
            3 | 4 => 3,
            _ => VOTERS,
        };
        self.until("voters in each group", || {
            (0..=GROUPS).map(GroupId).all(|group| {
                let leader = self.leader(group);
                leader.is_some_and(|(_, member)| {
                    member.host.voters(group).is_ok_and(|now| now.len() == voters)
                })
            })
        })
        .await?;
        let pgs =
            2 * self.nodes().map(|node| (self.shape.host)(node.0)).collect::<BTreeSet<_>>().len();
        self.until("placement groups on every node", || {
            self.members().iter().all(|(_, member)| {
                member.node.shard_service().is_ready()
                    && member.grid.topology().active_pgs(None).count()
                        >= pgs.min(2 * NODES as usize)
            })
        })
        .await
    }
}

pub fn machine_of(group: GroupId) -> Arc<dyn StateMachine> {
    if group == ROOT_GROUP { Arc::new(Root) } else { Arc::new(Namespace) }
}

fn drive_dir() -> &'static Path {
    Path::new("/drive")
}

fn identity(node: NodeId) -> DriveIdentity {
    DriveIdentity { cluster: CLUSTER, drive: DriveId(node.0) }
}

fn init(knobs: &Knobs, node: NewNode) -> RootCommand {
    let reader_horizon_ms = u64::try_from(knobs.horizon.as_millis()).unwrap_or(u64::MAX);
    RootCommand::Init(Box::new(Init {
        cluster: CLUSTER,
        ca_cert: vec![1; 100],
        sealed_ca_key: vec![2; 100],
        gossip_key: SecretBytes(vec![3; 32]),
        settings: ClusterSettings { reader_horizon_ms, ..ClusterSettings::default() },
        metadata_groups: GROUPS,
        node,
        master_key_check: vec![4; 100],
        now_ms: 1,
    }))
}

fn add_drive(node: NodeId, incarnation: [u8; 16]) -> RootCommand {
    RootCommand::AddDrive(NewDrive { node, incarnation, size_bytes: 100 << 30, weight: 100 })
}
