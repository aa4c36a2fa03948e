//! Nodes die, drives lose bytes, power fails: what was acknowledged stays, and nothing wrong is read.

use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_env::sim::World;
use nexusgrid_grid::*;
use nexusgrid_meta::namespace::types::{NamespaceAnswer, NamespaceQuery, decode_query_reply};

use super::cluster::{Cluster, content, get, put, until};

const SIZES: [usize; 4] = [1000, 50_000, 700_000, 2_300_000];

async fn fill(cluster: &Cluster, writer: u64, prefix: &str) -> Vec<(String, Bytes)> {
    let mut stored = Vec::new();
    for (index, size) in SIZES.iter().enumerate() {
        let bytes = content((size + index) as u64, *size);
        let key = format!("{prefix}/{size}");
        put(&cluster.grid(writer), "faults", &key, &bytes).await.unwrap();
        stored.push((key, bytes));
    }
    stored
}

async fn check(cluster: &Cluster, reader: u64, stored: &[(String, Bytes)]) {
    for (key, bytes) in stored {
        let got = get(&cluster.grid(reader), "faults", key).await;
        assert!(got.as_deref() == Ok(bytes.as_ref()), "{key}: {:?}", got.err());
    }
}

/// Holes in all repair queues.
pub fn holes(cluster: &Cluster) -> usize {
    let query = NamespaceQuery::RepairQueue { pg: None, after: None, limit: 1000 }.encode();
    let count = |group| {
        let reply = cluster.meta.ask(GroupId(group), &query).unwrap();
        match decode_query_reply(&reply).unwrap().unwrap() {
            NamespaceAnswer::Repairs { repairs, .. } => repairs.len(),
            other => panic!("{other:?}"),
        }
    };
    (1..=super::cluster::GROUPS).map(count).sum()
}

#[test]
fn two_dead_nodes_stop_nobody_and_three_stop_writes_cleanly() {
    let world = World::new(11);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        cluster.grid(1).create_bucket("faults", "me").await.unwrap();
        let mut stored = fill(&cluster, 1, "before").await;
        cluster.kill(6);
        cluster.kill(7);
        // At once, while membership still holds them alive, and after it knows.
        check(&cluster, 2, &stored).await;
        stored.extend(fill(&cluster, 3, "unnoticed").await);
        tokio::time::sleep(Duration::from_secs(10)).await;
        check(&cluster, 4, &stored).await;
        stored.extend(fill(&cluster, 4, "degraded").await);
        check(&cluster, 5, &stored).await;

        cluster.kill(5);
        tokio::time::sleep(Duration::from_secs(10)).await;
        let large = put(&cluster.grid(1), "faults", "refused", &content(1, 900_000)).await;
        assert!(matches!(large, Err(GridError::Unavailable(_))), "{large:?}");
        assert_eq!(
            cluster.grid(1).head("faults", "refused").await.unwrap_err(),
            GridError::NoSuchKey
        );
        // Four of six shards are enough to read where at most two of the dead hold one.
        for (key, bytes) in &stored {
            match get(&cluster.grid(1), "faults", key).await {
                Ok(got) => assert!(got == *bytes, "{key}"),
                Err(GridError::Unreadable(_)) => {}
                Err(other) => panic!("{key}: {other}"),
            }
        }
        for index in 5..=7 {
            cluster.start_node(NodeId(index)).await;
        }
        cluster.until_ready().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        stored.extend(fill(&cluster, 7, "after").await);
        for reader in 1..=7 {
            check(&cluster, reader, &stored).await;
        }
        // Whatever the dead missed is brought to them.
        until(Duration::from_secs(120), || holes(&cluster) == 0).await;
        cluster.kill(1);
        cluster.kill(2);
        check(&cluster, 3, &stored).await;
    });
}

#[test]
fn power_lost_on_all_nodes_loses_nothing_acknowledged() {
    let world = World::new(12);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        cluster.grid(1).create_bucket("faults", "me").await.unwrap();
        let mut stored = Vec::new();
        for round in 0..3 {
            stored.extend(fill(&cluster, 1 + round, &format!("round{round}")).await);
            for index in 1..=7 {
                cluster.crash(index);
            }
            for index in 1..=7 {
                cluster.start_node(NodeId(index)).await;
            }
            cluster.until_ready().await;
            check(&cluster, 2, &stored).await;
        }
    });
}

#[test]
fn a_suspended_node_wakes_into_a_new_session_and_refuses_writes_until_it_read_the_map() {
    let world = World::new(13);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        cluster.grid(1).create_bucket("faults", "me").await.unwrap();
        let mut stored = fill(&cluster, 1, "before").await;
        world.jump(NodeId(1), Duration::from_secs(3600));
        assert!(!cluster.member(1).node.shard_service().is_ready());
        stored.extend(fill(&cluster, 1, "after").await);
        until(Duration::from_secs(10), || cluster.member(1).node.shard_service().is_ready()).await;
        check(&cluster, 2, &stored).await;
    });
}

#[test]
fn a_slow_node_does_not_slow_reads_much() {
    let world = World::new(14);
    world.run(async {
        let cluster = Cluster::start(&world, 7).await;
        cluster.grid(1).create_bucket("faults", "me").await.unwrap();
        let bytes = content(1, 900_000);
        for index in 0..20 {
            put(&cluster.grid(1), "faults", &format!("k{index}"), &bytes).await.unwrap();
        }
        // Let the reader learn what is normal.
        for index in 0..20 {
            get(&cluster.grid(2), "faults", &format!("k{index}")).await.unwrap();
        }
        world.net().set_slow(NodeId(7), 1000);
        let mut worst = Duration::ZERO;
        for index in 0..20 {
            let begin = tokio::time::Instant::now();
            get(&cluster.grid(2), "faults", &format!("k{index}")).await.unwrap();
            worst = worst.max(begin.elapsed());
        }
        assert!(worst < Duration::from_millis(2500), "{worst:?}");
    });
}
