//! Groups of several nodes in simulation: elections, faults, reads, snapshots, membership.

mod cluster;
mod faults;
mod membership;
mod restore;
mod rot;
mod watch;

use std::time::Duration;

use nexusgrid_env::NodeId;

use super::{Consistency, MetaError};
use cluster::{Cluster, GROUP, SOON, add, run, set};

#[test]
fn one_node_alone_decides_and_restarts() {
    run(1, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1]).await;
        assert_eq!(cluster.propose(1, add(7, 5)).await, Ok(5));
        assert_eq!(cluster.propose(1, add(7, 5)).await, Ok(10));
        assert_eq!(cluster.host(1).create_group(GROUP).await, Err(MetaError::Exists(GROUP)));
        cluster.kill(1);
        assert_eq!(cluster.start(1).await, [(GROUP, Ok(()))]);
        assert_eq!(cluster.read(1, 7).await, Ok(10));
    });
}

#[test]
fn three_nodes_replicate_and_every_node_serves() {
    run(2, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.start(4).await; // no replica: asks the voters
        for via in 1..=4 {
            assert_eq!(cluster.propose(via, add(1, 1)).await, Ok(via), "via {via}");
        }
        for via in 1..=4 {
            assert_eq!(cluster.read(via, 1).await, Ok(4), "via {via}");
        }
        for node in 1..=3 {
            cluster.caught_up(node).await;
            assert_eq!(cluster.local(node, 1), 4);
        }
    });
}

#[test]
fn the_leader_is_killed_and_five_nodes_go_on() {
    run(3, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3, 4, 5]).await;
        let mut sum = 0;
        for round in 0..4 {
            let leader = cluster.leader().await;
            cluster.kill(leader);
            let via = *cluster.hosts.keys().next().unwrap();
            sum += 1;
            assert_eq!(cluster.propose(via, add(1, 1)).await, Ok(sum), "round {round}");
            cluster.start(leader).await;
            assert_eq!(cluster.read(leader, 1).await, Ok(sum));
        }
    });
}

#[test]
fn power_fails_on_all_nodes_and_nothing_acknowledged_is_lost() {
    for seed in 10..16 {
        run(seed, |world| async move {
            let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
            let mut sum = 0;
            for _ in 0..3 {
                for _ in 0..30 {
                    sum += 1;
                    assert_eq!(cluster.propose(1 + sum % 3, add(1, 1)).await, Ok(sum));
                }
                (1..=3).for_each(|node| cluster.crash(node));
                for node in 1..=3 {
                    let started = cluster.start(node).await;
                    assert_eq!(started, [(GROUP, Ok(()))], "seed {seed}");
                }
                assert_eq!(cluster.read(2, 1).await, Ok(sum), "seed {seed}");
            }
        });
    }
}

#[test]
fn a_request_asked_again_is_answered_once_applied_once() {
    run(4, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        let request = cluster.request();
        assert_eq!(cluster.propose_as(1, request, add(1, 1)).await, Ok(1));
        cluster.propose(1, add(1, 1)).await.unwrap();
        assert_eq!(cluster.propose_as(2, request, add(1, 1)).await, Ok(1), "the first reply");
        let leader = cluster.leader().await;
        cluster.kill(leader);
        let via = *cluster.hosts.keys().next().unwrap();
        assert_eq!(
            cluster.propose_as(via, request, add(1, 1)).await,
            Ok(1),
            "after a leader change"
        );
        assert_eq!(cluster.read(via, 1).await, Ok(2));
    });
}

#[test]
fn too_large_is_refused_and_unknown_groups_are_named() {
    run(5, |world| async move {
        let cluster = Cluster::with_group(&world, &[1]).await;
        let host = cluster.host(1);
        let huge = vec![0; crate::limits::COMMAND_BYTES_MAX + 1].into();
        assert!(matches!(
            host.propose(GROUP, 1, huge, SOON).await,
            Err(MetaError::TooLarge { .. })
        ));
        cluster.directory.0.lock().clear();
        let nowhere = nexusgrid_codec::id::GroupId(99);
        let asked = host.propose(nowhere, 1, set(1, 1), Duration::from_secs(1)).await;
        assert_eq!(asked, Err(MetaError::UnknownGroup(nowhere)));
        let asked =
            host.query(nowhere, vec![1].into(), Consistency::Stale, Duration::from_secs(1)).await;
        assert_eq!(asked, Err(MetaError::UnknownGroup(nowhere)));
    });
}

#[test]
fn a_command_of_the_largest_size_passes_through_followers() {
    run(6, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        let mut body = set(1, 9).to_vec();
        body.resize(crate::limits::COMMAND_BYTES_MAX, 0);
        for via in 1..=3 {
            assert_eq!(cluster.propose(via, body.clone().into()).await, Ok(9));
        }
    });
}

#[test]
fn reads_share_rounds() {
    run(7, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.propose(1, set(1, 5)).await.unwrap();
        let leader = cluster.leader().await;
        let follower = (1..=3).find(|node| *node != leader).unwrap();
        let before = world.net().calls();
        let reads = (0..200).map(|_| cluster.read(follower, 1));
        for answer in futures_util::future::join_all(reads).await {
            assert_eq!(answer, Ok(5));
        }
        let calls = world.net().calls() - before;
        assert!(calls < 40, "{calls} calls for 200 reads");
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let world = nexusgrid_env::sim::World::new(seed);
        let inner = world.clone();
        world.run(async move {
            let mut cluster = Cluster::with_group(&inner, &[1, 2, 3]).await;
            for round in 0..3 {
                let leader = cluster.leader().await;
                cluster.kill(leader);
                let via = *cluster.hosts.keys().next().unwrap();
                cluster.propose(via, add(1, 1)).await.unwrap();
                inner.trace().record(format_args!("round {round} leader {leader}"));
                cluster.start(leader).await;
            }
        });
        (world.trace_hash(), world.elapsed())
    };
    assert_eq!(trace(42), trace(42));
    assert_ne!(trace(42), trace(43));
}

#[test]
fn a_suspended_leader_gives_leadership_away() {
    run(8, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.propose(1, set(1, 5)).await.unwrap();
        let leader = cluster.leader().await;
        world.jump(NodeId(leader), Duration::from_secs(3600));
        cluster.sleep(Duration::from_secs(2)).await;
        assert_ne!(cluster.leader().await, leader);
    });
}

#[test]
fn news_come_at_once_and_silence_is_said_after_a_while() {
    run(9, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.start(4).await; // no replica: asks the voters
        cluster.propose(1, set(1, 1)).await.unwrap();
        for via in 1..=4 {
            let host = cluster.host(via);
            let mut known = host.news(GROUP, 0).await.unwrap();
            // A follower may learn of the last entry's commit a heartbeat later.
            loop {
                let begun = world.elapsed();
                let index = host.news(GROUP, known).await.unwrap();
                if index == known {
                    assert!(world.elapsed() - begun >= crate::limits::NEWS_HOLD, "via {via}");
                    break;
                }
                known = index;
            }
            let waiting = tokio::spawn(async move { host.news(GROUP, known).await });
            cluster.sleep(Duration::from_millis(500)).await;
            let begun = world.elapsed();
            cluster.propose(1, add(1, 1)).await.unwrap();
            assert!(waiting.await.unwrap().unwrap() > known, "via {via}");
            assert!(world.elapsed() - begun < Duration::from_millis(500), "via {via}");
        }
        // Whoever is cut off from the leader says so, and others are asked.
        let leader = cluster.leader().await;
        let follower = (1..=3).find(|node| *node != leader).unwrap();
        world.net().partition(&[NodeId(leader)], &[NodeId(follower)]);
        let host = cluster.host(follower);
        let known = host.status(GROUP).unwrap().applied_index;
        cluster.propose(leader, add(1, 1)).await.unwrap();
        let mut tries = 0;
        while !host.news(GROUP, known).await.is_ok_and(|index| index > known) {
            tries += 1;
            assert!(tries < 5);
        }
    });
}
