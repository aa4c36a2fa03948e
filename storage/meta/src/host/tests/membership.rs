//! The worker that keeps the right nodes voting.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_env::NodeId;
use parking_lot::Mutex;

use super::cluster::{Cluster, GROUP, add, run};
use crate::host::plan::Candidate;
use crate::host::{CandidateSource, VoterKeeper};
use crate::raft::types::generation_of;

/// What membership would say of nodes 1..=n, each on a host of its own.
#[derive(Default)]
struct Nodes(Mutex<BTreeMap<u64, Option<Duration>>>);

impl CandidateSource for Nodes {
    fn candidates(&self) -> Vec<Candidate> {
        let nodes = self.0.lock();
        let of = |(node, dead): (&u64, &Option<Duration>)| Candidate {
            node: NodeId(*node),
            host: format!("host {node}"),
            dead_for: *dead,
        };
        nodes.iter().map(of).collect()
    }
}

async fn grown(world: &nexusgrid_env::sim::World, nodes: u64) -> (Cluster, Arc<Nodes>) {
    let mut cluster = Cluster::new(world);
    let known = Arc::new(Nodes::default());
    for node in 1..=nodes {
        cluster.start(node).await;
        known.0.lock().insert(node, None);
        VoterKeeper::start(&cluster.host(node), known.clone());
    }
    cluster.host(1).create_group(GROUP).await.unwrap();
    cluster.directory.0.lock().extend((1..=nodes).map(NodeId));
    (cluster, known)
}

async fn voters(cluster: &Cluster) -> Vec<u64> {
    let leader = cluster.leader().await;
    cluster.host(leader).voters(GROUP).unwrap().into_iter().map(|node| node.0).collect()
}

#[test]
fn five_of_seven_hosts_vote_within_ten_seconds() {
    run(50, |world| async move {
        let (mut cluster, _) = grown(&world, 7).await;
        cluster.propose(7, add(1, 1)).await.unwrap();
        cluster.sleep(Duration::from_secs(8)).await;
        assert_eq!(voters(&cluster).await, [1, 2, 3, 4, 5]);
        // Two die; the group goes on.
        cluster.kill(1);
        cluster.kill(2);
        assert_eq!(cluster.propose(7, add(1, 1)).await, Ok(2));
    });
}

#[test]
fn a_voter_dead_for_long_is_replaced() {
    run(51, |world| async move {
        let (mut cluster, known) = grown(&world, 6).await;
        cluster.propose(6, add(1, 1)).await.unwrap();
        cluster.sleep(Duration::from_secs(8)).await;
        cluster.kill(3);
        known.0.lock().insert(3, Some(Duration::from_secs(5)));
        cluster.sleep(Duration::from_secs(5)).await;
        assert_eq!(voters(&cluster).await, [1, 2, 3, 4, 5], "not yet");
        known.0.lock().insert(3, Some(Duration::from_secs(20)));
        cluster.sleep(Duration::from_secs(8)).await;
        assert_eq!(voters(&cluster).await, [1, 2, 4, 5, 6]);
        // It returns: it has no place now, and does not disturb.
        assert_eq!(cluster.start(3).await, [(GROUP, Ok(()))]);
        known.0.lock().insert(3, None);
        cluster.sleep(Duration::from_secs(8)).await;
        assert_eq!(voters(&cluster).await, [1, 2, 4, 5, 6]);
        assert_eq!(cluster.propose(3, add(1, 1)).await, Ok(2));
    });
}

#[test]
fn a_wiped_voter_is_taken_in_again_under_a_new_id() {
    run(52, |world| async move {
        let (mut cluster, known) = grown(&world, 3).await;
        cluster.propose(3, add(1, 1)).await.unwrap();
        cluster.sleep(Duration::from_secs(8)).await;
        let leader = cluster.leader().await;
        let wiped = (1..=3).find(|node| *node != leader).unwrap();
        let old = cluster.host(wiped).status(GROUP).unwrap().raft_id;
        cluster.kill(wiped);
        let env = world.start(NodeId(wiped));
        env.disk.remove_dir_all(Path::new("/meta")).unwrap();
        world.kill(NodeId(wiped));
        cluster.start(wiped).await;
        VoterKeeper::start(&cluster.host(wiped), known.clone());
        cluster.sleep(Duration::from_secs(15)).await;
        assert_eq!(voters(&cluster).await, [1, 2, 3]);
        assert!(cluster.host(wiped).status(GROUP).unwrap().raft_id > old);
        let leader = cluster.leader().await;
        assert!(
            cluster
                .host(leader)
                .status(GROUP)
                .unwrap()
                .members
                .iter()
                .all(|member| member.id != old)
        );
    });
}

/// A group of six nodes in which 3 was replaced while it was away, and is back.
async fn with_a_replaced_voter(world: &nexusgrid_env::sim::World) -> Cluster {
    let (mut cluster, known) = grown(world, 6).await;
    cluster.propose(6, add(1, 1)).await.unwrap();
    cluster.sleep(Duration::from_secs(8)).await;
    cluster.kill(3);
    known.0.lock().insert(3, Some(Duration::from_secs(20)));
    cluster.sleep(Duration::from_secs(8)).await;
    assert_eq!(voters(&cluster).await, [1, 2, 4, 5, 6]);
    assert_eq!(cluster.start(3).await, [(GROUP, Ok(()))]);
    cluster
}

#[test]
fn a_replaced_voter_lets_go_of_its_replica() {
    run(53, |world| async move {
        let mut cluster = with_a_replaced_voter(&world).await;
        cluster.sleep(Duration::from_secs(5)).await;
        assert_eq!(cluster.host(3).groups(), []);
        cluster.kill(3);
        assert_eq!(cluster.start(3).await, [], "nor is anything left on disk");
        assert_eq!(cluster.propose(3, add(1, 1)).await, Ok(2));
        assert_eq!(cluster.read(3, 1).await, Ok(2));
        // Its place may be its own again, under a new id.
        let id = cluster.add(3).await;
        assert_eq!(generation_of(id), 2);
    });
}

#[test]
fn reads_do_not_wait_for_a_replaced_voter() {
    run(54, |world| async move {
        let mut cluster = with_a_replaced_voter(&world).await;
        cluster.propose(1, add(1, 1)).await.unwrap();
        let begun = world.elapsed();
        while world.elapsed() - begun < Duration::from_secs(4) {
            let asked = world.elapsed();
            assert_eq!(cluster.read(3, 1).await, Ok(2));
            let took = world.elapsed() - asked;
            assert!(took < Duration::from_millis(500), "{took:?}");
            cluster.sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn members_that_hear_no_leader_keep_their_replicas() {
    run(55, |world| async move {
        let mut cluster = Cluster::with_group(&world, &[1, 2, 3]).await;
        cluster.propose(1, add(1, 1)).await.unwrap();
        let leader = cluster.leader().await;
        let follower = (1..=3).find(|node| *node != leader).unwrap();
        let third = (1..=3).find(|node| *node != leader && *node != follower).unwrap();
        cluster.kill(leader);
        cluster.kill(third);
        cluster.sleep(Duration::from_secs(30)).await;
        cluster.start(third).await;
        assert_eq!(cluster.read(follower, 1).await, Ok(1));
        assert_eq!(cluster.host(follower).groups(), [GROUP]);
    });
}
