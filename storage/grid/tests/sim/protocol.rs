//! The block protocol seen from the grid: waiting, epochs, sessions, unknown outcomes, repair.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nexusgrid_codec::{Epoch, GroupId};
use nexusgrid_drive::{ReadOptions, ShardKey};
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::shard::wire::{self, ShardRequest};
use nexusgrid_grid::*;
use nexusgrid_meta::namespace::types::{
    NamespaceAnswer, NamespaceQuery, PieceData, RangeSpec, decode_query_reply,
};
use nexusgrid_meta::root::topology::PgState;
use nexusgrid_meta::root::types::RootCommand;

use super::cluster::{Cluster, Verdict, body, content, get, put, put_request, seal, until};
use super::faults::holes;

const LARGE: usize = 900_000;

async fn ready(world: &World) -> Cluster {
    let cluster = Cluster::start(world, 7).await;
    cluster.grid(1).create_bucket("proto", "me").await.unwrap();
    put(&cluster.grid(1), "proto", "warm", &content(0, LARGE)).await.unwrap();
    cluster
}

/// Where the first block of an object is.
fn extent(cluster: &Cluster, key: &str) -> nexusgrid_meta::namespace::types::Extent {
    let topology = cluster.topology();
    let bucket = topology.bucket("proto").unwrap();
    let query = NamespaceQuery::Get {
        bucket: bucket.id,
        key: key.as_bytes().to_vec(),
        range: RangeSpec::Full,
    };
    let reply = cluster.meta.ask(bucket.group, &query.encode()).unwrap();
    match decode_query_reply(&reply).unwrap().unwrap() {
        NamespaceAnswer::Get(got) => match &got.map.pieces[0].data {
            PieceData::Extent(extent) => *extent,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Makes every node treat shard puts by `verdict`, given the node.
fn on_puts(cluster: &Cluster, verdict: impl Fn(u64) -> Verdict + Send + Sync + 'static) {
    let verdict = Arc::new(verdict);
    for (node, member) in cluster.members.lock().iter() {
        let (verdict, node) = (Arc::clone(&verdict), node.0);
        *member.router.filter.lock() = Some(Arc::new(move |request| {
            if request.method == wire::PUT.id { verdict(node) } else { Verdict::Pass }
        }));
    }
}

fn end_filter(cluster: &Cluster) {
    for member in cluster.members.lock().values() {
        *member.router.filter.lock() = None;
    }
}

async fn timed_put(cluster: &Cluster, key: &str) -> (Result<PutOutcome, GridError>, Duration) {
    let begin = tokio::time::Instant::now();
    let result = put(&cluster.grid(1), "proto", key, &content(1, LARGE)).await;
    (result, begin.elapsed())
}

#[test]
fn waits_two_seconds_for_the_living_a_quarter_for_suspects_not_for_the_dead() {
    let world = World::new(21);
    world.run(async {
        let cluster = ready(&world).await;
        let (_, plain) = timed_put(&cluster, "plain").await;
        assert!(plain < Duration::from_millis(200), "{plain:?}");
        // Every placement group but one has node 7 in it; there is no way round it and node 6.
        let hint = |node: u64, hint: Option<NodeHint>| {
            let mut set = cluster.observer.set.lock();
            match hint {
                Some(hint) => drop(set.insert(NodeId(node), hint)),
                None => drop(set.remove(&NodeId(node))),
            }
        };
        let slow = |node| {
            if node >= 6 { Verdict::Delay(Duration::from_secs(8)) } else { Verdict::Pass }
        };
        on_puts(&cluster, slow);
        hint(6, Some(NodeHint::Dead));
        // The group without 7 has 6 dead in it and five that answer at once: nobody waits for 6.
        hint(7, Some(NodeHint::Dead));
        let (result, dead) = timed_put(&cluster, "dead").await;
        result.unwrap();
        assert!(dead < Duration::from_millis(200), "{dead:?}");

        hint(7, Some(NodeHint::Suspect));
        hint(6, Some(NodeHint::Suspect));
        let (result, suspect) = timed_put(&cluster, "suspect").await;
        result.unwrap();
        let quarter = Duration::from_millis(250)..Duration::from_millis(450);
        assert!(quarter.contains(&suspect), "{suspect:?}");

        tokio::time::sleep(Duration::from_secs(10)).await;
        hint(6, None);
        hint(7, None);
        // Only one is slow now, and held alive: two seconds, then without it.
        on_puts(&cluster, |node| {
            if node == 7 { Verdict::Delay(Duration::from_secs(8)) } else { Verdict::Pass }
        });
        let mut waited = Duration::ZERO;
        for index in 0..8 {
            // Past the time for which this process itself distrusts who did not answer.
            tokio::time::sleep(Duration::from_secs(6)).await;
            let (result, took) = timed_put(&cluster, &format!("alive{index}")).await;
            result.unwrap();
            waited = waited.max(took);
        }
        let two = Duration::from_millis(2000)..Duration::from_millis(2300);
        assert!(two.contains(&waited), "{waited:?}");
    });
}

#[test]
fn what_a_live_drive_missed_is_refilled_at_once() {
    let world = World::new(22);
    world.run(async {
        let cluster = ready(&world).await;
        on_puts(&cluster, |node| if node == 4 { Verdict::Fail } else { Verdict::Pass });
        for index in 0..6 {
            let key = format!("k{index}");
            put(&cluster.grid(1), "proto", &key, &content(index, LARGE)).await.unwrap();
        }
        assert!(holes(&cluster) > 0, "the commit names what is missing");
        end_filter(&cluster);
        until(Duration::from_secs(5), || holes(&cluster) == 0).await;
        // Every shard is on its drive, whoever brought it.
        for index in 0..6 {
            let extent = extent(&cluster, &format!("k{index}"));
            assert_all_shards(&cluster, extent.block, extent.pg).await;
        }
    });
}

async fn assert_all_shards(
    cluster: &Cluster,
    block: nexusgrid_codec::BlockId,
    pg: nexusgrid_codec::PgId,
) {
    let topology = cluster.topology();
    for (slot, drive) in (0u8..).zip(&topology.pgs[&pg].slots) {
        let store = cluster.member(topology.drives[drive].node.0).drive.clone();
        let key = ShardKey { block, index: slot };
        let read = ReadOptions { range: None, verify: true };
        store.get(key, read).await.unwrap_or_else(|error| panic!("slot {slot}: {error}"));
    }
}

#[test]
fn an_epoch_that_moves_during_a_put_makes_it_put_again() {
    let world = World::new(23);
    world.run(async {
        let cluster = Arc::new(ready(&world).await);
        // While the first shard is on its way every placement group's epoch moves on, and the
        // drives learn of it before the writer does.
        let moved = Arc::new(AtomicUsize::new(0));
        for member in cluster.members.lock().values() {
            let (moved, cluster) = (Arc::clone(&moved), Arc::downgrade(&cluster));
            *member.router.filter.lock() = Some(Arc::new(move |request| {
                if request.method != wire::PUT.id || moved.fetch_add(1, Ordering::SeqCst) != 0 {
                    return Verdict::Pass;
                }
                let Some(cluster) = cluster.upgrade() else { return Verdict::Pass };
                bump_all_epochs(&cluster);
                Verdict::Pass
            }));
        }
        // A writer that follows the map only when told to.
        for round in 0..4 {
            moved.store(0, Ordering::SeqCst);
            let key = format!("epoch{round}");
            put(&cluster.grid(1), "proto", &key, &content(round, LARGE)).await.unwrap();
            let extent = extent(&cluster, &key);
            let topology = cluster.topology();
            let epoch = topology.pgs[&extent.pg].epoch;
            // All acknowledgements are of one epoch: the stamps on at least q drives agree (R3).
            let mut stamps = Vec::new();
            for (slot, drive) in (0u8..).zip(&topology.pgs[&extent.pg].slots) {
                let store = cluster.member(topology.drives[drive].node.0).drive.clone();
                let shard = ShardKey { block: extent.block, index: slot };
                if let Some(stat) = store.stat(shard).await.unwrap() {
                    stamps.push(stat.epoch);
                }
            }
            let newest = stamps.iter().max().copied().unwrap();
            let of_newest = stamps.iter().filter(|stamp| **stamp == newest).count();
            assert!(of_newest >= 5, "{stamps:?}");
            assert!(newest <= epoch);
            assert!(get(&cluster.grid(3), "proto", &key).await.unwrap() == content(round, LARGE));
        }
        for member in cluster.members.lock().values() {
            *member.router.filter.lock() = None;
        }
    });
}

/// Remaps a slot of each placement group to a drive that was left out, and fences the drives.
fn bump_all_epochs(cluster: &Cluster) {
    let topology = cluster.topology();
    for pg in topology.pgs.values().filter(|pg| pg.state == PgState::Active) {
        let spare = topology.drives.keys().find(|drive| !pg.slots.contains(drive));
        let Some(spare) = spare else { continue };
        let moves = vec![(0, *spare)];
        cluster.root(&RootCommand::PreparePg { pg: pg.id, from: pg.epoch, moves, now_ms: 5 });
        let epoch = Epoch(pg.epoch.0 + 1);
        cluster.root(&RootCommand::CleanPg { pg: pg.id, epoch });
        for drive in pg.slots.iter().chain([spare]) {
            let node = topology.drives[drive].node.0;
            let store = cluster.member(node).drive.clone();
            let pg = pg.id;
            tokio::spawn(async move { store.fence(pg, epoch).await.unwrap() });
        }
    }
}

#[test]
fn a_commit_whose_reply_is_lost_is_done_once() {
    let world = World::new(24);
    world.run(async {
        let cluster = ready(&world).await;
        for (index, size) in [100, 20_000, LARGE].into_iter().enumerate() {
            let bytes = content(index as u64, size);
            let mut request = put_request("proto", &format!("once{index}"), Some(size));
            // Done twice, the second would fail on this.
            request.precondition.if_none_match = Some(EtagMatch::Any);
            *cluster.meta.lose_replies.lock() = 1;
            let outcome = cluster.grid(2).put(request, body(&bytes), seal("e")).await.unwrap();
            assert_eq!(outcome.size, size as u64);
        }
    });
}

#[test]
fn without_metadata_there_is_a_clear_no() {
    let world = World::new(25);
    world.run(async {
        let cluster = ready(&world).await;
        *cluster.meta.down.lock() = true;
        let (result, took) = timed_put(&cluster, "down").await;
        assert!(matches!(result, Err(GridError::Unavailable(_))), "{result:?}");
        assert!(took < Duration::from_secs(40), "{took:?}");
        *cluster.meta.down.lock() = false;
        put(&cluster.grid(1), "proto", "up", &content(0, 10)).await.unwrap();
    });
}

#[test]
fn block_ids_are_never_used_twice() {
    let world = World::new(26);
    world.run(async {
        let cluster = ready(&world).await;
        let seen = Arc::new(parking_lot::Mutex::new(std::collections::BTreeMap::new()));
        for member in cluster.members.lock().values() {
            let seen = Arc::clone(&seen);
            *member.router.filter.lock() = Some(Arc::new(move |request| {
                if let Ok(ShardRequest::Put { header, .. }) = wire::decode(&request.head) {
                    let (header, _) = nexusgrid_codec::ShardHeader::decode(&header).unwrap();
                    let known = seen
                        .lock()
                        .entry(header.block)
                        .or_insert_with(|| header.digests.clone())
                        .clone();
                    assert_eq!(known, header.digests, "I3 {}", header.block);
                }
                Verdict::Pass
            }));
        }
        for round in 0..4u64 {
            let tasks: Vec<_> = (1..=7)
                .map(|node| {
                    let grid = cluster.grid(node);
                    tokio::spawn(async move {
                        for (index, size) in [10_000, LARGE].into_iter().enumerate() {
                            let key = format!("n{node}-{round}-{index}");
                            put(&grid, "proto", &key, &content(node + round, size)).await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            world.jump(NodeId(1 + round), Duration::from_secs(600));
        }
        assert!(seen.lock().len() > 30);
    });
}

#[test]
fn a_lost_shard_is_read_round_reported_and_brought_back() {
    let world = World::new(27);
    world.run(async {
        let cluster = ready(&world).await;
        put(&cluster.grid(1), "proto", "key", &content(5, LARGE)).await.unwrap();
        let extent = extent(&cluster, "key");
        let topology = cluster.topology();
        let slots = topology.pgs[&extent.pg].slots.clone();
        for slot in [0u8, 2] {
            let drive = slots[usize::from(slot)];
            let store = cluster.member(topology.drives[&drive].node.0).drive.clone();
            let trashed = store.trash(&[ShardKey { block: extent.block, index: slot }]).await;
            assert_eq!(trashed, Ok(1));
        }
        assert!(get(&cluster.grid(1), "proto", "key").await.unwrap() == content(5, LARGE));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_all_shards(&cluster, extent.block, extent.pg).await;
    });
}

#[test]
fn drives_hold_ciphertext_only() {
    let world = World::new(28);
    world.run(async {
        let cluster = ready(&world).await;
        let marker = b"a marker that nobody may find on a drive ".repeat(200);
        let marker = bytes::Bytes::from(marker);
        let large = bytes::Bytes::from(marker.repeat(90));
        put(&cluster.grid(1), "proto", "packed", &marker).await.unwrap();
        put(&cluster.grid(1), "proto", "large", &large).await.unwrap();
        assert!(get(&cluster.grid(2), "proto", "large").await.unwrap() == large);
        for key in ["packed", "large"] {
            let extent = extent(&cluster, key);
            let topology = cluster.topology();
            for (slot, drive) in (0u8..).zip(&topology.pgs[&extent.pg].slots) {
                let store = cluster.member(topology.drives[drive].node.0).drive.clone();
                let shard = ShardKey { block: extent.block, index: slot };
                let read = store.get(shard, ReadOptions::default()).await.unwrap();
                let found = read.bytes.windows(16).any(|window| window == &marker[..16]);
                assert!(!found, "{key} slot {slot}");
            }
        }
        let _ = GroupId(0);
    });
}

#[test]
fn the_budget_turns_away_what_it_cannot_hold() {
    let world = World::new(29);
    world.run(async {
        let mut options = super::cluster::options(7);
        options.budget_bytes = 4 << 20;
        options.budget_wait = Duration::from_secs(2);
        let cluster = Cluster::start_with(&world, 7, options).await;
        cluster.grid(1).create_bucket("proto", "me").await.unwrap();
        // Clients that send nothing after their first bytes hold what they reserved.
        let mut stalled = Vec::new();
        for index in 0..3 {
            let grid = cluster.grid(1);
            stalled.push(tokio::spawn(async move {
                let request = put_request("proto", &format!("stalled{index}"), Some(1 << 20));
                let body: BodyStream = Box::pin(futures_util::stream::pending());
                grid.put(request, body, seal("e")).await
            }));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (result, took) = timed_put(&cluster, "late").await;
        assert_eq!(result.unwrap_err(), GridError::SlowDown);
        assert!((2000..2200).contains(&took.as_millis()), "{took:?}");
        for task in stalled {
            task.abort();
        }
        tokio::task::yield_now().await;
        timed_put(&cluster, "late").await.0.unwrap();
        let (free, capacity) = cluster.grid(1).budget_bytes();
        assert_eq!(free, capacity, "everything was given back");
    });
}
