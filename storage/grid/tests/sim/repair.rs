//! Slots move off what is lost or leaves: by themselves, under load, and only as much as must.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::{BlockId, DriveId, GroupId, PgId};
use nexusgrid_drive::ShardStat;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::shard::wire::{self, ShardRequest};
use nexusgrid_grid::*;
use nexusgrid_meta::namespace::types::{
    BlockState, NamespaceAnswer, NamespaceQuery, decode_query_reply,
};
use nexusgrid_meta::root::topology::{Pg, PgState};
use nexusgrid_meta::root::types::{DriveState, NodeState, RootCommand, Sighting};
use parking_lot::Mutex;

use super::cluster::{Cluster, Verdict, content, get, put, until};
use super::faults::holes;

mod chaos;
mod evened;

const BUCKET: &str = "repair";
const SIZES: [usize; 4] = [30_000, 200_000, 700_000, 2_300_000];
const PATIENCE: Duration = Duration::from_secs(600);

/// Nodes that are down for ten seconds are lost.
fn options(nodes: u64) -> GridOptions {
    let mut options = super::cluster::options(nodes);
    options.care.sweep_every = Duration::from_secs(60);
    options.care.remap.every = Duration::from_millis(200);
    options.care.remap.grace_stable = Duration::from_secs(10);
    options.care.remap.grace_urgent = Duration::from_secs(2);
    options.care.remap.in_flight_percent = 20;
    options.care.remap.bytes_per_second = 1 << 30;
    options.care.remap.balance_after = Duration::MAX;
    options.care.remap.retry_max = Duration::from_secs(2);
    options
}

/// What clients were told: what is acknowledged under each key, and what is deleted.
type Truth = Arc<Mutex<BTreeMap<String, Option<Bytes>>>>;

struct Scene {
    cluster: Arc<Cluster>,
    truth: Truth,
    /// Bytes of repair writes that arrived at drives.
    moved: Arc<AtomicU64>,
}

impl Scene {
    async fn start(world: &World, nodes: u64) -> Scene {
        let cluster = Arc::new(Cluster::start_with(world, nodes, options(nodes)).await);
        cluster.grid(1).create_bucket(BUCKET, "me").await.unwrap();
        let scene = Scene { cluster, truth: Truth::default(), moved: Arc::new(AtomicU64::new(0)) };
        scene.count_moves();
        scene
    }

    /// Counts repair writes on every node that runs now.
    fn count_moves(&self) {
        for member in self.cluster.members.lock().values() {
            let moved = Arc::clone(&self.moved);
            *member.router.filter.lock() = Some(Arc::new(move |request| {
                if request.method == wire::PUT.id
                    && let Ok(ShardRequest::Put { fill: Some(_), .. }) =
                        wire::decode::<ShardRequest>(&request.head)
                {
                    moved.fetch_add(request.body.len() as u64, Ordering::Relaxed);
                }
                Verdict::Pass
            }));
        }
    }

    async fn write(&self, writer: u64, key: &str, bytes: Bytes) {
        put(&self.cluster.grid(writer), BUCKET, key, &bytes).await.unwrap();
        self.truth.lock().insert(key.to_owned(), Some(bytes));
    }

    async fn write_some(&self, writer: u64, prefix: &str, rounds: usize) {
        for round in 0..rounds {
            for size in SIZES {
                let bytes = content((size * 31 + round) as u64, size);
                self.write(writer, &format!("{prefix}/{round}/{size}"), bytes).await;
            }
        }
    }

    async fn delete(&self, node: u64, key: &str) {
        let request = DeleteRequest {
            bucket: BUCKET.to_owned(),
            key: key.to_owned(),
            precondition: Precondition::default(),
        };
        self.cluster.grid(node).delete(request).await.unwrap();
        self.truth.lock().insert(key.to_owned(), None);
    }

    /// Writes in the background until told to stop; failures are not in the truth.
    fn load(
        &self,
        writer: u64,
    ) -> (Arc<std::sync::atomic::AtomicBool>, tokio::task::JoinHandle<u64>) {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (cluster, truth, stopped) =
            (Arc::clone(&self.cluster), Arc::clone(&self.truth), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut done = 0;
            for index in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    return done;
                }
                let size = SIZES[index % SIZES.len()];
                let (key, bytes) = (format!("load/{index}"), content(index as u64, size));
                if put(&cluster.grid(writer), BUCKET, &key, &bytes).await.is_ok() {
                    truth.lock().insert(key, Some(bytes));
                    done += 1;
                }
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
            unreachable!()
        });
        (stop, task)
    }

    async fn check(&self, reader: u64) {
        let truth = self.truth.lock().clone();
        for (key, wanted) in &truth {
            let got = get(&self.cluster.grid(reader), BUCKET, key).await;
            match wanted {
                Some(bytes) => {
                    assert!(got.as_deref() == Ok(bytes.as_ref()), "{key}: {:?}", got.err());
                }
                None => assert_eq!(got.err(), Some(GridError::NoSuchKey), "{key} is back"),
            }
        }
    }

    /// Waits until every group is clean, and none has a slot on these drives.
    async fn until_clean_without(&self, gone: &[u64]) {
        let begin = tokio::time::Instant::now();
        loop {
            let topology = self.cluster.topology();
            let is_done = topology.pgs.values().all(|pg| {
                !matches!(pg.state, PgState::Preparing(_))
                    && pg.slots.iter().all(|drive| !gone.contains(&drive.0))
            });
            if is_done {
                return;
            }
            if begin.elapsed() > PATIENCE {
                for pg in topology.pgs.values() {
                    eprintln!("{} {:?} {:?} {:?}", pg.id.0, pg.slots, pg.epoch, pg.state);
                }
                for (node, member) in self.cluster.members.lock().iter() {
                    eprintln!("{node}: {:?}", member.node.workers().list());
                }
                panic!("not clean after {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn shards_on(&self, drive: u64) -> Vec<ShardStat> {
        let (store, mut all) = (self.cluster.member(drive).drive.clone(), Vec::new());
        loop {
            let after = all.last().map(|stat: &ShardStat| stat.key);
            let page = store.list_blocks(after, 1000).await.unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page);
        }
    }

    /// Bytes that a drive holds in slots of placement groups.
    async fn bytes_on(&self, drive: u64) -> u64 {
        self.shards_on(drive).await.iter().map(|stat| stat.body_bytes).sum()
    }

    fn states(&self, blocks: &BTreeSet<BlockId>) -> BTreeMap<BlockId, BlockState> {
        let mut states = BTreeMap::new();
        for group in 1..=super::cluster::GROUPS {
            let of_group: Vec<BlockId> =
                blocks.iter().copied().filter(|block| block.group == GroupId(group)).collect();
            let query = NamespaceQuery::ResolveBlocks { blocks: of_group.clone() }.encode();
            let reply = self.cluster.meta.ask(GroupId(group), &query).unwrap();
            match decode_query_reply(&reply).unwrap().unwrap() {
                NamespaceAnswer::Blocks(found) => states.extend(of_group.into_iter().zip(found)),
                other => panic!("{other:?}"),
            }
        }
        states
    }

    /// I2 with nothing left to repair: every live block has a shard in every slot of its group.
    async fn assert_complete(&self) {
        until(PATIENCE, || holes(&self.cluster) == 0).await;
        let mut held: BTreeMap<(PgId, u8, DriveId), BTreeSet<BlockId>> = BTreeMap::new();
        let mut blocks = BTreeSet::new();
        let nodes: Vec<u64> = self.cluster.members.lock().keys().map(|node| node.0).collect();
        for drive in nodes {
            for stat in self.shards_on(drive).await {
                blocks.insert(stat.key.block);
                let place = (stat.pg, stat.key.index, DriveId(drive));
                held.entry(place).or_default().insert(stat.key.block);
            }
        }
        let topology = self.cluster.topology();
        let mut live = 0;
        for (block, state) in self.states(&blocks) {
            let BlockState::Live { pg, .. } = state else { continue };
            live += 1;
            for (slot, drive) in (0u8..).zip(&topology.pgs[&pg].slots) {
                let has = held.get(&(pg, slot, *drive)).is_some_and(|set| set.contains(&block));
                assert!(has, "I2: {block} of {pg:?} lacks slot {slot} on {drive:?}");
            }
        }
        assert!(live > 0);
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}

#[test]
fn a_node_lost_for_good_under_load_is_healed_by_what_it_held() {
    let world = World::new(41);
    world.run(async {
        let scene = Scene::start(&world, 8).await;
        scene.write_some(1, "before", 6).await;
        scene.assert_complete().await;
        let held = scene.bytes_on(8).await;
        let (stop, load) = scene.load(2);
        scene.cluster.kill(8);
        scene.check(3).await;
        scene.until_clean_without(&[8]).await;
        stop.store(true, Ordering::Relaxed);
        assert!(load.await.unwrap() > 20);
        let moved = scene.moved();
        scene.check(4).await;
        scene.assert_complete().await;
        // What was written while it was missed, and before it was, counts as well.
        eprintln!("held {held}, moved {moved}");
        assert!(moved >= held, "{moved} of {held} bytes");
        // Nothing moves any more, and nothing is drawn on it.
        let before = scene.cluster.topology();
        tokio::time::sleep(Duration::from_secs(120)).await;
        let after = scene.cluster.topology();
        let shape = |topology: &nexusgrid_meta::root::topology::Topology| -> Vec<_> {
            topology.pgs.values().map(|pg| (pg.id, pg.slots.clone(), pg.epoch)).collect()
        };
        assert_eq!(shape(&before), shape(&after));
    });
}

#[test]
fn a_removed_node_costs_no_more_than_it_held() {
    for how in 0..3 {
        let world = World::new(42 + how);
        world.run(async {
            let scene = Scene::start(&world, 8).await;
            scene.write_some(1, "before", 6).await;
            scene.assert_complete().await;
            let held = scene.bytes_on(5).await;
            let before = scene.moved();
            let now_ms = 1;
            match how {
                0 => {
                    scene.cluster.kill(5);
                    let state = NodeState::Removed;
                    scene.cluster.root(&RootCommand::SetNodeState {
                        node: NodeId(5),
                        state,
                        now_ms,
                    });
                }
                1 => {
                    let state = NodeState::Leaving;
                    scene.cluster.root(&RootCommand::SetNodeState {
                        node: NodeId(5),
                        state,
                        now_ms,
                    });
                }
                _ => {
                    let state = DriveState::Failed;
                    scene.cluster.root(&RootCommand::SetDriveState { drive: DriveId(5), state });
                }
            }
            scene.until_clean_without(&[5]).await;
            let moved = scene.moved() - before;
            assert!(
                moved >= held && moved * 10 <= held * 11,
                "{how}: {moved} bytes moved for {held}"
            );
            scene.check(2).await;
            scene.assert_complete().await;
            if how > 0 {
                // What moved away goes to the trash; the drive is empty.
                let store = scene.cluster.member(5).drive.clone();
                let begin = tokio::time::Instant::now();
                while store.usage().await.unwrap().shards > 0 {
                    assert!(begin.elapsed() < PATIENCE);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        });
    }
}

#[test]
fn two_nodes_one_after_the_other() {
    let world = World::new(46);
    world.run(async {
        let scene = Scene::start(&world, 9).await;
        scene.write_some(1, "before", 4).await;
        scene.cluster.kill(9);
        scene.until_clean_without(&[9]).await;
        scene.write_some(2, "between", 2).await;
        scene.cluster.kill(8);
        scene.until_clean_without(&[8, 9]).await;
        scene.check(3).await;
        scene.assert_complete().await;
    });
}

#[test]
fn two_nodes_at_once() {
    let world = World::new(47);
    world.run(async {
        let scene = Scene::start(&world, 9).await;
        scene.write_some(1, "before", 4).await;
        scene.assert_complete().await;
        scene.cluster.kill(9);
        scene.cluster.kill(8);
        scene.until_clean_without(&[8, 9]).await;
        scene.check(3).await;
        scene.assert_complete().await;
    });
}

/// Puts of the old epoch are on their way while slots move: they are refused, or count for nothing.
#[test]
fn r1_r3_writes_under_way_while_slots_move_are_whole() {
    let world = World::new(44);
    world.run(async {
        let scene = Scene::start(&world, 8).await;
        scene.write_some(1, "before", 2).await;
        scene.assert_complete().await;
        // Two drives answer writers late: too late for the epoch they were sent under.
        for slow in [2, 3] {
            let member = scene.cluster.member(slow);
            let inner = member.router.filter.lock().clone();
            *member.router.filter.lock() = Some(Arc::new(move |request| {
                let is_fill = matches!(
                    wire::decode::<ShardRequest>(&request.head),
                    Ok(ShardRequest::Put { fill: Some(_), .. })
                );
                match (&inner, request.method == wire::PUT.id && !is_fill) {
                    (_, true) => Verdict::Delay(Duration::from_millis(4_000)),
                    (Some(inner), false) => inner(request),
                    (None, false) => Verdict::Pass,
                }
            }));
        }
        let writers: Vec<_> = (0..24u64)
            .map(|index| {
                let (grid, truth) = (scene.cluster.grid(4 + index % 3), Arc::clone(&scene.truth));
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(index * 150)).await;
                    let bytes = content(index, SIZES[index as usize % SIZES.len()]);
                    let key = format!("late/{index}");
                    if put(&grid, BUCKET, &key, &bytes).await.is_ok() {
                        truth.lock().insert(key, Some(bytes));
                        return 1;
                    }
                    0
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (drive, state) = (DriveId(8), DriveState::Failed);
        scene.cluster.root(&RootCommand::SetDriveState { drive, state });
        scene.until_clean_without(&[8]).await;
        let mut acknowledged = 0;
        for writer in writers {
            acknowledged += writer.await.unwrap();
        }
        assert!(acknowledged >= 20, "{acknowledged}");
        scene.check(5).await;
        scene.assert_complete().await;
    });
}

/// Nobody rebuilds what sleeps; and what sleeps may hold the one acknowledgement that counts.
#[test]
fn sleepers_are_not_rebuilt_and_are_listed_before_a_group_is_clean() {
    let world = World::new(45);
    world.run(async {
        let scene = Scene::start(&world, 9).await;
        scene.write_some(1, "before", 4).await;
        scene.assert_complete().await;
        let asleep = |node: u64| RootCommand::Report {
            reporter: NodeId(1),
            sightings: vec![(NodeId(node), Sighting::Asleep)],
            now_ms: 1,
        };
        // It says so before it goes: nobody misses it.
        scene.cluster.observer.set.lock().insert(NodeId(8), NodeHint::Dead);
        scene.cluster.root(&asleep(8));
        scene.cluster.kill(8);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(scene.moved(), 0, "rebuilt what sleeps");
        scene.check(2).await;
        scene.cluster.kill(9);
        let both = |pg: &Pg| pg.slots.contains(&DriveId(8));
        let begin = tokio::time::Instant::now();
        // Wide groups do without the sleeper: what they list meets every quorum.
        while scene
            .cluster
            .topology()
            .pgs
            .values()
            .any(|pg| pg.slots.contains(&DriveId(9)) && !(pg.class.is_replicated() && both(pg)))
        {
            assert!(begin.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(300)).await;
        let topology = scene.cluster.topology();
        let waiting: Vec<&Pg> =
            topology.pgs.values().filter(|pg| matches!(pg.state, PgState::Preparing(_))).collect();
        assert!(!waiting.is_empty(), "no group of copies had both");
        assert!(waiting.iter().all(|pg| pg.class.is_replicated() && both(pg)), "{waiting:?}");
        let says = |text: &str| {
            scene.cluster.members.lock().values().any(|member| {
                let workers = member.node.workers().list();
                workers.iter().any(|of| of.error.as_ref().is_some_and(|why| why.contains(text)))
            })
        };
        assert!(says("what sleeps must be listed first"));
        scene.check(3).await;
        scene.cluster.observer.set.lock().remove(&NodeId(8));
        scene.cluster.start_node(NodeId(8)).await;
        scene.until_clean_without(&[9]).await;
        scene.check(8).await;
        scene.assert_complete().await;
    });
}

#[test]
fn the_target_dies_in_the_middle_and_comes_back_or_not() {
    for comes_back in [true, false] {
        let world = World::new(48 + u64::from(comes_back));
        world.run(async {
            let scene = Scene::start(&world, 9).await;
            scene.write_some(1, "before", 6).await;
            scene.assert_complete().await;
            scene.cluster.kill(9);
            let mut victim = None;
            until(PATIENCE, || {
                let topology = scene.cluster.topology();
                let targets = topology.pgs.values().filter_map(|pg| match &pg.state {
                    PgState::Preparing(remap) => Some(remap.moves[0].to.0),
                    _ => None,
                });
                victim = targets.filter(|target| *target > 2).min();
                victim.is_some()
            })
            .await;
            let victim = victim.unwrap();
            tokio::time::sleep(Duration::from_millis(40)).await;
            scene.cluster.crash(victim);
            if comes_back {
                tokio::time::sleep(Duration::from_secs(3)).await;
                scene.cluster.start_node(NodeId(victim)).await;
                scene.until_clean_without(&[9]).await;
            } else {
                scene.until_clean_without(&[9, victim]).await;
            }
            scene.check(1).await;
            scene.assert_complete().await;
        });
    }
}

/// Tombstones on all drives that run.
async fn tombstones(cluster: &Cluster) -> u64 {
    let members: Vec<_> = cluster.members.lock().values().cloned().collect();
    let mut sum = 0;
    for member in members {
        sum += member.drive.usage().await.unwrap().tombstones;
    }
    sum
}

#[test]
fn r7_a_node_that_returns_brings_nothing_back_and_loses_nothing() {
    let world = World::new(50);
    world.run(async {
        let scene = Scene::start(&world, 8).await;
        scene.write_some(1, "before", 6).await;
        scene.assert_complete().await;
        let old = scene.shards_on(8).await;
        scene.cluster.kill(8);
        scene.until_clean_without(&[8]).await;
        // Deletes and overwrites while it is away; so long that nobody remembers them any more.
        let keys: Vec<String> = scene.truth.lock().keys().cloned().collect();
        for (index, key) in keys.iter().enumerate() {
            match index % 3 {
                0 => scene.delete(2, key).await,
                1 => scene.write(2, key, content(index as u64 + 1000, 700_000)).await,
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_secs(700)).await;
        assert!(tombstones(&scene.cluster).await > 0);
        for writer in [1, 2] {
            scene.cluster.kill(writer);
            scene.cluster.start_node(NodeId(writer)).await;
        }
        // Their leases end; what was deleted is unknown from then on.
        tokio::time::sleep(Duration::from_secs(120)).await;
        // It is back with all it had, and gets slots again before anybody has cleared it.
        let member = scene.cluster.start_node(NodeId(8)).await;
        scene.cluster.pause("leftovers", true).await;
        scene.count_moves();
        let was_there = |pg: PgId| old.iter().any(|stat| stat.pg == pg);
        scene.cluster.kill(7);
        scene.until_clean_without(&[7]).await;
        let topology = scene.cluster.topology();
        let again: Vec<PgId> = topology
            .pgs
            .values()
            .filter(|pg| pg.slots.contains(&DriveId(8)) && was_there(pg.id))
            .map(|pg| pg.id)
            .collect();
        assert!(!again.is_empty(), "it got none of its groups back");
        let held = scene.shards_on(8).await;
        let of_these: Vec<&ShardStat> =
            held.iter().filter(|stat| again.contains(&stat.pg)).collect();
        let states = scene.states(&of_these.iter().map(|stat| stat.key.block).collect());
        for stat in &of_these {
            assert!(
                matches!(states[&stat.key.block], BlockState::Live { .. }),
                "R7: {stat:?} is back: {:?}",
                states[&stat.key.block]
            );
        }
        assert!(member.drive.usage().await.unwrap().trash_shards > 0);
        scene.check(8).await;
        scene.assert_complete().await;
        // What it holds of groups that it is not in goes as well.
        scene.cluster.pause("leftovers", false).await;
        let begin = tokio::time::Instant::now();
        loop {
            let topology = scene.cluster.topology();
            let left = scene.shards_on(8).await;
            let is_left = |stat: &&ShardStat| {
                topology.pgs[&stat.pg].slots[usize::from(stat.key.index)] != DriveId(8)
            };
            if !left.iter().any(|stat| is_left(&stat)) {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "leftovers stay");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        scene.check(8).await;
    });
}
