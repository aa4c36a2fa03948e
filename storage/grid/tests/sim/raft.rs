//! The same over real Raft groups: five voters of seven nodes, metadata and data die together.

mod alone;
mod memory;
mod restore;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::{DriveId, GroupId};
use nexusgrid_drive::{DriveOptions, DriveStore};
use nexusgrid_env::sim::World;
use nexusgrid_env::{Env, NodeId, Rng};
use nexusgrid_grid::care::checkpoint::{KeptMap, Shelf};
use nexusgrid_grid::care::{CheckpointOptions, CheckpointParts, Checkpoints};
use nexusgrid_grid::node::{GridNode, HostPort, NodeParts};
use nexusgrid_grid::*;
use nexusgrid_meta::host::plan::Candidate;
use nexusgrid_meta::host::{CandidateSource, VoterKeeper};
use nexusgrid_meta::namespace::Namespace;
use nexusgrid_meta::root::Root;
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::{RootCommand, RootOk, decode_reply};
use nexusgrid_meta::{GroupDirectory, HostOptions, Machines, MetaHost, StateMachine};
use parking_lot::Mutex;

use super::cluster::{
    CLUSTER, GROUPS, Observer, Router, add_drive, content, drive_dir, get, identity, init_command,
    join_commands, master_key, options, put,
};

const NODES: u64 = 7;

struct Everyone(Arc<Observer>);

impl GroupDirectory for Everyone {
    fn voters(&self, _group: GroupId) -> Vec<NodeId> {
        (1..=NODES).map(NodeId).collect()
    }
}

impl CandidateSource for Everyone {
    fn candidates(&self) -> Vec<Candidate> {
        let dead_for = |node| match self.0.state(node) {
            NodeHint::Dead => Some(Duration::from_secs(1)),
            _ => None,
        };
        (1..=NODES)
            .map(|node| Candidate {
                node: NodeId(node),
                host: format!("host{node}"),
                dead_for: dead_for(NodeId(node)),
            })
            .collect()
    }
}

struct Member {
    env: Env,
    grid: Grid,
    node: GridNode,
    host: MetaHost,
    checkpoints: Arc<Checkpoints>,
}

/// A node's copy of the map, which outlives its process.
#[derive(Default)]
struct Kept(Mutex<Arc<Topology>>);

impl KeptMap for Kept {
    fn topology(&self) -> Arc<Topology> {
        self.0.lock().clone()
    }

    fn offer(&self, topology: &Arc<Topology>) {
        let mut kept = self.0.lock();
        if topology.version > kept.version {
            *kept = topology.clone();
        }
    }
}

struct RaftCluster {
    world: World,
    observer: Arc<Observer>,
    members: Mutex<BTreeMap<u64, Arc<Member>>>,
    maps: Mutex<BTreeMap<u64, Arc<Kept>>>,
    options: GridOptions,
}

fn machines() -> Machines {
    Arc::new(|group: GroupId| -> Arc<dyn StateMachine> {
        if group.0 == 0 { Arc::new(Root) } else { Arc::new(Namespace) }
    })
}

impl RaftCluster {
    async fn start(world: &World) -> RaftCluster {
        RaftCluster::start_with(world, options(NODES)).await
    }

    async fn start_with(world: &World, options: GridOptions) -> RaftCluster {
        let observer = Arc::new(Observer {
            world: world.clone(),
            down_since: Mutex::default(),
            set: Mutex::default(),
        });
        let cluster = RaftCluster {
            world: world.clone(),
            observer,
            members: Mutex::default(),
            maps: Mutex::default(),
            options,
        };
        let mut incarnations = Vec::new();
        for index in 1..=NODES {
            let env = world.start(NodeId(index));
            let info =
                DriveStore::format(&env, &drive_dir(), identity(index), &DriveOptions::small())
                    .await
                    .unwrap();
            incarnations.push(info.incarnation.0);
        }
        for index in 1..=NODES {
            cluster.start_node(index).await;
        }
        let first = cluster.member(1);
        for group in 0..=GROUPS {
            first.host.create_group(GroupId(group)).await.unwrap();
        }
        cluster.root(&init_command()).await;
        for index in 2..=NODES {
            for command in join_commands(index) {
                cluster.root(&command).await;
            }
        }
        for (index, incarnation) in (1u64..).zip(incarnations) {
            let added = cluster.root(&add_drive(index, incarnation)).await;
            assert_eq!(added, RootOk::Drive(DriveId(index)));
        }
        cluster.settle().await;
        cluster
    }

    async fn start_node(&self, index: u64) {
        let env = self.world.start(NodeId(index));
        self.start_in(index, env).await;
    }

    /// Starts a node of which the directory of metadata is gone.
    async fn start_without_metadata(&self, index: u64) {
        let env = self.world.start(NodeId(index));
        env.disk.remove_dir_all(Path::new("/meta")).unwrap();
        self.start_in(index, env).await;
    }

    async fn start_in(&self, index: u64, env: Env) {
        let node = NodeId(index);
        let router = Arc::new(Router::default());
        let rpc = self.world.net().endpoint(node, router.clone());
        let everyone = Arc::new(Everyone(self.observer.clone()));
        let host = MetaHost::open(
            env.clone(),
            rpc.clone(),
            node,
            PathBuf::from("/meta"),
            machines(),
            everyone.clone(),
            HostOptions::default(),
        )
        .await
        .unwrap();
        router.services.lock().insert(2, host.service());
        for (group, result) in host.start_existing().await.unwrap() {
            result.unwrap_or_else(|error| panic!("{node} group {}: {error}", group.0));
        }
        VoterKeeper::start(&host, everyone);
        let identity = identity(index);
        let drive = DriveStore::open(&env, &drive_dir(), identity, None, &DriveOptions::small())
            .await
            .unwrap();
        let grid_node = GridNode::start(NodeParts {
            env: env.clone(),
            node,
            cluster: CLUSTER,
            rpc: rpc.clone(),
            liveness: self.observer.clone(),
            meta: Arc::new(HostPort::new(host.clone(), Duration::from_secs(5))),
            drives: vec![(identity.drive, drive)],
            failed: Vec::new(),
            master: Some(master_key()),
            options: self.options.clone(),
        });
        router.services.lock().insert(3, grid_node.shard_service());
        let kept = self.maps.lock().entry(index).or_default().clone();
        let checkpoints = grid_node.keep_checkpoints(CheckpointParts {
            host: host.clone(),
            shelf: Shelf::open(&env, Path::new("/")).await.unwrap(),
            rpc,
            kept_map: kept.clone(),
            options: CheckpointOptions::default(),
        });
        router.services.lock().insert(5, checkpoints.clone());
        let mut map = grid_node.map();
        drop(env.exec.spawn(async move {
            while map.changed().await.is_ok() {
                kept.offer(&map.borrow_and_update().clone());
            }
        }));
        let member = Member { env, grid: grid_node.grid(), node: grid_node, host, checkpoints };
        self.members.lock().insert(index, Arc::new(member));
    }

    fn member(&self, index: u64) -> Arc<Member> {
        Arc::clone(&self.members.lock()[&index])
    }

    fn grid(&self, index: u64) -> Grid {
        self.member(index).grid.clone()
    }

    async fn root(&self, command: &RootCommand) -> RootOk {
        let mut id = [0; 16];
        self.world.rng().fill(&mut id);
        let deadline = Duration::from_secs(30);
        let reply = self
            .member(1)
            .host
            .propose(GroupId(0), u128::from_be_bytes(id), command.encode().into(), deadline)
            .await
            .unwrap();
        decode_reply(&reply).unwrap().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    fn kill(&self, index: u64) {
        self.world.kill(NodeId(index));
        self.members.lock().remove(&index);
        self.observer.state(NodeId(index));
    }

    /// Waits until every running node may write.
    async fn settle(&self) {
        let begin = tokio::time::Instant::now();
        loop {
            let ready = {
                let members = self.members.lock();
                members.values().all(|member| {
                    let map = member.grid.topology();
                    member.node.shard_service().is_ready()
                        && map.active_pgs(None).count() >= NODES as usize
                })
            };
            if ready {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(120), "the grid does not settle");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Puts until it is acknowledged.
    async fn must_put(&self, node: u64, key: &str, size: usize) {
        let begin = tokio::time::Instant::now();
        loop {
            match put(&self.grid(node), "raft", key, &content(size as u64, size)).await {
                Ok(_) => return,
                Err(error) if begin.elapsed() > Duration::from_secs(60) => panic!("{key}: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }
}

#[test]
fn stores_and_reads_over_raft_with_two_of_seven_killed_and_revived() {
    let hash = |seed| {
        let world = World::new(seed);
        world.run(async {
            let cluster = RaftCluster::start(&world).await;
            cluster.grid(3).create_bucket("raft", "me").await.unwrap();
            // All of five voters before any dies.
            tokio::time::sleep(Duration::from_secs(20)).await;
            let sizes = [100usize, 20_000, 700_000, 2_200_000];
            for size in sizes {
                cluster.must_put(1 + size as u64 % 7, &format!("before{size}"), size).await;
            }
            cluster.kill(1);
            cluster.kill(2);
            for size in sizes {
                cluster.must_put(3 + size as u64 % 5, &format!("during{size}"), size).await;
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
            for size in sizes {
                for phase in ["before", "during"] {
                    let key = format!("{phase}{size}");
                    let got = get(&cluster.grid(7), "raft", &key).await;
                    assert!(got == Ok(content(size as u64, size).to_vec()), "{key}");
                }
            }
            cluster.start_node(1).await;
            cluster.start_node(2).await;
            cluster.settle().await;
            for size in sizes {
                cluster.must_put(1, &format!("after{size}"), size).await;
                for phase in ["before", "during", "after"] {
                    let key = format!("{phase}{size}");
                    let got = get(&cluster.grid(2), "raft", &key).await;
                    assert!(got == Ok(content(size as u64, size).to_vec()), "{key}");
                }
            }
        });
        world.trace_hash()
    };
    assert_eq!(hash(31), hash(31), "the same seed gives the same run");
}
