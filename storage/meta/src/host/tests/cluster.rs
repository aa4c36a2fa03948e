//! A small cluster in a simulated world, with a machine of registers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::sim::World;
use nexusgrid_env::{Batch, KvError, KvRead, NodeId};
use parking_lot::Mutex;

use crate::host::{Consistency, GroupDirectory, HostOptions, MetaError, MetaHost};
use crate::machine::{Applied, ApplyContext, RestsOn, StateMachine};
use crate::raft::LogOptions;
use crate::raft::types::RaftId;

pub const GROUP: GroupId = GroupId(3);
pub const SOON: Duration = Duration::from_secs(10);

/// Registers: `[0, key, value: u64]` sets, `[1, key, by: u64]` adds; the reply is the new value. A
/// query is a key, its answer the value.
pub struct Registers;

/// Register of those who may remember, a bit for each; those before it say where each is.
pub const WATCHERS: u8 = 255;

pub const FAMILY: &str = "registers";

fn value(state: &dyn KvRead, key: &[u8]) -> Result<u64, KvError> {
    let row = state.get(FAMILY, key)?;
    Ok(row.map_or(0, |row| u64::from_le_bytes(row[..8].try_into().unwrap())))
}

impl StateMachine for Registers {
    fn families(&self) -> &'static [&'static str] {
        &[FAMILY]
    }
    fn blob_families(&self) -> &'static [&'static str] {
        &[]
    }
    fn apply(
        &self,
        state: &dyn KvRead,
        _: &ApplyContext,
        command: &[u8],
    ) -> Result<Applied, KvError> {
        let (key, number) =
            (&command[1..2], u64::from_le_bytes(command[2..10].try_into().unwrap()));
        let new = if command[0] == 0 { number } else { value(state, key)? + number };
        let mut batch = Batch::default();
        batch.put(FAMILY, key, new.to_le_bytes());
        Ok(Applied { batch, reply: new.to_le_bytes().to_vec(), ..Applied::default() })
    }
    fn query(&self, state: &dyn KvRead, query: &[u8]) -> Result<Vec<u8>, KvError> {
        Ok(value(state, query)?.to_le_bytes().to_vec())
    }
    fn may_be_remembered(&self, _: &[u8]) -> Option<RestsOn> {
        Some(RestsOn { row: Box::new(|_, _| true), scans: false })
    }
    fn watchers(&self, state: &dyn KvRead) -> Result<BTreeSet<u64>, KvError> {
        let bits = value(state, &[WATCHERS])?;
        Ok((0..64).filter(|id| bits >> id & 1 == 1).collect())
    }
    fn watcher(&self, state: &dyn KvRead, id: u64) -> Result<Option<NodeId>, KvError> {
        let node = value(state, &[WATCHERS - id as u8])?;
        Ok((node > 0).then_some(NodeId(node)))
    }
}

pub fn set(key: u8, value: u64) -> Bytes {
    [&[0, key][..], &value.to_le_bytes()].concat().into()
}

pub fn add(key: u8, by: u64) -> Bytes {
    [&[1, key][..], &by.to_le_bytes()].concat().into()
}

/// Whom nodes without a replica ask.
#[derive(Default)]
pub struct Directory(pub Mutex<Vec<NodeId>>);

impl GroupDirectory for Directory {
    fn voters(&self, _: GroupId) -> Vec<NodeId> {
        self.0.lock().clone()
    }
}

pub fn options() -> HostOptions {
    HostOptions {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
        bulk_timeout: Duration::from_millis(500),
        keep_damaged: Duration::from_secs(60),
        attempt_timeout: Duration::from_secs(1),
        snapshot_every_entries: 50,
        keep_entries: 10,
        log: LogOptions {
            segment_bytes_max: 4 * 1024,
            cache_bytes_max: 2 * 1024,
            floor_interval: Duration::from_millis(200),
            segments_soft_max: 3,
            ..LogOptions::default()
        },
        keeper_interval: Duration::from_millis(200),
        standing_after: Duration::from_secs(2),
        replace_after: Duration::from_secs(20),
        ..HostOptions::default()
    }
}

pub struct Cluster {
    pub world: World,
    pub hosts: BTreeMap<u64, MetaHost>,
    pub directory: Arc<Directory>,
    requests: u128,
}

impl Cluster {
    pub fn new(world: &World) -> Cluster {
        Cluster {
            world: world.clone(),
            hosts: BTreeMap::new(),
            directory: Arc::default(),
            requests: 0,
        }
    }

    /// A group with all of `nodes` as voters, made by the first.
    pub async fn with_group(world: &World, nodes: &[u64]) -> Cluster {
        let mut cluster = Cluster::new(world);
        for node in nodes {
            cluster.start(*node).await;
        }
        let first = cluster.host(nodes[0]);
        first.create_group(GROUP).await.unwrap();
        cluster.directory.0.lock().extend(nodes.iter().map(|node| NodeId(*node)));
        cluster.leader().await;
        for node in &nodes[1..] {
            cluster.add(*node).await;
        }
        let leader = cluster.leader().await;
        let voters = cluster
            .host(leader)
            .status(GROUP)
            .unwrap()
            .members
            .iter()
            .map(|member| member.id)
            .collect();
        cluster.host(leader).set_voters(GROUP, voters).await.unwrap();
        cluster
    }

    pub async fn add(&self, node: u64) -> RaftId {
        let leader = self.leader().await;
        self.host(leader).add_learner(GROUP, NodeId(node)).await.unwrap()
    }

    /// Starts a node's host, and the groups on its disk.
    pub async fn start(&mut self, node: u64) -> Vec<(GroupId, Result<(), MetaError>)> {
        let id = NodeId(node);
        let env = self.world.start(id);
        let rpc = self.world.net().rpc(id);
        let machines: super::super::Machines = Arc::new(|_| Arc::new(Registers));
        let dir = PathBuf::from("/meta");
        let host = MetaHost::open(env, rpc, id, dir, machines, self.directory.clone(), options())
            .await
            .unwrap();
        self.world.net().serve(id, host.service());
        let started = host.start_existing().await.unwrap();
        self.hosts.insert(node, host);
        started
    }

    pub fn kill(&mut self, node: u64) {
        self.world.kill(NodeId(node));
        self.hosts.remove(&node);
    }

    pub fn crash(&mut self, node: u64) {
        self.world.crash(NodeId(node));
        self.hosts.remove(&node);
    }

    pub fn host(&self, node: u64) -> MetaHost {
        self.hosts[&node].clone()
    }

    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Waits until some host proves that it leads.
    pub async fn leader(&self) -> u64 {
        for _ in 0..400 {
            for (node, host) in &self.hosts {
                if host.is_leader(GROUP) {
                    let answer = host.query(
                        GROUP,
                        vec![0].into(),
                        Consistency::Linearizable,
                        Duration::from_millis(300),
                    );
                    if answer.await.is_ok() && host.is_leader(GROUP) {
                        return *node;
                    }
                }
            }
            self.sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "no leader: {:?}",
            self.hosts.values().map(|host| host.status(GROUP)).collect::<Vec<_>>()
        );
    }

    pub fn request(&mut self) -> u128 {
        self.requests += 1;
        self.requests
    }

    pub async fn propose(&mut self, via: u64, body: Bytes) -> Result<u64, MetaError> {
        let request = self.request();
        self.propose_as(via, request, body).await
    }

    pub async fn propose_as(&self, via: u64, request: u128, body: Bytes) -> Result<u64, MetaError> {
        let reply = self.host(via).propose(GROUP, request, body, SOON).await?;
        Ok(u64::from_le_bytes(reply[..].try_into().unwrap()))
    }

    pub async fn read(&self, via: u64, key: u8) -> Result<u64, MetaError> {
        let answer =
            self.host(via).query(GROUP, vec![key].into(), Consistency::Linearizable, SOON).await?;
        Ok(u64::from_le_bytes(answer[..].try_into().unwrap()))
    }

    /// What a node's replica holds now.
    pub fn local(&self, node: u64, key: u8) -> u64 {
        value(&*self.host(node).local_rows(GROUP).unwrap(), &[key]).unwrap()
    }

    /// Waits until a node's replica has applied what the leader has.
    pub async fn caught_up(&self, node: u64) {
        let leader = self.leader().await;
        let want = self.host(leader).status(GROUP).unwrap().applied_index;
        let mut applied = self.host(node).watch_applied(GROUP).unwrap();
        tokio::time::timeout(SOON, applied.wait_for(|applied| *applied >= want))
            .await
            .unwrap()
            .unwrap();
    }
}

/// Log lines of a test, when RUST_LOG asks for them.
pub fn run<F: Future>(seed: u64, test: impl FnOnce(World) -> F) -> F::Output {
    let world = World::new(seed);
    let future = test(world.clone());
    world.run(future)
}
