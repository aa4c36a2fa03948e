//! A flipped bit in each kind of file that a node keeps of a group.

use std::path::{Path, PathBuf};

use nexusgrid_env::NodeId;

use super::cluster::{Cluster, GROUP, add, run};
use crate::host::{MetaError, MetaRotKind, MetaScrub};
use crate::limits::ROT_LOOK_EVERY;
use crate::raft::types::RaftId;

/// Three nodes with a past; gives one that does not lead, and its incarnation.
async fn begin(world: &nexusgrid_env::sim::World) -> (Cluster, u64, RaftId) {
    let mut cluster = Cluster::with_group(world, &[1, 2, 3]).await;
    for _ in 0..20 {
        cluster.propose(1, add(1, 1)).await.unwrap();
    }
    let leader = cluster.leader().await;
    let node = (1..=3).find(|node| *node != leader).unwrap();
    cluster.caught_up(node).await;
    cluster.host(node).flush(GROUP).await.unwrap();
    let id = cluster.host(node).status(GROUP).unwrap().raft_id;
    (cluster, node, id)
}

/// Flips a bit in the middle of each file whose path contains `part`; how many.
fn flip(cluster: &Cluster, node: u64, part: &str) -> usize {
    let disk = cluster.world.disk(NodeId(node));
    let is_meant = |path: &Path| path.to_string_lossy().contains(part);
    let files: Vec<(PathBuf, u64)> =
        disk.files().into_iter().filter(|(path, len)| *len > 8 && is_meant(path)).collect();
    for (path, len) in &files {
        disk.flip_bit(path, len * 4).unwrap();
    }
    files.len()
}

/// A whole pass; what it found.
async fn scrub(cluster: &Cluster, node: u64) -> Vec<MetaRotKind> {
    let mut pass = MetaScrub::default();
    let mut found = Vec::new();
    loop {
        let step = cluster.host(node).scrub(&mut pass, 1 << 20).await.unwrap();
        found.extend(step.found.map(|(kind, _)| kind));
        if step.ended {
            return found;
        }
    }
}

/// The node is taken in again and serves, under another id.
async fn returns(cluster: &mut Cluster, node: u64, old: RaftId) {
    let new = cluster.add(node).await;
    assert_ne!(new, old);
    cluster.caught_up(node).await;
    assert_eq!(cluster.local(node, 1), 20);
    assert_eq!(cluster.host(node).status(GROUP).unwrap().raft_id, new);
    // It stays that way.
    cluster.kill(node);
    assert_eq!(cluster.start(node).await, [(GROUP, Ok(()))]);
}

/// Raft logs of a node that were set aside.
fn aside(cluster: &Cluster, node: u64) -> usize {
    let disk = cluster.world.disk(NodeId(node)).mount();
    let listed = disk.list(Path::new("/meta")).unwrap();
    listed.iter().filter(|path| path.to_string_lossy().contains("log.damaged-")).count()
}

#[test]
fn nothing_rotten_is_found_where_nothing_is() {
    run(60, |world| async move {
        let (cluster, node, id) = begin(&world).await;
        assert_eq!(scrub(&cluster, node).await, []);
        cluster.sleep(2 * ROT_LOOK_EVERY).await;
        assert_eq!(cluster.host(node).status(GROUP).unwrap().raft_id, id);
        assert!(cluster.host(node).rot().is_empty());
    });
}

#[test]
fn a_replica_with_rotten_rows_leaves_and_returns_under_a_new_id() {
    run(61, |world| async move {
        let (mut cluster, node, id) = begin(&world).await;
        assert!(flip(&cluster, node, "/state-") > 0);
        assert_eq!(scrub(&cluster, node).await, [MetaRotKind::State]);
        cluster.sleep(2 * ROT_LOOK_EVERY).await;
        assert!(cluster.host(node).status(GROUP).is_err(), "it must not vote any more");
        assert_eq!(cluster.host(node).rot()[&MetaRotKind::State], 1);
        cluster.kill(node);
        assert_eq!(cluster.start(node).await, [(GROUP, Err(MetaError::Rotten(GROUP)))]);
        returns(&mut cluster, node, id).await;
    });
}

#[test]
fn rotten_rows_met_at_a_start_keep_the_replica_down() {
    run(62, |world| async move {
        let (mut cluster, node, id) = begin(&world).await;
        cluster.kill(node);
        assert!(flip(&cluster, node, "/state-") > 0);
        assert_eq!(cluster.start(node).await, [(GROUP, Err(MetaError::Rotten(GROUP)))]);
        returns(&mut cluster, node, id).await;
    });
}

#[test]
fn a_log_found_damaged_under_a_running_replica_is_set_aside() {
    run(63, |world| async move {
        let (mut cluster, node, id) = begin(&world).await;
        assert!(flip(&cluster, node, "/meta/log/") > 0);
        assert!(scrub(&cluster, node).await.contains(&MetaRotKind::Log));
        cluster.sleep(2 * ROT_LOOK_EVERY).await;
        assert!(cluster.host(node).status(GROUP).is_err(), "it must not vote any more");
        assert_eq!(aside(&cluster, node), 1);
        // Without a restart.
        returns(&mut cluster, node, id).await;
        // The log is kept for a while after that, not for ever.
        assert_eq!(aside(&cluster, node), 1);
        cluster.caught_up(node).await;
        cluster.sleep(2 * super::cluster::options().keep_damaged).await;
        assert_eq!(aside(&cluster, node), 0);
    });
}

#[test]
fn an_entry_that_rotted_in_the_log_is_never_sent_on() {
    run(64, |world| async move {
        let (mut cluster, node, _) = begin(&world).await;
        // What is read back comes from the file, not from memory.
        cluster.kill(node);
        cluster.start(node).await;
        cluster.caught_up(node).await;
        assert!(flip(&cluster, node, "/meta/log/") > 0);
        let mut log =
            crate::raft::log::GroupLog::new(cluster.host(node).log_at(false), GROUP.0, None);
        let read = openraft::storage::RaftLogReader::try_get_log_entries(&mut log, 0..100);
        let error = read.await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        assert!(cluster.host(node).log_at(false).rotten().is_some());
    });
}

#[test]
fn a_rotten_identity_is_written_again_or_given_up() {
    run(65, |world| async move {
        let (mut cluster, node, id) = begin(&world).await;
        assert_eq!(flip(&cluster, node, "/GROUP"), 1);
        assert_eq!(scrub(&cluster, node).await, [MetaRotKind::Identity]);
        assert_eq!(scrub(&cluster, node).await, []);
        cluster.kill(node);
        assert_eq!(cluster.start(node).await, [(GROUP, Ok(()))]);
        cluster.kill(node);
        assert_eq!(flip(&cluster, node, "/GROUP"), 1);
        assert_eq!(cluster.start(node).await, [(GROUP, Err(MetaError::Rotten(GROUP)))]);
        returns(&mut cluster, node, id).await;
    });
}

#[test]
fn one_rotten_copy_of_a_floor_is_written_again_two_keep_the_replica_down() {
    run(66, |world| async move {
        let (mut cluster, node, id) = begin(&world).await;
        for copy in ["/floor.a", "/floor.b"] {
            assert_eq!(flip(&cluster, node, copy), 1);
            assert_eq!(scrub(&cluster, node).await, [MetaRotKind::Floor]);
            assert_eq!(scrub(&cluster, node).await, []);
        }
        cluster.kill(node);
        assert_eq!(flip(&cluster, node, "/floor.a"), 1);
        assert_eq!(cluster.start(node).await, [(GROUP, Ok(()))]);
        assert_eq!(scrub(&cluster, node).await, [MetaRotKind::Floor]);
        cluster.kill(node);
        assert_eq!(flip(&cluster, node, "/floor."), 2);
        assert_eq!(cluster.start(node).await, [(GROUP, Err(MetaError::BelowFloor(GROUP)))]);
        returns(&mut cluster, node, id).await;
    });
}

#[test]
fn the_only_replica_goes_on() {
    run(67, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1]).await;
        assert_eq!(cluster.propose(1, add(1, 5)).await, Ok(5));
        cluster.host(1).flush(GROUP).await.unwrap();
        assert!(flip(&cluster, 1, "/state-") > 0);
        assert_eq!(scrub(&cluster, 1).await, [MetaRotKind::State]);
        cluster.sleep(2 * ROT_LOOK_EVERY).await;
        assert_eq!(cluster.propose(1, add(1, 1)).await, Ok(6));
        assert_eq!(cluster.host(1).rot()[&MetaRotKind::State], 1);
    });
}

#[test]
fn a_stopped_node_is_inspected() {
    run(68, |world| async move {
        let (mut cluster, node, _) = begin(&world).await;
        let env = cluster.host(node).inner.env.clone();
        let machines = cluster.host(node).inner.machines.clone();
        cluster.kill(node);
        let inspect = || {
            let mut visited = Vec::new();
            let visit = |group, _: &dyn nexusgrid_env::KvRead| visited.push(group);
            let env = nexusgrid_env::Env { disk: world.disk(NodeId(node)).mount(), ..env.clone() };
            let kv = std::sync::Arc::new(nexusgrid_env::sim::SimEngine::new(env.disk.clone()));
            let env = nexusgrid_env::Env { kv, ..env };
            let found = crate::host::inspect::inspect(&env, Path::new("/meta"), &machines, visit);
            (found.unwrap(), visited)
        };
        let (found, visited) = inspect();
        assert_eq!(found.corrupt, 0, "{:?}", found.faults);
        assert!(found.rows > 20 && found.records > 20 && found.groups == 1, "{found:?}");
        assert_eq!(visited, [GROUP]);
        for part in ["/meta/log/", "/state-", "/floor.a", "/GROUP"] {
            assert!(flip(&cluster, node, part) > 0);
            let (found, _) = inspect();
            assert!(found.corrupt >= 1, "{part}: {:?}", found.faults);
        }
        // A log's fault does not hide a group's, of which one is enough.
        let (found, visited) = inspect();
        assert!(found.corrupt >= 2 && visited.is_empty(), "{:?}", found.faults);
    });
}
