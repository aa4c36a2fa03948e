//! Partitions, crashes, damaged disks.

use std::path::Path;
use std::time::Duration;

use nexusgrid_env::NodeId;
use nexusgrid_env::sim::NetOptions;

use super::cluster::{Cluster, GROUP, SOON, add, run, set};
use crate::host::{Consistency, MetaError};

#[test]
fn a_minority_neither_answers_nor_acknowledges() {
    run(20, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3, 4, 5]).await;
        cluster.propose(1, set(1, 1)).await.unwrap();
        let leader = cluster.leader().await;
        let friend = (1..=5).find(|node| *node != leader).unwrap();
        let minority = [NodeId(leader), NodeId(friend)];
        let majority: Vec<_> =
            (1..=5).map(NodeId).filter(|node| !minority.contains(node)).collect();
        world.net().partition(&minority, &majority);

        let host = cluster.host(leader);
        let lost = host.propose(GROUP, 777, set(1, 100), Duration::from_secs(3));
        assert_eq!(lost.await, Err(MetaError::UnknownOutcome(GROUP)));
        let via = majority[0].0;
        assert_eq!(cluster.propose(via, set(1, 2)).await, Ok(2));
        for node in [leader, friend] {
            let host = cluster.host(node);
            let read = host.query(
                GROUP,
                vec![1].into(),
                Consistency::Linearizable,
                Duration::from_secs(3),
            );
            assert_eq!(read.await, Err(MetaError::Timeout(GROUP)), "no stale read at {node}");
        }
        world.net().heal();
        assert_eq!(cluster.read(leader, 1).await, Ok(2));
        // Asked again with its id, the lost command is done now, once.
        assert_eq!(cluster.propose_as(leader, 777, set(1, 100)).await, Ok(100));
        assert_eq!(cluster.read(via, 1).await, Ok(100));
    });
}

#[test]
fn an_isolated_node_does_not_raise_the_term() {
    run(21, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.propose(1, set(1, 1)).await.unwrap();
        let leader = cluster.leader().await;
        let alone = (1..=3).find(|node| *node != leader).unwrap();
        let term = cluster.host(leader).status(GROUP).unwrap().leader.term;
        let others: Vec<_> = (1..=3).filter(|node| *node != alone).map(NodeId).collect();
        world.net().partition(&[NodeId(alone)], &others);
        // Pre-votes that reach nobody must not count as granted.
        cluster.sleep(Duration::from_secs(30)).await;
        let there = cluster.host(alone).status(GROUP).unwrap();
        assert!(!there.leader.is_me);
        assert_eq!(there.leader.term, term);
        world.net().heal();
        cluster.sleep(Duration::from_secs(2)).await;
        assert_eq!(
            cluster.host(leader).status(GROUP).unwrap().leader.term,
            term,
            "leadership was not disturbed"
        );
    });
}

/// L8: an entry counts only with a quorum's promise, and never with that of a minority.
#[test]
fn l8_no_commit_without_a_quorum() {
    for seed in 30..34 {
        run(seed, |world| async move {
            let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
            cluster.propose(1, set(1, 1)).await.unwrap();
            let leader = cluster.leader().await;
            let others: Vec<_> = (1..=3).filter(|node| *node != leader).collect();
            let cut: Vec<_> = others.iter().map(|node| NodeId(*node)).collect();
            world.net().partition(&[NodeId(leader)], &cut);
            let before = cluster.host(leader).status(GROUP).unwrap().applied_index;
            for request in 900..905 {
                let host = cluster.host(leader);
                let lost = host.propose(GROUP, request, set(1, 50), Duration::from_secs(1));
                assert!(matches!(
                    lost.await,
                    Err(MetaError::UnknownOutcome(_) | MetaError::NoLeader(_))
                ));
            }
            assert_eq!(cluster.host(leader).status(GROUP).unwrap().applied_index, before);
            cluster.kill(leader);
            assert_eq!(
                cluster.propose(others[0], add(1, 1)).await,
                Ok(2),
                "none of the lost ones counted"
            );
            world.net().heal();
            cluster.start(leader).await;
            assert_eq!(cluster.read(leader, 1).await, Ok(2));
        });
    }
}

/// L8, second half: who learns from a snapshot learns the membership of now, not of once.
#[test]
fn l8_a_snapshot_carries_the_membership_of_its_time() {
    run(35, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        for _ in 0..130 {
            cluster.propose(1, add(1, 1)).await.unwrap();
        }
        cluster.start(4).await;
        cluster.add(4).await;
        cluster.caught_up(4).await;
        let leader = cluster.leader().await;
        let want = cluster.host(leader).status(GROUP).unwrap().members;
        let have = cluster.host(4).status(GROUP).unwrap().members;
        let ids = |members: &[crate::host::MemberView]| {
            members.iter().map(|m| (m.id, m.voter)).collect::<Vec<_>>()
        };
        assert_eq!(ids(&have), ids(&want));
        assert_eq!(cluster.local(4, 1), 130);
        assert!(cluster.host(4).status(GROUP).unwrap().purged_index > 50, "it came by snapshot");
        // It survives a restart, and goes on.
        cluster.crash(4);
        assert_eq!(cluster.start(4).await, [(GROUP, Ok(()))]);
        cluster.propose(1, add(1, 1)).await.unwrap();
        cluster.caught_up(4).await;
        assert_eq!(cluster.local(4, 1), 131);
    });
}

/// L9: a node whose disk was wiped does not vote under its old id; it returns under a new one.
#[test]
fn l9_a_wiped_voter_has_no_vote() {
    run(36, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.propose(1, set(1, 7)).await.unwrap();
        let leader = cluster.leader().await;
        let wiped = (1..=3).find(|node| *node != leader).unwrap();
        let old = cluster.host(wiped).status(GROUP).unwrap().raft_id;
        cluster.kill(wiped);
        let env = world.start(NodeId(wiped));
        env.disk.remove_dir_all(Path::new("/meta")).unwrap();
        world.kill(NodeId(wiped));
        assert_eq!(cluster.start(wiped).await, []);

        // Two of three are left. Without the third no election can be won: its old vote is void.
        let third = (1..=3).find(|node| *node != leader && *node != wiped).unwrap();
        cluster.kill(leader);
        let asked =
            cluster.host(third).propose(GROUP, 50, set(1, 8), Duration::from_secs(20)).await;
        assert!(asked.is_err(), "a wiped node helped to elect: {asked:?}");

        cluster.start(leader).await;
        let leader = cluster.leader().await;
        let new = cluster.host(leader).add_learner(GROUP, NodeId(wiped)).await.unwrap();
        assert_ne!(new, old);
        cluster.caught_up(wiped).await;
        let mut voters: std::collections::BTreeSet<_> = cluster
            .host(leader)
            .status(GROUP)
            .unwrap()
            .members
            .iter()
            .filter(|member| member.voter && member.id != old)
            .map(|member| member.id)
            .collect();
        voters.insert(new);
        cluster.host(leader).set_voters(GROUP, voters).await.unwrap();
        assert_eq!(cluster.read(wiped, 1).await.map(|value| value > 0), Ok(true));
    });
}

#[test]
fn a_disk_older_than_the_floor_is_refused() {
    run(37, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        let leader = cluster.leader().await;
        let node = (1..=3).find(|node| *node != leader).unwrap();
        let log = Path::new("/meta/log");
        let disk = world.disk(NodeId(node));
        let mut image = Vec::new();
        for round in 0..2 {
            for _ in 0..10 {
                cluster.propose(1, add(1, 1)).await.unwrap();
            }
            cluster.caught_up(node).await;
            cluster.host(node).flush(GROUP).await.unwrap();
            if round == 0 {
                let files = disk.files().into_iter().filter(|(path, _)| path.starts_with(log));
                image =
                    files.map(|(path, _)| (path.clone(), disk.content(&path).unwrap())).collect();
            }
        }
        cluster.kill(node);
        // The log comes back as it was ten commands earlier, from an image.
        let env = world.start(NodeId(node));
        env.disk.remove_dir_all(log).unwrap();
        env.disk.create_dir_all(log).unwrap();
        for (path, bytes) in image {
            let file = env.disk.open(&path, nexusgrid_env::OpenMode::CreateNew).unwrap();
            file.write_at(&bytes, 0).unwrap();
            file.sync().unwrap();
        }
        env.disk.sync_dir(log).unwrap();
        world.kill(NodeId(node));
        assert_eq!(cluster.start(node).await, [(GROUP, Err(MetaError::BelowFloor(GROUP)))]);
        // It comes back under a new id.
        let new = cluster.add(node).await;
        cluster.caught_up(node).await;
        assert_eq!(cluster.host(node).status(GROUP).unwrap().raft_id, new);
        assert_eq!(cluster.local(node, 1), 20);
    });
}

#[test]
fn a_flipped_bit_in_the_log_takes_the_node_out_not_the_data() {
    run(38, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        for _ in 0..20 {
            cluster.propose(1, add(1, 1)).await.unwrap();
        }
        let leader = cluster.leader().await;
        let node = (1..=3).find(|node| *node != leader).unwrap();
        cluster.caught_up(node).await;
        cluster.host(node).flush(GROUP).await.unwrap();
        cluster.kill(node);
        let disk = world.disk(NodeId(node));
        let (path, len) = disk
            .files()
            .into_iter()
            .find(|(path, len)| *len > 500 && path.to_string_lossy().contains("/meta/log"))
            .unwrap();
        disk.flip_bit(&path, len * 4).unwrap();
        assert_eq!(cluster.start(node).await, [(GROUP, Err(MetaError::BelowFloor(GROUP)))]);
        assert_eq!(cluster.propose(leader, add(1, 1)).await, Ok(21));
        cluster.add(node).await;
        cluster.caught_up(node).await;
        assert_eq!(cluster.local(node, 1), 21);
    });
}

#[test]
fn a_failing_disk_stops_the_replica_not_the_group() {
    use nexusgrid_env::sim::{DiskFault, DiskOp, Effect};
    run(39, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.propose(1, add(1, 1)).await.unwrap();
        let leader = cluster.leader().await;
        world.disk(NodeId(leader)).inject(DiskFault::new(&[DiskOp::Sync], Effect::Eio));
        let via = (1..=3).find(|node| *node != leader).unwrap();
        assert_eq!(cluster.propose(via, add(1, 1)).await, Ok(2));
        assert_ne!(cluster.leader().await, leader);
    });
}

/// FAULTS 8: metadata waits for room, answers what it knows meanwhile, and goes on by itself.
#[test]
fn a_full_disk_is_waited_for() {
    run(40, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.propose(1, add(1, 1)).await.unwrap();
        let leader = cluster.leader().await;
        let one = (1..=3).find(|node| *node != leader).unwrap();
        world.disk(NodeId(one)).set_capacity(1 << 20);
        assert_eq!(cluster.propose(leader, add(1, 1)).await, Ok(2), "two of three have room");
        (1..=3).for_each(|node| world.disk(NodeId(node)).set_capacity(1 << 20));
        let refused = cluster.propose(leader, add(1, 1)).await;
        assert!(
            matches!(refused, Err(MetaError::UnknownOutcome(_) | MetaError::NoLeader(_))),
            "{refused:?}"
        );
        assert_eq!(cluster.read(leader, 1).await, Ok(2));
        (1..=3).for_each(|node| world.disk(NodeId(node)).set_capacity(1 << 40));
        let sum = cluster.propose(leader, add(1, 1)).await.unwrap();
        assert!((3..=4).contains(&sum), "{sum}");
        for node in 1..=3 {
            cluster.caught_up(node).await;
        }
    });
}

/// A client's adds over a rough network with kills and power failures: every acknowledged one counts
/// once, every unknown one at most once.
#[test]
fn rough_seas() {
    for seed in 100..108 {
        run(seed, |world| async move {
            let mut cluster = Cluster::with_group(&world, &[1, 2, 3, 4, 5]).await;
            world.net().set_options(NetOptions::rough());
            let rng = world.rng();
            let (mut sure, mut maybe) = (0u64, 0u64);
            let mut newest = 0;
            for step in 0..60 {
                if step % 6 == 5 {
                    let victim = rng.between(1, 5);
                    if cluster.hosts.contains_key(&victim) {
                        if rng.chance(0.5) {
                            cluster.crash(victim)
                        } else {
                            cluster.kill(victim)
                        }
                        if rng.chance(0.5) {
                            cluster.sleep(Duration::from_secs(2)).await;
                        }
                        let started = cluster.start(victim).await;
                        assert!(
                            started.iter().all(|(_, result)| result.is_ok()),
                            "seed {seed}: {started:?}"
                        );
                    }
                }
                let via = rng.between(1, 5);
                match cluster.propose(via, add(1, 1)).await {
                    Ok(value) => {
                        sure += 1;
                        assert!(value > newest, "seed {seed}: {value} after {newest}");
                        newest = value;
                    }
                    Err(MetaError::UnknownOutcome(_)) => maybe += 1,
                    Err(MetaError::NoLeader(_) | MetaError::Timeout(_)) => {}
                    Err(error) => panic!("seed {seed}: {error}"),
                }
                let via = rng.between(1, 5);
                match cluster.read(via, 1).await {
                    Ok(value) => {
                        assert!(
                            value >= newest && value >= sure,
                            "seed {seed}: stale read {value} of {newest}"
                        );
                        assert!(value <= sure + maybe, "seed {seed}: {value} of {sure} + {maybe}");
                    }
                    Err(MetaError::Timeout(_)) => {}
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            world.net().set_options(NetOptions::default());
            let value = cluster.read(1, 1).await.unwrap();
            assert!(
                (sure..=sure + maybe).contains(&value),
                "seed {seed}: {value} of {sure} + {maybe}"
            );
            let host = cluster.host(2);
            assert!(host.propose(GROUP, 5_000, set(2, 1), SOON).await.is_ok());
        });
    }
}

/// The answer to a snapshot's last message is lost now and then; nobody waits for it as long as
/// installing may take.
#[test]
fn a_snapshot_whose_end_was_lost_is_asked_for_again() {
    run(29, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        let mut value = 0;
        for cut_after_ms in (0..330).step_by(3) {
            let leader = cluster.leader().await;
            let behind = (1..=3).find(|node| *node != leader).unwrap();
            let others: Vec<_> = (1..=3).filter(|node| *node != behind).map(NodeId).collect();
            world.net().partition(&[NodeId(behind)], &others);
            for _ in 0..120 {
                value += 1;
                assert_eq!(cluster.propose(leader, add(1, 1)).await, Ok(value));
            }
            world.net().heal();
            cluster.sleep(Duration::from_millis(cut_after_ms)).await;
            world.net().partition(&[NodeId(behind)], &others);
            cluster.sleep(Duration::from_millis(100)).await;
            world.net().heal();
            cluster.caught_up(behind).await;
        }
    });
}
