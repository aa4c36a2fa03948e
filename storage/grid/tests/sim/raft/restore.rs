//! All metadata is lost with the power of all nodes; the drives bring it back.

use nexusgrid_grid::care::checkpoint::GroupState;

use super::*;

const SIZES: [usize; 4] = [100, 20_000, 700_000, 2_200_000];

async fn put_all(cluster: &RaftCluster, phase: &str) {
    for size in SIZES {
        cluster.must_put(1 + size as u64 % NODES, &format!("{phase}{size}"), size).await;
    }
}

async fn verify(cluster: &RaftCluster, node: u64, phase: &str) {
    for size in SIZES {
        let got = get(&cluster.grid(node), "raft", &format!("{phase}{size}")).await;
        assert!(got == Ok(content(size as u64, size).to_vec()), "{phase}{size}: {:?}", got.err());
    }
}

async fn minutes(count: u64) {
    tokio::time::sleep(Duration::from_secs(60 * count)).await;
}

fn quick() -> GridOptions {
    let mut options = options(NODES);
    options.care.sweep_every = Duration::from_secs(30);
    options.care.orphan_age = Duration::from_secs(60);
    options
}

#[test]
fn all_metadata_is_lost_and_comes_back_from_the_drives() {
    let world = World::new(41);
    world.run(async {
        let cluster = RaftCluster::start_with(&world, quick()).await;
        cluster.grid(3).create_bucket("raft", "me").await.unwrap();
        tokio::time::sleep(Duration::from_secs(20)).await;
        put_all(&cluster, "before").await;
        // So often that, though next to nothing happens, the first ones are dropped, and collected.
        for group in (0..5).flat_map(|_| (0..=GROUPS).rev()) {
            let head = cluster.member(6).checkpoints.take_now(GroupId(group)).await.unwrap();
            assert_eq!(head.group, GroupId(group));
            let kept = cluster.member(6).checkpoints.records();
            assert!(kept.contains(&head), "{head:?} of {kept:?}");
        }
        minutes(12).await;
        assert_eq!(cluster.grid(2).list_buckets().await.unwrap().len(), 1, "no client sees it");
        put_all(&cluster, "after").await;

        for index in 1..=NODES {
            world.crash(NodeId(index));
        }
        cluster.members.lock().clear();
        for index in 1..=NODES {
            cluster.start_without_metadata(index).await;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let member = cluster.member(4);
        let survey = member.checkpoints.survey().await.unwrap();
        assert!(survey.silent.is_empty());
        assert_eq!(survey.groups.len(), GROUPS as usize + 1);
        for group in &survey.groups {
            assert!(group.state == GroupState::Lost && group.checkpoint.is_some(), "{group:?}");
        }
        // Drives that do not answer now may come back: no older state is taken for the newest.
        let away = [1, 2, 3, 5, 6];
        away.iter().for_each(|index| cluster.kill(*index));
        let refused = member.checkpoints.restore(survey, false).await.unwrap_err();
        assert!(refused.to_string().contains("cannot be read now"), "{refused}");
        for index in away {
            cluster.start_node(index).await;
        }
        tokio::time::sleep(Duration::from_secs(20)).await;
        let survey = member.checkpoints.survey().await.unwrap();
        assert!(survey.silent.is_empty());
        let restored = member.checkpoints.restore(survey, false).await.unwrap();
        assert_eq!((restored.incarnation, restored.groups.len()), (2, GROUPS as usize + 1));
        cluster.settle().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        verify(&cluster, 6, "before").await;
        let survey = member.checkpoints.survey().await.unwrap();
        assert!(survey.groups.iter().all(|group| group.state == GroupState::Serving));
        assert!(member.checkpoints.restore(survey, false).await.is_err(), "nothing is lost now");

        // What came after the checkpoint is on the drives, and stays, whoever deletes what.
        let report = cluster.grid(1).fsck(false).await.unwrap();
        assert_eq!((report.lost, report.missing), (0, 0), "{report:?}");
        let recoverable = report.unheard;
        assert!(recoverable > 20, "{report:?}");
        put_all(&cluster, "new").await;
        let doomed: Vec<String> = SIZES.iter().map(|size| format!("before{size}")).collect();
        for result in cluster.grid(2).delete_many("raft", &doomed).await.unwrap() {
            result.unwrap();
        }
        let held = cluster.grid(1).fsck(false).await.unwrap().held;
        cluster.kill(3);
        cluster.start_node(3).await;
        minutes(12).await;
        let report = cluster.grid(1).fsck(false).await.unwrap();
        assert_eq!(report.unheard, recoverable, "{report:?}");
        assert!(report.held >= held, "{report:?}");
        for index in 1..=NODES {
            assert!(cluster.member(index).checkpoints.is_frozen(), "n{index}");
        }

        member.checkpoints.thaw(1).await.unwrap_err();
        let member = cluster.member(3);
        member.checkpoints.thaw(2).await.unwrap();
        minutes(12).await;
        let report = cluster.grid(1).fsck(false).await.unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.unheard, report.orphans), (0, 0), "{report:?}");
        assert_eq!(report.awaiting_burial, 0, "{report:?}");
        verify(&cluster, 5, "new").await;
    });
}
